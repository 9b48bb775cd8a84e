"""Short trainings of a network, taught or on real data, each read at several of its steps.

A column of the table is one reading: ``gtn-16-loss`` is minus the validation loss after 16 taught steps.

| score | what is read | source |
| --- | --- | --- |
| loss | minus the mean cross entropy on validation images | |
| accuracy | the fraction of validation images that is right | Such et al. 2019 (1912.07768) |
| tse | minus the sum of the training losses so far | Ru et al. 2021 (arXiv 2006.04492) |
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigtn.nas.candidate import Candidate, Score, stopwatch
from minigtn.teaching.curriculum import Curriculum
from minigtn.teaching.fidelity import ScoreName
from minigtn.teaching.pupil import Pupil, StepSizes

SCORES: tuple[ScoreName, ...] = get_args(ScoreName)
ARMS = ("gtn", "real", "real-constant", "gtn-real")
"""Who trains: a curriculum; real data with annealed steps; real data with constant ones; a curriculum, and
from its weights on real data with annealed steps, which alone are counted in a column's name."""


class Column(NamedTuple):
    """One reading of a training."""

    arm: str
    steps: int
    score: str

    def __str__(self) -> str:
        return f"{self.arm}-{self.steps}-{self.score}"


def column_of(name: str) -> Column | None:
    """The reading that a column's name stands for; None where it is no training's."""
    match = re.fullmatch(rf"({'|'.join(ARMS)})-(\d+)-({'|'.join(SCORES)})", name)
    return Column(match[1], int(match[2]), match[3]) if match else None


def columns_of(arm: str, steps: Sequence[int], first: ScoreName) -> tuple[str, ...]:
    """Names of all readings of a training, the last step and the score ``first`` before the others."""
    scores = sorted(SCORES, key=lambda score: score != first)
    return tuple(str(Column(arm, k, score)) for k in sorted(steps, reverse=True) for score in scores)


@dataclass(frozen=True)
class TaughtTraining:
    """A network on a curriculum, with its own step sizes, read after the steps ``read_at`` (none: after the
    last).

    A network that the steps ruin is not finite from there on. Cost: those T training steps, and the
    validation images once for each reading. ``tuning`` says how the factor of its learning rates was found,
    if there was a choice, and what that cost.
    """

    curriculum: Curriculum
    read_at: tuple[int, ...] = ()
    first: ScoreName = "loss"
    tuning: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return columns_of("gtn", self.read_at or (len(self.curriculum.x),), self.first)

    def score(self, network: Candidate) -> dict[str, Score]:
        with network.built() as module:
            reader = _Reader(network, module, self.columns)
            return reader.scores(_teach(module, self.curriculum.to(network.device), reader.after_step))


@dataclass(frozen=True)
class RealTraining:
    """T steps of SGD on real batches, without augmentation, at one momentum and one learning rate for all
    networks, read after the steps ``read_at`` (none: after the last).

    ``anneal``: the learning rate falls to nothing along a cosine, so that only the last reading is that of a
    finished training. With a ``curriculum`` they begin from the weights that it, with its own step sizes,
    has taught. ``tuning`` says how lr and momentum were found and what that cost. Cost: T training steps,
    those of the curriculum, and the validation images once for each reading.
    """

    steps: int
    batch_size: int
    lr: float
    momentum: float
    anneal: bool = False
    read_at: tuple[int, ...] = ()
    first: ScoreName = "loss"
    tuning: dict[str, Any] = field(default_factory=dict)
    curriculum: Curriculum | None = None

    def __post_init__(self) -> None:
        if self.curriculum is not None and not self.anneal:
            raise ValueError("real steps that begin with taught weights are annealed: set anneal, too")

    @property
    def columns(self) -> tuple[str, ...]:
        annealed = "real" if self.curriculum is None else "gtn-real"
        arm = annealed if self.anneal else "real-constant"
        return columns_of(arm, self.read_at or (self.steps,), self.first)

    def score(self, network: Candidate) -> dict[str, Score]:
        with network.built() as module:
            reader = _Reader(network, module, self.columns)
            if self.curriculum is not None:
                _teach(module, self.curriculum.to(network.device))
            optimizer = torch.optim.SGD(module.parameters(), lr=self.lr, momentum=self.momentum)
            losses: list[Tensor] = []
            for t in range(self.steps):
                x, y = network.batch(t, self.batch_size)
                loss = F.cross_entropy(module(x), y)
                losses.append(loss.detach())
                optimizer.zero_grad()
                loss.backward()
                if self.anneal:
                    optimizer.param_groups[0]["lr"] = self.lr * (1 + math.cos(math.pi * t / self.steps)) / 2
                optimizer.step()
                reader.after_step(t + 1)
            return reader.scores(torch.stack(losses).tolist())


@dataclass(frozen=True)
class MeanOf:
    """The mean of what several estimators say, which fill the same columns; each of them is given the network
    with other initial weights. What one training by one curriculum says is noisy, and curricula err
    independently. Seconds are sums; a score is not finite where one of them is not."""

    parts: tuple[TaughtTraining, ...]
    tuning: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.parts[0].columns

    def score(self, network: Candidate) -> dict[str, Score]:
        n = len(self.parts)
        found = [
            part.score(replace(network, repeat=network.repeat * n + i)) for i, part in enumerate(self.parts)
        ]
        return {
            name: Score(
                sum(scores[name].value for scores in found) / n, sum(scores[name].seconds for scores in found)
            )
            for name in self.columns
        }


def _teach(
    module: nn.Module, curriculum: Curriculum, after_step: Callable[[int], None] | None = None
) -> list[float]:
    """The loss before each step of the curriculum, taken with the steps that it learned."""
    steps = StepSizes("learned", curriculum.optimizer, curriculum.lr, curriculum.momentum)
    return Pupil(module, curriculum).train(steps, after_step)


class _Reader:
    """Reads a training at the steps that its columns name; the clock stands still meanwhile, so that each
    reading has the seconds of a training that ends there: the steps, and the validation images once."""

    def __init__(self, network: Candidate, module: nn.Module, columns: Sequence[str]) -> None:
        self.network = network
        self.module = module
        self.columns = [column for name in columns if (column := column_of(name)) is not None]
        self.clock = stopwatch(network.device)
        self.paused = 0.0
        self.readings: dict[int, dict[str, Score]] = {}

    def after_step(self, t: int) -> None:
        if all(column.steps != t for column in self.columns):
            return
        trained = self.clock() - self.paused
        loss, accuracy = self.network.judge(self.module)
        judged = self.clock() - self.paused
        self.paused += judged - trained
        self.readings[t] = {
            "loss": Score(-loss, judged),
            "accuracy": Score(accuracy, judged),
            "tse": Score(math.nan, trained),
        }

    def scores(self, losses: Sequence[float]) -> dict[str, Score]:
        """All columns, given the training losses; what was never reached is not a number."""
        sums = list(itertools.accumulate(losses))
        broken = Score(math.nan, self.clock() - self.paused)
        result = {}
        for column in self.columns:
            score = self.readings.get(column.steps, {}).get(column.score, broken)
            if column.score == "tse" and column.steps <= len(sums):
                score = score._replace(value=-sums[column.steps - 1])
            result[str(column)] = score
        return result
