"""Checks for the exercises: each takes the reader's own function and says what is wrong with it, if anything is.

A check prints one of three things: "Not done yet" (the function still returns nothing), "Not yet right" with the mistake it
recognises, or "Correct". It never stops the notebook. Right answers come from `reference`, from `minigtn` or from a formula;
the usual wrong ones are computed beside them, so that a mistake can be called by its name.

Lessons 5 to 8 have theirs in `checks_later`, lesson 9 in `checks_ranking`, lesson 11 in `checks_agents`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd import grad, make_vjp

import reference

Function = Callable[..., Any]

# tqdm, which a library imports, asks for ipywidgets in every notebook; the lessons need none.
warnings.filterwarnings("ignore", message="IProgress not found")


# ------------------------------------------------------------------------------------------------------------------ for all lessons


class Hint(Exception):
    """What is not yet right with an answer."""


class NotDone(Exception):
    """The function is still a stub."""


def exercise(check: Callable[..., None]) -> Callable[..., None]:
    """Make a check that raises :class:`Hint` into one that prints its verdict."""

    @wraps(check)
    def checked(*functions: Function) -> None:
        try:
            check(*[_asked(function) for function in functions])
        except (NotDone, NotImplementedError):
            names = " and ".join(function.__name__ for function in functions)
            print(f"Not done yet: write the body of {names} in this cell and run it again.")
        except Hint as hint:
            print(f"Not yet right: {hint}")
        else:
            print("Correct.")

    return checked


def _asked(function: Function) -> Function:
    @wraps(function)
    def asked(*args: Any, **kwargs: Any) -> Any:
        answer = function(*args, **kwargs)
        if answer is None or answer is Ellipsis:
            raise NotDone
        return answer

    return asked


def compare(name: str, one: Any, other: Any) -> None:
    """Print whether two results are equal in all bits (exact), equal to six digits (approximate), and how far they are apart."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    difference = float(np.max(np.abs(one - other)))
    print(f"{name:24s} exact: {_yes(difference == 0)}   approximate: {_yes(close(one, other))}   max difference: {difference:.1e}")


def _yes(answer: bool) -> str:
    return "yes" if answer else "no "


def close(one: Any, other: Any, tolerance: float = 1e-6) -> bool:
    """Equal up to ``tolerance``, relative to the largest entry; infinite numbers must be the same ones, and NaN is equal to nothing."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return np.array_equal(one, other)
    return bool(np.max(np.abs(one - other)) <= tolerance * max(np.max(np.abs(one)), np.max(np.abs(other)), 1e-12))


def judge(what: str, got: Any, right: Any, usual: dict[str, Any] | None = None, tolerance: float = 1e-6) -> None:
    """Raise a :class:`Hint` unless ``got`` is close to ``right``: the text of the usual mistake with that result, or the numbers."""
    try:
        got = np.asarray(got, np.float64)
    except (TypeError, ValueError):
        raise Hint(f"{what} should be numbers of shape {np.shape(right)}, but is a {type(got).__name__}") from None
    if got.shape != np.shape(right):
        raise Hint(f"{what} should have the shape {np.shape(right)}, but has {got.shape}")
    if close(got, right, tolerance):
        return
    for hint, wrong in (usual or {}).items():
        if np.shape(wrong) == got.shape and close(got, wrong, tolerance):
            raise Hint(hint)
    if close(got, -np.asarray(right), tolerance):
        raise Hint(f"{what} has the right size and the wrong sign")
    raise Hint(f"{what} should be {_numbers(right)}, but is {_numbers(got)}")


def parts(answer: Any, names: list[str]) -> tuple[Any, ...]:
    """The answer's parts, or a :class:`Hint` that tells how many there should be."""
    if not isinstance(answer, tuple) or len(answer) != len(names):
        raise Hint(f"return {len(names)} things, in this order: {', '.join(names)}")
    return answer


def _numbers(x: Any) -> str:
    return np.array2string(np.asarray(x, np.float64), precision=4, threshold=6)


# ---------------------------------------------------------------------------------------------------------------- a small problem


def _loss(w: Any, batch: Any) -> Any:
    """Neither quadratic nor symmetric, so that a forgotten term shows."""
    x, y = batch
    return anp.mean((anp.tanh(anp.dot(x, w)) - y) ** 2) + 0.1 * anp.sum(w**4)


