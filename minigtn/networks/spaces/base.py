"""What every search space offers, and the few layers that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Space(ABC):
    """A set of architectures. Each has one canonical string; the methods that return an ``arch`` return that
    one.

    A search sees an architecture as one value for every name in ``choices``. In some spaces several such
    dicts are the same network: ``from_choices(to_choices(arch)) == arch`` always holds,
    ``to_choices(from_choices(d)) == d`` need not.
    """

    name: ClassVar[str]
    sizes: ClassVar[tuple[str, ...]] = ()
    """The arguments that make networks of this space wider or deeper."""
    choices: Mapping[str, tuple[str, ...]]
    """What a search decides: the values that each name can take, in a fixed order."""

    @abstractmethod
    def parse(self, arch: str) -> tuple[str, ...]:
        """One value per name of ``choices``; ValueError, in one sentence, for a string that is no
        architecture of this space."""

    @abstractmethod
    def format(self, values: Sequence[str]) -> str:
        """The canonical string; the inverse of :meth:`parse`, which checks nothing."""

    @abstractmethod
    def build(
        self, arch: str, n_classes: int = 10, in_channels: int = 3, running_stats: bool = False
    ) -> nn.Module:
        """A fresh network: images (B, ``in_channels``, H, W) -> logits (B, ``n_classes``). Weights are drawn
        from torch's global generator.

        ``running_stats=False`` normalizes with the statistics of the batch at hand, in training and in
        evaluation: right for a learner that takes a handful of steps (running averages have not warmed up)
        and for ``torch.func.functional_call`` inside the outer loop (there is no hidden state). ``True``
        keeps the usual running averages for ``eval()``: right for a full training. Not for batches of one
        image. ValueError where ``arch`` is no architecture of this space.
        """

    def valid(self, arch: str) -> bool:
        """Whether ``arch`` names a network of this space."""
        try:
            self.parse(arch)
        except ValueError:
            return False
        return True

    def to_choices(self, arch: str) -> dict[str, str]:
        """The architecture as a search sees it."""
        return dict(zip(self.choices, self.parse(arch), strict=True))

    def from_choices(self, choices: Mapping[str, Any]) -> str:
        """The architecture with these values; ValueError where a name is missing or unknown, or a value is
        not allowed."""
        wrong = sorted(self.choices.keys() ^ choices.keys())
        if wrong:
            raise ValueError(
                f"an architecture of {self.name} needs the choices {', '.join(self.choices)}; missing or "
                f"unknown: {wrong}"
            )
        for name, allowed in self.choices.items():
            if choices[name] not in allowed:
                raise ValueError(f"{self.name}: {name} can be {', '.join(allowed)}, not {choices[name]!r}")
        return self.format([choices[name] for name in self.choices])

    def sample(self, seed: int) -> str:
        """A random architecture: every choice uniform, and independent of the others."""
        rng = np.random.default_rng(seed)
        return self.format([allowed[rng.integers(len(allowed))] for allowed in self.choices.values()])

    def mutate(self, arch: str, seed: int) -> str:
        """Another network, one random choice away (for regularized evolution, Real et al. 2019)."""
        rng = np.random.default_rng(seed)
        values = list(self.parse(arch))
        arch = self.format(values)
        open_ = [i for i, allowed in enumerate(self.choices.values()) if len(allowed) > 1]
        while True:  # a changed choice may still be the same network
            i = open_[rng.integers(len(open_))]
            others = [v for v in list(self.choices.values())[i] if v != values[i]]
            mutant = self.format([*values[:i], others[rng.integers(len(others))], *values[i + 1 :]])
            if mutant != arch:
                return mutant

    def params(self, arch: str) -> int:
        """Weights of the network for 3 x 32 x 32 images and 10 classes. Time: tens of milliseconds; no weight
        is allocated."""
        with torch.device("meta"):
            return sum(p.numel() for p in self.build(arch).parameters())

    def flops(self, arch: str) -> int:
        """Multiply-adds of the convolutions and of the linear layer (without its bias) for one 3 x 32 x 32
        image and 10 classes.

        Normalization, activations, pooling and additions are not counted, as in the published tables. Time:
        tens of milliseconds.
        """
        counts: list[int] = []
        with torch.device("meta"):
            network = self.build(arch).eval()
        for parent in list(network.modules()):
            for name, layer in parent.named_children():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    setattr(parent, name, _Counter(layer, counts))
                elif isinstance(layer, nn.BatchNorm2d | nn.ReLU):
                    setattr(parent, name, nn.Identity())
        network(torch.zeros(1, 3, 32, 32))
        return sum(counts)


class _Counter(nn.Module):
    """Stands in for a layer: notes its multiply-adds and returns zeros of its shape. (Running layers on the
    meta device would do, too, but the first of them takes seconds to import torch's decompositions.)"""

    def __init__(self, layer: nn.Conv2d | nn.Linear, counts: list[int]) -> None:
        super().__init__()
        self.layer = layer
        self.counts = counts

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        size = []
        if isinstance(layer, nn.Conv2d):
            padding: Any = layer.padding
            window = zip(x.shape[2:], layer.kernel_size, layer.stride, padding, strict=True)
            size = [(n + 2 * pad - kernel) // stride + 1 for n, kernel, stride, pad in window]
        outputs = len(layer.weight)
        result = torch.zeros(()).expand(len(x), outputs, *size)
        # each number is a sum over one filter
        self.counts.append(result.numel() * layer.weight.numel() // outputs)
        return result


class GlobalAverage(nn.Module):
    """(B, C, H, W) -> (B, C). (``nn.AdaptiveAvgPool2d`` has no deterministic backward on CUDA.)"""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Strided1x1(nn.Conv2d):
    """A 1x1 convolution with a stride, as one without on the pixels that it sees.

    The way back through ``nn.Conv2d`` writes outside of its memory, or is wrong, where a channels-last input
    has fewer than 8 channels (torch 2.13 on the CPU; oneDNN issue 6035).
    """

    def forward(self, x: Tensor) -> Tensor:
        down, right = self.stride
        return F.conv2d(x[:, :, ::down, ::right], self.weight, self.bias)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size, or halves it with stride 2, rounded up."""
    kind = Strided1x1 if kernel == 1 and stride > 1 else nn.Conv2d
    return kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def batch_norm(channels: int, running_stats: bool) -> nn.BatchNorm2d:
    """Batch normalization with scale and shift; see :meth:`Space.build` for ``running_stats``."""
    return nn.BatchNorm2d(channels, track_running_stats=running_stats)


def relu_conv_bn(inputs: int, outputs: int, kernel: int, stride: int, running_stats: bool) -> nn.Sequential:
    """ReLU, a convolution that keeps the size (or halves it with stride 2, rounded up), batch
    normalization."""
    conv = convolution(inputs, outputs, kernel, stride)
    return nn.Sequential(nn.ReLU(), conv, batch_norm(outputs, running_stats))


def check_sizes(space: Space) -> None:
    """ValueError where a size is not a positive whole number."""
    for size in space.sizes:
        value = getattr(space, size)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{space.name}: {size} must be a whole number from 1, not {value!r}")
