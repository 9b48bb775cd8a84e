"""The meta-gradient: how the loss on real data of a learner that was taught depends on what it was taught with.

Source: Such et al. 2019 (arXiv 1912.07768), algorithm 1, with the intermediate losses of the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minigtn.adjoints import Adjoint
from minigtn.batched import Classifier, SumOfLosses
from minigtn.config import MetaConfig, RunConfig
from minigtn.curriculum import Curriculum
from minigtn.data import Dataset, Split, crop_and_flip
from minigtn.layers import cross_entropy
from minigtn.optimisers import NAMES, Optimiser
from minigtn.second_order import saved_bytes
from minigtn.sgd import Params, Readout, sgd
from minigtn.teacher import Teacher

Lesson = tuple[Tensor, Tensor, Tensor, Tensor]
"""What a teacher hands out: x (T, B, C, H, W), y (T, B, K), lr (T,), momentum (T,)."""


@dataclass(frozen=True)
class LearnerLoss:
    """``loss(params, (x, y))``: mean cross entropy of the learner. Equal learners make equal losses, as CUDA graphs want."""

    learner: Classifier

    def __call__(self, params: Params, batch: Sequence[Tensor]) -> Tensor:
        return cross_entropy(self.learner(params, batch[0]), batch[1])


@dataclass(frozen=True)
class InBfloat16:
    """The learner computed in bfloat16 from its float32 weights; logits in float32."""

    learner: Classifier

    def init(self, seed: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Params:
        return self.learner.init(seed, dtype=dtype, device=device)

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        return self.learner({name: p.bfloat16() for name, p in params.items()}, x.bfloat16()).float()


def real_readout(learner: Classifier, train: Split, config: MetaConfig, steps: int, seeds: Sequence[int]) -> Readout:
    """The meta-losses of one outer step: cross entropy on a fresh real batch at each reading. With several seeds, those of as many stacked
    learners, each on batches of its own."""
    every = config.readout_every or steps
    batches = []
    for seed in seeds:
        rng = torch.Generator().manual_seed(seed)
        x, y = train.draw(math.ceil(steps / every), config.real_batch, rng)
        batches.append((crop_and_flip(x.flatten(0, 1), rng).view(x.shape) if config.augment else x, y))
    if len(seeds) == 1:
        return Readout(LearnerLoss(learner), batches[0], every)
    xs, ys = zip(*batches, strict=True)
    return Readout(SumOfLosses(learner), (torch.stack(xs, 1), torch.stack(ys, 1)), every)


def meta_loss(lesson: Lesson, params: Params, readout: Readout, adjoint: Adjoint, optimiser: Optimiser | None = None) -> Tensor:
    """Train ``params`` on the lesson by the readout's loss; the mean of the readings, differentiable into all of the lesson, a scalar.

    Memory: that of the adjoint. Time: T inner steps (with ``backward``: there and back).
    """
    x, y, lr, momentum = lesson
    _, readings = sgd(readout.loss, params, (x, y), lr, momentum, adjoint, readout, optimiser)
    return readings.mean()


def add_meta_gradient(lesson: Lesson, losses: Sequence[Callable[[Lesson], Tensor]]) -> Tensor:
    """Add the gradient of ``sum(loss(lesson) for loss in losses)`` to the ``.grad`` of the teacher's parameters; returns that sum.

    The losses are walked back one after the other, so that one learner at a time is in memory, and the generator is walked back once.
    """
    leaves = tuple(part.detach().requires_grad_(part.requires_grad) for part in lesson)
    total = leaves[0].new_zeros(())
    for loss in losses:
        value = loss(leaves)  # type: ignore[arg-type]
        value.backward()
        total += value.detach()
    learned = [(part, leaf.grad) for part, leaf in zip(lesson, leaves, strict=True) if leaf.grad is not None]
    torch.autograd.backward([part for part, _ in learned], [gradient for _, gradient in learned])
    return total


def curriculum_of(
    teacher: Teacher, data: Dataset, provenance: dict[str, Any], seed: int = 0, state: dict[str, Tensor] | None = None
) -> Curriculum:
    """What the teacher teaches now, or would in another ``state``; where it varies, to the learner with that seed. On its own device."""
    with torch.no_grad():
        x, y, lr, momentum = torch.func.functional_call(teacher, state or {}, (seed,))
    return Curriculum(
        x.detach(), y, lr.detach(), momentum.detach(), data.class_names, data.mean, data.std, provenance, teacher.config.optimiser
    )


def estimated_bytes(config: RunConfig, data: Dataset, teacher: Teacher, learner: Classifier) -> dict[str, int]:
    """Predicted peak memory of an outer step: the adjoint's share and the teacher's, from one measured step on real images."""
    T, B = config.teacher.inner_steps, config.teacher.batch_size
    params = learner.init(0, device=data.train.x.device)
    x, y = data.train.x[:B], data.train.y[:B]
    weights = sum(p.numel() for p in params.values())
    activations = saved_bytes(lambda: LearnerLoss(learner)(params, (x, y)), list(params.values()))
    return {
        "adjoint": config.meta.make_adjoint().memory_bytes(
            T, weights, activations, 4, config.teacher.momentum, NAMES[config.teacher.optimiser]
        ),
        "teacher": saved_bytes(teacher.images, []),
    }
