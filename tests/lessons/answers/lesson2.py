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


def walk_back(order=reversed, shift=0, carry=True, turned=False):
    def answer(loss, states, batches, lr, m, lam):
        T = len(batches)
        d_lr = np.zeros(T)
        d_m = np.zeros(T)
        nu = np.zeros(len(lam))
        for t in order(range(T)):
            w, v = states[t + shift]
            lam, new, d_lr[t], d_m[t], _ = recap.step_back(loss, lam, nu, w, v, batches[t], lr[t], m)
            nu = new if carry else nu
        return (lam, d_lr[::-1], d_m[::-1]) if turned else (lam, d_lr, d_m)

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
    ("2_largest_curvature", power_iteration(normalize=False), "overflow"),
    ("2_largest_curvature", power_iteration(result="direction"), "that is the direction u"),
    ("2_largest_curvature", power_iteration(result="rate"), "return the curvature h"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("2_train", train()),
    ("2_walk_back", walk_back()),
    ("2_largest_curvature", power_iteration()),
]
