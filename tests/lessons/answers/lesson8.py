"""Right and wrong answers to the exercises of lesson 8."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any


def timed(
    warm: bool = True, wait_before: bool = True, wait_after: bool = True, mean: bool = False
) -> Callable[..., Any]:
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


def choose(
    fits: Callable[[float, float], bool] = float.__le__, by: int = 1, name: bool = True, kind: bool = True
) -> Callable[..., Any]:
    """Lesson 8's choice with one thing wrong."""

    def answer(candidates, budget):
        fitting = [c for c in candidates if fits(float(c[2]), float(budget))]
        if not fitting and not kind:
            return "slow and small"
        best = min(fitting, key=lambda c: c[by])
        return best[0] if name else best

    return answer


WRONG: list[tuple[str, Callable[..., Any], str]] = [
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
    ("8_timed", timed()),
    ("8_best_block", lambda T: min(range(1, T + 1), key=lambda k: math.ceil(T / k) + k)),
    ("8_choose", choose()),
]
