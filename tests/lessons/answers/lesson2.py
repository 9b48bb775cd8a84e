"""Right and wrong answers to the exercises of lesson 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd.numpy as anp
import numpy as np
import recap
from autograd import grad


def train(lr_of=lambda lr, t: lr[t], batch_of=lambda batches, t: batches[t], old=False, plain=False):
    def answer(loss, w0, batches, lr, m):
        w = w0
        v = np.zeros(len(w0))
        for t in range(len(batches)):
            new = m * v + grad(loss)(w, batch_of(batches, t))
            rate = float(lr_of(lr, t)) if plain else lr_of(lr, t)
            w = w - rate * (v if old else new)
            v = new
        return w

    return answer


def keep_states(first=0, last=None, old=False, rate_of=lambda lr, t: lr[t], carry=True, turned=False):
    def answer(loss, w0, batches, lr, m):
        states = [(w0, np.zeros(len(w0)))]
        for t in range(len(batches)):
            w, v = states[-1]
            new = m * v * carry + grad(loss)(w, batches[t])
            states.append((w - rate_of(lr, t) * (v if old else new), new))
        return [(v, w) if turned else (w, v) for w, v in states[first:last]]

    return answer


def one_array(loss, w0, batches, lr, m):
    w = w0.copy()
    v = np.zeros(len(w0))
    states = [(w, v)]
    for t in range(len(batches)):
        v = m * v + grad(loss)(w, batches[t])
        w -= lr[t] * v
        states.append((w, v))
    return states


def writes_into_w0(loss, w0, batches, lr, m):
    w0 += 1
    return keep_states()(loss, w0, batches, lr, m)


def walk_back(order=reversed, shift=0, carry=True, turned=False, batches_turned=False, kept=True):
    def answer(loss, states, batches, lr, m, lam):
        T = len(batches)
        d_lr = np.zeros(T)
        d_m = np.zeros(T)
        d_batches = [None] * T
        nu = np.zeros(len(lam))
        for t in order(range(T)):
            w, v = states[t + shift]
            lam, new, d_lr[t], d_m[t], d_batch = recap.step_back(loss, lam, nu, w, v, batches[t], lr[t], m)
            nu = new if carry else nu
            if kept:
                d_batches[t] = d_batch
        if batches_turned:
            d_batches = d_batches[::-1]
        return (lam, d_lr[::-1], d_m[::-1], d_batches) if turned else (lam, d_lr, d_m, d_batches)

    return answer


def power_iteration(normalize=True, result="curvature"):
    def answer(hessian_times, u, rounds):
        for _ in range(rounds):
            u = u / np.linalg.norm(u) if normalize else u
            h_u = hessian_times(u)
            curvature = anp.dot(u, h_u)
            u = h_u
        return {"curvature": curvature, "direction": u, "rate": 2 / curvature}[result]

    return answer


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("2_train", train(lr_of=lambda lr, t: lr[0]), "first learning rate"),
    ("2_train", train(batch_of=lambda batches, t: batches[0]), "first batch"),
    ("2_train", train(old=True), "old velocity"),
    ("2_train", train(plain=True), "autograd cannot look through"),
    ("2_walk_back", walk_back(order=iter), "from the last step to the first"),
    ("2_walk_back", walk_back(shift=1), "starts from states[t]"),
    ("2_walk_back", walk_back(carry=False), "nu is not carried on"),
    ("2_walk_back", walk_back(turned=True), "order of the walk"),
    ("2_walk_back", walk_back(batches_turned=True), "order of the walk"),
    ("2_walk_back", walk_back(kept=False), "one is None"),
    ("2_walk_back", lambda *args: walk_back()(*args)[:3], "return 4 things"),
    ("2_keep_states", keep_states(last=-1), "T + 1 states"),
    ("2_keep_states", keep_states(first=1), "T + 1 states"),
    ("2_keep_states", keep_states(old=True), "by the old velocity"),
    ("2_keep_states", keep_states(rate_of=lambda lr, t: lr[0]), "first learning rate"),
    ("2_keep_states", keep_states(carry=False), "velocity is forgotten"),
    ("2_keep_states", keep_states(turned=True), "are exchanged"),
    ("2_keep_states", one_array, "one and the same array"),
    ("2_keep_states", writes_into_w0, "w0 has changed"),
    ("2_keep_states", lambda *args: keep_states()(*args)[-1], "a list of pairs"),
    ("2_largest_curvature", power_iteration(normalize=False), "overflow"),
    ("2_largest_curvature", power_iteration(result="direction"), "that is the direction u"),
    ("2_largest_curvature", power_iteration(result="rate"), "return the curvature h"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("2_train", train()),
    ("2_keep_states", keep_states()),
    ("2_walk_back", walk_back()),
    ("2_largest_curvature", power_iteration()),
]
GUESSES: list[tuple[str, Any, float, str]] = [
    ("2_memory", 7, 7.1, "Near"),
    ("2_memory", 2, 7.1, "every operation"),
    ("2_memory", 1000, 7.1, "layers are small"),
    ("2_apart", 1, 1.4, "Near"),
    ("2_apart", -8, 1.4, "A factor of 2"),
    ("2_apart", 5, 1.4, "stops growing"),
    ("2_sign", 8, 7.0, "Near"),
    ("2_sign", 2, 7.0, "point away"),
    ("2_sign", 16, 7.0, "its own cliff"),
]
