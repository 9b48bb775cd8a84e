"""Which network a search looks at next: a function of the finished ones and the seed alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from minigtn.nas.study import parameters
from minigtn.networks.spaces import Space
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import at_least

OWN_PROPOSALS = 20  # of a sampler that repeats known architectures, before chance steps in
History = list[tuple[str, float]]
"""Finished architectures, in the order in which they were first proposed, with what makes them better than
others."""


@dataclass(frozen=True)
class ProposalConfig:
    """Who proposes networks."""

    sampler: Literal["random", "tpe", "evolution"] = "evolution"
    """Who proposes: chance, Optuna's TPE (Bergstra et al. 2011), or regularized evolution (Real et al.
    2019)."""
    seed: int = 0
    """With one worker the proposals and the scores follow from it, stopped and resumed or not."""
    population: int = 20
    """Evolution: the latest networks, which may be parents. So many are drawn at random first, for TPE
    too."""
    tournament: int = 5
    """Evolution: of so many of them, drawn at random, the best one is mutated."""

    def __post_init__(self) -> None:
        at_least(self, seed=0, population=1, tournament=1)
        if self.sampler not in SAMPLERS:
            raise ValueError(f"there is no sampler {self.sampler!r}; there are {', '.join(SAMPLERS)}")
        if self.tournament > self.population:
            raise ValueError(
                f"a tournament of {self.tournament} cannot be drawn from a population of {self.population}; "
                "make it smaller"
            )


def propose(config: ProposalConfig, space: Space, history: History, known: set[str]) -> str:
    """An architecture that is not ``known``: a function of its arguments alone. Random until the population
    is full."""
    root = seed_for(config.seed, Purpose.PROPOSAL, len(known))
    for attempt in range(10_000):
        sampler = (
            config.sampler if len(history) >= config.population and attempt < OWN_PROPOSALS else "random"
        )
        arch = SAMPLERS[sampler](config, space, history, seed_for(root, Purpose.PROPOSAL, attempt))
        if arch not in known:
            return arch
    raise ValueError(
        f"10,000 proposals held nothing new: the {len(known)} architectures known seem to be all of the "
        f"space {space.name}"
    )


def _random(config: ProposalConfig, space: Space, history: History, seed: int) -> str:
    return space.sample(seed)


def _evolution(config: ProposalConfig, space: Space, history: History, seed: int) -> str:
    """Real et al. 2019 (arXiv 1802.01548), algorithm 1: of a few among the latest ones the best is mutated,
    and the oldest leaves."""
    rng = np.random.default_rng(seed)
    latest = history[-config.population :]
    drawn = rng.choice(len(latest), config.tournament, replace=False)
    parent, _ = max((latest[i] for i in drawn), key=lambda pair: pair[1])
    return space.mutate(parent, int(rng.integers(2**62)))


def _tpe(config: ProposalConfig, space: Space, history: History, seed: int) -> str:
    """Bergstra et al. 2011, as Optuna has it, in a study in memory that holds the finished networks."""
    import optuna

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=0)
    )
    study.add_trials(
        [optuna.trial.create_trial(value=score, **parameters(space, arch)) for arch, score in history]
    )
    trial = study.ask()
    return space.from_choices(
        {name: trial.suggest_categorical(name, list(options)) for name, options in space.choices.items()}
    )


SAMPLERS: dict[str, Callable[[ProposalConfig, Any, History, int], str]] = {
    "random": _random,
    "tpe": _tpe,
    "evolution": _evolution,
}
