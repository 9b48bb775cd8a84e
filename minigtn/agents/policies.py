"""Policies: small dense networks from observations (B, F) to logits (B, K), for training many at once and as
ordinary modules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigtn.inner.training import Params

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], type[nn.Module]]] = {
    "tanh": (torch.tanh, nn.Tanh),
    "relu": (F.relu, nn.ReLU),
    "gelu": (F.gelu, nn.GELU),
    "silu": (F.silu, nn.SiLU),
}


@dataclass(frozen=True)
class PolicyConfig:
    """The network that is taught."""

    hidden: tuple[int, ...] = (32,)
    """Widths of the hidden layers; none is a linear policy."""
    activation: Literal["tanh", "relu", "gelu", "silu"] = "tanh"
    """Between the layers."""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"a hidden layer has at least one unit; given {self.hidden}")

    def module(self, n_features: int, n_actions: int, seed: int) -> nn.Sequential:
        """A fresh network of ordinary torch layers, with torch's own initialization. Its random numbers touch
        no other stream."""
        layers: list[nn.Module] = []
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs, too
            for fan_in, fan_out in itertools.pairwise((n_features, *self.hidden)):
                layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[self.activation][1]()]
            return nn.Sequential(*layers, nn.Linear((n_features, *self.hidden)[-1], n_actions))


@dataclass(frozen=True)
class Policy:
    """The same network as a pure function: ``policy(params, x)``.

    ``params`` of M stacked policies (M, ...) and x (B, F), or (M, B, F) of their own, give logits (M, B, K).
    Weights are called ``0.weight``, ``0.bias``, ``1.weight``, ...
    """

    config: PolicyConfig
    n_features: int
    n_actions: int

    def init(
        self, seeds: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Params:
        """Fresh weights of as many policies as seeds, stacked: those of :meth:`PolicyConfig.module`, number
        for number."""
        modules = [self.config.module(self.n_features, self.n_actions, seed) for seed in seeds]
        layers = [[m for m in module if isinstance(m, nn.Linear)] for module in modules]
        params = {}
        for i, same in enumerate(zip(*layers, strict=True)):
            for name in ("weight", "bias"):
                params[f"{i}.{name}"] = torch.stack([getattr(layer, name).detach() for layer in same]).to(
                    device, dtype
                )
        return params

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        last = len(self.config.hidden)
        activation = ACTIVATIONS[self.config.activation][0]
        x = x.expand(len(params["0.weight"]), *x.shape[-2:])
        for i in range(last + 1):
            # matmul chooses its kernel by what requires grad; Reversible needs the same bits there and back
            x = torch.baddbmm(params[f"{i}.bias"].unsqueeze(-2), x, params[f"{i}.weight"].mT)
            x = activation(x) if i < last else x
        return x


@dataclass(frozen=True)
class SumOfImitations:
    """``loss(params, (x, y))``: what M stacked policies lose by acting otherwise than ``y``: the sum over
    them of mean cross entropies.

    x (B, F), y (B, K) action probabilities, for all of them. As in :mod:`minigtn.outer.batched` the policies
    do not touch each other.
    """

    policy: Policy

    def __call__(self, params: Params, batch: Sequence[Tensor]) -> Tensor:
        x, y = batch
        return -(y * F.log_softmax(self.policy(params, x), -1)).sum((0, 2)).mean()
