"""Right and wrong answers to the exercises of lesson 5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def means(x, y):
    return torch.stack([x[y == k].mean(0) for k in range(10)])


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("5_class_means", lambda x, y: torch.stack([x[y == k].sum(0) for k in range(10)]), "these are sums"),
    (
        "5_class_means",
        lambda x, y: torch.stack([x[y == k].sum(0) for k in range(10)]) / len(x),
        "not by that of all",
    ),
    (
        "5_class_means",
        lambda x, y: torch.stack([x[y == k].sum(0) for k in range(10)]) / (len(x) / 10),
        "equally frequent",
    ),
    ("5_class_means", lambda x, y: means(x, y).flip(0), "another order"),
    ("5_class_means", lambda x, y: means(x, y).numpy(), "should be a torch tensor"),
    ("5_class_means", lambda x, y: means(x, y).flatten(1), "should have the shape"),
    ("5_repeat", lambda images, T: images.detach().expand(T, *images.shape), "cut off from images"),
    (
        "5_repeat",
        lambda images, T: torch.stack([images, *[images.detach()] * (T - 1)]),
        "some batches are cut off",
    ),
    ("5_repeat", lambda images, T: torch.stack([images] * T, 1), "the step number is the first axis"),
    ("5_repeat", lambda images, T: images.repeat_interleave(T, 0).view(T, 10, 1, 8, 8), "mixed up"),
    ("5_mean_over_starts", lambda f, x, seeds: sum(f(x, s) for s in seeds), "this is the sum"),
    ("5_mean_over_starts", lambda f, x, seeds: f(x, seeds[0]), "once for each seed"),
    ("5_mean_over_starts", lambda f, x, seeds: sum(f(x, s).item() for s in seeds) / len(seeds), "cut off"),
    (
        "5_mean_over_starts",
        lambda f, x, seeds: (f(x, seeds[0]) + sum(f(x, s).item() for s in seeds[1:])) / 3,
        "only a part",
    ),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("5_class_means", means),
    ("5_repeat", lambda images, T: torch.stack([images] * T)),
    ("5_mean_over_starts", lambda f, x, seeds: sum(f(x, s) for s in seeds) / len(seeds)),
]
