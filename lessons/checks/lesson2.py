"""Lesson 2: a run of several steps, the walk back through it, and the curvature."""

from __future__ import annotations

from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd import grad

import reference
from checks.common import Function, Hint, exercise, judge, parts
from checks.predict import number, prediction
from checks.problem import loss, problem


@exercise
def check_2_train(train: Function) -> None:
    """``train(loss, w0, batches, lr, m)``: the weights after T steps from rest, for autograd to follow."""
    w0, _, batches, lr, a = problem()
    T = len(batches)
    m = 0.8

    def variant(
        batch_of: Function = lambda t: batches[t],
        lr_of: Function = lambda t: lr[t],
        m: float = m,
        old: bool = False,
    ) -> Any:
        w = w0
        v = np.zeros(3)
        for t in range(T):
            new = m * v + grad(loss)(w, batch_of(t))
            w = w - lr_of(t) * (v if old else new)
            v = new
        return w

    usual = {
        "every step used the first learning rate: step t has its own, lr[t]": variant(lr_of=lambda t: lr[0]),
        "every step used the last learning rate: step t has its own, lr[t]": variant(lr_of=lambda t: lr[-1]),
        "every step saw the first batch: step t has its own, batches[t]": variant(
            batch_of=lambda t: batches[0]
        ),
        "the velocity is forgotten between the steps: v <- m * v + g needs the old v": variant(m=0.0),
        "the weights move by the old velocity: update v first, then move w by the new v": variant(old=True),
        "the weights stay where they start": w0,
    }
    judge("w_T", train(loss, w0, batches, lr, m), variant(), usual)
    try:
        d_lr = grad(lambda lr: anp.dot(a, train(loss, w0, batches, lr, m)))(lr)
    except Exception as error:
        raise Hint(
            "the weights are right, but autograd cannot look through the run: "
            "write w = w - ..., not w -= ..., and keep float() and plain numpy out of "
            f"it ({type(error).__name__})"
        ) from None
    run = reference.forward(loss, w0, batches, lr, m, {T: lambda w: anp.dot(a, w)})
    judge("d_lr", d_lr, reference.reverse(run).lr)


@exercise
def check_2_keep_states(keep_states: Function) -> None:
    """``keep_states(loss, w0, batches, lr, m)``: the T + 1 pairs (w_t, v_t), from rest."""
    w0, _, batches, lr, _ = problem()
    T = len(batches)
    m = 0.8
    kept = w0.copy()
    got = keep_states(loss, w0, batches, lr, m)
    if not np.array_equal(w0, kept):
        raise Hint("the caller's w0 has changed: write w = w - ..., not w -= ...")
    if not isinstance(got, list) or any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in got):
        raise Hint("return a list of pairs (w, v)")
    if len(got) == T:
        raise Hint(
            "T steps have T + 1 states: the start is the first, and the state after the last step the last"
        )
    if len(got) != T + 1:
        raise Hint(f"{T} steps have {T + 1} states, and here are {len(got)}")
    right = [(w0, np.zeros(3))]
    for t in range(T):
        w, v = right[-1]
        v = m * v + grad(loss)(w, batches[t])
        right.append((w - lr[t] * v, v))
    if all(np.array_equal(pair[0], got[-1][0]) for pair in got):
        raise Hint("all states are one and the same array, changed later: make a new one in each step")
    for t, ((got_w, got_v), (w, v)) in enumerate(zip(got, right, strict=True)):
        at_rest = {"the weights and the velocity are exchanged: the pair is (w, v)": v}
        if t > 0:
            g = v - m * right[t - 1][1]
            at_rest["the weights move by the old velocity: compute the new v first"] = (
                right[t - 1][0] - lr[t - 1] * right[t - 1][1]
            )
            at_rest["every step used the first learning rate: step t has lr[t]"] = right[t - 1][0] - lr[0] * v
            at_rest["the velocity is forgotten between the steps"] = right[t - 1][0] - lr[t - 1] * g
        judge(f"w of states[{t}]", got_w, w, at_rest)
        judge(f"v of states[{t}]", got_v, v)


