"""The heart: one inner step, there and back.

With the state s = (w, v), the learner's loss l(w, batch), and ``d_*`` the gradients of the meta-loss L:

    there    g   = dl/dw (w_t, batch_t)
             s' = step(s_t, g, lr_t, momentum_t)               SGD: v' = momentum v + g,  w' = w - lr v'

    back     d_s, d_g, d_lr, d_momentum = the step's vector-Jacobian product with d_s'   (Optimizer.pull_back)
             d_w     += d<g, d_g>/dw     = H d_g                H = d2l/dw2, symmetric
             d_batch  = d<g, d_g>/dbatch                        the mixed term

For SGD d_s is (lam, nu), and d_g = nu - lr lam: reference/README.md derives it line by line. H d_g and the
mixed term are one more reverse pass over <g, d_g> ("double backward", Pearlmutter 1994). Carrying d_g forward
instead (MixFlow-MG, ICML 2025) gives the same numbers and was no faster: benchmarks/second_order.py.

Everything here is a function of tensors alone, so that compiled functions and CUDA graphs can stand in for
it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from minigtn.inner.graphs import Group, Groups
from minigtn.inner.optimizers import Optimizer, State

Loss = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""Flat weights (P,) and one batch -> scalar."""


@dataclass(frozen=True)
class InnerLoop:
    """What is trained on what: everything of a run but its start and its step sizes. Weights are one flat
    vector (P,)."""

    loss: Loss
    batches: tuple[Tensor, ...]
    """Each (T, ...): step t trains on ``[b[t] for b in batches]``."""
    readout_loss: Loss
    readout_batches: tuple[Tensor, ...]
    """Each (n, ...), n readings; empty for none."""
    readout_every: int
    optimizer: Optimizer
    describe: Callable[[int], str]
    """Name of the parameter that an index of the flat vector belongs to, for error messages."""
    identity: Hashable = None
    """Equal for two loops whose losses compute the same from flat weights: what captured graphs are known
    by."""
    checks: bool = True
    """Whether the losses are looked at (:mod:`minigtn.inner.guards`)."""
    after_step: Callable[[int, Tensor], None] | None = None
    """Called with the number of steps done, from 1, and the weights (P,) then; nothing flows through it."""

    def reading_after(self, t: int, steps: int) -> int | None:
        """Which reading is taken once inner step ``t`` of ``steps`` is done: after every k-th, and after the
        last."""
        if not self.readout_batches or ((t + 1) % self.readout_every and t + 1 != steps):
            return None
        return t // self.readout_every

    def watch(self, t: int, w: Tensor) -> None:
        """Show the weights after step ``t`` to whoever asked to see them."""
        if self.after_step is not None:
            self.after_step(t + 1, w.detach())

    def over(self, batches: Group, readout_batches: Group) -> InnerLoop:
        """The same loop over other data, which are cut from any graph."""
        return replace(
            self,
            batches=tuple(x.detach() for x in batches),
            readout_batches=tuple(x.detach() for x in readout_batches),
        )


def at(batches: Group, t: int) -> Group:
    """Batch number ``t`` of stacked batches."""
    return tuple(b[t] for b in batches)


def gradient(loss: Loss, w: Tensor, batch: Sequence[Tensor], *, create_graph: bool = False) -> Tensor:
    """dl/dw (P,), differentiable again if ``create_graph``; zeros where the loss does not depend on ``w``."""
    with torch.enable_grad():
        if not (create_graph and w.requires_grad):
            w = w.detach().requires_grad_()
        value = loss(w, batch)
        return grad_or_zeros(value, [w], create_graph=create_graph)[0]


def gradient_and_pull_back(loss: Loss, w: Tensor, batch: Sequence[Tensor], wanted: Sequence[bool]):
    """``g = dl/dw`` (P,), and its pull-back: a function, to be called once, of a direction ``u`` (P,), which
    may depend on ``g``. It returns ``H u`` (P,) and the mixed terms d<g, u>/d batch, one for each tensor of
    ``batch`` that is ``wanted``.

    ``g`` has the very bits of :func:`gradient`, which runs the same kernels: ``Reversible`` needs that.
    """
    with torch.enable_grad():
        w = w.detach().requires_grad_()
        batch = leaves(batch, wanted)
        g = grad_or_zeros(loss(w, batch), [w], create_graph=True)[0]

    def pull_back(u: Tensor) -> tuple[Tensor, Group]:
        hessian_u, *mixed = grad_or_zeros(g, [w, *(b for b in batch if b.requires_grad)], u)
        return hessian_u, tuple(mixed)

    return g.detach(), pull_back


