"""Right and wrong answers to the exercises of lesson 7."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def shuffle(
    x_seed: int = 0, y_seed: int = 0, draw: Callable[..., Any] = torch.randperm, fixed: bool = False
) -> Callable[..., Any]:
    """Lesson 7's function with one thing wrong."""

    def answer(x, y, seed):
        seed = 0 if fixed else seed
        one, other = (
            draw(len(x), generator=torch.Generator().manual_seed(10 * seed + s)) for s in (x_seed, y_seed)
        )
        return x[one], y[other]

    return answer


def random_numbers(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(n, (n,), generator=generator)


def shuffle_all(x, y, seed):
    order = torch.randperm(x.shape[0] * x.shape[1], generator=torch.Generator().manual_seed(seed))
    return x.flatten(0, 1)[order].view(x.shape), y.flatten(0, 1)[order].view(y.shape)


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("7_shuffle_batches", shuffle(0, 1), "no longer belong together"),
    ("7_shuffle_batches", shuffle(draw=random_numbers), "use a permutation"),
    ("7_shuffle_batches", shuffle(fixed=True), "the same for every seed"),
    ("7_shuffle_batches", shuffle_all, "did not stay together"),
    ("7_shuffle_batches", lambda x, y, seed: (x, y), "nothing was shuffled"),
    ("7_normalized_weight", lambda d, g: g[:, None] * d / d.norm(), "whole matrix"),
    ("7_normalized_weight", lambda d, g: g[:, None] * d / d.norm(dim=0), "not of the columns"),
    ("7_normalized_weight", lambda d, g: g[:, None] * d, "divide each row by its length first"),
    ("7_normalized_weight", lambda d, g: d / d.norm(dim=1, keepdim=True), "multiply it by its gain"),
    (
        "7_normalized_weight",
        lambda d, g: g[:, None] * d / d.square().sum(1, keepdim=True),
        "a square root is missing",
    ),
    ("7_readout_steps", lambda T, k: list(range(k, T, k)), "after step T"),
    ("7_readout_steps", lambda T, k: [*range(k, T + 1, k), T], "T is there twice"),
    ("7_readout_steps", lambda T, k: list(range(0, T, k)), "count the steps from 1"),
    ("7_readout_steps", lambda T, k: math.ceil(T / k), "return a list"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("7_shuffle_batches", shuffle()),
    ("7_normalized_weight", lambda d, g: torch.nn.functional.normalize(d) * g[:, None]),
    ("7_readout_steps", lambda T, k: [t for t in range(1, T + 1) if t % k == 0 or t == T]),
]
