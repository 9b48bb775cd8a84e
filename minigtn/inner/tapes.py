"""Tapes: two ways to be where a run was, for the way back. States kept or recomputed (``KeptTape``), or
reversed in exact integers (``ReversedTape``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from minigtn.inner.again import Again, Around
from minigtn.inner.fixed_point import FixedPointState, rational_momentum
from minigtn.inner.graphs import Beside, Group, Groups
from minigtn.inner.guards import looked_at, repeatable_gradient
from minigtn.inner.optimizers import State
from minigtn.inner.step import InnerLoop, Steps, at, step_back, steps_of


class Tape(Protocol):
    """A run that can go forth and back. ``w`` are its weights now; at the end of the way forward, and just
    before ``step_back(t)`` those after step t."""

    w: Tensor
    readings: Readings
    around: Around
    again: Again

    def step(self, t: int) -> None:
        """Take inner step t."""

    def step_back(self, t: int, d_next: State) -> Groups:
        """Go back to where step t began; returns what :attr:`Steps.step_back` does."""

    def finish(self, w0: Tensor) -> None:
        """Called once the way back has reached the start."""


class Readings:
    """Readings there and their gradients back: kept where the tape keeps a state for every step, and taken
    again where it does not. Those that are kept are taken beside the next steps, where the device has
    room."""

    def __init__(
        self, loop: InnerLoop, read: Callable[..., Groups], keep: bool, around: Around, again: Again
    ) -> None:
        self._loop = loop
        self._read = read
        self._keep = keep
        self._around = around
        self._again = again
        self._beside = Beside(around.device)
        self._values: list[Tensor] = []
        self._gradients: list[Groups] = []

    def there(self, w: Tensor, batch: Group) -> Tensor:
        """The reading at ``w``."""
        with self._around.there("reading", len(self._values)):
            if self._keep:
                with self._beside.work():
                    (reading,), *gradients = self._read((w,), batch)
                self._gradients.append(tuple(gradients))
            else:
                with torch.no_grad():
                    reading = self._loop.readout_loss(w, batch)
        self._values.append(reading)
        return reading

    def join(self) -> None:
        """All readings are there, for what comes next."""
        self._beside.join()

    def back(self, w: Tensor, batch: Group) -> Groups:
        """The gradients of the reading at ``w``, last one first: by (w,), and by what is wanted of the
        batch."""
        value = self._values.pop()
        if self._keep:
            return self._gradients.pop()
        j = len(self._values)
        self._around.rewind("reading", j)
        (reading,), *gradients = self._read((w,), batch)
        self._again.reading(j, reading, value)
        return tuple(gradients)


class KeptTape:
    """States by step number: one per block on the way forward, those of the current block on the way back.
    ``captured`` stand in for the steps."""

    def __init__(
        self,
        block_size: int,
        loop: InnerLoop,
        w0: Tensor,
        lr: Tensor,
        momentum: Tensor,
        wanted: Sequence[bool],
        captured: Steps | None,
    ) -> None:
        if captured is not None:
            loop = replace(loop, checks=False)  # they were looked at, and compute the same whatever happens
        loop = looked_at(loop, taped=True)
        self._block_size = block_size
        self._loop = loop
        self._lr = lr
        self._momentum = momentum
        self.around = Around(w0.device)
        self.again = Again(loop, len(lr), self.around, w0.device)
        self._steps = captured or steps_of(loop, wanted, self.again.saw)
        self._state = loop.optimizer.start(w0)
        self.readings = Readings(loop, self._steps.read, block_size == 1, self.around, self.again)
        self.kept: dict[int, State] = {}

    @property
    def w(self) -> Tensor:
        return self._state[0]

    def step(self, t: int) -> None:
        if t % self._block_size == 0:
            self.kept[t] = self._state
        with self.around.there("step", t):
            self._advance(t)

    def _advance(self, t: int) -> None:
        (self._state,) = self._steps.step(self._state, *self._inputs(t))

    def _inputs(self, t: int) -> Groups:
        return at(self._loop.batches, t), (self._lr[t], self._momentum[t])

    def step_back(self, t: int, d_next: State) -> Groups:
        after = self._state
        if t not in self.kept:
            start = t - t % self._block_size
            self._state = self.kept[start]
            for s in range(start, t):
                self.around.rewind("step", s)
                self._advance(s)
                self.kept[s + 1] = self._state
        self._state = self.kept.pop(t)
        self.again.expect(t, self._state, after, self._inputs(t))
        del after  # half of a state less while the step is walked back
        self.around.rewind("step", t)
        return self._steps.step_back(self._state, *self._inputs(t), d_next)

    def finish(self, w0: Tensor) -> None:
        pass


class ReversedTape:
    """Nothing kept: integers that are stepped back. Reads lr and momentum to the host once, when made; waits
    for the device."""

    def __init__(
        self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor, wanted: Sequence[bool]
    ) -> None:
        loop = looked_at(loop, taped=True)
        self._loop = loop
        self._wanted = wanted[: len(loop.batches)]
        self._lr = lr
        self.around = Around(w0.device)
        self.again = Again(loop, len(lr), self.around, w0.device)
        self.readings = Readings(loop, steps_of(loop, wanted).read, False, self.around, self.again)
        self._host_lr: list[float] = lr.tolist()
        self._fractions = [rational_momentum(m) for m in momentum.tolist()]
        self._momentum = torch.tensor([n / d for n, d in self._fractions], dtype=w0.dtype, device=w0.device)
        self._exact = FixedPointState(w0, loop.describe)

    @property
    def w(self) -> Tensor:
        return self._exact.w

    def step(self, t: int) -> None:
        batch = at(self._loop.batches, t)
        with self.around.there("step", t):
            if t == 0:
                g, self._gradient = repeatable_gradient(self._loop.loss, self.w, batch, self._wanted)
            else:
                g = self._gradient(self.w, batch)
        self._exact.step(t, g, self._host_lr[t], *self._fractions[t])
        if t + 1 == len(self._host_lr):
            self._exact.check()

    def step_back(self, t: int, d_next: State) -> Groups:
        self._exact.back_weights(self._host_lr[t])
        w = self.w
        loop = self._loop

        def restore(g: Tensor) -> State:
            self._exact.back_velocity(g, *self._fractions[t])
            return w, self._exact.v

        sizes = self._lr[t], self._momentum[t]
        self.around.rewind("step", t)
        return step_back(loop, self._wanted, w, restore, at(loop.batches, t), sizes, d_next)

    def finish(self, w0: Tensor) -> None:
        if not self._exact.is_at(w0):
            raise RuntimeError(
                "Reversible did not return to the initial weights bit for bit, so this meta-gradient "
                "would be wrong. The gradient of the inner loss must repeat exactly: use deterministic "
                "kernels (torch.use_deterministic_algorithms(True), torch.backends.cudnn.deterministic = "
                "True, cudnn.benchmark = False), and leave the loss as it is between sgd and backward (no "
                "net.eval()); or use Checkpointed"
            )
