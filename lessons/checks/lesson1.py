"""Lesson 1: one step, finite differences, the Hessian product, and the chain rule back through the step."""

from __future__ import annotations

from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd import grad, make_vjp

from checks.common import Function, Hint, exercise, judge, parts
from checks.predict import number, prediction
from checks.problem import loss, problem


@exercise
def check_1_step(step: Function) -> None:
    """``step(loss, w, v, batch, lr, m)``: the new w (P,) and the new v (P,), for autograd to follow."""
    w, v, batches, _, direction = problem()
    batch = batches[0]
    lr = 0.3
    m = 0.8
    g = grad(loss)(w, batch)
    new_v = m * v + g
    kept_w = w.copy()
    kept_v = v.copy()
    got_w, got_v = parts(step(loss, w, v, batch, lr, m), ["the new w", "the new v"])
    if not (np.array_equal(w, kept_w) and np.array_equal(v, kept_v)):
        raise Hint("the caller's w or v has changed: write w = w - ..., not w -= ...")
    usual = {
        "the new v: the momentum m multiplies the old velocity, not the gradient": v + m * g,
        "the new v: the gradient has the factor 1; only the old velocity is scaled": m * v + (1 - m) * g,
        "the new v: the old velocity is missing: m * v + g": g,
        "the new v: the learning rate belongs to the weights' line, not to the velocity's": m * v + lr * g,
    }
    judge("the new v", got_v, new_v, usual)
    usual = {
        "the weights move by the old velocity: compute the new v first": w - lr * v,
        "the weights move by the gradient alone: they should move by the new velocity": w - lr * g,
        "the weights go up the slope: subtract lr * v": w + lr * new_v,
        "the learning rate is missing": w - new_v,
    }
    judge("the new w", got_w, w - lr * new_v, usual)
    try:
        d_lr = grad(lambda lr: anp.dot(direction, step(loss, w, v, batch, lr, m)[0]))(lr)
    except Exception as error:
        raise Hint(
            "the step is right, but autograd cannot look through it: keep float() and plain "
            f"numpy out of it ({type(error).__name__})"
        ) from None
    judge("d_lr through the step", d_lr, -direction @ new_v)


@exercise
def check_1_central_difference(central_difference: Function) -> None:
    """``central_difference(f, x, h)``: the gradient of f at the vector x, (n,)."""

    def f(x: Any) -> Any:
        return np.sin(x[0]) + x[0] * x[1] ** 2 + np.exp(x[2])

    x = np.array([0.3, -1.2, 0.7])
    h = 1e-4
    unit = np.eye(3)
    right = np.array([np.cos(x[0]) + x[1] ** 2, 2 * x[0] * x[1], np.exp(x[2])])
    kept = x.copy()
    got = central_difference(f, x, h)
    if not np.array_equal(x, kept):
        raise Hint(
            "the caller's x has changed: copy it, or build x + h * e and x - h * e without writing into x"
        )
    usual = {
        "that is twice the slope: the two points are 2 * h apart, not h": 2 * right,
        "that is half the slope: the two points are 2 * h apart, divide by 2 * h once": right / 2,
        "that looks ahead only, which is far less accurate: use f(x + h) - f(x - h), over 2 * h": [
            (f(x + h * e) - f(x)) / h for e in unit
        ],
        "that looks back only, which is far less accurate: use f(x + h) - f(x - h), over 2 * h": [
            (f(x) - f(x - h * e)) / h for e in unit
        ],
        "all entries of x moved at once: move one entry at a time": [(f(x + h) - f(x - h)) / (2 * h)] * 3,
    }
    judge("the gradient", got, right, usual)


@exercise
def check_1_hessian_times(hessian_times: Function) -> None:
    """``hessian_times(loss, w, batch, nu)``: the Hessian of the loss at w, times nu, (P,)."""
    w, _, batches, _, nu = problem()
    gradient = grad(loss)
    g = gradient(w, batches[0])
    right = make_vjp(lambda w: gradient(w, batches[0]))(w)[0](nu)
    usual = {
        "that is the gradient itself: differentiate <g, nu> once more": g,
        "nu is missing: that is the sum of the Hessian's rows, H times a vector of ones": make_vjp(
            lambda w: gradient(w, batches[0])
        )(w)[0](np.ones(3)),
        "that is g * nu, entry by entry: sum it to one number, <g, nu>, and differentiate that by w": g * nu,
    }
    judge("H nu", hessian_times(loss, w, batches[0], nu), right, usual)