def _problem(T: int = 4) -> tuple[Any, ...]:
    """w0 (3,), v0 (3,), T batches of x (5, 3) and y (5,), lr (T,), and a direction (3,). No zeros, and nothing twice."""
    rng = np.random.default_rng(7)
    w0, v0, direction = rng.normal(size=(3, 3))
    batches = [(rng.normal(size=(5, 3)), rng.normal(size=5)) for _ in range(T)]
    return w0, v0, batches, np.linspace(0.1, 0.3, T), direction


# ---------------------------------------------------------------------------------------------------------------------- lesson 1


@exercise
def check_1_central_difference(central_difference: Function) -> None:
    """``central_difference(f, x, h)``: the gradient of f at the vector x, (n,)."""

    def f(x: Any) -> Any:
        return np.sin(x[0]) + x[0] * x[1] ** 2 + np.exp(x[2])

    x, h = np.array([0.3, -1.2, 0.7]), 1e-4
    unit = np.eye(3)
    right = np.array([np.cos(x[0]) + x[1] ** 2, 2 * x[0] * x[1], np.exp(x[2])])
    kept = x.copy()
    got = central_difference(f, x, h)
    if not np.array_equal(x, kept):
        raise Hint("the caller's x has changed: copy it, or build x + h * e and x - h * e without writing into x")
    usual = {
        "that is twice the slope: the two points are 2 * h apart, not h": 2 * right,
        "that is half the slope: the two points are 2 * h apart, divide by 2 * h once": right / 2,
        "that looks ahead only, which is far less accurate: use f(x + h) - f(x - h), over 2 * h": [(f(x + h * e) - f(x)) / h for e in unit],
        "that looks back only, which is far less accurate: use f(x + h) - f(x - h), over 2 * h": [(f(x) - f(x - h * e)) / h for e in unit],
        "all entries of x moved at once: move one entry at a time": [(f(x + h) - f(x - h)) / (2 * h)] * 3,
    }
    judge("the gradient", got, right, usual)


@exercise
def check_1_hessian_times(hessian_times: Function) -> None:
    """``hessian_times(loss, w, batch, nu)``: the Hessian of the loss at w, times nu, (P,)."""
    w, _, batches, _, nu = _problem()
    gradient = grad(_loss)
    g = gradient(w, batches[0])
    right = make_vjp(lambda w: gradient(w, batches[0]))(w)[0](nu)
    usual = {
        "that is the gradient itself: differentiate <g, nu> once more": g,
        "nu is missing: that is the sum of the Hessian's rows, H times a vector of ones": make_vjp(lambda w: gradient(w, batches[0]))(w)[0](
            np.ones(3)
        ),
        "that is g * nu, entry by entry: sum it to one number, <g, nu>, and differentiate that by w": g * nu,
    }
    judge("H nu", hessian_times(_loss, w, batches[0], nu), right, usual)


@exercise
def check_1_step_back(step_back: Function) -> None:
    """``step_back(loss, lam, nu, w, v, batch, lr, m)``: d_w (P,), d_v (P,), d_lr, d_m and d_batch, of one step."""
    w, v, batches, _, lam = _problem()
    batch, lr, m, nu = batches[0], 0.3, 0.8, np.array([0.5, -0.4, 0.2])
    pull_back, g = make_vjp(grad(_loss), argnum=(0, 1))(w, batch)
    new_v = m * v + g
    d_new_v = nu - lr * lam
    h_nu, d_batch = pull_back(d_new_v)
    names = ["d_w", "d_v", "d_lr", "d_m", "d_batch"]
    d_w, d_v, d_lr, d_m, got_batch = parts(step_back(_loss, lam, nu, w, v, batch, lr, m), names)
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
            + make_vjp(grad(_loss), argnum=(0, 1))(w - lr * new_v, batch)[0](d_new_v)[0],
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
        {"d_batch: that is how the training loss depends on the batch; wanted is the mixed term (dg/dx)^T nu": grad(_loss, 1)(w, batch)[0]},
    )


# ---------------------------------------------------------------------------------------------------------------------- lesson 2


