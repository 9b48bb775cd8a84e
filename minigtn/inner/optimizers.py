"""Inner optimizers: one step, and the gradient back through it.

A state is a tuple of tensors ``(w, ...)``: the weights (P,), then what the optimizer keeps. ``step`` maps a
state and a gradient to the next state; ``pull_back`` is its vector-Jacobian product. So the adjoints have one
forward and one reverse loop for all optimizers.

Everything is a function of tensors alone: there is no step counter (Adam keeps the sums that its bias
correction divides by), nothing is read back to the host, and a CUDA graph can hold a step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

State = tuple[Tensor, ...]

ROOT_FLOOR = 1e-12
"""The square roots below are ``sqrt(x + ROOT_FLOOR**2)``, so that their derivatives are finite at x = 0,
where those of torch.optim are NaN. Against torch.optim the root of a second moment differs by ROOT_FLOOR at
most (eps is 10,000 times that), and where the root is above 1e-4 by less than a rounding in float64."""


@dataclass(frozen=True)
class Optimizer(ABC):
    """How the learner moves along its gradient."""

    vectors: ClassVar[int]
    """Tensors of the size of the weights (P,) in a state, the weights included."""

    @abstractmethod
    def start(self, w0: Tensor) -> State:
        """The state before the first step."""

    def fitted(self, shapes: Iterable[Sequence[int]], copies: int = 1) -> Optimizer:
        """The optimizer for weights that are the concatenation of parameters of these ``shapes``; of stacked
        learners each parameter is there ``copies`` times in a row. Itself, where shapes do not matter."""
        return self

    @abstractmethod
    def step(self, state: State, g: Tensor, lr: Tensor, momentum: Tensor) -> State:
        """The next state, from the gradient ``g`` (P,) and this step's ``lr`` and ``momentum``, both ();
        differentiable, not in place."""

    def pull_back(
        self, state: State, g: Tensor, lr: Tensor, momentum: Tensor, d_next: State
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        """The gradients by ``state``, ``g``, ``lr``, ``momentum`` of a scalar whose gradient by the next
        state is ``d_next``."""
        with torch.enable_grad():
            *before, g, lr, momentum = inputs = [
                x.detach().requires_grad_() for x in (*state, g, lr, momentum)
            ]
            after = self.step(tuple(before), g, lr, momentum)
            *d_state, d_g, d_lr, d_momentum = torch.autograd.grad(
                after, inputs, d_next, materialize_grads=True
            )
        return tuple(d_state), d_g, d_lr, d_momentum


@dataclass(frozen=True)
class SGD(Optimizer):
    """``v <- momentum*v + g``; ``w <- w - lr*v``: torch.optim.SGD without dampening. The state is (w, v)."""

    vectors: ClassVar[int] = 2

    def start(self, w0: Tensor) -> State:
        return w0, torch.zeros_like(w0)

    def step(self, state: State, g: Tensor, lr: Tensor, momentum: Tensor) -> State:
        w, v = state
        v = torch.addcmul(g, v, momentum)
        return torch.addcmul(w, v, lr, value=-1), v

    def pull_back(
        self, state: State, g: Tensor, lr: Tensor, momentum: Tensor, d_next: State
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        """In closed form (reference/README.md): lam = dL/dw stays as it is; nu = dL/dv first gathers what v
        does to w."""
        (_, v) = state
        (lam, nu) = d_next
        d_lr = -torch.dot(lam, torch.addcmul(g, v, momentum))
        nu = nu - lr * lam
        return (lam, momentum * nu), nu, d_lr, torch.dot(nu, v)


@dataclass(frozen=True)
class Adam(Optimizer):
    """torch.optim.Adam; the ``momentum`` of each step is its beta1. The state is (w, m, s, c1, c2).

    ``m <- beta1*m + (1 - beta1)*g``, ``s <- beta2*s + (1 - beta2)*g*g``, ``w <- w - lr * (m/c1) / (sqrt(s/c2)
    + eps)``. The bias corrections c1, c2 are the same averages taken of ones, so they are one minus the
    product of the betas so far: torch's ``1 - beta**t`` where beta1 is constant, and right where it changes
    from step to step. (Kingma & Ba 2014, arXiv 1412.6980, algorithm 1.)

    Where a gradient is near zero, a step turns with a slope of up to ``lr / eps``. Finite, but if a
    meta-gradient is ruled by it, take an ``eps`` of 1e-3 or more.
    """

    beta2: float = 0.999
    eps: float = 1e-8
    vectors: ClassVar[int] = 3

    def __post_init__(self) -> None:
        _check("Adam", "beta2", self.beta2, self.eps)

    def start(self, w0: Tensor) -> State:
        zero = w0.new_zeros(())
        return w0, torch.zeros_like(w0), torch.zeros_like(w0), zero, zero

    def step(self, state: State, g: Tensor, lr: Tensor, momentum: Tensor) -> State:
        w, m, s, c1, c2 = state
        m = momentum * m + (1 - momentum) * g
        c1 = momentum * c1 + (1 - momentum)
        s = self.beta2 * s + (1 - self.beta2) * g * g
        c2 = self.beta2 * c2 + (1 - self.beta2)
        return w - (lr / c1) * m / (_root(s / c2) + self.eps), m, s, c1, c2


@dataclass(frozen=True)
class MuAdam(Adam):
    """:class:`Adam` with width-aware steps, for learners of all widths. The state is (w, m, s, c1, c2, r).

    Each weight moves with the learning rate ``lr * r``. The rule: ``r = base / fan_in`` for a parameter of
    two axes or more, whose fan_in is the product of all axes but the first (torch's layout of dense and
    convolutional weights), and ``r = 1`` for vectors and scalars (biases, scales of normalizations).

    Source: Yang & Hu et al. 2022, "Tensor Programs V" (arXiv 2203.03466), table 3, the learning rates of
    Adam; Yang, Simon & Bernstein 2023 (arXiv 2310.17813) derive the same for input layers: a step of Adam
    moves each of fan_in weights by about lr, in step with their inputs, so that a unit moves by about
    ``lr * fan_in``, and division makes that the same at every width. Departures: initial weights stay as
    torch draws them (muP wants smaller output layers), and the first layer is divided, too.

    The rule looks at shapes alone. Embeddings and learned positions (rows are looked up, not summed over) get
    smaller steps than muP gives them, transposed convolutions (the input channels come first) other ones.
    ``base``: a fan_in at which matrices and vectors move alike; it is a convention, learned rates include it.

    ``fitted`` has to be called before ``start``, with the shapes; :func:`minigtn.sgd` and
    :func:`minigtn.teach` do. Where several learners are stacked along a first axis, say so (``copies``):
    that axis is none of the parameter's.
    """

    base: float = 64.0
    ratios: tuple[tuple[int, float], ...] = ()
    """(number of weights, r) of each parameter, in the order of the flat vector; made by ``fitted``."""
    vectors: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.base < math.inf:
            raise ValueError(f"MuAdam needs a positive base, not {self.base}")

    def fitted(self, shapes: Iterable[Sequence[int]], copies: int = 1) -> MuAdam:
        """With the ``ratios`` of parameters of these shapes; one that has them already stays as it is."""
        if self.ratios:
            return self
        sizes = [tuple(shape) for shape in shapes]
        return replace(self, ratios=tuple((copies * math.prod(s), lr_ratio(s, self.base)) for s in sizes))

    def start(self, w0: Tensor) -> State:
        if sum(count for count, _ in self.ratios) != len(w0):
            raise ValueError(
                f"MuAdam is fitted to {sum(count for count, _ in self.ratios)} weights and was given "
                f"{len(w0)}; call fitted with the shapes of the parameters first"
            )
        ratios = torch.cat([w0.new_full((count,), ratio) for count, ratio in self.ratios])
        return (*super().start(w0), ratios)

    def step(self, state: State, g: Tensor, lr: Tensor, momentum: Tensor) -> State:
        *adam, ratios = state
        return (*super().step(tuple(adam), g, lr * ratios, momentum), ratios)


def lr_ratio(shape: Sequence[int], base: float = 64.0) -> float:
    """What :class:`MuAdam` multiplies the learning rate of a parameter of this shape by: ``base / fan_in``
    for matrices and kernels (out, in, ...), 1 for vectors. So torch.optim.Adam takes its steps with one group
    of parameters for each: ``{"params": [p], "lr": lr * lr_ratio(p.shape)}``."""
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 0
    return base / fan_in if fan_in else 1.0


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """torch.optim.RMSprop, not centred; ``momentum`` as there. The state is (w, s, v).

    ``s <- alpha*s + (1 - alpha)*g*g``, ``v <- momentum*v + g / (sqrt(s) + eps)``, ``w <- w - lr*v``. On a
    small ``eps`` see :class:`Adam`.
    """

    alpha: float = 0.99
    eps: float = 1e-8
    vectors: ClassVar[int] = 3

    def __post_init__(self) -> None:
        _check("RMSprop", "alpha", self.alpha, self.eps)

    def start(self, w0: Tensor) -> State:
        return w0, torch.zeros_like(w0), torch.zeros_like(w0)

    def step(self, state: State, g: Tensor, lr: Tensor, momentum: Tensor) -> State:
        w, s, v = state
        s = self.alpha * s + (1 - self.alpha) * g * g
        v = momentum * v + g / (_root(s) + self.eps)
        return w - lr * v, s, v


def _root(x: Tensor) -> Tensor:
    return (x + ROOT_FLOOR**2).sqrt()


def _check(what: str, name: str, decay: float, eps: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"{what} needs 0 <= {name} < 1, not {decay}")
    if not eps >= 0:
        raise ValueError(f"{what} needs eps >= 0, not {eps}")


OPTIMIZERS: dict[str, Optimizer] = {"sgd": SGD(), "adam": Adam(), "muadam": MuAdam(), "rmsprop": RMSprop()}
"""The optimizers with their usual constants, by the names that settings and files use."""
