"""N learners of one architecture as one: their weights stacked, every step of all of them in one pass.

    params = stack([learner.init(seed) for seed in seeds])                      # each tensor (N, ...)
    trained = sgd(SumOfLosses(learner), params, (x, y), lr, momentum)           # N training runs, independent of each other
    losses = [loss(learner, p) for p in unstack(trained)]

Learner i's weights enter the i-th term of the sum alone, so their gradient is that of its own run: nothing about
:func:`minigtn.sgd` or its adjoints changes. The gradient by what the learners share (the curriculum, lr, momentum) is the sum over them;
divide by N for a mean. Learners of different architectures, or with step sizes of their own, cannot be stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minigtn.layers import cross_entropy
from minigtn.sgd import Params

TOGETHER = 32  # learners in one pass, where that pays


class Classifier(Protocol):
    """Anything that can be taught: makes fresh weights from a seed, and logits (B, K) of images (B, C, H, W) from weights. Pure."""

    def init(self, seed: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Params: ...

    def __call__(self, params: Params, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class SumOfLosses:
    """``loss(params, (x, y))``: the sum over N stacked learners of the mean cross entropy of each, a scalar.

    ``params`` (N, ...) each. One batch for all: x (B, C, H, W), y (B, K) class probabilities or (B,) class numbers; or a batch of its own
    for each: x (N, B, C, H, W), y (N, B[, K]). Memory: N times that of one learner. Equal learners make equal losses (``==``), as
    CUDA graphs want. Do not use it for one learner, nor where :func:`most_together` says 1: the convolutions become grouped ones.
    """

    learner: Classifier

    def __call__(self, params: Params, batch: Sequence[Tensor]) -> Tensor:
        x, y = batch
        own = x.dim() == 5
        logits = torch.func.vmap(self.learner, in_dims=(0, 0 if own else None))(params, x)  # (N, B, K)
        y = y if own else y.expand(len(logits), *y.shape)
        return len(logits) * cross_entropy(logits.flatten(0, 1), y.flatten(0, 1))


def stack(learners: Sequence[Params]) -> Params:
    """The weights of N learners of one architecture as one dict of tensors (N, ...); differentiable."""
    return {name: torch.stack([params[name] for params in learners]) for name in learners[0]}


def unstack(params: Params) -> list[Params]:
    """The inverse of :func:`stack`, as views."""
    return [dict(zip(params, tensors, strict=True)) for tensors in zip(*params.values(), strict=True)]


def most_together(device: torch.device) -> int:
    """How many learners to train in one pass on this device; 1: one after the other.

    On a GPU small learners leave it idle, so many (not measured). On a CPU grouped convolutions lose what fewer calls win: 5 learners of
    the preset digits took 0.92 of the CPU time of one after the other (the meta-gradient of 4: 0.95), 5 of mnist-small 1.40; dense ones
    do gain (4 on 8x8 images: 0.50; medians of 5, one thread).
    """
    return TOGETHER if device.type == "cuda" else 1
