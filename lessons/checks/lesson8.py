"""Lesson 8: a clock for a device that works on its own, block sizes, and a choice within a budget."""

from __future__ import annotations

import math
import time

import numpy as np

from checks.common import Function, Hint, exercise, judge


class _Clock:
    """A device on which work is ordered at once and done when somebody waits; only work moves its clock."""

    def __init__(self, durations: list[float]) -> None:
        self.now, self.ordered, self.calls, self.durations = 0.0, 0.0, 0, durations

    def function(self) -> None:
        self.ordered += self.durations[self.calls % len(self.durations)]
        self.calls += 1

    def wait(self) -> None:
        self.now += self.ordered
        self.ordered = 0.0


@exercise
def check_8_timed(timed: Function) -> None:
    first = 100.0
    samples = [5.0, 1.0, 2.0, 30.0, 3.0]
    clock = _Clock([first, *samples])
    real, time.perf_counter = time.perf_counter, lambda: clock.now  # type: ignore[assignment]
    try:
        answer = timed(clock.function, len(samples), clock.wait)
    finally:
        time.perf_counter = real
    if not isinstance(answer, tuple) or len(answer) != 3:
        raise Hint("return three numbers: the median, the smallest and the largest")
    if clock.calls != len(samples) + 1:
        raise Hint(
            f"function() should be called once to warm up and n = {len(samples)} times with the "
            f"clock, not {clock.calls} times in all"
        )
    right = np.array([3.0, 1.0, 30.0])
    usual = {
        "this is time that the clock did not see: read time.perf_counter() after "
        "wait(), and use no other clock": np.zeros(3),
        "the mean follows a single disturbed sample; report the median": np.array(
            [np.mean(samples), 1.0, 30.0]
        ),
    }
    got = np.asarray(answer, np.float64)
    if got[2] >= first:
        raise Hint(
            "the warm-up is among the samples, or still running when the clock starts: call "
            "function(), then wait(), then start"
        )
    judge("(median, smallest, largest)", got, right, usual)


@exercise
def check_8_best_block(best_block: Function) -> None:
    def kept(T: int, k: int) -> int:
        return math.ceil(T / k) + min(k, T) - 1

    for T in (1, 2, 7, 10, 50, 100, 1000, 2048):
        k = best_block(T)
        if not isinstance(k, int):
            raise Hint(
                f"a block is a whole number of steps, but best_block({T}) is the {type(k).__name__} {k}"
            )
        if not 1 <= k <= T:
            raise Hint(f"best_block({T}) should lie between 1 and {T}, but is {k}")
        least = min(kept(T, j) for j in range(1, T + 1))
        if kept(T, k) > least:
            raise Hint(
                f"best_block({T}) is {k}, which keeps {kept(T, k)} states; it can be done with {least}"
            )


@exercise
def check_8_choose(choose: Function) -> None:
    candidates = [
        ("slow and small", 9.0, 10),
        ("middle", 4.0, 100),
        ("fast and large", 1.0, 1000),
        ("slow and large", 8.0, 900),
    ]
    for budget, right in (
        (5000, "fast and large"),
        (1000, "fast and large"),
        (999, "middle"),
        (50, "slow and small"),
    ):
        got = choose(candidates, budget)
        if got == right:
            continue
        if got in candidates:
            raise Hint("return the name alone, not the whole candidate")
        need = {name: size for name, _, size in candidates}
        if got in need and need[got] > budget:
            raise Hint(f"{got!r} needs {need[got]} bytes, and the budget is {budget}")
        if budget == 1000 and got in ("middle", "slow and large"):
            raise Hint(f"{right!r} needs exactly the budget: at most means <=")
        raise Hint(f"with a budget of {budget} the fastest that fits is {right!r}, not {got!r}")
    try:
        choose(candidates, 5)
    except ValueError:
        return
    raise Hint("where nothing fits, raise a ValueError: a silent answer would run out of memory later")
