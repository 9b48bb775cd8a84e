"""The meta-gradient of one outer step, from top to bottom: how the loss on real data of learners that were
taught depends on what they were taught with.

Source: Such et al. 2019 (arXiv 1912.07768), algorithm 1, with the intermediate meta-losses of the authors'
code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minigtn.config import MetaConfig, RunConfig
from minigtn.data import Dataset, Split, crop_and_flip
from minigtn.inner.adjoints import Adjoint, Unrolled
from minigtn.inner.memory import memory_bytes, saved_bytes
from minigtn.inner.optimizers import OPTIMIZERS
from minigtn.inner.training import Params, Readout, sgd
from minigtn.networks import ordinary
from minigtn.networks.learners import Classifier, InBfloat16, Learner, LearnerLoss
from minigtn.networks.sampling import from_space, of_space, sample
from minigtn.outer.batched import Cohort, most_together
from minigtn.outer.pool import pool_of
from minigtn.outer.ranked import Ranked, TableTargets, Targets, ranked
from minigtn.runs.devices import sent
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.teaching.curriculum import Curriculum, TrainingData
from minigtn.teaching.teacher import Teacher


class Drawn(NamedTuple):
    """What the learners of one pass start from and are judged on."""

    learner: Classifier
    """In full precision."""
    cohort: Cohort
    start: Params
    readout: Readout


class MetaGradient:
    """``add(teacher, step, learners)``: one outer step's part of the gradient, added to the ``.grad`` of the
    teacher's parameters.

    Everything random follows from (config.seed, number of the learner): learner i of outer step s has the
    number ``s * meta.learners + i``. The adjoint stays the same object, so that what it has captured or
    compiled is used again.
    """

    def __init__(self, config: RunConfig, data: Dataset) -> None:
        self.config = config
        self.data = data
        self.device = data.train.x.device
        self.adjoint = config.make_adjoint(self.device)
        self._own = base_learner(config, data)  # made at once: it refuses images that are too small
        self.pool = pool_of(config)
        self.targets: Targets | TableTargets = Targets(config, data)
        if config.meta.rank_table:
            self.targets = TableTargets(config, self.pool)
        self._pool: dict[int, Classifier] = {}
        self._drawn: dict[tuple[int, ...], Drawn] = {}
        self.ranked: Ranked | None = None
        """What the outer loss made of the networks of the latest step, where it ranks them."""

    def add(
        self, teacher: Teacher, step: int, learners: range, sum_: Callable[[list[Tensor]], None] | None = None
    ) -> Tensor:
        """Add the meta-gradient of these ``learners`` of outer step ``step``; returns their part of the
        meta-loss, ().

        With ``meta.rank_weight`` all networks of the step are compared; ``sum_`` adds up tensors over the
        workers that have them. Their readings are taken twice then, once without gradient, unless the adjoint
        keeps so little of a training that all of them wait for their walk back (:func:`waits`).
        """
        numbers = self._numbers(step, learners)
        weights: dict[int, Tensor] = {}
        if self.config.meta.rank_weight:
            if waits(self.config, self.adjoint):
                return self._ranked_at_once(self._lesson(teacher, numbers[0]), step, learners, sum_)
            self.ranked = self._first_pass(teacher, step, learners, sum_)
            weights = {number: self.ranked.weights[i] for i, number in zip(learners, numbers, strict=True)}
        shown_alike = [[number] for number in numbers] if self.config.teacher.varies else [numbers]
        total = torch.zeros((), device=self.device, dtype=self.data.train.x.dtype)
        for alike in shown_alike:
            lesson = self._lesson(teacher, alike[0])
            groups = self._in_one_pass(alike)
            losses = [
                partial(self._meta_loss, step=step, numbers=group, weights=weights.get(group[0]))
                for group in groups
            ]
            longest = self.config.meta.clip_learner / self.config.meta.learners
            total = total + add_meta_gradient(lesson, losses, longest)
        if self.ranked is not None:
            return self.ranked.loss * len(learners) / self.config.meta.learners
        return total

    @torch.no_grad()
    def _first_pass(
        self, teacher: Teacher, step: int, learners: range, sum_: Callable[[list[Tensor]], None] | None
    ) -> Ranked:
        """The readings of all networks of the step and their targets, and what the outer loss makes of
        them. What is drawn here is kept for the second pass."""
        rows: dict[int, Tensor] = {}
        numbers = self._numbers(step, learners)
        shown = self._lesson(teacher, numbers[0])
        for i, number in zip(learners, numbers, strict=True):
            if (number,) not in self._drawn:
                self._drawn[number,] = self._draw(step, [number])
            drawn = self._drawn[number,]
            if self.config.teacher.varies:
                shown = self._lesson(teacher, number)
            rows[i] = readings_of(fitted(shown, drawn), drawn.start, drawn.readout, self.adjoint)
            rows[i] = self._with_target(rows[i], step, number, drawn)
        return self._ranked(rows, sum_)

    def _ranked_at_once(
        self,
        lesson: TrainingData,
        step: int,
        learners: range,
        sum_: Callable[[list[Tensor]], None] | None,
    ) -> Tensor:
        """As :meth:`add` with two passes, in one: all networks are trained, and then walked back one by
        one."""
        readings: dict[int, Tensor] = {}
        rows: dict[int, Tensor] = {}
        shown, leaves = _detached(lesson)
        for i, number in zip(learners, self._numbers(step, learners), strict=True):
            drawn = self._drawn.pop((number,), None) or self._draw(step, [number])
            readings[i] = readings_of(fitted(shown, drawn), drawn.start, drawn.readout, self.adjoint)
            rows[i] = self._with_target(readings[i].detach(), step, number, drawn)
        self.ranked = self._ranked(rows, sum_)
        weights = self.ranked.weights
        losses = [partial(_weighed, readings=readings.pop(i), weights=weights[i]) for i in learners]
        longest = self.config.meta.clip_learner / self.config.meta.learners
        _walk_back(lesson, shown, leaves, losses, longest)
        return self.ranked.loss * len(learners) / self.config.meta.learners

    def _with_target(self, readings: Tensor, step: int, number: int, drawn: Drawn) -> Tensor:
        """The readings and, at the end, how good the network is: (R + 1,)."""
        member = self._member(step, seed_for(self.config.seed, Purpose.LEARNER, number))
        with torch.no_grad():
            target = self.targets.of(member, drawn.learner)
        return torch.cat([readings, readings.new_tensor([target])])

    def _ranked(self, rows: dict[int, Tensor], sum_: Callable[[list[Tensor]], None] | None) -> Ranked:
        """What the outer loss makes of readings and targets, ``rows`` by number in the step; those of other
        workers are asked for."""
        meta = self.config.meta
        nothing = torch.zeros_like(next(iter(rows.values())))
        of_all = torch.stack([rows.get(i, nothing) for i in range(meta.learners)])
        if sum_ is not None:
            sum_([of_all])
        return ranked(of_all[:, :-1], of_all[:, -1], meta.rank_weight, meta.rank_temperature)

    def _lesson(self, teacher: Teacher, number: int) -> TrainingData:
        """What learner ``number`` is shown; the same for all, unless the config makes it vary."""
        return teacher(seed_for(self.config.seed, Purpose.CURRICULUM, number))

    def prepare(self, step: int, learners: range) -> None:
        """Draw on the host what outer step ``step`` will need, while the device works on the one before. On
        the CPU there is nothing to overlap with, and nothing is done."""
        if self.device.type == "cpu" or step >= self.config.meta.outer_steps:
            return
        groups = self._in_one_pass(self._numbers(step, learners))
        self._drawn = {tuple(group): self._draw(step, group) for group in groups}

    def _numbers(self, step: int, learners: range) -> list[int]:
        return [step * self.config.meta.learners + i for i in learners]

    def _in_one_pass(self, numbers: list[int]) -> list[list[int]]:
        """These learners in groups that are trained in one pass: of one architecture, where that pays on the
        device."""
        alone = self.config.meta.sample_learners != "none" or self.config.teacher.varies
        most = 1 if alone else most_together(self.device)
        return [numbers[i : i + most] for i in range(0, len(numbers), most)]

    def _meta_loss(
        self, lesson: TrainingData, step: int, numbers: list[int], weights: Tensor | None
    ) -> Tensor:
        """The sum of the meta-losses of these learners, over the number of learners in an outer step; with
        ``weights`` (readings,) from a first pass, that of the readings so weighed."""
        drawn = self._drawn.pop(tuple(numbers), None) or self._draw(step, numbers)
        lesson = fitted(lesson, drawn)
        if weights is None:
            return meta_loss(lesson, drawn.start, drawn.readout, self.adjoint) / self.config.meta.learners
        return (weights * readings_of(lesson, drawn.start, drawn.readout, self.adjoint)).sum()

    def _draw(self, step: int, numbers: list[int]) -> Drawn:
        meta = self.config.meta
        train = self.data.train
        seeds = [seed_for(self.config.seed, Purpose.LEARNER, i) for i in numbers]
        learner = self._learner(step, seeds[0])
        cohort = Cohort(InBfloat16(learner) if meta.precision == "bfloat16" else learner, seeds)
        start = {name: sent(p, self.device) for name, p in cohort.start(train.x.dtype).items()}
        of_images = [seed_for(self.config.seed, Purpose.REAL_BATCH, i) for i in numbers]
        readout = real_readout(cohort, train, meta, self.config.teacher.inner_steps, of_images)
        return Drawn(learner, cohort, start, readout)

    def _learner(self, step: int, seed: int) -> Classifier:
        """The learner whose weights have that seed, in outer step ``step``; those of a pool are made once, so
        that what is captured or compiled for one is found again."""
        meta = self.config.meta
        if step < meta.sample_after or takes_own(meta, seed):
            return self._own
        if not meta.sample_pool:
            return sampled_learner(self.config, self.data, seed)
        member = self._member(step, seed)
        if member not in self._pool:
            self._pool[member] = self._of_pool(member)
        return self._pool[member]

    def _of_pool(self, member: int) -> Classifier:
        if not self.pool.archs:
            seed = seed_for(self.config.seed, Purpose.POOL, member)
            return sampled_learner(self.config, self.data, seed)
        space = self.config.make_space()
        return of_space(space, self.pool.archs[member], self.data.image_shape, self.data.n_classes)

    def _member(self, step: int, seed: int) -> int:
        """Which of the pool's learners has the weights with that seed; -1: the run's own."""
        meta = self.config.meta
        own = step < meta.sample_after or takes_own(meta, seed)
        return -1 if own else seed % meta.sample_pool


def waits(config: RunConfig, adjoint: Adjoint) -> bool:
    """Whether networks that are ranked are all trained before the first is walked back: where they are shown
    the same, and the adjoint keeps weights or less. Captured steps hold one training."""
    light = not isinstance(adjoint, Unrolled) and not getattr(adjoint, "graphs", False)
    return config.meta.rank_weight > 0 and light and not config.teacher.varies


def add_meta_gradient(
    lesson: TrainingData, losses: Sequence[Callable[[TrainingData], Tensor]], longest: float = 0.0
) -> Tensor:
    """Add the gradient of ``sum(loss(lesson) for loss in losses)`` to the ``.grad`` of the teacher's
    parameters; returns that sum.

    The losses are walked back one after the other, so that one learner at a time is in memory, and the
    generator is walked back once. With ``longest``, the gradient of a loss (by images and step sizes
    together) is scaled down where its part by the images is longer than that: a learner at the border of
    chaos would outweigh all others otherwise (such gradients: Metz et al. 2019, arXiv 1810.10180). One that
    is not finite makes the sum so.
    """
    shown, leaves = _detached(lesson)
    return _walk_back(lesson, shown, leaves, losses, longest)


def _detached(lesson: TrainingData) -> tuple[TrainingData, dict[str, Any]]:
    """The lesson cut off from its teacher, and its tensors, which gather gradients."""
    parts = {name: part for name, part in lesson._asdict().items() if isinstance(part, Tensor)}
    leaves: dict[str, Any] = {
        name: part.detach().requires_grad_(part.requires_grad) for name, part in parts.items()
    }
    return lesson._replace(**leaves), leaves


def _weighed(_: TrainingData, readings: Tensor, weights: Tensor) -> Tensor:
    return (weights * readings).sum()


def _walk_back(
    lesson: TrainingData,
    shown: TrainingData,
    leaves: dict[str, Any],
    losses: Sequence[Callable[[TrainingData], Tensor]],
    longest: float,
) -> Tensor:
    """:func:`add_meta_gradient`, with the lesson that was detached."""
    total = lesson.x.new_zeros(())
    gradients: dict[str, Tensor] = {}
    for loss in losses:
        value = loss(shown)
        value.backward()
        total += value.detach()
        by_images = leaves["x"].grad  # None where no image reaches the output, as in some cells of a space
        clipped = longest > 0 and by_images is not None
        scale = (longest / by_images.norm()).clamp(max=1) if clipped else None
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                part = leaf.grad if scale is None else scale * leaf.grad
                gradients[name] = gradients[name] + part if name in gradients else part
                leaf.grad = None
    torch.autograd.backward([getattr(lesson, name) for name in gradients], list(gradients.values()))
    return total


def meta_loss(lesson: TrainingData, params: Params, readout: Readout, adjoint: Adjoint) -> Tensor:
    """Train ``params`` on the lesson by the readout's loss; the mean of the readings, differentiable into all
    of the lesson, a scalar.

    Memory: that of the adjoint. Time: T inner steps (with ``backward``: there and back).
    """
    return readings_of(lesson, params, readout, adjoint).mean()


def readings_of(lesson: TrainingData, params: Params, readout: Readout, adjoint: Adjoint) -> Tensor:
    """The readings themselves, (n,)."""
    x, y, lr, momentum, optimizer = lesson
    return sgd(readout.loss, params, (x, y), lr, momentum, adjoint, readout, optimizer)[1]


def fitted(lesson: TrainingData, drawn: Drawn) -> TrainingData:
    """The lesson with its optimizer fitted to the weights of these learners."""
    return lesson._replace(optimizer=drawn.cohort.fitted(lesson.optimizer, drawn.start))


def real_readout(
    cohort: Cohort, train: Split, config: MetaConfig, steps: int, seeds: Sequence[int]
) -> Readout:
    """The intermediate meta-losses of one outer step: cross entropy on a fresh real batch at each reading.
    Each learner of the cohort is read on batches of its own, from its seed."""
    every = config.readout_every or steps
    own = []
    for seed in seeds:
        rng = torch.Generator().manual_seed(seed)
        x, y = train.draw(math.ceil(steps / every), config.real_batch, rng)
        own.append((crop_and_flip(x.flatten(0, 1), rng).view(x.shape) if config.augment else x, y))
    return Readout(cohort.loss, cohort.batches(own), every)


def base_learner(config: RunConfig, data: Dataset) -> Learner:
    """The run's own learner."""
    return Learner(config.learner, data.image_shape, data.n_classes)