@exercise
def check_2_train(train: Function) -> None:
    """``train(loss, w0, batches, lr, m)``: the weights after T steps from rest, differentiable by autograd."""
    w0, _, batches, lr, a = _problem()
    T, m = len(batches), 0.8

    def variant(batch_of: Function = lambda t: batches[t], lr_of: Function = lambda t: lr[t], m: float = m, old: bool = False) -> Any:
        w, v = w0, np.zeros(3)
        for t in range(T):
            new = m * v + grad(_loss)(w, batch_of(t))
            w, v = w - lr_of(t) * (v if old else new), new
        return w

    usual = {
        "every step used the first learning rate: step t has its own, lr[t]": variant(lr_of=lambda t: lr[0]),
        "every step used the last learning rate: step t has its own, lr[t]": variant(lr_of=lambda t: lr[-1]),
        "every step saw the first batch: step t has its own, batches[t]": variant(batch_of=lambda t: batches[0]),
        "the velocity is forgotten between the steps: v <- m * v + g needs the old v": variant(m=0.0),
        "the weights move by the old velocity: update v first, then move w by the new v": variant(old=True),
        "the weights stay where they start": w0,
    }
    judge("w_T", train(_loss, w0, batches, lr, m), variant(), usual)
    try:
        d_lr = grad(lambda lr: anp.dot(a, train(_loss, w0, batches, lr, m)))(lr)
    except Exception as error:
        raise Hint(
            "the weights are right, but autograd cannot look through the run: "
            f"write w = w - ..., not w -= ..., and keep float() and plain numpy out of it ({type(error).__name__})"
        ) from None
    run = reference.forward(_loss, w0, batches, lr, m, {T: lambda w: anp.dot(a, w)})
    judge("d_lr", d_lr, reference.reverse(run).lr)


@exercise
def check_2_walk_back(walk_back: Function) -> None:
    """``walk_back(loss, states, batches, lr, m, lam)``: d_w0 (P,), d_lr (T,) and d_m (T,)."""
    w0, _, batches, lr, lam = _problem()
    T, m = len(batches), 0.8
    states = [(w0, np.zeros(3))]
    for t in range(T):
        w, v = states[-1]
        v = m * v + grad(_loss)(w, batches[t])
        states.append((w - lr[t] * v, v))
    right = reference.reverse(reference.forward(_loss, w0, batches, lr, m, {T: lambda w: anp.dot(lam, w)}))

    def variant(order: Any, shift: int = 0, carry: bool = True) -> tuple[Any, ...]:
        from recap import step_back

        a, b, d_lr, d_m = lam, np.zeros(3), np.zeros(T), np.zeros(T)
        for t in order:
            w, v = states[t + shift]
            a, new_b, d_lr[t], d_m[t], _ = step_back(_loss, a, b, w, v, batches[t], lr[t], m)
            b = new_b if carry else b
        return a, d_lr, d_m

    back = range(T - 1, -1, -1)
    wrong = {
        "walk from the last step to the first: for t in reversed(range(T))": variant(range(T)),
        "step t starts from states[t], not from states[t + 1]": variant(back, shift=1),
        "nu is not carried on: what step_back returns as d_v is the nu of the step before": variant(back, carry=False),
    }
    d_w0, d_lr, d_m = parts(walk_back(_loss, states, batches, lr, m, lam), ["d_w0", "d_lr", "d_m"])
    backwards = {"the entries are in the order of the walk: entry t belongs to step t, so write d[t] = ..., or reverse the list": None}
    for what, got, mine, at in (("d_w0", d_w0, right.w0, 0), ("d_lr", d_lr, right.lr, 1), ("d_m", d_m, right.momentum, 2)):
        turned = dict.fromkeys(backwards, mine[::-1]) if at else {}
        judge(what, got, mine, {hint: answer[at] for hint, answer in wrong.items()} | turned)


@exercise
def check_2_largest_curvature(largest_curvature: Function) -> None:
    """``largest_curvature(hessian_times, u, rounds)``: the largest eigenvalue of H, from products H u alone."""
    rng = np.random.default_rng(3)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    H = basis @ np.diag([40.0, 9.0, 5.0, 1.0, -2.0, 0.1]) @ basis.T
    u = rng.normal(size=6)
    with np.errstate(over="ignore", invalid="ignore"):
        got = largest_curvature(lambda u: H @ u, u, 300)
    if np.shape(got) == (6,):
        raise Hint("that is the direction u; wanted is the curvature along it: the number <u, H u> for u of length 1")
    if not np.isfinite(got):
        raise Hint("the numbers overflow: divide u by its length in every round")
    usual = {
        "that is the learning rate 2 / h; return the curvature h": 2 / 40.0,
        "that is the curvature along the first u: replace u by H u / |H u| in every round": u @ H @ u / (u @ u),
        "that is 1: after dividing by the length, measure <u, H u>, not the length of u": 1.0,
    }
    judge("the largest curvature", got, 40.0, usual)


