"""Training as a function: one loop forward, one loop back.

    forward   v <- momentum * v + g,   w <- w - lr * v,   g = gradient of the loss at w   (torch.optim.SGD)
    back      the same steps undone in reverse order, while the chain rule runs along

Source: Maclaurin, Duvenaud & Adams 2015 (arXiv 1502.03492), algorithms 1 and 2, corrected as ``README.md``
tells. Departures: torch's momentum convention (the paper's run with ``lr = a * (1 - b)``); readouts of the
weights on the way; gradients with respect to the initial velocity and to each step's batch.

Letters: T inner steps counted from 0, P weights, ``lam`` and ``nu`` the meta-loss's gradients with respect to
w and v.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from autograd import grad, make_vjp

from reference.fixed_point import Exact, Float, Reals

Batch = Any  # an array, or a tuple, list or dict of arrays: whatever autograd can differentiate by
Loss = Callable[[Reals, Batch], float]
Readout = Callable[[Reals], float]


class NotReversed(AssertionError):
    """The way back did not arrive at the start, bit for bit, so no gradient is returned."""


@dataclass(frozen=True)
class Run:
    """A finished training run: its inputs, its end, and the bits it would have forgotten (inside
    ``numbers``)."""

    loss: Loss
    w0: Reals  # (P,)
    v0: Reals  # (P,)
    batches: Sequence[Batch]  # T of them
    lr: Reals  # (T,)
    momentum: list[Any]  # (T,), as applied: fractions n/d, or floats
    readouts: Mapping[int, Readout]
    numbers: Any  # an Exact, or a Float
    w: Any  # (P,), after T steps, in the arithmetic's own numbers: int64 or float64
    v: Any  # (P,)
    values: dict[int, float]  # what the readouts read

    @property
    def meta_loss(self) -> float:
        """The sum of all readouts."""
        return sum(self.values.values())


@dataclass(frozen=True)
class Gradients:
    """Gradients of the meta-loss with respect to everything that a run was given."""

    w0: Reals  # (P,)
    v0: Reals  # (P,)
    lr: Reals  # (T,)
    momentum: Reals  # (T,), at the momentum n/d that was applied
    batches: list[Batch]  # T of them, each of the batch's own structure


def forward(
    loss: Loss,
    w0: Reals,
    batches: Sequence[Batch],
    lr: float | Reals,
    momentum: float | Reals,
    readouts: Mapping[int, Readout],
    v0: Reals | None = None,
    *,
    arithmetic: type[Exact] | type[Float] = Exact,
    name_of: Callable[[int], str] = "entry {}".format,
) -> Run:
    """Train for ``T = len(batches)`` inner steps from weights ``w0`` and velocity ``v0`` (zeros if None),
    float64 (P,).

    ``loss(w, batch)`` is a pure scalar function in autograd.numpy; ``lr`` and ``momentum`` are numbers or
    (T,). The meta-loss is the sum of ``readouts``: ``{t: f}`` adds f(w) as it is after t steps, so ``{T: f}``
    reads the trained weights alone.

    Time: T gradients. Memory: 16 bytes per weight, and log2(1/momentum) bits per weight and step. Raises
    FixedPointOverflow, with ``name_of`` the lane, when a number leaves the range; ValueError for a momentum
    that ``fixed_point.rational`` refuses, or for readouts outside 1..T.
    """
    T = len(batches)
    if not readouts or not all(1 <= t <= T for t in readouts):
        raise ValueError(f"give a readout or more, each after 1 to {T} steps, not after {sorted(readouts)}")
    w0 = np.array(w0, np.float64)
    v0 = np.zeros_like(w0) if v0 is None else np.array(v0, np.float64)
    lr = np.array(np.broadcast_to(lr, T), np.float64)
    numbers: Any = arithmetic(w0.size, name_of)
    factors = [numbers.factor(float(m)) for m in np.broadcast_to(momentum, T)]
    w = numbers.number(numbers.check(w0, "w0", 0))
    v = numbers.number(numbers.check(v0, "v0", 0))
    values = {}
    for t in range(T):
        g = grad(loss)(numbers.value(w), batches[t])
        # v_{t+1} = m_t v_t + g_t
        v = numbers.shrink(v, factors[t]) + numbers.number(numbers.check(g, "g", t))
        velocity = numbers.check(numbers.value(v), "v", t)
        # w_{t+1} = w_t - lr_t v_{t+1}
        w = w - numbers.number(numbers.check(lr[t] * velocity, "lr * v", t))
        numbers.check(numbers.value(w), "w", t)
        if t + 1 in readouts:
            values[t + 1] = float(readouts[t + 1](numbers.value(w)))
    return Run(loss, w0, v0, batches, lr, factors, readouts, numbers, w, v, values)


def reverse(run: Run) -> Gradients:
    """The reverse sweep: walk from the end of ``run`` to its start; return its gradients. It uses the run up.

    Each step records g = dloss/dw once and pulls ``nu`` back through it: with respect to w that is H nu,
    because H is symmetric, and with respect to the batch it is the mixed term. Time: about three gradients
    per step. Memory: that of the run, less and less. Raises NotReversed unless it arrives at (w0, v0), bit
    for bit, with an empty buffer.
    """
    numbers = run.numbers
    w = run.w
    v = run.v
    T = len(run.batches)
    d_lr = np.zeros(T)
    d_momentum = np.zeros(T)
    d_batches = [None] * T
    lam = np.zeros_like(run.w0)  # (P,): d meta-loss / dw
    nu = np.zeros_like(run.v0)  # (P,): d meta-loss / dv
    for t in reversed(range(T)):
        if t + 1 in run.readouts:
            lam = lam + grad(run.readouts[t + 1])(numbers.value(w))
        velocity = numbers.value(v)
        d_lr[t] = -(lam @ velocity)  # d_lr_t = -<lam, v_{t+1}>
        nu = nu - run.lr[t] * lam  # nu <- nu - lr_t lam
        w = w + numbers.number(run.lr[t] * velocity)  # w_t = w_{t+1} + lr_t v_{t+1}
        pull_back, g = make_vjp(grad(run.loss), argnum=(0, 1))(numbers.value(w), run.batches[t])  # g_t at w_t
        v = numbers.grow(v - numbers.number(g), run.momentum[t])  # v_t = (v_{t+1} - g_t) / m_t
        d_momentum[t] = nu @ numbers.value(v)  # d_m_t = <nu, v_t>
        hessian_nu, d_batches[t] = pull_back(nu)  # H nu and d_x_t = (dg/dx)^T nu
        lam = lam + hessian_nu  # lam <- lam + H nu
        nu = float(run.momentum[t]) * nu  # nu <- m_t nu
    wrong = int(np.sum(w != numbers.number(run.w0)) + np.sum(v != numbers.number(run.v0)))
    if wrong or not numbers.buffer.is_empty:
        raise NotReversed(
            f"after {T} steps back, {wrong} of {2 * w.size} numbers of (w0, v0) are not what they were; "
            "the loss must give the same gradient, bit for bit, whenever it is asked"
        )
    return Gradients(w0=lam, v0=nu, lr=d_lr, momentum=d_momentum, batches=d_batches)