def learner_for(config: RunConfig, data: Dataset, seed: int) -> Classifier:
    """The learner whose weights have that seed: of the run's architecture, or of one of its own."""
    own = takes_own(config.meta, seed)
    return base_learner(config, data) if own else sampled_learner(config, data, seed)


def takes_own(config: MetaConfig, seed: int) -> bool:
    """Whether the learner whose weights have that seed has the run's own architecture."""
    if config.sample_learners != "ordinary":
        return config.sample_learners == "none"
    return seed_for(seed, Purpose.OWN, 0) / 2**63 < config.sample_own


def sampled_learner(config: RunConfig, data: Dataset, seed: int) -> Classifier:
    """A learner of a random architecture, from where the settings say."""
    source = config.meta.sample_learners
    if source == "zoo":
        return Learner(sample(config.learner, seed), data.image_shape, data.n_classes)
    if source == "ordinary":
        return ordinary.sample(seed, data.image_shape, data.n_classes)
    return from_space(config.make_space(), seed, data.image_shape, data.n_classes)


def curriculum_of(
    teacher: Teacher,
    data: Dataset,
    provenance: dict[str, Any],
    seed: int = 0,
    state: dict[str, Tensor] | None = None,
) -> Curriculum:
    """What the teacher teaches now, or would in another ``state``; where it varies, to the learner with that
    seed. On its own device."""
    with torch.no_grad():
        x, y, lr, momentum, _ = torch.func.functional_call(teacher, state or {}, (seed,))
    return Curriculum(
        x.detach(),
        y,
        lr.detach(),
        momentum.detach(),
        data.class_names,
        data.mean,
        data.std,
        provenance,
        teacher.config.optimizer,
        data.moments,
    )


def estimated_bytes(config: RunConfig, data: Dataset, teacher: Teacher) -> dict[str, int]:
    """Predicted peak memory of an outer step: the adjoint's share and the teacher's, from one measured step
    on real images."""
    T = config.teacher.inner_steps
    # one of many, where they are sampled
    learner = learner_for(config, data, seed_for(config.seed, Purpose.LEARNER, 0))
    params = learner.init(0, device=data.train.x.device)
    batch = data.train.x[: config.teacher.batch_size], data.train.y[: config.teacher.batch_size]
    weights = sum(p.numel() for p in params.values())
    activations = saved_bytes(lambda: LearnerLoss(learner)(params, batch), list(params.values()))
    optimizer = OPTIMIZERS[config.teacher.optimizer]
    adjoint = config.make_adjoint(data.train.x.device)
    momentum = config.teacher.momentum
    sizes = {
        "adjoint": memory_bytes(adjoint, T, weights, activations, 4, momentum, optimizer),
        "teacher": saved_bytes(teacher.images, []),
    }
    if waits(config, adjoint):
        each = memory_bytes(adjoint, T, weights, 0, 4, momentum, optimizer)
        sizes["waiting"] = (config.meta.learners - 1) * each
    return sizes