@exercise
def check_2_walk_back(walk_back: Function) -> None:
    """``walk_back(loss, states, batches, lr, m, lam)``: d_w0 (P,), d_lr (T,), d_m (T,), T d_batches."""
    w0, _, batches, lr, lam = problem()
    T = len(batches)
    m = 0.8
    states = [(w0, np.zeros(3))]
    for t in range(T):
        w, v = states[-1]
        v = m * v + grad(loss)(w, batches[t])
        states.append((w - lr[t] * v, v))
    right = reference.reverse(reference.forward(loss, w0, batches, lr, m, {T: lambda w: anp.dot(lam, w)}))

    def variant(order: Any, shift: int = 0, carry: bool = True) -> tuple[Any, ...]:
        from recap import step_back

        a = lam
        b = np.zeros(3)
        d_lr = np.zeros(T)
        d_m = np.zeros(T)
        d_x = np.zeros((T, *batches[0][0].shape))
        for t in order:
            w, v = states[t + shift]
            a, new_b, d_lr[t], d_m[t], d_batch = step_back(loss, a, b, w, v, batches[t], lr[t], m)
            d_x[t] = d_batch[0]
            b = new_b if carry else b
        return a, d_lr, d_m, d_x

    back = range(T - 1, -1, -1)
    wrong = {
        "walk from the last step to the first: for t in reversed(range(T))": variant(range(T)),
        "step t starts from states[t], not from states[t + 1]": variant(back, shift=1),
        "nu is not carried on: what step_back returns as d_v is the nu of the step before": variant(
            back, carry=False
        ),
    }
    names = ["d_w0", "d_lr", "d_m", "d_batches"]
    d_w0, d_lr, d_m, d_batches = parts(walk_back(loss, states, batches, lr, m, lam), names)
    backwards = {
        "the entries are in the order of the walk: entry t belongs to step t, so write "
        "d[t] = ..., or reverse the list": None
    }
    for what, got, mine, at in (
        ("d_w0", d_w0, right.w0, 0),
        ("d_lr", d_lr, right.lr, 1),
        ("d_m", d_m, right.momentum, 2),
    ):
        turned = dict.fromkeys(backwards, mine[::-1]) if at else {}
        judge(what, got, mine, {hint: answer[at] for hint, answer in wrong.items()} | turned)
    if any(d_batch is None for d_batch in d_batches):
        raise Hint("d_batches has an entry for each step, the last thing that step_back returns; one is None")
    d_x = np.array([batch[0] for batch in right.batches])
    got_x = [d_batch[0] for d_batch in d_batches]
    judge("the d_x of all steps", got_x, d_x, dict.fromkeys(backwards, d_x[::-1]))


@exercise
def check_2_largest_curvature(largest_curvature: Function) -> None:
    """``largest_curvature(hessian_times, u, rounds)``: the largest eigenvalue of H, from products H u."""
    rng = np.random.default_rng(3)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    H = basis @ np.diag([40.0, 9.0, 5.0, 1.0, -2.0, 0.1]) @ basis.T
    u = rng.normal(size=6)
    with np.errstate(over="ignore", invalid="ignore"):
        got = largest_curvature(lambda u: H @ u, u, 300)
    if np.shape(got) == (6,):
        raise Hint(
            "that is the direction u; wanted is the curvature along it: the number <u, H u> for u of length 1"
        )
    if not np.isfinite(got):
        raise Hint("the numbers overflow: divide u by its length in every round")
    usual = {
        "that is the learning rate 2 / h; return the curvature h": 2 / 40.0,
        "that is the curvature along the first u: replace u by H u / |H u| in every round": u
        @ H
        @ u
        / (u @ u),
        "that is 1: after dividing by the length, measure <u, H u>, not the length of u": 1.0,
    }
    judge("the largest curvature", got, 40.0, usual)


@prediction
def predict_2_memory(guess: Any, answer: float) -> str:
    """What unrolling keeps for one further step, as a multiple of a state."""
    return number(
        guess,
        answer,
        near="The ratio depends on the batch: all that is computed for its images is kept.",
        low="A state is 2 P numbers. Unrolling keeps the result of every operation, for every image.",
        high="More than the state, but our layers are small: 25 images of 10 hidden units.",
        factor=2.0,
    )


@prediction
def predict_2_apart(guess: Any, answer: float) -> str:
    """log10 of the distance of two runs that start 1e-10 apart, in the chaos."""
    return number(
        guess,
        answer,
        near="After that they cannot go further: they are as far apart as any two runs.",
        low="A factor of 2 per step, fifty times, is 10^15. From 10^-10, where would that lead?",
        high="The distance stops growing once it is as large as the weights themselves.",
        factor=1.0,
        apart=1.0,
    )


@prediction
def predict_2_sign(guess: Any, answer: float) -> str:
    """How many of 16 meta-gradients ask for a smaller rate in the chaos."""
    return number(
        guess,
        answer,
        near="About a tossed coin: the slope belongs to a cliff, not to the hill.",
        low="Does the slope point away from the way out so often? Look at the closer picture above.",
        high="The way out is plain to us, but the slope sees only its own cliff: look at the closer picture.",
        factor=1.0,
        apart=2.0,
    )
