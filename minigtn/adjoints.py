"""Three ways back through a training run, one answer: ``Unrolled``, ``Checkpointed``, ``Reversible``.

Each adjoint is one object that is called with four arguments, ``adjoint(loop, w0, lr, momentum) -> (w_T, readings)``. ``Unrolled`` keeps
the graph of every step. The other two share the reverse loop ``_WayBack`` and differ only in how a *tape* gives back ``w_t`` and ``v_t``:
kept or recomputed (``_KeptTape``), or reversed in exact integers (``_ReversedTape``).

Source: Maclaurin, Duvenaud & Adams 2015 (arXiv 1502.03492), algorithm 2 with its printed errors corrected and in torch's momentum
convention ``v <- mu*v + g``, ``w <- w - lr*v``; the derivation is in reference/README.md.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from minigtn.fixed_point import FixedPointState, bits_per_step, rational_momentum
from minigtn.second_order import Loss, curvature, grad_or_zeros, gradient


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
    describe: Callable[[int], str]
    """Name of the parameter that an index of the flat vector belongs to, for error messages."""

    def reading_after(self, t: int, steps: int) -> int | None:
        """Which reading is taken once inner step ``t`` of ``steps`` is done: after every k-th, and after the last."""
        if not self.readout_batches or ((t + 1) % self.readout_every and t + 1 != steps):
            return None
        return t // self.readout_every

    def detached(self, tensors: Sequence[Tensor]) -> InnerLoop:
        """The same loop over these tensors (batches, then readout batches), cut from any graph."""
        cut = tuple(x.detach() for x in tensors)
        n = len(self.batches)
        return InnerLoop(self.loss, cut[:n], self.readout_loss, cut[n:], self.readout_every, self.describe)


def at(batches: Sequence[Tensor], t: int) -> list[Tensor]:
    """Batch number ``t`` of stacked batches."""
    return [b[t] for b in batches]


def sgd_step(w: Tensor, v: Tensor, g: Tensor, lr: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
    """``v <- momentum*v + g``; ``w <- w - lr*v``: torch.optim.SGD without dampening."""
    v = torch.addcmul(g, v, momentum)
    return torch.addcmul(w, v, lr, value=-1), v


class Adjoint(ABC):
    """A way of differentiating the inner loop."""

    @abstractmethod
    def __call__(self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """``w0`` (P,), ``lr`` and ``momentum`` (T,) -> ``w_T`` (P,) and readings (n,), both differentiable."""

    @abstractmethod
    def memory_bytes(self, steps: int, weights: int, activations: int, itemsize: int = 4, momentum: float = 0.5) -> int:
        """Predicted peak beyond the inputs, for T ``steps``, P ``weights`` and ``activations`` bytes of one second-order pass."""


@dataclass(frozen=True)
class Unrolled(Adjoint):
    """Differentiate through every step at once: torch keeps the graph of the whole run.

    Memory ``T*A``, time: no extra work. Use it when T is small or for losses that reach other tensors (a closure over anything that
    requires grad works here, and here only); do not use it when ``T*A`` does not fit. The result can be differentiated again.
    """

    def __call__(self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        w, v, readings = w0, torch.zeros_like(w0), []
        for t in range(len(lr)):
            g = gradient(loop.loss, w, at(loop.batches, t), create_graph=torch.is_grad_enabled())
            w, v = sgd_step(w, v, g, lr[t], momentum[t])
            j = loop.reading_after(t, len(lr))
            if j is not None:
                readings.append(loop.readout_loss(w, at(loop.readout_batches, j)))
        return w, _stack(readings, w0)

    def memory_bytes(self, steps: int, weights: int, activations: int, itemsize: int = 4, momentum: float = 0.5) -> int:
        return steps * (activations + 2 * weights * itemsize)


@dataclass(frozen=True)
class Checkpointed(Adjoint):
    """Keep weights and velocity at the start of every block of steps; recompute the rest of a block when the way back enters it.

    Memory ``2*P*(T/k + k)`` numbers and the activations of one step, whatever T. Time: one more gradient per step (two where k > 1, but
    for the first step of each block). ``block_size=1`` is the fastest; ``ceil(sqrt(T))`` needs least memory. The default choice for
    teaching. Do not use it when even that is too much (Reversible), or for a loss that closes over tensors that require grad (refused).
    """

    block_size: int = 1

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, not {self.block_size}")

    def __call__(self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return Unrolled()(loop, w0, lr, momentum)  # no way back, nothing to keep
        return _WayBack.apply(self, loop, w0, lr, momentum, *loop.batches, *loop.readout_batches)

    def tape(self, w0: Tensor, lr: Tensor, momentum: Tensor, descend: Descend, describe: Callable[[int], str]) -> _KeptTape:
        return _KeptTape(self.block_size, w0, lr, momentum, descend)

    def memory_bytes(self, steps: int, weights: int, activations: int, itemsize: int = 4, momentum: float = 0.5) -> int:
        kept = math.ceil(steps / self.block_size) + min(self.block_size, steps) - 1
        return activations + (2 * kept + 13) * weights * itemsize


@dataclass(frozen=True)
class Reversible(Adjoint):
    """Run the training backwards in exact integers (Maclaurin et al. 2015): nothing is kept but the bits that momentum would lose.

    Memory ``16 B + T * log2(1/momentum) / 8 B`` per weight and the activations of one step. Time: one more gradient per step. Use it when
    T is in the thousands or P is large. Do not use it with momentum near 0 (a step with momentum 0 keeps 8 B per weight), where anything
    reaches 1024 in size (:class:`FixedPointOverflow`), or with kernels whose results do not repeat bit for bit.

    The momentum applied is the fraction n/d, d <= 4096, nearest to the one given: typically 1e-7 away and at most 1/8192 (next to 0
    and 1); 0.5 and 0.9 are exact. The result and the gradient are those at n/d. Every way back ends with a check that ``w0`` and zero
    velocity came back bit for bit; RuntimeError if not.
    """

    def __call__(self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        return _WayBack.apply(self, loop, w0, lr, momentum, *loop.batches, *loop.readout_batches)

    def tape(self, w0: Tensor, lr: Tensor, momentum: Tensor, descend: Descend, describe: Callable[[int], str]) -> _ReversedTape:
        return _ReversedTape(w0, lr, momentum, descend, describe)

    def memory_bytes(self, steps: int, weights: int, activations: int, itemsize: int = 4, momentum: float = 0.5) -> int:
        spills = max(0, math.ceil((steps * bits_per_step(momentum) - 64) / 32))
        return activations + (16 + 8 + 4 * spills) * weights + 9 * weights * max(itemsize, 8)


# ---- the tapes: two ways to be where the run was ----------------------------------------------------------------------------------------

Descend = Callable[[int, Tensor], Tensor]
"""(t, w) -> the gradient that inner step t descends, (P,)."""


class Tape(Protocol):
    """The state of a run that can go forth and back. ``w``, ``v`` are the state now, ``momentum`` (T,) is the one really applied."""

    w: Tensor
    v: Tensor
    momentum: Tensor

    def step(self, t: int) -> None:
        """Take inner step t."""

    def back_weights(self, t: int) -> None:
        """After this ``w`` is w_t."""

    def back_velocity(self, t: int, g: Tensor) -> None:
        """After this ``v`` is v_t; ``g`` is the gradient at w_t."""

    def finish(self, w0: Tensor) -> None:
        """Called once the way back has reached the start."""


class _KeptTape:
    """States by step number: one per block on the way forward, those of the current block on the way back."""

    def __init__(self, block_size: int, w0: Tensor, lr: Tensor, momentum: Tensor, descend: Descend) -> None:
        self.w, self.v = w0, torch.zeros_like(w0)
        self.lr, self.momentum, self._descend, self._block_size = lr, momentum, descend, block_size
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def step(self, t: int) -> None:
        if t % self._block_size == 0:
            self.kept[t] = self.w, self.v
        self._advance(t)

    def _advance(self, t: int) -> None:
        self.w, self.v = sgd_step(self.w, self.v, self._descend(t, self.w), self.lr[t], self.momentum[t])

    def back_weights(self, t: int) -> None:
        if t not in self.kept:
            start = t - t % self._block_size
            self.w, self.v = self.kept[start]
            for s in range(start, t):
                self._advance(s)
                self.kept[s + 1] = self.w, self.v
        self.w, self.v = self.kept.pop(t)

    def back_velocity(self, t: int, g: Tensor) -> None:
        pass  # kept together with the weights

    def finish(self, w0: Tensor) -> None:
        pass


class _ReversedTape:
    """Nothing kept: integers that are stepped back."""

    def __init__(self, w0: Tensor, lr: Tensor, momentum: Tensor, descend: Descend, describe: Callable[[int], str]) -> None:
        self._lr: list[float] = lr.tolist()
        self._fractions = [rational_momentum(m) for m in momentum.tolist()]
        self.momentum = torch.tensor([n / d for n, d in self._fractions], dtype=w0.dtype, device=w0.device)
        self._descend, self.state = descend, FixedPointState(w0, describe)

    @property
    def w(self) -> Tensor:
        return self.state.w

    @property
    def v(self) -> Tensor:
        return self.state.v

    def step(self, t: int) -> None:
        self.state.step(t, self._descend(t, self.w), self._lr[t], *self._fractions[t])
        if t + 1 == len(self._lr):
            self.state.check()

    def back_weights(self, t: int) -> None:
        self.state.back_weights(self._lr[t])

    def back_velocity(self, t: int, g: Tensor) -> None:
        self.state.back_velocity(g, *self._fractions[t])

    def finish(self, w0: Tensor) -> None:
        if not self.state.is_at(w0):
            raise RuntimeError(
                "Reversible did not return to the initial weights bit for bit, so this meta-gradient would be wrong. The gradient of the "
                "inner loss must repeat exactly: use deterministic kernels (torch.use_deterministic_algorithms(True), "
                "torch.backends.cudnn.deterministic = True, cudnn.benchmark = False), no dropout, no running statistics; "
                "or use Checkpointed"
            )


# ---- the way back -------------------------------------------------------------------------------------------------------------------


class _WayBack(torch.autograd.Function):
    """One forward and one reverse loop for every adjoint with a tape (design: "The way back, one step")."""

    @staticmethod
    def forward(ctx: Any, adjoint: Any, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor, *tensors: Tensor):
        loop = loop.detached(tensors)
        _refuse_captured_tensors(loop, w0)

        def descend(t: int, w: Tensor) -> Tensor:
            return gradient(loop.loss, w, at(loop.batches, t))

        tape = adjoint.tape(w0.detach(), lr.detach(), momentum.detach(), descend, loop.describe)
        readings = []
        for t in range(len(lr)):
            tape.step(t)
            j = loop.reading_after(t, len(lr))
            if j is not None:
                readings.append(loop.readout_loss(tape.w, at(loop.readout_batches, j)))
        ctx.save_for_backward(w0, lr, *tensors)
        ctx.loop, ctx.tape = loop, tape
        return tape.w.clone(), _stack(readings, w0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_w_last: Tensor, d_readings: Tensor):
        if ctx.tape is None:
            raise RuntimeError("this training run was already walked back, which uses it up; call minigtn.sgd again (or use Unrolled)")
        tape, ctx.tape = ctx.tape, None
        w0, lr, *tensors = ctx.saved_tensors
        loop: InnerLoop = ctx.loop
        steps, wanted = len(lr), ctx.needs_input_grad[5:]
        d_tensors = [torch.zeros_like(x) if want else None for x, want in zip(tensors, wanted, strict=True)]
        n = len(loop.batches)
        d_lr, d_momentum = torch.zeros_like(lr), torch.zeros_like(lr)

        lam, nu = d_w_last, torch.zeros_like(d_w_last)  # dL/dw_{t+1}, dL/dv_{t+1}
        for t in reversed(range(steps)):
            j = loop.reading_after(t, steps)
            if j is not None:
                lam = lam + _reading_gradient(loop, tape.w, j, d_readings[j], wanted[n:], d_tensors[n:])
            d_lr[t] = -torch.dot(lam, tape.v)
            nu = nu - lr[t] * lam
            tape.back_weights(t)
            g, h_nu, mixed = curvature(loop.loss, tape.w, at(loop.batches, t), nu, wanted[:n])
            tape.back_velocity(t, g)
            d_momentum[t] = torch.dot(nu, tape.v)
            for d_batch, term in zip(d_tensors[:n], mixed, strict=True):
                if d_batch is not None:
                    d_batch[t] = term
            lam = lam + h_nu
            nu = tape.momentum[t] * nu
        tape.finish(w0)
        return None, None, lam, d_lr, d_momentum, *d_tensors


def _reading_gradient(
    loop: InnerLoop, w: Tensor, j: int, cotangent: Tensor, wanted: Sequence[bool], d_batches: Sequence[Tensor | None]
) -> Tensor:
    """Gradient (P,) of reading ``j`` times its cotangent; the gradients of its batch are written into ``d_batches``."""
    batch = [b.requires_grad_(want) for b, want in zip(at(loop.readout_batches, j), wanted, strict=True)]
    with torch.enable_grad():
        w = w.detach().requires_grad_()
        inputs = [w, *(b for b in batch if b.requires_grad)]
        d_w, *d_batch = grad_or_zeros(loop.readout_loss(w, batch), inputs, cotangent)
    for whole, part in zip([d for d in d_batches if d is not None], d_batch, strict=True):
        whole[j] = part
    return d_w


def _refuse_captured_tensors(loop: InnerLoop, w0: Tensor) -> None:
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


def _stack(readings: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(readings) if readings else like.new_zeros(0)
