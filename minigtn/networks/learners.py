"""The networks that are taught, as pure functions of a dict of weights.

Source: the two learners of Such et al. 2019 in their authors' code, here as one family. ``mnist``: two 3x3
convolutions, each followed by pooling, normalization and leaky ReLU, one hidden dense layer, a dense head.
``cifar``: five 3x3 convolutions, pooling after the second and the fourth, global average pooling, a dense
head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from minigtn.inner.training import Params
from minigtn.networks.layers import (
    Norm,
    Pool,
    conv3x3,
    cross_entropy,
    init_layer,
    leaky_relu_,
    linear,
    normalize,
    pool,
)


class Classifier(Protocol):
    """Anything that can be taught: makes fresh weights from a seed, and logits (B, K) of images (B, C, H, W)
    from weights. Pure."""

    def init(
        self, seed: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Params: ...

    def __call__(self, params: Params, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class LearnerLoss:
    """``loss(params, (x, y))``: mean cross entropy of the learner. Equal learners make equal losses, as CUDA
    graphs want."""

    learner: Classifier

    def __call__(self, params: Params, batch: Sequence[Tensor]) -> Tensor:
        return cross_entropy(self.learner(params, batch[0]), batch[1])


@dataclass(frozen=True)
class InBfloat16:
    """The learner computed in bfloat16 from its float32 weights; logits in float32."""

    learner: Classifier

    def init(
        self, seed: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Params:
        return self.learner.init(seed, dtype=dtype, device=device)

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        return self.learner({name: p.bfloat16() for name, p in params.items()}, x.bfloat16()).float()


@dataclass(frozen=True)
class LearnerConfig:
    """A convolutional (or, without convolutions, dense) classifier."""

    channels: tuple[int, ...] = (64, 128)
    """Output channels of each 3x3 convolution; empty for a dense learner."""
    pool_after: tuple[int, ...] = (1, 2)
    """Convolutions (counted from 1) that are followed by pooling, which halves height and width."""
    hidden: tuple[int, ...] = (256,)
    """Widths of the dense layers before the head; empty with ``global_pool``."""
    global_pool: bool = False
    """Average over all positions before the dense layers (the CIFAR learner) instead of flattening them."""
    pool: Pool = "max"
    """Kind of pooling."""
    norm: Norm = "mean-only"
    """Normalization with batch statistics, before each activation."""
    weight_norm: bool = True
    """Weight normalization in every layer."""
    head_scale: float = 1.0
    """Initial scale of the head; below 1 makes training smoother ("metasmoothness", Engstrom et al. 2025)."""

    def __post_init__(self) -> None:
        wrong = [p for p in self.pool_after if not 1 <= p <= len(self.channels)]
        if wrong:
            raise ValueError(
                f"pool_after={self.pool_after} names convolution {wrong[0]}, but there are "
                f"{len(self.channels)}; use numbers from 1 to {len(self.channels)}"
            )
        if min((*self.channels, *self.hidden), default=1) < 1:
            raise ValueError(f"widths must be positive, not channels={self.channels}, hidden={self.hidden}")
        if not self.head_scale > 0:
            raise ValueError(
                "head_scale must be positive (a head that starts at zero gets no gradient), not "
                f"{self.head_scale}"
            )


MNIST_LEARNER = LearnerConfig()
CIFAR_LEARNER = LearnerConfig(
    channels=(64, 64, 128, 128, 256), pool_after=(2, 4), hidden=(), global_pool=True
)


@dataclass(frozen=True)
class Learner:
    """``logits = learner(params, x)``: ``x`` (N, C, H, W) -> (N, K). Holds no weights; :meth:`init` makes
    fresh ones."""

    config: LearnerConfig
    image_shape: tuple[int, int, int]
    n_classes: int

    def __post_init__(self) -> None:
        _ = self._shapes  # images that are too small are refused here, not at the first use

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        channels, height, width = self.image_shape
        shapes: dict[str, tuple[int, ...]] = {}
        for i, out in enumerate(self.config.channels, 1):
            shapes[f"conv{i}"] = (out, channels, 3, 3)
            channels = out
            if i in self.config.pool_after:
                up = self.config.pool == "max"
                height = (height + up) // 2
                width = (width + up) // 2
        if height < 1 or width < 1:
            raise ValueError(
                f"images of {self.image_shape} are too small for pooling after {self.config.pool_after}"
            )
        features = channels if self.config.global_pool else channels * height * width
        for i, out in enumerate(self.config.hidden, 1):
            shapes[f"dense{i}"] = (out, features)
            features = out
        shapes["head"] = (self.n_classes, features)
        return shapes

    def init(
        self, seed: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Params:
        """Fresh weights from ``seed``: the same numbers on every device (they are drawn on the CPU)."""
        rng = torch.Generator().manual_seed(seed)
        params: Params = {}
        for name, shape in self._shapes.items():
            head = name == "head"
            params |= init_layer(
                name,
                shape,
                rng,
                weight_norm=self.config.weight_norm,
                norm="none" if head else self.config.norm,
                scale=self.config.head_scale if head else 1.0,
                dtype=dtype,
            )
        return {name: p.to(device) for name, p in params.items()}

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        """Class logits (N, K) of images ``x`` (N, C, H, W)."""
        norm = self.config.norm
        for i in range(1, len(self.config.channels) + 1):
            x = conv3x3(params, f"conv{i}", x)
            if i in self.config.pool_after:
                x = pool(x, self.config.pool)
            x = leaky_relu_(normalize(params, f"conv{i}", x, norm))
        x = x.mean((2, 3)) if self.config.global_pool else x.flatten(1)
        for i in range(1, len(self.config.hidden) + 1):
            x = leaky_relu_(normalize(params, f"dense{i}", linear(params, f"dense{i}", x), norm))
        return normalize(params, "head", linear(params, "head", x), "none")
