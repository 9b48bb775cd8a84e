"""The inner loop, and what is done at each of its steps, there and back: functions of tensors alone.

The adjoints call these T times, or graphs made of them (``minigtn.graphs``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from minigtn.graphs import Group, Groups
from minigtn.optimisers import Optimiser, State
from minigtn.second_order import Loss, curvature, grad_or_zeros, gradient, leaves


@dataclass(frozen=True)
class InnerLoop:
    """What is trained on what: everything of a run but its start and its step sizes. Weights are one flat vector (P,)."""

    loss: Loss
    batches: tuple[Tensor, ...]
    """Each (T, ...): step t trains on ``[b[t] for b in batches]``."""
    readout_loss: Loss
    readout_batches: tuple[Tensor, ...]
    """Each (n, ...), n readings; empty for none."""
    readout_every: int
    optimiser: Optimiser
    describe: Callable[[int], str]
    """Name of the parameter that an index of the flat vector belongs to, for error messages."""
    identity: Hashable = None
    """Equal for two loops whose losses compute the same from flat weights: what captured graphs are known by."""

    def reading_after(self, t: int, steps: int) -> int | None:
        """Which reading is taken once inner step ``t`` of ``steps`` is done: after every k-th, and after the last."""
        if not self.readout_batches or ((t + 1) % self.readout_every and t + 1 != steps):
            return None
        return t // self.readout_every

    def over(self, batches: Group, readout_batches: Group) -> InnerLoop:
        """The same loop over other data, which are cut from any graph."""
        return replace(self, batches=tuple(x.detach() for x in batches), readout_batches=tuple(x.detach() for x in readout_batches))


def at(batches: Group, t: int) -> Group:
    """Batch number ``t`` of stacked batches."""
    return tuple(b[t] for b in batches)


class Steps(NamedTuple):
    """Functions from groups of tensors to groups of tensors, and of nothing else, so that graphs can stand in for them."""

    step: Callable[..., Groups]
    """state, batch, (lr, momentum) -> next state."""
    step_back: Callable[..., Groups]
    """state, batch, (lr, momentum), gradient by next state -> gradients by state, (lr, momentum), what is wanted of batch."""
    read: Callable[..., Groups]
    """(w,), readout batch -> (reading,)."""
    read_back: Callable[..., Groups]
    """(w,), readout batch, (gradient by reading,) -> gradients by (w,), what is wanted of batch."""


def steps_of(loop: InnerLoop, wanted: Sequence[bool]) -> Steps:
    """The steps of a loop; ``wanted`` says for every tensor of the batches, then of the readout batches, whether it needs a gradient."""
    of_batch, of_reading = wanted[: len(loop.batches)], wanted[len(loop.batches) :]
    loop = loop.over((), ())  # graphs outlive the run: do not keep its data

    def step(state: State, batch: Group, sizes: Group) -> Groups:
        return (loop.optimiser.step(state, gradient(loop.loss, state[0], batch), *sizes),)

    def step_back(state: State, batch: Group, sizes: Group, d_next: State) -> Groups:
        return reverse(loop, of_batch, state[0], lambda g: state, batch, sizes, d_next)

    def read(weights: Group, batch: Group) -> Groups:
        return ((loop.readout_loss(weights[0], batch),),)

    def read_back(weights: Group, batch: Group, d_reading: Group) -> Groups:
        with torch.enable_grad():
            w, batch = weights[0].detach().requires_grad_(), leaves(batch, of_reading)
            d_w, *d_batch = grad_or_zeros(loop.readout_loss(w, batch), [w, *(b for b in batch if b.requires_grad)], *d_reading)
        return (d_w,), tuple(d_batch)

    return Steps(step, step_back, read, read_back)


def reverse(
    loop: InnerLoop, wanted: Sequence[bool], w: Tensor, restore: Callable[[Tensor], State], batch: Group, sizes: Group, d_next: State
) -> Groups:
    """:attr:`Steps.step_back` at weights ``w`` (P,); ``restore`` gives the whole state once the gradient at ``w`` is known."""
    g, along = curvature(loop.loss, w, batch, wanted)
    lr, momentum = sizes
    (lam, *rest), d_g, d_lr, d_momentum = loop.optimiser.pull_back(restore(g), g, lr, momentum, d_next)
    h, mixed = along(d_g)
    return (lam + h, *rest), (d_lr, d_momentum), mixed


def examples(loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor) -> Sequence[Groups]:
    """For each of the :class:`Steps`, tensors like those it will be called with; an empty group where it will not be called."""
    state, batch, sizes = loop.optimiser.start(w0), at(loop.batches, 0), (lr[0], momentum[0])
    reading = at(loop.readout_batches, 0)
    return (state, batch, sizes), (state, batch, sizes, state), ((w0,), reading), ((w0,), reading, (lr[0],))


def refuse_captured_tensors(loop: InnerLoop, w0: Tensor) -> None:
    """A gradient that would be silently lost is an error: the loss may depend on weights and batch alone."""
    for what, loss, batches in (("loss", loop.loss, loop.batches), ("readout", loop.readout_loss, loop.readout_batches)):
        if not batches:
            continue
        w = w0.detach().requires_grad_()
        with torch.enable_grad():
            value = loss(w, at(batches, 0))
        todo, seen = [value.grad_fn], set()
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)
            if leaf is not None and leaf is not w:
                raise ValueError(
                    f"the {what} uses a tensor of shape {tuple(leaf.shape)} that requires grad but is neither in params nor in batches; "
                    "its gradient would be lost: pass it in params or in batches (one row per step), detach it, or use Unrolled()"
                )
            todo.extend(next_node for next_node, _ in node.next_functions)
