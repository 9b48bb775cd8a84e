"""Learners drawn at random for the outer loop: a teacher that has met one architecture teaches that one.

:func:`sample` varies the run's own learner, :func:`from_space` draws from a search space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from minigtn.inner.training import Params
from minigtn.networks.learners import LearnerConfig
from minigtn.networks.spaces import Space

WIDTHS = (0.5, 0.75, 1.0, 1.25)
NORMS = ("batch", "mean-only")
HEADS = ("base", "base", "half", "none", "global")
LEAST = 4  # channels or units in a layer


def sample(base: LearnerConfig, seed: int) -> LearnerConfig:
    """A learner that is like ``base`` and yet another one; the same for the same seed, on every machine.

    Choices, drawn independently, each as likely as the other unless weighted:

    - depth: as base (2 in 5), one convolution fewer (but not none) or more, none: dense. More: a copy of the
      last, no pooling.
    - width: 0.5, 0.75, 1 or 1.25 times all channels and hidden widths, at least 4; where there is a
      convolution more: at most 1.
    - pool: max, average.
    - norm: batch, mean-only. Not none: with a fifth of such learners, whose training diverges at step sizes
      that suit the others, one meta-gradient in nine was not finite, and the teacher hardly learned
      (docs/log.md).
    - weight_norm: on, off.
    - head: hidden layers as base (2 in 5), half their widths, none, or none after global average pooling; a
      dense learner has one hidden layer at least.

    Valid for every image that ``base`` is valid for. Arithmetic: at most 1.6 times that of ``base`` for the
    presets.
    """
    draws = iter(np.random.SeedSequence(seed).generate_state(6, np.uint64).tolist())

    def pick(choices):
        return choices[next(draws) % len(choices)]

    layers = len(base.channels)
    depth = pick((0, max(layers - 1, 1), layers, layers, layers + 1)) if layers else 0
    widths = [width for width in WIDTHS if width <= 1 or depth <= layers]
    width = pick(widths)
    pool = pick(("max", "average"))
    norm = pick(NORMS)
    weight_norm = pick((True, False))
    head = pick(HEADS)
    hidden = base.hidden if head in ("base", "half") else ()
    if not depth and not hidden:
        hidden = base.hidden or base.channels[-1:]

    def scaled(sizes: tuple[int, ...], by: float) -> tuple[int, ...]:
        return tuple(max(LEAST, round(by * size)) for size in sizes)

    return dataclasses.replace(
        base,
        channels=scaled((base.channels + base.channels[-1:])[:depth], width),
        pool_after=tuple(p for p in base.pool_after if p <= depth),
        hidden=scaled(hidden, width / 2 if head == "half" else width),
        global_pool=bool(depth) and (head == "global" or base.global_pool),
        pool=pool,
        norm=norm,
        weight_norm=weight_norm,
    )


@dataclass(frozen=True)
class ModuleLearner:
    """A torch module as a :class:`~minigtn.networks.learners.Classifier`: ``make()`` builds it with fresh
    weights; no buffers, no dropout."""

    make: Callable[[], nn.Module]
    image_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        _ = self._module  # made here, because vmap allows no random numbers

    @cached_property
    def _module(self) -> nn.Module:
        return self._fresh(0)

    def _fresh(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()

    def init(
        self, seed: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Params:
        """Fresh weights from ``seed``, drawn on the CPU as the module does it; torch's own random state stays
        as it was."""
        return {name: p.detach().to(device, dtype) for name, p in self._fresh(seed).named_parameters()}

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        """Class logits (N, K) of images ``x`` (N, C, H, W)."""
        return torch.func.functional_call(self._module, params, (x,))


def from_space(space: Space, seed: int, image_shape: tuple[int, int, int], n_classes: int) -> ModuleLearner:
    """A random network of a search space as a learner; the same for the same seed, on every machine."""
    return of_space(space, space.sample(seed), image_shape, n_classes)


def of_space(space: Space, arch: str, image_shape: tuple[int, int, int], n_classes: int) -> ModuleLearner:
    """That network of a search space as a learner."""
    channels = image_shape[0]
    return ModuleLearner(lambda: space.build(arch, n_classes=n_classes, in_channels=channels), image_shape)
