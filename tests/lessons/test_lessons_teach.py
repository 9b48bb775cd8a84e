"""The checks of lessons 5 to 8 accept right answers and recognise the usual mistakes."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "lessons"))  # the lessons' own folder is where they run

import checks


def outer_step(zero: bool = True, clip: bool = True, move: bool = True, after: bool = False, plain: bool = True) -> Callable[..., Any]:
    """Lesson 6's function with one thing wrong."""

    def answer(teacher, optimizer, meta_loss):
        if zero:
            optimizer.zero_grad()
        value = meta_loss(teacher)
        value.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
        if move:
            optimizer.step()
        value = meta_loss(teacher) if after else value
        return value.item() if plain else value

    return answer


def shuffle(x_seed: int = 0, y_seed: int = 0, draw: Callable[..., Any] = torch.randperm, fixed: bool = False) -> Callable[..., Any]:
    """Lesson 7's function with one thing wrong."""

    def answer(x, y, seed):
        seed = 0 if fixed else seed
        one, other = (draw(len(x), generator=torch.Generator().manual_seed(10 * seed + s)) for s in (x_seed, y_seed))
        return x[one], y[other]

    return answer


def random_numbers(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(n, (n,), generator=generator)


def shuffle_all(x, y, seed):
    order = torch.randperm(x.shape[0] * x.shape[1], generator=torch.Generator().manual_seed(seed))
    return x.flatten(0, 1)[order].view(x.shape), y.flatten(0, 1)[order].view(y.shape)


def timed(warm: bool = True, wait_before: bool = True, wait_after: bool = True, mean: bool = False) -> Callable[..., Any]:
    """Lesson 8's clock with one thing wrong."""

    def answer(function, n, wait):
        if warm:
            function()
        samples = []
        for _ in range(n):
            if wait_before:
                wait()
            start = time.perf_counter()
            function()
            if wait_after:
                wait()
            samples.append(time.perf_counter() - start)
        return sum(samples) / n if mean else sorted(samples)[n // 2], min(samples), max(samples)

    return answer


def choose(fits: Callable[[float, float], bool] = float.__le__, by: int = 1, name: bool = True, kind: bool = True) -> Callable[..., Any]:
    """Lesson 8's choice with one thing wrong."""

    def answer(candidates, budget):
        fitting = [c for c in candidates if fits(float(c[2]), float(budget))]
        if not fitting and not kind:
            return "slow and small"
        best = min(fitting, key=lambda c: c[by])
        return best[0] if name else best

    return answer


def means(x, y):
    return torch.stack([x[y == k].mean(0) for k in range(10)])


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("5_class_means", lambda x, y: torch.stack([x[y == k].sum(0) for k in range(10)]), "these are sums"),
    ("5_class_means", lambda x, y: torch.stack([x[y == k].sum(0) for k in range(10)]) / len(x), "not by that of all"),
    ("5_class_means", lambda x, y: torch.stack([x[y == k].sum(0) for k in range(10)]) / (len(x) / 10), "equally frequent"),
    ("5_class_means", lambda x, y: means(x, y).flip(0), "another order"),
    ("5_class_means", lambda x, y: means(x, y).numpy(), "should be a torch tensor"),
    ("5_class_means", lambda x, y: means(x, y).flatten(1), "should have the shape"),
    ("5_repeat", lambda images, T: images.detach().expand(T, *images.shape), "cut off from images"),
    ("5_repeat", lambda images, T: torch.stack([images, *[images.detach()] * (T - 1)]), "some batches are cut off"),
    ("5_repeat", lambda images, T: torch.stack([images] * T, 1), "the step number is the first axis"),
    ("5_repeat", lambda images, T: images.repeat_interleave(T, 0).view(T, 10, 1, 8, 8), "mixed up"),
    ("5_mean_over_starts", lambda f, x, seeds: sum(f(x, s) for s in seeds), "this is the sum"),
    ("5_mean_over_starts", lambda f, x, seeds: f(x, seeds[0]), "once for each seed"),
    ("5_mean_over_starts", lambda f, x, seeds: sum(f(x, s).item() for s in seeds) / len(seeds), "cut off"),
    ("5_mean_over_starts", lambda f, x, seeds: (f(x, seeds[0]) + sum(f(x, s).item() for s in seeds[1:])) / 3, "only a part"),
    ("6_generator_inputs", lambda z, c: torch.cat([z, c], -1), "join steps and images"),
    ("6_generator_inputs", lambda z, c: torch.cat([c, z], -1).flatten(0, 1), "after z"),
    ("6_generator_inputs", lambda z, c: torch.cat([z, c], -1).transpose(0, 1).flatten(0, 1), "steps run fastest"),
    ("6_outer_step", outer_step(move=False), "has not moved"),
    ("6_outer_step", outer_step(zero=False), "the first gradient is still in it"),
    ("6_outer_step", outer_step(clip=False), "cut to length 1"),
    ("6_outer_step", outer_step(plain=False), "plain number"),
    ("6_outer_step", outer_step(after=True), "before the step"),
    ("6_choose_then_judge", lambda s, valid, test: (max(s, key=test), max(map(test, s))), "examination's answers"),
    ("6_choose_then_judge", lambda s, valid, test: (max(s, key=valid), max(map(valid, s))), "validation accuracy"),
    ("6_choose_then_judge", lambda s, valid, test: (max(s, key=valid), {k: test(k) for k in s}[max(s, key=valid)]), "read 3 times"),
    ("6_choose_then_judge", lambda s, valid, test: (min(s, key=valid), 0.0), "best setting on validation"),
    ("6_choose_then_judge", lambda s, valid, test: max(s, key=valid), "two things"),
    ("7_shuffle_batches", shuffle(0, 1), "no longer belong together"),
    ("7_shuffle_batches", shuffle(draw=random_numbers), "use a permutation"),
    ("7_shuffle_batches", shuffle(fixed=True), "the same for every seed"),
    ("7_shuffle_batches", shuffle_all, "did not stay together"),
    ("7_shuffle_batches", lambda x, y, seed: (x, y), "nothing was shuffled"),
    ("7_normalized_weight", lambda d, g: g[:, None] * d / d.norm(), "whole matrix"),
    ("7_normalized_weight", lambda d, g: g[:, None] * d / d.norm(dim=0), "not of the columns"),
    ("7_normalized_weight", lambda d, g: g[:, None] * d, "divide each row by its length first"),
    ("7_normalized_weight", lambda d, g: d / d.norm(dim=1, keepdim=True), "multiply it by its gain"),
    ("7_normalized_weight", lambda d, g: g[:, None] * d / d.square().sum(1, keepdim=True), "a square root is missing"),
    ("7_readout_steps", lambda T, k: list(range(k, T, k)), "after step T"),
    ("7_readout_steps", lambda T, k: [*range(k, T + 1, k), T], "T is there twice"),
    ("7_readout_steps", lambda T, k: list(range(0, T, k)), "count the steps from 1"),
    ("7_readout_steps", lambda T, k: math.ceil(T / k), "return a list"),
    ("8_timed", timed(warm=False), "once to warm up"),
    ("8_timed", timed(wait_before=False), "still running when the clock starts"),
    ("8_timed", timed(wait_after=False), "time that the clock did not see"),
    ("8_timed", timed(mean=True), "report the median"),
    ("8_best_block", lambda T: 1, "which keeps"),
    ("8_best_block", lambda T: math.sqrt(T), "whole number"),
    ("8_best_block", lambda T: T // 2, "should lie between"),
    ("8_choose", choose(fits=lambda size, budget: True), "the budget is"),
    ("8_choose", choose(by=2), "the fastest that fits"),
    ("8_choose", choose(fits=float.__lt__), "at most means <="),
    ("8_choose", choose(name=False), "the name alone"),
    ("8_choose", choose(kind=False), "raise a ValueError"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("5_class_means", means),
    ("5_repeat", lambda images, T: torch.stack([images] * T)),
    ("5_mean_over_starts", lambda f, x, seeds: sum(f(x, s) for s in seeds) / len(seeds)),
    ("6_generator_inputs", lambda z, c: torch.cat([z, c], 2).reshape(-1, z.shape[2] + c.shape[2])),
    ("6_outer_step", outer_step()),
    ("6_choose_then_judge", lambda s, valid, test: (max(s, key=valid), test(max(s, key=valid)))),
    ("7_shuffle_batches", shuffle()),
    ("7_normalized_weight", lambda d, g: torch.nn.functional.normalize(d) * g[:, None]),
    ("7_readout_steps", lambda T, k: [t for t in range(1, T + 1) if t % k == 0 or t == T]),
    ("8_timed", timed()),
    ("8_best_block", lambda T: min(range(1, T + 1), key=lambda k: math.ceil(T / k) + k)),
    ("8_choose", choose()),
]


@pytest.mark.parametrize(("name", "wrong", "hint"), WRONG, ids=[f"{name}-{hint}" for name, _, hint in WRONG])
def test_check_names_the_mistake(name: str, wrong: Callable[..., Any], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    getattr(checks, f"check_{name}")(wrong)
    said = capsys.readouterr().out
    assert said.startswith("Not yet right: ")
    assert hint in said


@pytest.mark.parametrize(("name", "right"), RIGHT, ids=[name for name, _ in RIGHT])
def test_check_accepts_a_right_answer(name: str, right: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    getattr(checks, f"check_{name}")(right)
    assert capsys.readouterr().out == "Correct.\n"


def test_every_check_is_tried_and_knows_a_stub(capsys: pytest.CaptureFixture[str]) -> None:
    names = {name.removeprefix("check_") for name in vars(checks) if re.match(r"check_[5-8]_", name)}
    assert names == {name for name, _, _ in WRONG} == {name for name, _ in RIGHT}
    for name in names:
        getattr(checks, f"check_{name}")(lambda *_: ...)
        assert capsys.readouterr().out.startswith("Not done yet")
