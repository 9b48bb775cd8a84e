"""One outer step of a Generative Teaching Network: theta -> curriculum -> training -> meta-loss -> d_theta.

Source: Such, Rawal, Lehman, Stanley & Clune 2019 (arXiv 1912.07768), with the readouts on the way
("intermediate losses") of their code. Departures: lr and momentum are bounded by construction; all images are
made in one call, so the generator's batch norm sees the whole curriculum; the way back is reversible learning
(Maclaurin et al. 2015), not checkpoints.

``theta`` is one dict: the generator's weights by name, ``z`` (T, B, Z), ``lr_raw`` (T,) and ``momentum_raw``
(T,).
"""

from collections.abc import Sequence

import autograd.numpy as np
from autograd import make_vjp
from autograd.builtins import tuple as boxed_tuple

from reference.layers import Array, Layout, Norm, Params, Pool, cross_entropy, generator, learner
from reference.sgd import Loss, forward, reverse

LR_MIN = 1e-4
LR_MAX = 10.0
MOMENTUM_MAX = 0.99


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), in the form that cannot overflow."""
    return 0.5 * (np.tanh(0.5 * x) + 1.0)


def fixed_labels(T: int, B: int, K: int) -> Array:
    """(T, B, K) one-hot: image i of each batch has class i mod K."""
    return np.tile(np.eye(K)[np.arange(B) % K], (T, 1, 1))


def curriculum(theta: Params, labels: Array, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Images (T, B, C, H, W), lr (T,) and momentum (T,), all functions of ``theta`` that autograd can
    differentiate."""
    T, B, K = labels.shape
    x = generator(theta, np.reshape(theta["z"], (T * B, -1)), np.reshape(labels, (T * B, K)), size)
    x = np.reshape(x, (T, B, *x.shape[1:]))
    lr = LR_MIN * (LR_MAX / LR_MIN) ** sigmoid(theta["lr_raw"])
    momentum = MOMENTUM_MAX * sigmoid(theta["momentum_raw"])
    return boxed_tuple((x, lr, momentum))


def teaching_loss(layout: Layout, norm: Norm = "mean-only", pool: Pool = "max") -> Loss:
    """``loss(w, (x, y))``: the cross entropy of the learner whose weights w (P,) lie as ``layout`` says."""

    def loss(w: Array, batch: tuple[Array, Array]) -> Array:
        x, y = batch
        return cross_entropy(learner(layout.unflatten(w), x, norm, pool), y)

    return loss


def readout_steps(T: int, every: int) -> list[int]:
    """After which inner steps the meta-loss is read: every, 2 * every, ..., and T always."""
    return [*range(every, T, every), T]


def meta_gradient(
    theta: Params,
    w0: Params,
    real_batches: Sequence[tuple[Array, Array]],
    labels: Array,
    *,
    every: int | None = None,
    norm: Norm = "mean-only",
    pool: Pool = "max",
) -> tuple[float, dict[str, Array]]:
    """The meta-loss of a learner that starts at ``w0`` and is taught by ``theta``, and ``d_theta``, its
    gradient.

    ``labels`` (T, B, K) are the synthetic batches' classes. The meta-loss is the mean cross entropy over the
    readouts, one after every ``every`` inner steps and after the last (None: only after the last), each on
    its own ``(x, y)`` of ``real_batches``: x (N, C, H, W), y (N, K).

    The momentum is applied as n/d (see ``fixed_point.rational``); its gradient is that at n/d, straight
    through the rounding. Raises what ``sgd.forward`` and ``sgd.reverse`` raise, and ValueError for a wrong
    number of real batches.
    """
    T = len(labels)
    steps = readout_steps(T, T if every is None else every)
    if len(real_batches) != len(steps):
        raise ValueError(f"give a real batch for each readout, after steps {steps}, not {len(real_batches)}")
    layout = Layout.of(w0)
    loss = teaching_loss(layout, norm, pool)
    readouts = {}
    for step, real in zip(steps, real_batches, strict=True):
        readouts[step] = lambda w, real=real: loss(w, real) / len(steps)

    pull_back, (x, lr, momentum) = make_vjp(curriculum)(theta, labels, real_batches[0][0].shape[2:])
    batches = list(zip(x, labels, strict=True))
    run = forward(loss, layout.flatten(w0), batches, lr, momentum, readouts, name_of=layout.name_of)
    d = reverse(run)
    d_x = np.stack([d_x for d_x, _ in d.batches])
    d_theta = pull_back((d_x, d.lr, d.momentum))  # (d curriculum / d theta)^T (d_x, d_lr, d_momentum)
    return run.meta_loss, d_theta
