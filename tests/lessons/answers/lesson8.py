"""Right and wrong answers to the exercises of lesson 8."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np


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


def estimate(
    number=4,
    each=2,
    gradient=True,
    once=False,
    up=math.ceil,
    within=True,
    short=True,
    first=0,
    working=13,
    per=None,
    least=0,
    given=64,
) -> Callable[..., Any]:
    """Lesson 8's estimate with one thing wrong."""

    def answer(kind, T, P, A, m):
        if kind == "unrolled":
            return (1 if once else T) * A + T * (each + gradient) * P * number
        if kind == "reversible":
            words = up((T * math.log2(1 / m) - given) / 32)
            return A + 96 * P + number * P * (words if least is None else max(least, words))
        inside = (min(kind, T) if short else kind) - 1 if within else 0
        states = up(T / kind) + inside + first
        return (per or (lambda k: 1))(kind) * A + (each * states + working) * P * number

    return answer


def plan(
    fits=float.__le__, read=lambda a, b, T, last: a + b * T, least="seconds", name=True, kind=True
) -> Callable[..., Any]:
    """Lesson 8's plan with one thing wrong."""

    def answer(candidates, T, budget):
        fitting = []
        for label, (lengths, seconds, bytes_at) in candidates.items():
            if fits(float(bytes_at(T)), float(budget)):
                b, a = np.polyfit(lengths, seconds, 1)
                expected = read(a, b, T, seconds[-1])
                fitting.append((expected if least == "seconds" else bytes_at(T), expected, label))
        if not fitting and not kind:
            return "small", 0.0
        if not fitting:
            raise ValueError
        _, expected, label = min(fitting)
        return (label, expected) if name else label

    return answer


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("8_timed", timed(warm=False), "once to warm up"),
    ("8_timed", timed(wait_before=False), "still running when the clock starts"),
    ("8_timed", timed(wait_after=False), "time that the clock did not see"),
    ("8_timed", timed(mean=True), "report the median"),
    ("8_estimate", estimate(number=1), "a float32 has 4 bytes"),
    ("8_estimate", estimate(each=1, gradient=False), "a state is two tensors"),
    ("8_estimate", estimate(gradient=False), "keeps its gradient"),
    ("8_estimate", estimate(once=True), "of every step, not those of one"),
    ("8_estimate", estimate(up=float), "round up"),
    ("8_estimate", estimate(within=False), "within one block are kept"),
    ("8_estimate", estimate(short=False), "never longer than T"),
    ("8_estimate", estimate(first=1), "counted twice"),
    ("8_estimate", estimate(working=0), "13 working vectors"),
    ("8_estimate", estimate(per=lambda k: k), "not those of a block"),
    ("8_estimate", estimate(least=None), "none is given back"),
    ("8_estimate", estimate(given=0), "in the 96 bytes already"),
    ("8_plan", plan(fits=lambda size, budget: True), "the budget is"),
    ("8_plan", plan(least="bytes"), "before you compare"),
    ("8_plan", plan(fits=float.__lt__), "at most means <="),
    ("8_plan", plan(read=lambda a, b, T, last: last), "the longest short run"),
    ("8_plan", plan(read=lambda a, b, T, last: last * T / 40), "not proportional"),
    ("8_plan", plan(read=lambda a, b, T, last: b * T), "before you compare"),
    ("8_plan", plan(read=lambda a, b, T, last: b + a * T), "polyfit gives the slope first"),
    ("8_plan", plan(name=False), "return two things"),
    ("8_plan", plan(kind=False), "raise a ValueError"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("8_timed", timed()),
    ("8_timed", lambda *args: list(timed()(*args))),
    ("8_estimate", estimate()),
    ("8_plan", plan()),
    ("8_plan", lambda *args: list(plan()(*args))),
]
GUESSES: list[tuple[str, Any, Any, str]] = [
    ("8_unrolled_mebibytes", 250, 267.0, "Near"),
    ("8_unrolled_mebibytes", 50, 267.0, "its activations, its state"),
    ("8_unrolled_mebibytes", 5000, 267.0, "280 KiB"),
    ("8_wider", 2, 2.0, "Near"),
    ("8_wider", 1, 2.0, "more to multiply"),
    ("8_wider", 64, 2.0, "64 times the arithmetic"),
]
