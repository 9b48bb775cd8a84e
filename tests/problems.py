"""The training runs that the tests differentiate: those of ``minigtn check``, one with shared weights, and a
plain quadratic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from minigtn import Adjoint, Unrolled
from minigtn.inner.step import InnerLoop
from minigtn.studies.problems import Problem, learner_problem, make_problem

PROBLEMS = ("dense", "conv", "tied")


@cache
def unrolled(name: str, **kwargs) -> dict[str, Tensor]:
    """The gradients of ``problem(...)`` that all others are compared with."""
    return problem(name, **kwargs).gradients(Unrolled())


def problem(name: str, *, steps: int = 7, every: int | None = 3) -> Problem:
    if name == "tied":
        rng = torch.Generator().manual_seed(0)
        sizes = {"embed": (6, 8), "recur": (6, 6)}
        params = {
            key: 0.4 * torch.randn(size, generator=rng, dtype=torch.float64) for key, size in sizes.items()
        }
        return make_problem("tied", tied, params, (2, 2, 2), steps=steps, every=every)
    return learner_problem(name, steps=steps, every=every)


def tied(params: dict[str, Tensor], x: Tensor) -> Tensor:
    """Shared weights: one matrix is used three times, the other both on the way in and on the way out."""
    h = x.flatten(1) @ params["embed"].T
    for _ in range(3):
        h = torch.tanh(h @ params["recur"].T)
    return h @ params["embed"][:, :3]


A = torch.tensor([[2.0, 0.5, 0.25], [0.5, 1.0, -0.75], [0.25, -0.75, 1.5]], dtype=torch.float64)
QUADRATIC_W0 = {
    "a": torch.tensor([1.0, -0.5], dtype=torch.float64),
    "b": torch.tensor([0.25], dtype=torch.float64),
}


def quadratic(params: dict[str, Tensor], batch: list[Tensor]) -> Tensor:
    """``w A w / 2 - c w`` for w = (a, b) (3,) and batch ``c`` (3,): all numbers dyadic."""
    w = torch.cat([params["a"], params["b"]])
    return 0.5 * w @ A.to(w) @ w - batch[0] @ w


def quadratic_batches(steps: int) -> tuple[Tensor, ...]:
    """(T, 3): a dyadic target that turns, so that training never rests."""
    t = torch.arange(steps, dtype=torch.float64)
    return (torch.stack([(t % 8) / 8, -(t % 4) / 4, ((t % 5) - 2) / 2], 1),)


@dataclass(frozen=True)
class Broken(Adjoint):
    """``inner`` with ``distort`` applied to its gradient by one input: the initial weights."""

    inner: Adjoint
    distort: Callable[[Tensor], Tensor]

    def __call__(self, loop: InnerLoop, w0: Tensor, lr: Tensor, momentum: Tensor):
        if w0.requires_grad:
            w0 = w0.clone()
            w0.register_hook(self.distort)
        return self.inner(loop, w0, lr, momentum)


def scaled(d: Tensor) -> Tensor:
    """A gradient that is wrong by a thousandth."""
    return d * 1.001


def one_wrong_entry(d: Tensor) -> Tensor:
    """A gradient with one entry out of order: its largest, wrong by a hundredth."""
    d = d.clone()
    d.view(-1)[d.abs().argmax()] *= 1.01
    return d


DISTORTIONS = (scaled, one_wrong_entry)
