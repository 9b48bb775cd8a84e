"""The learners that a curriculum is judged on, :data:`LEARNERS`: some scaled from the run's own, some of
families that :mod:`minigtn.networks.sampling` never makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minigtn.networks.learners import Classifier, Learner, LearnerConfig
from minigtn.networks.sampling import LEAST, ModuleLearner


@dataclass(frozen=True)
class Entry:
    """A row of the transfer matrix."""

    about: str
    sampled: bool
    """Whether :func:`sample` makes learners of this family."""
    build: Callable[[LearnerConfig, tuple[int, int, int], int], Classifier]
    """(the run's learner, image shape, classes) -> learner."""


def _like_base(about: str, change: Callable[[LearnerConfig], dict[str, Any]]) -> Entry:
    def build(base: LearnerConfig, shape: tuple[int, int, int], classes: int) -> Learner:
        return Learner(dataclasses.replace(base, **change(base)), shape, classes)

    return Entry(about, True, build)


def _module(about: str, make: Callable[[int, int, int], nn.Module]) -> Entry:
    """``make(channels, height, classes)``."""
    return Entry(
        about,
        False,
        lambda base, shape, classes: ModuleLearner(lambda: make(shape[0], shape[1], classes), shape),
    )


def _times(sizes: tuple[int, ...], factor: float) -> tuple[int, ...]:
    return tuple(max(LEAST, round(factor * size)) for size in sizes)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


class Residual(nn.Module):
    """``x + f(x)``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.f = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class Transposed(nn.Sequential):
    """A module for the last axis, applied to the last but one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Tokens(nn.Module):
    """Images as patches (N, L, D) with a learned position each; the last rows and columns that fill no patch
    are left out."""

    def __init__(self, channels: int, size: int, patch: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x).flatten(2).transpose(1, 2) + self.position


class Mean(nn.Module):
    """The mean over axis 1: of tokens (N, L, D)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def residual(channels: int, size: int, classes: int) -> nn.Module:
    """A ResNet with two blocks at 16 and at 32 channels each (He et al. 2016), pre-activation, in batch
    statistics."""

    def block(width: int) -> Residual:
        conv = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        return Residual(_norm(width), nn.ReLU(), conv[0], _norm(width), nn.ReLU(), conv[1])

    stem = nn.Conv2d(channels, 16, 3, stride=1 if size < 16 else 2, padding=1)
    down = nn.Conv2d(16, 32, 3, stride=2, padding=1)
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(
        stem,
        block(16),
        block(16),
        down,
        block(32),
        block(32),
        _norm(32),
        nn.ReLU(),
        *pool,
        nn.Linear(32, classes),
    )


def depthwise(channels: int, size: int, classes: int) -> nn.Module:
    """Depthwise-separable convolutions (MobileNet, Howard et al. 2017), 16-32-64 channels, global average
    pooling."""

    def separable(inside: int, outside: int, stride: int) -> list[nn.Module]:
        depth = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False)
        point = nn.Conv2d(inside, outside, 1, bias=False)
        return [depth, _norm(inside), nn.ReLU(), point, _norm(outside), nn.ReLU()]

    stem = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), _norm(16), nn.ReLU()]
    layers = [*stem, *separable(16, 32, 2), *separable(32, 64, 2), *separable(64, 64, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def lenet(channels: int, size: int, classes: int) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998): tanh, average pooling, 6-16 channels, 120-84 units, no normalization;
    padded 5x5 kernels throughout."""
    conv = (
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
    )
    dense = (
        nn.Linear(16 * (size // 4) ** 2, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, classes),
    )
    return nn.Sequential(*conv, nn.Flatten(), *dense)


def mixer(channels: int, size: int, classes: int) -> nn.Module:
    """MLP-mixer (Tolstikhin et al. 2021): two blocks, tokens of 64 numbers for patches of 4x4 pixels (2x2
    below 16x16)."""
    patch = 2 if size < 16 else 4
    D = 64
    L = (size // patch) ** 2
    blocks = []
    for _ in range(2):
        between = Transposed(nn.Linear(L, 2 * L), nn.GELU(), nn.Linear(2 * L, L))
        blocks += [
            Residual(nn.LayerNorm(D), between),
            Residual(nn.LayerNorm(D), nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, D)),
        ]
    return nn.Sequential(
        Tokens(channels, size, patch, D), *blocks, nn.LayerNorm(D), Mean(), nn.Linear(D, classes)
    )


LEARNERS: dict[str, Entry] = {
    "base": _like_base("the run's learner", lambda base: {}),
    "wide": _like_base("1.5 times its channels", lambda base: {"channels": _times(base.channels, 1.5)}),
    "narrow": _like_base("half its channels", lambda base: {"channels": _times(base.channels, 0.5)}),
    "deep": _like_base("one convolution more", lambda base: {"channels": base.channels + base.channels[-1:]}),
    "plain": _like_base("batch norm, average pooling, no weight norm", lambda base: {
        "pool": "average", "norm": "batch", "weight_norm": False}),
    "headless": _like_base("no hidden layer", lambda base: {"hidden": ()}),
    "dense": _like_base("no convolutions, 128 hidden units", lambda base: {
        "channels": (), "pool_after": (), "hidden": (128,), "global_pool": False}),
    "lenet": _module("LeNet-5, tanh", lenet),
    "residual": _module("small ResNet", residual),
    "depthwise": _module("depthwise-separable", depthwise),
    "mixer": _module("MLP-mixer", mixer),
}  # fmt: skip
"""The rows of the transfer matrix by name. The first ones are scaled from the run's learner; the modules are
small and the same for all."""
