"""Right and wrong answers to the exercises of lesson 3."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from autograd import grad


def undo_step(late=False, order="subtract first", sign=1):
    def answer(loss, new_w, new_v, batch, lr, m):
        w = new_w + sign * lr * new_v
        g = grad(loss)(new_w if late else w, batch)
        return w, {
            "subtract first": (new_v - g) / m,
            "divide first": new_v / m - g,
            "multiply": m * (new_v - g),
        }[order]

    return answer


def squeeze_by(push=True, pop=True, truncate=False):
    def answer(v, b, n, d):
        h, r = divmod(v, d)
        if truncate:
            h = int(v / d)
            r = v - h * d
        if not pop:
            return v * n // d, b * d + r
        b, s = divmod(b * d + r, n)
        return h * n + (s if push else 0), b

    return answer


def bits_per_weight(m):
    return sum(64.0 if momentum == 0 else -math.log2(momentum) for momentum in m)


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("3_undo_step", undo_step(late=True), "the gradient must be taken at the old weights"),
    ("3_undo_step", undo_step(order="divide first"), "subtract g before dividing"),
    ("3_undo_step", undo_step(order="multiply"), "divide by m"),
    ("3_undo_step", undo_step(sign=-1), "the weights went the wrong way"),
    ("3_squeeze", squeeze_by(push=False), "missing in v"),
    ("3_squeeze", squeeze_by(pop=False), "only grows"),
    ("3_squeeze", squeeze_by(truncate=True), "negative v"),
    ("3_squeeze", lambda v, b, n, d: (v * n / d, b), "stay with integers"),
    ("3_bits_per_weight", lambda m: -np.sum(np.log(m)), "base 2"),
    ("3_bits_per_weight", lambda m: -np.mean(np.log2(m)), "every step costs"),
    ("3_bits_per_weight", lambda m: -np.sum(np.log2(m)), "momentum 0"),
    ("3_bits_per_weight", lambda m: np.sum(np.log2(m)), "wrong sign"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("3_bits_per_weight", bits_per_weight),
    ("3_undo_step", undo_step()),
    ("3_squeeze", squeeze_by()),
]