# ---------------------------------------------------------------------------------------------------------------------- lesson 3


@exercise
def check_3_undo_step(undo_step: Function) -> None:
    """``undo_step(loss, new_w, new_v, batch, lr, m)``: the old w (P,) and v (P,)."""
    w, v, batches, _, _ = _problem()
    batch, lr, m = batches[0], 0.3, 0.8
    gradient = grad(_loss)
    new_v = m * v + gradient(w, batch)
    new_w = w - lr * new_v
    old_w, old_v = parts(undo_step(_loss, new_w, new_v, batch, lr, m), ["old w", "old v"])
    judge(
        "the old w",
        old_w,
        w,
        {
            "the weights went the wrong way: the step subtracted lr * v, so add it": new_w - lr * new_v,
            "undo the weights first, with the new velocity; it is what moved them": new_w + lr * v,
        },
    )
    g, late = gradient(w, batch), gradient(new_w, batch)
    judge(
        "the old v",
        old_v,
        v,
        {
            "the gradient must be taken at the old weights, where the step took it: undo w first": (new_v - late) / m,
            "subtract g before dividing by m: the step did v <- m * v first and + g last": new_v / m - g,
            "divide by m: the step multiplied by it": m * (new_v - g),
            "the factor m is still in it: divide by m": new_v - g,
        },
        1e-8,
    )


