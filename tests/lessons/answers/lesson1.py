"""Right and wrong answers to the exercises of lesson 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd.numpy as anp
import numpy as np
import recap
from autograd import grad, make_vjp


def central_difference(f, x, h=1e-5):
    return np.array([(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(len(x))])


def hessian_times(loss, w, batch, nu):
    return grad(lambda w: anp.dot(grad(loss)(w, batch), nu))(w)


def step(velocity=lambda m, v, g, lr: m * v + g, move=lambda lr, v, new, g: -lr * new, plain=False):
    """Lesson 1's step with one thing wrong."""

    def answer(loss, w, v, batch, lr, m):
        lr = float(lr) if plain else lr
        g = grad(loss)(w, batch)
        new = velocity(m, v, g, lr)
        return w + move(lr, v, new, g), new

    return answer


def step_writes(loss, w, v, batch, lr, m):
    v *= m
    v += grad(loss)(w, batch)
    w -= lr * v
    return w, v


def forward_difference(f, x, h=1e-5):
    return np.array([(f(x + h * e) - f(x)) / h for e in np.eye(len(x))])


def forgotten_two(f, x, h=1e-5):
    return np.array([(f(x + h * e) - f(x - h * e)) / h for e in np.eye(len(x))])


def writes_into_x(f, x, h=1e-5):
    slopes = []
    for i in range(len(x)):
        x[i] += h
        above = f(x)
        x[i] -= 2 * h
        slopes.append((above - f(x)) / (2 * h))
    return np.array(slopes)


def step_back(d_lr_of="new v", hessian=True, update_nu=True, sign=-1, factor_m=True, mixed=True):
    """Lesson 1's function with one thing wrong."""

    def answer(loss, lam, nu, w, v, batch, lr, m):
        pull_back, g = make_vjp(grad(loss), argnum=(0, 1))(w, batch)
        new_v = m * v + g
        d_lr = sign * lam @ {"new v": new_v, "old v": v, "g": g}[d_lr_of]
        later = nu - lr * lam if update_nu else nu
        h_nu, d_batch = pull_back(later)
        if not mixed:
            d_batch = grad(loss, 1)(w, batch)
        return lam + hessian * h_nu, (m if factor_m else 1) * later, d_lr, later @ v, d_batch

    return answer


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("1_step", step(velocity=lambda m, v, g, lr: v + m * g), "multiplies the old velocity"),
    ("1_step", step(velocity=lambda m, v, g, lr: m * v + (1 - m) * g), "the gradient has the factor 1"),
    ("1_step", step(velocity=lambda m, v, g, lr: g), "old velocity is missing"),
    ("1_step", step(velocity=lambda m, v, g, lr: m * v + lr * g), "belongs to the weights' line"),
    ("1_step", step(move=lambda lr, v, new, g: -lr * v), "by the old velocity"),
    ("1_step", step(move=lambda lr, v, new, g: -lr * g), "by the gradient alone"),
    ("1_step", step(move=lambda lr, v, new, g: lr * new), "up the slope"),
    ("1_step", step(move=lambda lr, v, new, g: -new), "learning rate is missing"),
    ("1_step", step(plain=True), "autograd cannot look through"),
    ("1_step", step_writes, "the caller's w or v has changed"),
    ("1_step", lambda *args: step()(*args)[0], "return 2 things"),
    ("1_central_difference", forward_difference, "looks ahead only"),
    ("1_central_difference", forgotten_two, "2 * h apart"),
    ("1_central_difference", writes_into_x, "the caller's x has changed"),
    ("1_central_difference", lambda f, x, h=1e-5: f(x), "shape"),
    ("1_hessian_times", lambda loss, w, batch, nu: grad(loss)(w, batch), "that is the gradient itself"),
    (
        "1_hessian_times",
        lambda loss, w, batch, nu: grad(lambda w: anp.sum(grad(loss)(w, batch)))(w),
        "nu is missing",
    ),
    ("1_hessian_times", lambda loss, w, batch, nu: grad(loss)(w, batch) * nu, "sum it to one number"),
    ("1_step_back", step_back(d_lr_of="old v"), "the weights move by the new velocity"),
    ("1_step_back", step_back(d_lr_of="g"), "not by the gradient alone"),
    ("1_step_back", step_back(sign=1), "wrong sign"),
    ("1_step_back", step_back(hessian=False), "the term H nu is missing"),
    ("1_step_back", step_back(update_nu=False), "update nu first"),
    ("1_step_back", step_back(factor_m=False), "the factor m is missing"),
    ("1_step_back", step_back(mixed=False), "mixed term"),
    ("1_step_back", lambda *_: (1.0, 2.0), "return 5 things"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("1_central_difference", central_difference),
    ("1_hessian_times", hessian_times),
    ("1_step", recap.step),
    ("1_step", step()),
    ("1_step_back", recap.step_back),
    ("1_step_back", step_back()),
]
GUESSES: list[tuple[str, Any, float, str]] = [
    ("1_best_rate", 2.2, 2.0, "Near"),
    ("1_best_rate", 1, 2.0, "the valley"),
    ("1_best_rate", 10, 2.0, "for your rate"),
    ("1_best_h", -6, -5.2, "Near"),
    ("1_best_h", 5, -5.2, "bends between"),
    ("1_best_h", -12, -5.2, "loses the digits"),
    ("1_far", -1.5, -0.002, "below zero"),
    ("1_far", 0, -0.002, "Near"),
    ("1_far", 1.0, -0.002, "turns round at the best"),
]
