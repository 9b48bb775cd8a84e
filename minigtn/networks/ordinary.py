"""A pool of ordinary networks for the outer loop: plain feed-forward classifiers as torch users write them.

    learner = sample(seed, image_shape=(1, 28, 28), n_classes=10)

A teacher that has met one architecture teaches that one; one that has met many of these teaches others, too.
Families that curricula are judged on never enter the pool, so that the judgement is of networks never met:
residual, depthwise, mixer, attention, and LeNet (saturating activations; two hidden dense layers after
convolutions).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from minigtn.networks.sampling import ModuleLearner

Activation = Literal["relu", "leaky-relu", "gelu", "silu", "elu"]
Down = Literal["max", "average", "stride"]
Norm = Literal["none", "batch", "group", "layer", "instance"]

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU, "leaky-relu": nn.LeakyReLU, "gelu": nn.GELU, "silu": nn.SiLU, "elu": nn.ELU,
}  # fmt: skip
MOST_MULTIPLY_ADDS = 300_000  # of one image, there; what is larger is made narrower
LEAST = 8  # channels, before a network gives up its 5x5 kernels and then becomes narrower still
STEP = 4  # channels come in multiples of it: the size of a group in group normalization


@dataclass(frozen=True)
class Ordinary:
    """A network by its parts; called, it makes the module with torch's own initialization, a new one each
    time. Equal ones make modules that compute the same."""

    image_shape: tuple[int, int, int]
    n_classes: int
    channels: tuple[int, ...]
    """Of each convolution, which keeps height and width; none: dense."""
    halvings: int
    """The first so many convolutions halve height and width."""
    kernel: int
    down: Down
    """How they do: pooling over 2x2, or a convolution of stride 2."""
    norm: Norm
    """After each convolution; after each hidden layer where there are none. Of batches: their own statistics,
    no running ones."""
    activation: Activation
    hidden: tuple[int, ...]
    """Widths of the dense layers before the last one."""
    global_pool: bool
    """Average over all positions, rather than flatten them."""

    def __call__(self) -> nn.Module:
        activation = ACTIVATIONS[self.activation]
        layers: list[nn.Module] = []
        inside = self.image_shape[0]
        for i, out in enumerate(self.channels):
            halve = i < self.halvings
            stride = 2 if halve and self.down == "stride" else 1
            layers += [nn.Conv2d(inside, out, self.kernel, stride, self.kernel // 2)]
            layers += [*_norm2d(self.norm, out), activation()]
            if halve and self.down != "stride":
                layers += [nn.MaxPool2d(2) if self.down == "max" else nn.AvgPool2d(2)]
            inside = out
        layers += [nn.AdaptiveAvgPool2d(1)] if self.global_pool else []
        layers += [nn.Flatten()]
        widths = (self.features, *self.hidden)
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after)]
            layers += [] if self.channels else _norm1d(self.norm, after)
            layers += [activation()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], self.n_classes))

    @property
    def sides(self) -> list[tuple[int, int]]:
        """Height and width of the image, and after each convolution and its pooling."""
        _, *side = self.image_shape
        sides = [(side[0], side[1])]
        for i in range(len(self.channels)):
            up = self.down == "stride"
            halved = ((sides[-1][0] + up) // 2, (sides[-1][1] + up) // 2)
            sides.append(halved if i < self.halvings else sides[-1])
        return sides

    @property
    def features(self) -> int:
        """Inputs of the first dense layer."""
        height, width = self.sides[-1]
        last = (self.image_shape[0], *self.channels)[-1]
        return last if self.global_pool else last * height * width

    @property
    def multiply_adds(self) -> int:
        """Of convolutions and dense layers, for one image."""
        inside = (self.image_shape[0], *self.channels)
        total = 0
        for i, out in enumerate(self.channels):
            at = self.sides[i + 1] if self.down == "stride" else self.sides[i]
            total += self.kernel**2 * inside[i] * out * math.prod(at)
        widths = (self.features, *self.hidden, self.n_classes)
        return total + sum(a * b for a, b in itertools.pairwise(widths))


def draw(seed: int, image_shape: tuple[int, int, int], n_classes: int) -> Ordinary:
    """A random network, the same for the same seed on every machine.

    One in four is dense: 1 to 3 hidden layers of 32 to 256 units, without normalization (half of them), or of
    batches or layers. The others: 1 to 4 convolutions of 8 to 48 channels, the same in all or doubled at each
    halving, 3x3 (2 in 3) or 5x5; max pooling, average pooling or strides; no normalization (2 in 7), batch (2
    in 7), group, layer or instance; then flattened with one hidden layer, or none, or averaged over all
    positions. ReLU (3 in 7), leaky ReLU, GELU, SiLU or ELU.

    Images of any size from 2x2; sides above 8 are halved once at least, and never below 2. Networks are made
    narrower, and their kernels smaller, until an image costs ``MOST_MULTIPLY_ADDS``; those of large images
    may cost more even so.
    """
    numbers = iter(np.random.SeedSequence(seed).generate_state(16, np.uint64).tolist())

    def pick(choices: Sequence[Any]) -> Any:
        return choices[next(numbers) % len(choices)]

    activation = pick(("relu", "relu", "relu", "leaky-relu", "gelu", "silu", "elu"))
    if pick((True, False, False, False)):
        width = pick((32, 64, 128, 256))
        hidden = (width,) * pick((1, 1, 2, 2, 3))
        norm = pick(("none", "none", "batch", "layer"))
        return Ordinary(image_shape, n_classes, (), 0, 3, "max", norm, activation, hidden, False)
    depth = pick((1, 2, 2, 3, 3, 4))
    width = pick((8, 16, 24, 32, 48))
    grows = pick((True, False))
    kernel = pick((3, 3, 5))
    down = pick(("max", "max", "average", "stride"))
    norm = pick(("none", "none", "batch", "batch", "group", "layer", "instance"))
    head = pick(("flat", "hidden", "hidden", "global"))
    units = pick((32, 64, 128))
    possible = range(_least_halvings(image_shape), _most_halvings(image_shape) + 1)
    halvings = min(pick(possible), depth)
    channels = tuple(width * 2 ** min(i, halvings) if grows else width for i in range(depth))
    # a channel that was normalized over its positions has nothing to tell by its mean over them
    global_pool = head == "global" and norm != "instance" and depth > 1
    hidden = (units,) if head == "hidden" else ()
    found = Ordinary(
        image_shape, n_classes, channels, halvings, kernel, down, norm, activation, hidden, global_pool
    )
    return _affordable(found)


def sample(seed: int, image_shape: tuple[int, int, int], n_classes: int) -> ModuleLearner:
    """The network of :func:`draw` as a learner."""
    return ModuleLearner(draw(seed, image_shape, n_classes), image_shape)


def _affordable(found: Ordinary) -> Ordinary:
    """The network, or a narrower one like it within ``MOST_MULTIPLY_ADDS``."""
    for kernel, least in ((found.kernel, LEAST), (3, LEAST), (3, STEP)):
        if found.multiply_adds > MOST_MULTIPLY_ADDS:
            found = dataclasses.replace(found, kernel=kernel)
        while found.multiply_adds > MOST_MULTIPLY_ADDS and max(found.channels) > least:
            narrower = tuple(min(c, max(least, c * 3 // 4 // STEP * STEP)) for c in found.channels)
            found = dataclasses.replace(found, channels=narrower)
    return found


def _most_halvings(image_shape: tuple[int, int, int]) -> int:
    """As many as leave 2 pixels a side, but 3 at most."""
    return min(3, int(math.log2(min(image_shape[1:]))) - 1)


def _least_halvings(image_shape: tuple[int, int, int]) -> int:
    return min(_most_halvings(image_shape), int(max(image_shape[1:]) > 8))


def _norm2d(norm: Norm, channels: int) -> list[nn.Module]:
    match norm:
        case "none":
            return []
        case "batch":
            return [nn.BatchNorm2d(channels, track_running_stats=False)]
        case "group":
            return [nn.GroupNorm(max(1, channels // STEP), channels)]
        case "layer":
            return [nn.GroupNorm(1, channels)]
        case "instance":
            return [nn.InstanceNorm2d(channels, affine=True)]


def _norm1d(norm: Norm, units: int) -> list[nn.Module]:
    match norm:
        case "batch":
            return [nn.BatchNorm1d(units, track_running_stats=False)]
        case "layer":
            return [nn.LayerNorm(units)]
        case _:
            return []