@exercise
def check_3_squeeze(squeeze: Function) -> None:
    """``squeeze(v, b, n, d)``: v * n / d and the fuller buffer, as integers, without losing anything."""
    for v, b, n, d in ((47, 0, 1, 2), (26, 1, 9, 10), (12_345, 678, 9, 10), (-58, 3, 9, 10), (2**70 + 5, 2**90 + 1, 49, 50)):
        new_v, new_b = parts(squeeze(v, b, n, d), ["new v", "new b"])
        if not all(isinstance(x, int) for x in (new_v, new_b)):
            raise Hint("stay with integers: // and % (or divmod), never /")
        big = b * d + v % d
        right = v // d * n + big % n, big // n
        given = f"squeeze({v}, {b}, {n}, {d})"
        if (new_v, new_b) == right:
            continue
        if (new_v, new_b) == (v * n // d, b * d + v % d):
            raise Hint(f"{given}: the digit is on the stack, but the stack only grows; pop a digit in base n off it and put it on v")
        if new_v == v // d * n:
            raise Hint(f"{given}: the digit popped off the stack is missing in v: v = h * n + s")
        if (new_v, new_b) == (v // d * n + b % n, b // n * d + v % d):
            raise Hint(f"{given}: push the digit of v first, then pop; with an empty stack there would be nothing to pop")
        if v < 0:
            raise Hint(
                f"{given} should be {right}, but is {(new_v, new_b)}: for negative v take // and %, their remainder is never below 0"
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


# ---------------------------------------------------------------------------------------------------------------------- lesson 4


@exercise
def check_4_through_the_logarithm(through_the_logarithm: Function) -> None:
    """``through_the_logarithm(lr, d_lr)``: the gradient by log lr (T,)."""
    lr, d_lr = np.array([0.1, 0.5, 2.0]), np.array([-3.0, 0.4, 0.25])
    usual = {
        "lr = exp(log lr), and d lr / d log lr is lr itself: multiply, do not divide": d_lr / lr,
        "that is the gradient by lr: one factor is missing": d_lr,
        "the derivative of exp is exp: the factor is lr, not log lr": d_lr * np.log(lr),
    }
    judge("the gradient by log lr", through_the_logarithm(lr, d_lr), lr * d_lr, usual)


@exercise
def check_4_meta_loss(meta_loss: Function) -> None:
    """``meta_loss(loss, params, batches, log_lr, momentum, real)``: the loss on real data of the trained learner, a scalar tensor."""
    import torch

    import minigtn

    loss, params, batches, real = _torch_problem()
    log_lr = torch.linspace(-2.0, -1.0, 4, dtype=torch.float64, requires_grad=True)
    got = meta_loss(loss, params, batches, log_lr, 0.7, real)
    if not isinstance(got, torch.Tensor):
        raise Hint("return the tensor itself: float() or .item() cuts it off from the run that made it")

    def variant(lr: Any, batch: Any, momentum: float = 0.7) -> float:
        with torch.no_grad():
            return float(loss(minigtn.sgd(loss, params, batches, lr, momentum), batch))

    last = [part[-1] for part in batches]
    with torch.no_grad():
        untrained = float(loss(params, real))
    usual = {
        "lr is the exponential of log_lr: give sgd log_lr.exp()": variant(log_lr.detach().clone(), real),
        "that is the loss on the last training batch: a schedule must be judged on data it was not trained on, here `real`": variant(
            log_lr.exp(), last
        ),
        "that is the loss of the untrained learner: sgd returns the trained params": untrained,
        "the momentum is missing: give it to sgd": variant(log_lr.exp(), real, 0.0),
    }
    judge("the meta-loss", got.detach(), variant(log_lr.exp(), real), usual)
    if not got.requires_grad or torch.autograd.grad(got, log_lr, allow_unused=True)[0] is None:
        raise Hint("the number is right, but it is cut off from log_lr: no .detach(), no torch.no_grad(), no torch.tensor(log_lr)")


@exercise
def check_4_train_per_layer(train_per_layer: Function) -> None:
    """``train_per_layer(loss, params, batches, lr, momentum)``, lr a dict of (T,) by parameter name: the trained params."""
    import torch

    import minigtn

    loss, params, batches, real = _torch_problem()
    lr = {name: torch.linspace(0.1, 0.4, 4, dtype=torch.float64) * k for k, name in enumerate(params, 1)}

    def variant(lr_of: Function, momentum: float = 0.7, old: bool = False) -> dict[str, Any]:
        w = {name: p.clone().requires_grad_() for name, p in params.items()}
        v = {name: torch.zeros_like(p) for name, p in params.items()}
        for t in range(4):
            g = torch.autograd.grad(loss(w, [part[t] for part in batches]), list(w.values()))
            new = {name: momentum * v[name] + g_name for (name, g_name) in zip(w, g, strict=True)}
            w = {name: (w[name] - lr_of(name, t) * (v if old else new)[name]).detach().requires_grad_() for name in w}
            v = new
        return {name: p.detach() for name, p in w.items()}

    got = train_per_layer(loss, params, batches, lr, 0.7)
    if not isinstance(got, dict) or set(got) != set(params):
        raise Hint(f"return the trained params as a dict with the names {', '.join(params)}")
    first = next(iter(lr))
    usual = {
        "all layers moved with one layer's learning rate: use lr[name][t]": variant(lambda name, t: lr[first][t]),
        "every step used the first learning rate: use lr[name][t]": variant(lambda name, t: lr[name][0]),
        "the velocity is forgotten between the steps: v <- momentum * v + g": variant(lambda name, t: lr[name][t], momentum=0.0),
        "the weights move by the old velocity: update v first": variant(lambda name, t: lr[name][t], old=True),
    }
    right = variant(lambda name, t: lr[name][t])
    for name in params:
        judge(f"params[{name!r}]", got[name].detach(), right[name], {hint: wrong[name] for hint, wrong in usual.items()})

    common = torch.linspace(0.1, 0.4, 4, dtype=torch.float64, requires_grad=True)
    value = loss(train_per_layer(loss, params, batches, dict.fromkeys(params, common), 0.7), real)
    d_common = torch.autograd.grad(value, common, allow_unused=True)[0] if value.requires_grad else None
    if d_common is None:
        raise Hint("the weights are right, but cut off from lr: no .detach() and no torch.no_grad() on the way")
    (d_right,) = torch.autograd.grad(loss(minigtn.sgd(loss, params, batches, common, 0.7), real), common)
    hint = "the weights are right and their gradient by lr is not: torch.autograd.grad needs create_graph=True, or g counts as a constant"
    if not close(d_common, d_right):
        raise Hint(hint)


def _torch_problem() -> tuple[Any, ...]:
    import torch

    rng = torch.Generator().manual_seed(5)
    params = {
        "hidden": torch.randn(3, 4, generator=rng, dtype=torch.float64),
        "head": torch.randn(4, 1, generator=rng, dtype=torch.float64),
    }
    x, y = torch.randn(5, 6, 3, generator=rng, dtype=torch.float64), torch.randn(5, 6, 1, generator=rng, dtype=torch.float64)

    def loss(params: Any, batch: Any) -> Any:
        x, y = batch
        return (torch.tanh(x @ params["hidden"]) @ params["head"] - y).square().mean()

    return loss, params, (x[:4], y[:4]), (x[4], y[4])


# the checks of the later lessons build on what is above
from checks_agents import *  # noqa: E402, F403
from checks_later import *  # noqa: E402, F403
from checks_ranking import *  # noqa: E402, F403
