"""Three ways back through a training run, one answer: ``Unrolled``, ``Checkpointed``, ``Reversible``.

Each adjoint is one object that is called with four arguments, ``adjoint(loop, w0, lr, momentum) -> (w_T,
readings)``. ``Unrolled`` keeps the graph of every step. The other two share the reverse loop ``_WayBack`` and
differ only in how a *tape* gives back the state before step t (``minigtn.inner.tapes``).

Source: Maclaurin, Duvenaud & Adams 2015 (arXiv 1502.03492), algorithm 2 with its printed errors corrected and
in torch's momentum convention ``v <- mu*v + g``, ``w <- w - lr*v``; the derivation is in reference/README.md.
Departure: any :class:`minigtn.Optimizer` may take the steps, through its ``pull_back``, but for
``Reversible``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minigtn.inner.again import autocast_state
from minigtn.inner.compiled import all_compiled
from minigtn.inner.graphs import GraphPool, StaticCall, StepGraphs, signature
from minigtn.inner.guards import look_at, looked_at
from minigtn.inner.optimizers import SGD
from minigtn.inner.step import InnerLoop, Steps, at, examples, gradient, steps_of
from minigtn.inner.tapes import KeptTape, ReversedTape, Tape


class Adjoint(ABC):
    """A way of differentiating the inner loop."""

    @abstractmethod
    def __call__(self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """``w0`` (P,), ``lr`` and ``momentum`` (T,) -> ``w_T`` (P,) and readings (n,), both
        differentiable."""


@dataclass(frozen=True)
class Unrolled(Adjoint):
    """Differentiate through every step at once: torch keeps the graph of the whole run.

    Memory ``T*A``, time: no extra work. Use it when T is small or for losses that reach other tensors (a
    closure over anything that requires grad works here, and here only); do not use it when ``T*A`` does not
    fit. The result can be differentiated again.
    """

    def __call__(self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        tracked = torch.is_grad_enabled()
        inputs = (w0, lr, momentum, *loop.batches, *loop.readout_batches)
        wanted = tracked and any(x.requires_grad for x in inputs)
        loop = looked_at(loop, taped=False, twice=wanted, readings=tracked)
        state = loop.optimizer.start(w0)
        readings = []
        for t in range(len(lr)):
            g = gradient(loop.loss, state[0], at(loop.batches, t), create_graph=tracked)
            state = loop.optimizer.step(state, g, lr[t], momentum[t])
            loop.watch(t, state[0])
            j = loop.reading_after(t, len(lr))
            if j is not None:
                readings.append(loop.readout_loss(state[0], at(loop.readout_batches, j)))
        return state[0], _stack(readings, w0)


@dataclass(frozen=True)
class Checkpointed(Adjoint):
    """Keep the state (weights and velocity) at the start of every block of steps; recompute the rest when the
    way back enters a block.

    Memory ``2*P*(T/k + k)`` numbers and the activations of one step, whatever T, and for k = 1 another P for
    each reading. Time: one more gradient per step (two where k > 1, but for the first step of each block).
    ``block_size=1`` is the fastest;
    ``ceil(sqrt(T))`` needs least memory. The default choice for teaching. Do not use it when even that is too
    much (Reversible), or for a loss that closes over tensors that require grad (refused). The loss must stay
    the same function from the call to the way back, where it is called again (RuntimeError, on CUDA NaN:
    docs/reliability.md); random numbers of torch's own generator it gets again.

    ``graphs=True`` makes CUDA graphs of a step, a step back and a reading, there and back: the same kernels
    on the same numbers, without the time to launch each. They are captured in the first run and belong to
    this object, so keep it, and pass the same loss function (``==``) each time; another loss, optimizer,
    shape or dtype is captured anew. The loss must not wait for the device, bring tensors over from the CPU,
    draw random numbers, or depend on anything that changes between runs but its arguments (tensors it closes
    over may change in place). Settings such as TF32 are those at the capture. Memory: some five states more.
    Not for several threads at once. On the CPU it only copies: leave it off there.

    ``compile=True`` fuses the same functions, their second derivatives included, into fewer kernels
    (``minigtn.inner.compiled``): the same meta-gradient, rounded otherwise, compared with the uncompiled
    functions before it is used. CompiledMismatch where they differ; what cannot be compiled runs as it is,
    with one RuntimeWarning. With ``graphs`` too, the compiled functions are captured; the same rules hold. It
    takes tens of seconds once: do not use it for a few short runs. ``max_captured`` runs are held, compiled
    or captured, at the same time.
    """

    block_size: int = 1
    graphs: bool = False
    compile: bool = False
    max_captured: int = 8
    _captured: StepGraphs = field(default_factory=StepGraphs, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("block_size", "max_captured"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        self._captured.limit = self.max_captured

    def __call__(self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return Unrolled()(loop, w0, lr, momentum)  # no way back, nothing to keep
        return _WayBack.apply(self, loop, w0, lr, momentum, *loop.batches, *loop.readout_batches)

    def tape(
        self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor, wanted: Sequence[bool]
    ) -> KeptTape:
        captured = self._steps(loop, w0, lr, momentum, wanted) if self.graphs or self.compile else None
        return KeptTape(self.block_size, loop, w0, lr, momentum, wanted, captured)

    def _steps(
        self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor, wanted: Sequence[bool]
    ) -> Steps | None:
        """Captured or compiled; None where the loss cannot be."""
        like = examples(loop, w0, lr, momentum)

        def capture() -> Steps | None:
            look_at(loop, w0, may_draw=not self.graphs)
            steps = steps_of(loop, wanted)
            made = Steps(*all_compiled(steps, like, Steps._fields)) if self.compile else steps
            if not self.graphs:
                return None if made == steps else made
            trained = GraphPool(w0.device)
            pools = trained, trained, GraphPool(w0.device)  # readings are taken beside the steps
            calls = zip(made, like, pools, strict=True)
            return Steps(*(StaticCall(f, x, pool) if all(x) else f for f, x, pool in calls))

        settings = autocast_state(w0.device)
        key = loop.identity, loop.optimizer, tuple(wanted), tuple(map(signature, like)), settings
        return self._captured.get(key, capture)


@dataclass(frozen=True)
class Reversible(Adjoint):
    """Run the training backwards in exact integers (Maclaurin et al. 2015): nothing is kept but the bits that
    momentum would lose.

    Memory ``16 B + T * log2(1/momentum) / 8 B`` per weight and the activations of one step. Time: one more
    gradient per step. Use it when T is in the thousands or P is large. Do not use it with momentum near 0 (a
    step with momentum 0 keeps 8 B per weight), where anything reaches 1024 in size
    (:class:`FixedPointOverflow`), or with kernels whose results do not repeat bit for bit. Other inner
    optimizers than SGD forget too much in a step to be reversed: ValueError.

    The momentum applied is the fraction n/d, d <= 4096, nearest to the one given: typically 1e-7 away and at
    most 1/8192 (next to 0 and 1); 0.5 and 0.9 are exact. The result and the gradient are those at n/d. The
    first step compares the bits of the gradient's two ways, and every way back ends with a check that ``w0``
    and zero velocity came back bit for bit; RuntimeError if not.
    """

    def __call__(self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        if loop.optimizer != SGD():
            raise ValueError(
                f"Reversible can only reverse SGD, not {loop.optimizer}; use optimizer=SGD(), or Checkpointed"
            )
        return _WayBack.apply(self, loop, w0, lr, momentum, *loop.batches, *loop.readout_batches)

    def tape(
        self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor, wanted: Sequence[bool]
    ) -> ReversedTape:
        return ReversedTape(loop, w0, lr, momentum, wanted)


# ---- the way back ----


class _WayBack(torch.autograd.Function):
    """One forward and one reverse sweep for every adjoint with a tape.

    There (t = 0 .. T-1): s_{t+1} = step(s_t, batch_t); readings of w_{t+1} on the way.
    Back (t = T-1 .. 0), with d_s = dL/ds_{t+1}, which starts as (dL/dw_T, 0):

        d_w  += dL/dreading_j * dreading_j/dw_{t+1}        where a reading was taken after step t
        d_s, d_lr_t, d_momentum_t, d_batch_t  <-  step_back(s_t, batch_t, d_s)        (minigtn.inner.step)

    What is left at the end is dL/dw_0; the state beside the weights starts at zero, whatever w_0 is.
    """

    @staticmethod
    def forward(
        ctx: Any, adjoint: Any, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor, *tensors: Tensor
    ):
        n = len(loop.batches)
        T = len(lr)
        loop = loop.over(tensors[:n], tensors[n:])
        tape: Tape = adjoint.tape(loop, w0.detach(), lr.detach(), momentum.detach(), ctx.needs_input_grad[5:])
        readings: list[Tensor] = []
        for t in range(T):
            tape.step(t)
            loop.watch(t, tape.w)
            j = loop.reading_after(t, T)
            if j is not None:
                readings.append(tape.readings.there(tape.w, at(loop.readout_batches, j)))
        tape.readings.join()
        ctx.save_for_backward(w0, lr, momentum, *tensors)
        ctx.loop = loop
        ctx.tape = tape
        return tape.w.clone(), _stack(readings, w0)

    @staticmethod
    def backward(ctx: Any, d_w_last: Tensor, d_readings: Tensor):
        if ctx.tape is None:
            raise RuntimeError(
                "this training run was already walked back, which uses it up; call minigtn.sgd again (or "
                "use Unrolled)"
            )
        tape: Tape = ctx.tape
        ctx.tape = None
        with torch.no_grad(), tape.around.back():
            gradients = _walked_back(ctx, tape, d_w_last, d_readings)
        if torch.is_grad_enabled():  # create_graph=True
            gradients = _once(gradients, (*ctx.saved_tensors, d_w_last, d_readings))
        return None, None, *gradients


def _walked_back(ctx: Any, tape: Tape, d_w_last: Tensor, d_readings: Tensor) -> list[Tensor | None]:
    """The gradients by w0, lr, momentum, and by what is wanted of the batches and the readout batches."""
    w0, lr, _, *tensors = ctx.saved_tensors
    loop: InnerLoop = ctx.loop
    n = len(loop.batches)
    T = len(lr)
    wanted = zip(tensors, ctx.needs_input_grad[5:], strict=True)
    d_tensors = [torch.zeros_like(x) if want else None for x, want in wanted]
    d_lr = torch.zeros_like(lr)
    d_momentum = torch.zeros_like(lr)

    d_w = d_w_last
    d_rest = [torch.zeros_like(part) for part in loop.optimizer.start(w0)[1:]]
    for t in reversed(range(T)):
        j = loop.reading_after(t, T)
        if j is not None:
            (d_read,), d_batch = tape.readings.back(tape.w, at(loop.readout_batches, j))
            d_w = torch.addcmul(d_w, d_read, d_readings[j])
            _write_row(d_tensors[n:], j, [d_readings[j] * d for d in d_batch])
        (d_w, *d_rest), (d_lr[t], d_momentum[t]), d_batch = tape.step_back(t, (d_w, *d_rest))
        _write_row(d_tensors[:n], t, d_batch)
    tape.finish(w0)
    gradients = [d_w, d_lr, d_momentum, *d_tensors]
    tape.again.refuse(gradients)
    return gradients


def _once(gradients: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """``gradients`` that depend on ``inputs`` and say, where they are differentiated, that they cannot be."""
    given = [d for d in gradients if d is not None]
    marked = iter(_Once.apply(len(given), *given, *inputs))
    return [None if d is None else next(marked) for d in gradients]


class _Once(torch.autograd.Function):
    """Its first n tensors, as they are."""

    @staticmethod
    def forward(ctx: Any, n: int, *tensors: Tensor):
        return tuple(x.clone() for x in tensors[:n])

    @staticmethod
    def backward(ctx: Any, *d: Tensor):
        raise RuntimeError(
            "the gradient through minigtn.sgd was itself differentiated, which Checkpointed and Reversible "
            "cannot do: use Unrolled() for second derivatives (a Hessian, a gradient penalty)"
        )


def _write_row(wholes: Sequence[Tensor | None], t: int, rows: Sequence[Tensor]) -> None:
    for whole, row in zip([x for x in wholes if x is not None], rows, strict=True):
        whole[t] = row


def _stack(readings: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(readings) if readings else like.new_zeros(0)
