"""Lesson 3: a step undone, digits on a stack, a run in integers there and back, bits, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from autograd import grad

from checks.common import Function, Hint, exercise, judge, parts
from checks.predict import number, prediction
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
        rounded = all(abs(x - y) <= 1e-12 * abs(y) for x, y in zip((new_v, new_b), right, strict=True))
        if rounded:
            raise Hint(
                f"{given}: its last digits are lost; a float has 16 of them: divide by // (or divmod), "
                "not by int(b / n)"
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


MOMENTA = [(1, 2), (9, 10), (3, 4), (49, 50), (9, 10)]
STARTS = [(200, 47, 0), (-300, -58, 7), (12_345, 678, 10)]


def _g(w: int) -> int:
    return (w - 40) // 16 + w % 5


def _multiply(v: int, b: int, n: int, d: int) -> tuple[int, int]:
    h, r = divmod(v, d)
    b, s = divmod(b * d + r, n)
    return h * n + s, b


def _film(
    w: int,
    v: int,
    b: int,
    momenta: Sequence[tuple[int, int]],
    squeezed: bool = True,
    at: str = "old w",
    by: str = "new v",
    first: str = "squeeze",
) -> tuple[int, int, int]:
    """The run of exercise 3, with nothing or one thing wrong."""
    for n, d in momenta:
        old = v
        if first == "gradient":
            v = v + _g(w)
        v, b = _multiply(v, b, n, d) if squeezed else (v * n // d, b)
        if at == "new w":
            w = w - v // 4
        if first == "squeeze":
            v = v + _g(w)
        if at == "old w":
            w = w - (v if by == "new v" else old) // 4
    return w, v, b


def _integers(answer: Any) -> tuple[Any, ...]:
    got = parts(answer, ["w", "v", "b"])
    if not all(isinstance(x, int) for x in got):
        raise Hint("stay with integers: // and %, never /")
    return got


@exercise
def check_3_film(film: Function) -> None:
    """``film(w, v, b, momenta, g)``: w, v, b after the steps, as integers."""
    for start in STARTS:
        right = _film(*start, MOMENTA)
        got = _integers(film(*start, MOMENTA, _g))
        usual = {
            "the remainders are not kept: multiply with squeeze, not with v * n // d": {"squeezed": False},
            "the gradient must be taken at the old weight: move the weight last": {"at": "new w"},
            "the weight moves by the new velocity, after the gradient is added": {"by": "old v"},
            "multiply the old velocity first; the gradient is added after that": {"first": "gradient"},
        }
        for hint, wrong in usual.items():
            if got == _film(*start, MOMENTA, **wrong) != right:  # type: ignore[arg-type]
                raise Hint(hint)
        if got == _film(*start, MOMENTA[:1]):
            raise Hint("that is one step: take one for each pair in momenta")
        if got != right:
            raise Hint(f"from w, v, b = {start} it should come to {right}, but comes to {got}")


@exercise
def check_3_film_back(film_back: Function) -> None:
    """``film_back(w, v, b, momenta, g)``: what film was given."""
    for start in STARTS:
        end = _film(*start, MOMENTA)
        got = _integers(film_back(*end, MOMENTA, _g))
        if got == start:
            continue

        def variant(
            momenta: Any = MOMENTA[::-1], exchanged: bool = True, late: bool = False, end: Any = end
        ) -> Any:
            w, v, b = end
            for n, d in momenta:
                g_late = _g(w)
                w = w + v // 4
                v = v - (g_late if late else _g(w))
                v, b = _multiply(v, b, d, n) if exchanged else _multiply(v, b, n, d)
            return w, v, b

        if got == variant(MOMENTA):
            raise Hint("the last step is undone first, with its own momentum: reversed(momenta)")
        if got == variant(exchanged=False):
            raise Hint("squeeze undoes itself with n and d exchanged: squeeze(v, b, d, n)")
        if got == variant(late=True):
            raise Hint("the gradient was taken at the old weight: undo the weight first")
        raise Hint(f"from {end} it should come back to {start}, but comes to {got}")


@exercise
def check_3_checkpointed(checkpointed: Function) -> None:
    """``checkpointed(loss, w0, v0, batches, lr, m, lam_of, k)``: d_w0 (P,) and d_lr (T,)."""
    from recap import step, step_back

    T = 7
    w0, v0, batches, _, lam = problem(T)
    lr = 0.2
    m = 0.8
    states = [(w0, v0)]
    for batch in batches:
        states.append(step(loss, *states[-1], batch, lr, m))

    def lam_of(w: Any) -> Any:
        return lam * w

    def walk(at: Any, forget: int = 0, order: Any = None) -> tuple[Any, Any]:
        a = lam_of(at)
        b = np.zeros(3)
        d_lr = np.zeros(T)
        for t in order or reversed(range(T)):
            a, b, d_lr[t], *_ = step_back(loss, a, b, *states[t], batches[t], lr, m)
            if forget and t % forget == 0:
                b = np.zeros(3)
        return a, d_lr

    calls = 0

    def counted(w: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        return loss(w, batch)

    for k in (1, 7, 3):
        calls = 0
        try:
            got = checkpointed(counted, w0, v0, batches, lr, m, lam_of, k)
        except (IndexError, KeyError) as error:
            raise Hint(
                f"T = {T} and k = {k} stop with {type(error).__name__}: where T is not a multiple of k, "
                "the last block is shorter"
            ) from None
        got_w0, got_lr = parts(got, ["d_w0", "d_lr"])
        right_w0, right_lr = walk(states[-1][0])
        wrong = {
            "lam_of wants the weights at the end, w_T": walk(w0),
            "nu is carried on from block to block: only at the end of the run it is zero": walk(
                states[-1][0], forget=k
            ),
            "the last block comes first on the way back": walk(
                states[-1][0],
                order=[t for first in range(0, T, k) for t in reversed(range(first, min(first + k, T)))],
            ),
        }
        turned = {"the entries are in the order of the walk: entry t belongs to step t": right_lr[::-1]}
        judge(f"d_w0 for k = {k}", got_w0, right_w0, {hint: w for hint, (w, _) in wrong.items()})
        judge(f"d_lr for k = {k}", got_lr, right_lr, {hint: d for hint, (_, d) in wrong.items()} | turned)
        if calls < 3 * T - len(range(0, T, k)):
            raise Hint(
                f"the gradient is right, but for k = {k} nothing is computed again: you kept more than "
                "every k-th state"
            )


@prediction
def predict_3_lost(guess: Any, answer: float) -> str:
    """The steps back after which floats have lost the weights, at momentum 0.5."""
    return number(
        guess,
        answer,
        near="From 1e-16 to 1 it takes 53 doublings.",
        low="Each step back divides by 0.5: the error doubles. How many doublings lead from 1e-16 to 1?",
        high="Each step back divides by 0.5: the error doubles. How many doublings lead from 1e-16 to 1?",
        factor=1.25,
    )


@prediction
def predict_3_pop(guess: Any, answer: float) -> str:
    """The new v of one multiplication by 9/10."""
    return number(
        guess,
        answer,
        near="Off comes 8; pushed, the stack is 138; divided by 9 that leaves 3, which goes on 5 * 9.",
        low="Did a digit go on at the end? 5 * 9 is only the rest; the popped digit is added to it.",
        high="Divide the stack of after the push, 138, by 9, and add the remainder to 5 * 9.",
        factor=1.0,
    )


@prediction
def predict_3_bits(guess: Any, answer: float) -> str:
    """The bits in the buffer after 1,000 steps at momentum 0.9."""
    return number(
        guess,
        answer,
        near="That is 1,000 times log2(10/9), about two 64-bit numbers and a half.",
        low="Each step loses log2(1/m) bits. What is that for m = 0.9, and a thousand times that?",
        high="A pushed digit is worth 3.3 bits, but the popped one takes 3.17 of them off again.",
        factor=1.3,
    )
