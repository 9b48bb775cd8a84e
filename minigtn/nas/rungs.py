"""The rungs of a search: cheap estimates of all networks, longer ones of the better third.

    rungs = make_rungs(("flops+naswot+gtn", "real-512"), config, space, data, seed, tuning={})

A rung is an estimate, or several joined by ``+``, which are compared by the mean of a network's ranks.
Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934), in the form that Optuna's pruner has it:
a network goes on if it is in the better third (or whatever part is kept) of those that were seen on its rung
so far, itself included, and one that was stopped stays stopped.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minigtn.data.datasets import Dataset
from minigtn.nas.candidate import Candidate, Estimator, Score
from minigtn.nas.scores import REAL, EstimatorConfig, make
from minigtn.nas.statistics import Array, mean_rank
from minigtn.networks.spaces import Space

Look = list[float | None]
"""The scores of a network on one rung, None where one is not finite."""


@dataclass(frozen=True)
class Rung:
    """What a network is given on one rung: the first column of each of the estimators."""

    name: str
    estimators: tuple[Estimator, ...]

    def look(self, network: Candidate) -> tuple[Look, float]:
        """The scores, and the seconds that they took together."""
        scores: list[Score] = [
            estimator.score(network)[estimator.columns[0]] for estimator in self.estimators
        ]
        look = [score.value if math.isfinite(score.value) else None for score in scores]
        return look, sum(score.seconds for score in scores)


def make_rungs(
    names: Sequence[str],
    config: EstimatorConfig,
    space: Space,
    data: Dataset,
    seed: int,
    tuning: Mapping[str, dict[str, Any]],
    keep: Callable[[str, dict[str, Any]], None] = lambda name, found: None,
) -> tuple[Rung, ...]:
    """The rungs of these names; ``real-128`` is ``real`` with so many steps. ``tuning`` holds what is tuned
    already, by the estimate's name, and ``keep`` is told the rest of it, one by one. Raises ValueError as
    :func:`minigtn.nas.scores.make` does, and for an estimate that is named twice."""
    parts = [name.split("+") for name in names]
    every = estimates(names)
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
        raise ValueError(f"each estimate has one rung, but {', '.join(twice)} is named twice; leave one out")

    def made(name: str) -> Estimator:
        sized = re.fullmatch(rf"({'|'.join(REAL)})-([1-9]\d*)", name)
        arm = sized[1] if sized else name
        settings = replace(config, real_steps=int(sized[2])) if sized else config
        estimator = make(arm, settings, space, data, seed, tuning.get(name))
        if estimator.tuning and name not in tuning:
            keep(name, estimator.tuning)
        return estimator

    return tuple(Rung(name, tuple(map(made, part))) for name, part in zip(names, parts, strict=True))


def estimates(names: Iterable[str]) -> list[str]:
    """The names of all estimates of these rungs."""
    return [part for name in names for part in name.split("+")]


def goes_on(look: Look, others: Sequence[Look], keep: int) -> bool:
    """Whether a network that looks so on a rung, beside those that were on it before, is given the next one,
    as one in ``keep`` is. Never one with a score that is not finite."""
    if None in look:
        return False
    standing = _standing([look, *others])
    return int((standing > standing[0]).sum()) < max(1, len(standing) // keep)


def order(climbs: Sequence[Sequence[Look]]) -> list[int]:
    """How many of the others each network is better than, given what was seen of it, rung by rung: one that
    came further, or as far with a better standing among all that were there."""
    standing = [0.0] * len(climbs)
    for rung in range(max(map(len, climbs), default=0)):
        there = [i for i, climb in enumerate(climbs) if len(climb) > rung]
        for i, value in zip(there, _standing([climbs[i][rung] for i in there]), strict=True):
            standing[i] = float(value)
    keys = list(zip(map(len, climbs), standing, strict=True))
    in_order = sorted(keys)
    return [bisect_left(in_order, key) for key in keys]


def _standing(looks: Sequence[Look]) -> Array:
    """The mean of each network's ranks, (n,), higher is better; a score that is not finite is below all."""
    scores = np.array([[-np.inf if value is None else value for value in look] for look in looks])
    return mean_rank(list(scores.T))