@exercise
def check_1_step_back(step_back: Function) -> None:
    """``step_back(loss, lam, nu, w, v, batch, lr, m)``: d_w (P,), d_v (P,), d_lr, d_m and d_batch."""
    w, v, batches, _, lam = problem()
    batch = batches[0]
    lr = 0.3
    m = 0.8
    nu = np.array([0.5, -0.4, 0.2])
    pull_back, g = make_vjp(grad(loss), argnum=(0, 1))(w, batch)
    new_v = m * v + g
    d_new_v = nu - lr * lam
    h_nu, d_batch = pull_back(d_new_v)
    names = ["d_w", "d_v", "d_lr", "d_m", "d_batch"]
    d_w, d_v, d_lr, d_m, got_batch = parts(step_back(loss, lam, nu, w, v, batch, lr, m), names)
    judge(
        "d_lr",
        d_lr,
        -lam @ new_v,
        {
            "d_lr: the weights move by the new velocity, so it is -<lam, new v>, not -<lam, old v>": -lam @ v,
            "d_lr: the weights move by the velocity, not by the gradient alone: -<lam, new v>": -lam @ g,
        },
    )
    judge(
        "d_m",
        d_m,
        d_new_v @ v,
        {
            "d_m: what m multiplies is the old velocity: <nu, old v>": d_new_v @ new_v,
            "d_m: update nu first; the new velocity moves the weights too (nu <- nu - lr * lam)": nu @ v,
        },
    )
    judge(
        "d_w",
        d_w,
        lam + h_nu,
        {
            "d_w: the term H nu is missing; the gradient g depends on w as well": lam,
            "d_w: lam is missing; w also reaches the new weights directly, with factor 1": h_nu,
            "d_w: H meets the nu of before its update; do nu <- nu - lr * lam first": lam + pull_back(nu)[0],
            "d_w: pull back at the old weights w, not at the new ones": lam
            + make_vjp(grad(loss), argnum=(0, 1))(w - lr * new_v, batch)[0](d_new_v)[0],
        },
    )
    judge(
        "d_v",
        d_v,
        m * d_new_v,
        {
            "d_v: the factor m is missing; the new velocity is m * v + g": d_new_v,
            "d_v: update nu first; the new velocity moves the weights too (nu <- nu - lr * lam)": m * nu,
        },
    )
    judge(
        "d_x (first part of d_batch)",
        got_batch[0],
        d_batch[0],
        {
            "d_batch: that is how the training loss depends on the batch; wanted is "
            "the mixed term (dg/dx)^T nu": grad(loss, 1)(w, batch)[0]
        },
    )


@prediction
def predict_1_best_rate(guess: Any, answer: float) -> str:
    """The best learning rate of the one step."""
    return number(
        guess,
        answer,
        near="The curve is flat around it, so a guess need not be exact.",
        low="The slope at 1 is still steep: how far along the line of the left picture is the valley?",
        high="How far does a step go for your rate? Look along the line of the left picture.",
        factor=1.4,
    )


@prediction
def predict_1_best_h(guess: Any, answer: float) -> str:
    """log10 of the h with the smallest error."""
    return number(
        guess,
        answer,
        near="There h^2 and 1e-16 / h are about equal: h is near the third root of 1e-16.",
        low="Such a small h loses the digits: the two losses agree in nearly all of theirs.",
        high="With such a large h the curve bends between the two points. Where is h^2 = 1e-16 / h?",
        factor=1.0,
        apart=1.5,
    )


@prediction
def predict_1_far(guess: Any, answer: float) -> str:
    """What a change of the learning rate by 3 does to the meta-loss."""
    return number(
        guess,
        answer,
        near="The curve has turned round on the way, and no slope at lr = 1 could know.",
        low="Three times the slope is -1.5, and would put the loss below zero. What does the curve do?",
        high="Is a step of 4 already as bad as that? The curve turns round at the best rate.",
        factor=1.0,
        apart=0.1,
    )
