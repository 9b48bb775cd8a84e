"""Right and wrong answers to the exercises of lesson 3."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import recap
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


def squeeze_by(push=True, pop=True, truncate=False, floats=False):
    def answer(v, b, n, d):
        h, r = divmod(v, d)
        if truncate:
            h = int(v / d)
            r = v - h * d
        if not pop:
            return v * n // d, b * d + r
        big = b * d + r
        b, s = (int(big / n), big % n) if floats else divmod(big, n)
        return h * n + (s if push else 0), b

    return answer


def bits_per_weight(m):
    return sum(64.0 if momentum == 0 else -math.log2(momentum) for momentum in m)


def film(multiply=None, at="old w", by="new v", first="squeeze", steps=None):
    multiply = multiply or squeeze_by()

    def answer(w, v, b, momenta, g):
        for n, d in momenta[:steps]:
            old = v
            if first == "gradient":
                v += g(w)
            v, b = multiply(v, b, n, d)
            if at == "new w":
                w -= v // 4
            if first == "squeeze":
                v += g(w)
            if at == "old w":
                w -= (v if by == "new v" else old) // 4
        return w, v, b

    return answer


def film_back(order=reversed, exchanged=True, late=False, subtract=True):
    squeeze = squeeze_by()

    def answer(w, v, b, momenta, g):
        for n, d in order(momenta):
            gradient = g(w) if late else g(w + v // 4)
            w += v // 4
            v -= gradient * subtract
            v, b = squeeze(v, b, d, n) if exchanged else squeeze(v, b, n, d)
        return w, v, b

    return answer


def checkpointed(every=None, order=reversed, carry=True, at_end=True, short=True, turned=False):
    def answer(loss, w0, v0, batches, lr, m, lam_of, k):
        T = len(batches)
        step = every or k
        kept = {}
        state = (w0, v0)
        for t in range(T):
            if t % step == 0:
                kept[t] = state
            state = recap.step(loss, *state, batches[t], lr, m)
        lam = lam_of(state[0] if at_end else w0)
        nu = np.zeros(len(w0))
        d_lr = np.zeros(T)
        for start in order(range(0, T, step)):
            steps = range(start, min(start + step, T) if short else start + step)
            block = [kept[start]]
            for t in steps[:-1]:
                block.append(recap.step(loss, *block[-1], batches[t], lr, m))
            nu = nu if carry else np.zeros(len(w0))
            for t in reversed(steps):
                lam, nu, d_lr[t], *_ = recap.step_back(loss, lam, nu, *block.pop(), batches[t], lr, m)
        return lam, d_lr[::-1] if turned else d_lr

    return answer


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("3_undo_step", undo_step(late=True), "the gradient must be taken at the old weights"),
    ("3_undo_step", undo_step(order="divide first"), "subtract g before dividing"),
    ("3_undo_step", undo_step(order="multiply"), "divide by m"),
    ("3_undo_step", undo_step(sign=-1), "the weights went the wrong way"),
    ("3_squeeze", squeeze_by(floats=True), "its last digits are lost"),
    ("3_squeeze", squeeze_by(push=False), "missing in v"),
    ("3_squeeze", squeeze_by(pop=False), "only grows"),
    ("3_squeeze", squeeze_by(truncate=True), "negative v"),
    ("3_squeeze", lambda v, b, n, d: (v * n / d, b), "stay with integers"),
    ("3_bits_per_weight", lambda m: -np.sum(np.log(m)), "base 2"),
    ("3_bits_per_weight", lambda m: -np.mean(np.log2(m)), "every step costs"),
    ("3_bits_per_weight", lambda m: -np.sum(np.log2(m)), "momentum 0"),
    ("3_bits_per_weight", lambda m: np.sum(np.log2(m)), "wrong sign"),
    ("3_film", film(multiply=lambda v, b, n, d: (v * n // d, b)), "remainders are not kept"),
    ("3_film", film(at="new w"), "at the old weight"),
    ("3_film", film(by="old v"), "by the new velocity"),
    ("3_film", film(first="gradient"), "multiply the old velocity first"),
    ("3_film", film(steps=1), "that is one step"),
    ("3_film", film(multiply=lambda v, b, n, d: (v * n / d, b)), "stay with integers"),
    ("3_film_back", film_back(order=iter), "the last step is undone first"),
    ("3_film_back", film_back(exchanged=False), "n and d exchanged"),
    ("3_film_back", film_back(late=True), "undo the weight first"),
    ("3_film_back", film_back(subtract=False), "should come back to"),
    ("3_film_back", lambda w, v, b, momenta, g: (w, v), "return 3 things"),
    ("3_checkpointed", checkpointed(every=1), "nothing is computed again"),
    ("3_checkpointed", checkpointed(order=iter), "last block comes first"),
    ("3_checkpointed", checkpointed(carry=False), "from block to block"),
    ("3_checkpointed", checkpointed(at_end=False), "the weights at the end"),
    ("3_checkpointed", checkpointed(short=False), "the last block is shorter"),
    ("3_checkpointed", checkpointed(turned=True), "order of the walk"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("3_bits_per_weight", bits_per_weight),
    ("3_undo_step", undo_step()),
    ("3_squeeze", squeeze_by()),
    ("3_film", film()),
    ("3_film_back", film_back()),
    ("3_checkpointed", checkpointed()),
]
GUESSES: list[tuple[str, Any, float, str]] = [
    ("3_lost", 53, 57.0, "Near"),
    ("3_lost", 10, 57.0, "doublings"),
    ("3_lost", 100, 57.0, "doublings"),
    ("3_pop", 48, 48.0, "Near"),
    ("3_pop", 45, 48.0, "the popped digit"),
    ("3_pop", 53, 48.0, "after the push"),
    ("3_bits", 152, 155.0, "Near"),
    ("3_bits", 1, 155.0, "a thousand times"),
    ("3_bits", 3300, 155.0, "off again"),
]
