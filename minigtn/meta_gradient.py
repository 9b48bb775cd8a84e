"""The meta-gradient: how the loss on real data of a learner that was taught depends on what it was taught with.

Source: Such et al. 2019 (arXiv 1912.07768), algorithm 1, with the intermediate losses of the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minigtn.adjoints import Adjoint
from minigtn.config import MetaConfig, RunConfig
from minigtn.curriculum import Curriculum
from minigtn.data import Dataset, Split, crop_and_flip
from minigtn.layers import cross_entropy
from minigtn.learners import Learner
from minigtn.second_order import saved_bytes
from minigtn.sgd import Params, Readout, sgd
from minigtn.teacher import Teacher

Lesson = tuple[Tensor, Tensor, Tensor, Tensor]
"""What a teacher hands out: x (T, B, C, H, W), y (T, B, K), lr (T,), momentum (T,)."""


def learner_loss(learner: Learner) -> Callable[[Params, Any], Tensor]:
    """``loss(params, (x, y))``: mean cross entropy of the learner."""
    return lambda params, batch: cross_entropy(learner(params, batch[0]), batch[1])


def real_readout(learner: Learner, train: Split, config: MetaConfig, steps: int, seed: int) -> Readout:
    """The meta-losses of one outer step: cross entropy on a fresh real batch at each reading."""
    every = config.readout_every or steps
    rng = torch.Generator().manual_seed(seed)
    x, y = train.draw(math.ceil(steps / every), config.real_batch, rng)
    if config.augment:
        x = crop_and_flip(x.flatten(0, 1), rng).view(x.shape)
    return Readout(learner_loss(learner), (x, y), every)


def meta_loss(lesson: Lesson, learner: Learner, params: Params, readout: Readout, adjoint: Adjoint) -> Tensor:
    """Train ``params`` on the lesson; the mean of the readings, differentiable into all of the lesson, a scalar.

    Memory: that of the adjoint. Time: T inner steps (with ``backward``: there and back).
    """
    x, y, lr, momentum = lesson
    _, readings = sgd(learner_loss(learner), params, (x, y), lr, momentum, adjoint, readout)
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
    torch.autograd.backward(*zip(*learned, strict=True))
    return total


def curriculum_of(teacher: Teacher, data: Dataset, provenance: dict[str, Any], seed: int = 0) -> Curriculum:
    """What the teacher teaches now (where it varies: to the learner with that seed), on its own device."""
    with torch.no_grad():
        x, y, lr, momentum = (part.detach() for part in teacher(seed))
    return Curriculum(x, y, lr, momentum, data.class_names, data.mean, data.std, provenance)


def estimated_bytes(config: RunConfig, data: Dataset, teacher: Teacher, learner: Learner) -> dict[str, int]:
    """Predicted peak memory of an outer step: the adjoint's share and the teacher's, from one measured step on real images."""
    T, B = config.teacher.inner_steps, config.teacher.batch_size
    params = learner.init(0, device=data.train.x.device)
    x, y = data.train.x[:B], data.train.y[:B]
    weights = sum(p.numel() for p in params.values())
    activations = saved_bytes(lambda: learner_loss(learner)(params, (x, y)), list(params.values()))
    return {
        "adjoint": config.meta.make_adjoint().memory_bytes(T, weights, activations, 4, config.teacher.momentum),
        "teacher": saved_bytes(teacher.images, []),
    }
