"""Lesson 3: a step undone, digits kept on a stack, and the bits that momentum costs."""

from __future__ import annotations

import math

import numpy as np
from autograd import grad

from checks.common import Function, Hint, exercise, judge, parts
from checks.problem import loss, problem


@exercise
def check_3_undo_step(undo_step: Function) -> None:
    """``undo_step(loss, new_w, new_v, batch, lr, m)``: the old w (P,) and v (P,)."""
    w, v, batches, _, _ = problem()
    batch = batches[0]
    lr = 0.3
    m = 0.8
    gradient = grad(loss)
    new_v = m * v + gradient(w, batch)
    new_w = w - lr * new_v
    old_w, old_v = parts(undo_step(loss, new_w, new_v, batch, lr, m), ["old w", "old v"])
    judge(
        "the old w",
        old_w,
        w,
        {
            "the weights went the wrong way: the step subtracted lr * v, so add it": new_w - lr * new_v,
            "undo the weights first, with the new velocity; it is what moved them": new_w + lr * v,
        },
    )
    g = gradient(w, batch)
    late = gradient(new_w, batch)
    judge(
        "the old v",
        old_v,
        v,
        {
            "the gradient must be taken at the old weights, where the step took it: undo w first": (
                new_v - late
            )
            / m,
            "subtract g before dividing by m: the step did v <- m * v first and + g last": new_v / m - g,
            "divide by m: the step multiplied by it": m * (new_v - g),
            "the factor m is still in it: divide by m": new_v - g,
        },
        1e-8,
    )


@exercise
def check_3_squeeze(squeeze: Function) -> None:
    """``squeeze(v, b, n, d)``: v * n / d and the fuller buffer, as integers, without losing anything."""
    for v, b, n, d in (
        (47, 0, 1, 2),
        (26, 1, 9, 10),
        (12_345, 678, 9, 10),
        (-58, 3, 9, 10),
        (2**70 + 5, 2**90 + 1, 49, 50),
    ):
        new_v, new_b = parts(squeeze(v, b, n, d), ["new v", "new b"])
        if not all(isinstance(x, int) for x in (new_v, new_b)):
            raise Hint("stay with integers: // and % (or divmod), never /")
        big = b * d + v % d
        right = v // d * n + big % n, big // n
        given = f"squeeze({v}, {b}, {n}, {d})"
        if (new_v, new_b) == right:
            continue
        if (new_v, new_b) == (v * n // d, b * d + v % d):
            raise Hint(
                f"{given}: the digit is on the stack, but the stack only grows; pop a digit in "
                "base n off it and put it on v"
            )
        if new_v == v // d * n:
            raise Hint(f"{given}: the digit popped off the stack is missing in v: v = h * n + s")
        if (new_v, new_b) == (v // d * n + b % n, b // n * d + v % d):
            raise Hint(
                f"{given}: push the digit of v first, then pop; with an empty stack there "
                "would be nothing to pop"
            )
        if v < 0:
            raise Hint(
                f"{given} should be {right}, but is {(new_v, new_b)}: for negative v take // and %, "
                "their remainder is never below 0"
            )
        raise Hint(f"{given} should be {right}, but is {(new_v, new_b)}")


@exercise
def check_3_bits_per_weight(bits_per_weight: Function) -> None:
    """``bits_per_weight(m)``: the bits that momenta m (T,) cost per weight, in all."""
    m = np.array([0.5, 0.75, 0.9, 0.25])
    right = -float(np.sum(np.log2(m)))
    usual = {
        "bits are logarithms to base 2: np.log2, not np.log": -np.sum(np.log(m)),
        "bits are logarithms to base 2, not 10": -np.sum(np.log10(m)),
        "that is the mean of the steps: every step costs its bits, add them": right / 4,
        "that is log2 of the mean momentum, T times: add log2(1/m) over the steps": -4 * np.log2(m.mean()),
        "that is in bytes: leave the division by 8 to the caller": right / 8,
    }
    judge("the number of bits", bits_per_weight(m), right, usual)
    with np.errstate(divide="ignore"):
        judge(
            "the number of bits for m = [0.5, 0]",
            bits_per_weight(np.array([0.5, 0.0])),
            65.0,
            {"momentum 0 keeps nothing of v: all its 64 bits have to be stored": math.inf},
        )
