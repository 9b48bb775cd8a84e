"""Lesson 8: a clock for a device that works on its own, an estimate of memory, and a plan within a budget."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from checks.common import Function, Hint, exercise, judge
from checks.predict import number, prediction


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
    if not isinstance(answer, tuple | list) or len(answer) != 3:
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


def _bytes(kind: object, T: int, P: int, A: int, m: float, **wrong: bool) -> float:
    """The lesson's estimate, with one thing wrong."""
    number = 1 if wrong.get("numbers") else 4
    if kind == "unrolled":
        held = 2 if wrong.get("no_gradient") else 1 if wrong.get("no_velocity") else 3
        return T * A + T * held * P * number if not wrong.get("once") else A + T * held * P * number
    if kind == "reversible":
        words = (T * math.log2(1 / m) - 64) / 32
        words = words if wrong.get("no_ceil") else math.ceil(words)
        words = words + 2 if wrong.get("all_bits") else words
        words = words if wrong.get("negative") else max(0, words)
        return A + 96 * P + (words * P if wrong.get("numbers") else 4 * words * P)
    assert isinstance(kind, int)
    blocks = T / kind if wrong.get("no_ceil") else math.ceil(T / kind)
    within = 0 if wrong.get("no_block") else kind - 1 if wrong.get("long_block") else min(kind, T) - 1
    within = within + 1 if wrong.get("first_twice") else within
    each = 1 if wrong.get("no_velocity") else 2
    working = 0 if wrong.get("no_working") else 13
    activations = kind * A if wrong.get("block_activations") else A
    return activations + (each * (blocks + within) + working) * P * number


_MISTAKES = {
    "numbers": "these are numbers, not bytes: a float32 has 4 bytes",
    "no_velocity": "a state is two tensors, weights and velocity",
    "no_gradient": "beside its state each unrolled step keeps its gradient",
    "once": "an unrolled run keeps the activations of every step, not those of one",
    "no_ceil": "half a block keeps a whole state, and half a word is a word: round up",
    "no_block": "the states within one block are kept, too",
    "long_block": "a block is never longer than T",
    "first_twice": "the first state of the block is counted twice",
    "no_working": "the 13 working vectors are missing",
    "block_activations": "the activations of one step are kept at a time, not those of a block",
    "negative": "where fewer than 64 bits are lost, no further word is needed, and none is given back",
    "all_bits": "the first 64 bits are in the 96 bytes already",
}


@exercise
def check_8_estimate(estimate: Function) -> None:
    """``estimate(kind, T, P, A, m)``: bytes at the peak of the three adjoints."""
    P = 1000
    A = 50_000
    cases = (
        ("unrolled", 10, 0.9),
        (1, 10, 0.9),
        (3, 10, 0.9),
        (5, 10, 0.9),
        (20, 10, 0.9),
        ("reversible", 1000, 0.9),
        ("reversible", 10, 0.9),
        ("reversible", 300, 0.5),
    )
    for kind, T, m in cases:
        got = estimate(kind, T, P, A, m)
        usual = {hint: _bytes(kind, T, P, A, m, **{name: True}) for name, hint in _MISTAKES.items()}
        right = _bytes(kind, T, P, A, m)
        usual = {hint: wrong for hint, wrong in usual.items() if wrong != right}
        judge(f"estimate({kind!r}, T={T}, P={P}, A={A}, m={m})", got, right, usual, tolerance=1e-9)


@exercise
def check_8_plan(plan: Function) -> None:
    """``plan(candidates, T, budget)``: the fastest expected at T among those that fit."""
    short = [10, 20, 40]
    lines = {
        "steep": (0.1, 0.05, 100),
        "flat": (2.0, 0.01, 10),
        "small": (1.0, 0.09, 1),
        "large": (3.0, 0.03, 50),
    }
    candidates = {
        name: (short, [a + b * t for t in short], lambda T, size=size: size * T)
        for name, (a, b, size) in lines.items()
    }
    expected = {name: {T: a + b * T for T in (30, 100)} for name, (a, b, _) in lines.items()}
    cases = (
        (30, 5_000, "steep"),
        (100, 10_000, "flat"),
        (30, 3_000, "steep"),
        (30, 2_999, "flat"),
        (100, 100, "small"),
    )
    for T, budget, right in cases:
        got = plan(dict(candidates), T, budget)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Hint("return two things: the name, and the seconds expected")
        name, seconds = got
        if name not in lines:
            raise Hint(f"the first thing is one of the names {sorted(lines)}, not {name!r}")
        if lines[name][2] * T > budget:
            raise Hint(f"{name!r} needs {lines[name][2] * T} bytes at T = {T}, and the budget is {budget}")
        if name != right:
            if budget in (3_000, 100):
                raise Hint(f"{right!r} needs exactly the budget: at most means <=")
            raise Hint(
                f"at T = {T} {right!r} takes {expected[right][T]:.1f} s, {name!r} {expected[name][T]:.1f}: "
                "extend each line to T before you compare"
            )
        a, b, _ = lines[name]
        usual = {
            "that is the longest short run; extend the line to T": a + b * 40,
            "the time is not proportional to T: part of it is spent once": (a + b * 40) * T / 40,
            "what is spent once is missing: a + b * T": b * T,
            "polyfit gives the slope first, then what is spent once": b + a * T,
        }
        judge(f"the seconds of {name!r} at T = {T}", seconds, a + b * T, usual)
    try:
        plan(dict(candidates), 100, 5)
    except ValueError:
        return
    raise Hint("where nothing fits, raise a ValueError: a silent answer would run out of memory later")


@prediction
def predict_8_unrolled_mebibytes(guess: Any, answer: float) -> str:
    """MiB of an unrolled run of 1024 steps."""
    return number(
        guess,
        answer,
        near="T (A + 12 P): nearly the whole of it grows with T.",
        low="Every one of the steps keeps its activations, its state and its gradient.",
        high="One step keeps about 280 KiB, and there are 1024 of them.",
    )


@prediction
def predict_8_wider(guess: Any, answer: float) -> str:
    """How many times as long a step takes with 64 times the width."""
    return number(
        guess,
        answer,
        near="Most of the time of a narrow step goes into giving orders.",
        low="The wide one does have more to multiply.",
        high="64 times the arithmetic, but the arithmetic is not what takes the time of a narrow step.",
    )