def step_back(
    loop: InnerLoop,
    wanted: Sequence[bool],
    w: Tensor,
    restore: Callable[[Tensor], State],
    batch: Group,
    sizes: Group,
    d_next: State,
) -> Groups:
    """Back through the step that began at weights ``w`` (P,): from the gradient by the next state,
    ``d_next``, to those by the state, by (lr, momentum), and by what is ``wanted`` of the batch. ``restore``
    gives the whole state once ``g`` is known."""
    lr, momentum = sizes
    g, pull_back = gradient_and_pull_back(loop.loss, w, batch, wanted)
    (d_w, *d_rest), d_g, d_lr, d_momentum = loop.optimizer.pull_back(restore(g), g, lr, momentum, d_next)
    hessian_d_g, d_batch = pull_back(d_g)
    return (d_w + hessian_d_g, *d_rest), (d_lr, d_momentum), d_batch


class Steps(NamedTuple):
    """Functions from groups of tensors to groups of tensors, and of nothing else, so that graphs can stand in
    for them."""

    step: Callable[..., Groups]
    """state, batch, (lr, momentum) -> next state."""
    step_back: Callable[..., Groups]
    """state, batch, (lr, momentum), gradient by next state -> gradients by state, (lr, momentum), what is
    wanted of batch."""
    read: Callable[..., Groups]
    """(w,), readout batch -> (reading,), and its gradients by (w,), what is wanted of batch."""


def steps_of(
    loop: InnerLoop, wanted: Sequence[bool], saw: Callable[[Tensor], None] = lambda g: None
) -> Steps:
    """The steps of a loop; ``wanted`` says for every tensor of the batches, then of the readout batches,
    whether it needs a gradient. ``saw`` is shown the gradient (P,) of each step on the way back."""
    of_batch = wanted[: len(loop.batches)]
    of_reading = wanted[len(loop.batches) :]
    loop = replace(loop.over((), ()), after_step=None)  # graphs outlive the run: do not keep its data

    def step(state: State, batch: Group, sizes: Group) -> Groups:
        return (loop.optimizer.step(state, gradient(loop.loss, state[0], batch), *sizes),)

    def back(state: State, batch: Group, sizes: Group, d_next: State) -> Groups:
        def restore(g: Tensor) -> State:
            saw(g)
            return state

        return step_back(loop, of_batch, state[0], restore, batch, sizes, d_next)

    def read(weights: Group, batch: Group) -> Groups:
        with torch.enable_grad():
            w = weights[0].detach().requires_grad_()
            batch = leaves(batch, of_reading)
            reading = loop.readout_loss(w, batch)
            d_w, *d_batch = grad_or_zeros(reading, [w, *(b for b in batch if b.requires_grad)])
        return (reading.detach(),), (d_w,), tuple(d_batch)

    return Steps(step, back, read)


def examples(loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor) -> Sequence[Groups]:
    """For each of the :class:`Steps`, tensors like those it will be called with; an empty group where it will
    not be called."""
    state = loop.optimizer.start(w0)
    batch = at(loop.batches, 0)
    sizes = (lr[0], momentum[0])
    reading = at(loop.readout_batches, 0)
    return (
        (state, batch, sizes),
        (state, batch, sizes, tuple(torch.ones_like(s) for s in state)),
        ((w0,), reading),
    )


def grad_or_zeros(
    output: Tensor, inputs: Sequence[Tensor], cotangent: Tensor | None = None, *, create_graph: bool = False
):
    """torch.autograd.grad with zeros, not None or an error, for whatever the output does not depend on."""
    if not output.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return torch.autograd.grad(output, inputs, cotangent, create_graph=create_graph, materialize_grads=True)


def leaves(batch: Sequence[Tensor], wanted: Sequence[bool]) -> Group:
    """The same numbers cut from any graph; those ``wanted`` require grad."""
    return tuple(b.detach().requires_grad_(want) for b, want in zip(batch, wanted, strict=True))
