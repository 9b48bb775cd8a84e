"""N learners of one architecture as one: their weights stacked, every step of all of them in one pass.

    cohort = Cohort(learner, seeds)
    trained = sgd(cohort.loss, cohort.start(), (x, y), lr, momentum)         # N independent training runs
    losses = [loss(learner, p) for p in cohort.members(trained)]

Learner i's weights enter the i-th term of the sum alone, so their gradient is that of its own run: nothing
about :func:`minigtn.sgd` or its adjoints changes. The gradient by what the learners share (the curriculum,
lr, momentum) is the sum over them; divide by N for a mean. Learners of different architectures, or with step
sizes of their own, cannot be stacked.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minigtn.inner.optimizers import Optimizer
from minigtn.inner.training import Params
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import Classifier, LearnerLoss

TOGETHER = 32  # learners in one pass, where that pays


@dataclass(frozen=True)
class SumOfLosses:
    """``loss(params, (x, y))``: the sum over N stacked learners of the mean cross entropy of each, a scalar.

    ``params`` (N, ...) each. One batch for all: x (B, C, H, W), y (B, K) class probabilities or (B,) class
    numbers; or a batch of its own for each: x (N, B, C, H, W), y (N, B[, K]). Memory: N times that of one
    learner. Equal learners make equal losses (``==``), as CUDA graphs want. Do not use it for one learner,
    nor where :func:`most_together` says 1: the convolutions become grouped ones.
    """

    learner: Classifier

    def __call__(self, params: Params, batch: Sequence[Tensor]) -> Tensor:
        x, y = batch
        own = x.dim() == 5
        logits = torch.func.vmap(self.learner, in_dims=(0, 0 if own else None))(params, x)  # (N, B, K)
        y = y if own else y.expand(len(logits), *y.shape)
        return len(logits) * cross_entropy(logits.flatten(0, 1), y.flatten(0, 1))


@dataclass(frozen=True)
class Cohort:
    """Fresh learners of one architecture that are trained in one pass, one for each of the ``seeds``; one
    alone is not stacked."""

    learner: Classifier
    seeds: Sequence[int]

    @property
    def loss(self) -> Callable[[Params, Sequence[Tensor]], Tensor]:
        """The sum of the learners' mean cross entropies."""
        return LearnerLoss(self.learner) if len(self.seeds) == 1 else SumOfLosses(self.learner)

    def start(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Params:
        """The initial weights of all."""
        fresh = [self.learner.init(seed, dtype=dtype, device=device) for seed in self.seeds]
        return fresh[0] if len(fresh) == 1 else stack(fresh)

    def fitted(self, optimizer: Optimizer, start: Params) -> Optimizer:
        """The optimizer for the weights of all, as :meth:`start` made them: where shapes matter, those of one
        learner."""
        n = len(self.seeds)
        return optimizer.fitted((p.shape if n == 1 else p.shape[1:] for p in start.values()), copies=n)

    def members(self, params: Params) -> list[Params]:
        """The weights of each, as views."""
        return [params] if len(self.seeds) == 1 else unstack(params)

    def batches(self, own: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Batches (T, B, ...) of its own for each learner, as the loss takes them."""
        return own[0] if len(own) == 1 else tuple(torch.stack(parts, 1) for parts in zip(*own, strict=True))


def stack(learners: Sequence[Params]) -> Params:
    """The weights of N learners of one architecture as one dict of tensors (N, ...); differentiable."""
    return {name: torch.stack([params[name] for params in learners]) for name in learners[0]}


def unstack(params: Params) -> list[Params]:
    """The inverse of :func:`stack`, as views."""
    return [dict(zip(params, tensors, strict=True)) for tensors in zip(*params.values(), strict=True)]


def cohorts(learner: Classifier, seeds: Iterable[int], device: torch.device) -> Iterator[Cohort]:
    """Learners with these seeds, as many in one pass as pays on the device."""
    seeds = iter(seeds)
    while group := list(itertools.islice(seeds, most_together(device))):
        yield Cohort(learner, group)


def most_together(device: torch.device) -> int:
    """How many learners to train in one pass on this device; 1: one after the other.

    On a GPU small learners leave it idle, so many. On a CPU grouped convolutions lose what fewer calls win: 5
    learners of the preset digits took 0.92 of the CPU time of one after the other (the meta-gradient of 4:
    0.95), 5 of mnist-small 1.40; dense ones do gain (4 on 8x8 images: 0.50; medians of 5, one thread).
    """
    return TOGETHER if device.type == "cuda" else 1
