"""Architecture search on an Optuna study that any number of processes on any number of hosts share.

    found = search(SearchConfig(space="nas-bench-macro", estimator="gtn", trials=100, workers=3),
    EstimatorConfig(curriculum="runs/cifar"), data)

Who runs what, and what happens when a worker dies: :mod:`minigtn.nas.study`. Who proposes what is a function
of the finished trials and the seed (:func:`propose`), so that one worker finds the same networks every time.
Imports Optuna when called, not with the package.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Literal

import numpy as np
import torch

from minigtn.data.datasets import Dataset
from minigtn.nas.candidate import Candidate, Estimator
from minigtn.nas.scores import UNTUNED, EstimatorConfig, at_fidelity, make
from minigtn.nas.study import Claim, History, SearchStopped, Study, failures, in_state, parameters
from minigtn.networks.spaces import Space
from minigtn.runs.devices import choose
from minigtn.runs.progress import progress_bar
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import at_least, to_dict

MAY_CHANGE = ("trials", "workers", "storage", "study", "heartbeat")  # when a search goes on
OWN_PROPOSALS = 20  # of a sampler that repeats known architectures, before chance steps in


@dataclass(frozen=True)
class SearchConfig:
    """What is searched, how, and where the study is kept."""

    space: str = ""
    """Search space; by default that of the curriculum's teacher, or nas-bench-macro."""
    estimator: str = "gtn"
    """What is maximized: gtn, real, real-constant or gtn-real, at the last step, params, flops, synflow or
    naswot."""
    sampler: Literal["random", "tpe", "evolution"] = "evolution"
    """Who proposes: chance, Optuna's TPE (Bergstra et al. 2011), or regularized evolution (Real et al.
    2019)."""
    trials: int = 100
    """Distinct architectures to finish, over all workers and resumed runs."""
    workers: int = 1
    """Processes started here; the same command on another host adds its own."""
    seed: int = 0
    """With one worker the proposals and the scores follow from it, stopped and resumed or not."""
    storage: str = "sqlite:///study.db"
    """Where the study is kept: sqlite:///FILE on one host, postgresql://USER:PASSWORD@HOST/DATABASE for
    many."""
    study: str = "minigtn"
    """The study's name; every command that names it must have the same settings."""
    population: int = 20
    """Evolution: the latest networks, which may be parents. So many are drawn at random first, for TPE
    too."""
    tournament: int = 5
    """Evolution: of so many of them, drawn at random, the best one is mutated."""
    heartbeat: float = 10.0
    """Seconds between a worker's signs of life; after six missed ones its trial is tried again."""

    def __post_init__(self) -> None:
        at_least(self, trials=1, workers=1, seed=0, population=1, tournament=1)
        if self.sampler not in SAMPLERS:
            raise ValueError(f"there is no sampler {self.sampler!r}; there are {', '.join(SAMPLERS)}")
        if self.tournament > self.population:
            raise ValueError(
                f"a tournament of {self.tournament} cannot be drawn from a population of {self.population}; "
                "make it smaller"
            )
        if not 0 < self.heartbeat < math.inf:
            raise ValueError(f"heartbeat must be a positive number of seconds, but it is {self.heartbeat}")
        if "://" not in self.storage:
            raise ValueError(
                "storage must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE, but it is "
                f"{self.storage!r}"
            )


@dataclass(frozen=True)
class Found:
    """What a search found: (arch, score) of every finished trial, best first, and how often each kind of
    failure was met."""

    ranking: list[tuple[str, float]]
    failures: dict[str, int]


@dataclass(frozen=True)
class _Job:
    """All that a worker needs; picklable, tensors in shared memory."""

    config: SearchConfig
    estimators: EstimatorConfig
    data: Dataset
    space: Space
    estimator: Estimator
    threads: int


def search(
    config: SearchConfig,
    estimators: EstimatorConfig,
    data: Dataset,
    space: Space | None = None,
    estimator: Estimator | None = None,
    bar: bool = True,
) -> Found:
    """Begin the study or go on with it until ``config.trials`` architectures are finished; resume by calling
    again.

    Networks are scored on the device of ``data``. ``space`` and ``estimator`` stand in for those that
    ``config`` names. Trials carry the attributes arch, seconds, params, flops, valid_batch, worker and error,
    for optuna-dashboard; a score that is not finite is minus infinity there. Cost: ``trials`` scores over the
    workers, and a few reads of the study's list per score.

    Raises ValueError for settings that fit neither each other nor the study, SearchStopped when networks keep
    failing or all workers died.
    """
    estimators, space, data = at_fidelity(estimators, config.space, data, space)
    config = replace(config, space=space.name)
    size = math.prod(len(options) for options in space.choices.values())
    if config.trials > size:
        raise ValueError(
            f"{config.trials} distinct architectures were asked for, but the space {config.space} has at "
            f"most {size}"
        )
    if estimator is None:
        make(
            config.estimator, estimators, space, data, config.seed, UNTUNED
        )  # refused before the study is begun
    with closing(_study(config, estimators)) as study:
        if estimator is None:
            estimator = make(config.estimator, estimators, space, data, config.seed, study.recall("tuning"))
            if estimator.tuning:
                study.remember("tuning", estimator.tuning)
        job = _Job(config, estimators, data, space, estimator, torch.get_num_threads())
        done = len(in_state(study.trials(), "COMPLETE"))
        with progress_bar(
            total=config.trials, desc=f"search {config.study}", unit="network", initial=done, disable=not bar
        ) as shown:

            def show(trials: list[Any]) -> None:
                failed = len(in_state(trials, "FAIL"))
                shown.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
                shown.update(len(in_state(trials, "COMPLETE")) - shown.n)

            if config.workers == 1:
                _work(job, study, show)
            else:
                _start_workers(job, study, show)
        trials = study.trials()
        ranking = [(trial.user_attrs["arch"], trial.value) for trial in in_state(trials, "COMPLETE")]
        return Found(sorted(ranking, key=lambda pair: -pair[1]), failures(trials))


def _study(config: SearchConfig, estimators: EstimatorConfig) -> Study:
    fixed = {name: value for name, value in to_dict(config).items() if name not in MAY_CHANGE} | to_dict(
        estimators
    )
    return Study(config.storage, config.study, config.trials, config.heartbeat, fixed)


# ---- who proposes what ----


def propose(config: SearchConfig, space: Space, history: History, known: set[str]) -> str:
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
        f"space {config.space}"
    )


def _random(config: SearchConfig, space: Space, history: History, seed: int) -> str:
    return space.sample(seed)


def _evolution(config: SearchConfig, space: Space, history: History, seed: int) -> str:
    """Real et al. 2019 (arXiv 1802.01548), algorithm 1: of a few among the latest ones the best is mutated,
    and the oldest leaves."""
    rng = np.random.default_rng(seed)
    latest = history[-config.population :]
    drawn = rng.choice(len(latest), config.tournament, replace=False)
    parent, _ = max((latest[i] for i in drawn), key=lambda pair: pair[1])
    return space.mutate(parent, int(rng.integers(2**62)))


def _tpe(config: SearchConfig, space: Space, history: History, seed: int) -> str:
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


SAMPLERS: dict[str, Callable[[SearchConfig, Any, History, int], str]] = {
    "random": _random,
    "tpe": _tpe,
    "evolution": _evolution,
}


# ---- who works ----


def _work(job: _Job, study: Study, show: Callable[[list[Any]], None]) -> None:
    """One worker: claim, score, until all is finished."""
    config = job.config
    while True:
        trials = study.trials()
        show(trials)
        if len(in_state(trials, "COMPLETE")) >= config.trials:
            return
        if study.fail_lost(trials):
            continue  # these come before new ones: the list has to be read again
        claim = study.claim(
            trials, job.space, partial(propose, config, job.space), job.estimators.valid_batch
        )
        if claim is None:
            time.sleep(min(1.0, config.heartbeat))
        else:
            _score(job, study, claim)


def _score(job: _Job, study: Study, claim: Claim) -> None:
    network = Candidate(
        claim.arch, job.space, job.data, job.config.seed, job.estimators.valid_images, claim.valid_batch
    )
    with study.beating(claim.trial):
        try:
            score = job.estimator.score(network)[job.estimator.columns[0]]
        except KeyboardInterrupt:
            study.end(claim.trial, "PRUNED", error="stopped")
            raise
        except Exception as error:
            smaller = {"next_batch": max(1, claim.valid_batch // 2)} if _memory_ran_out(error) else {}
            study.end(claim.trial, "FAIL", error=f"{type(error).__name__}: {error}"[:500], **smaller)
        else:
            value = score.value if math.isfinite(score.value) else -math.inf
            study.end(claim.trial, "COMPLETE", value, seconds=round(score.seconds, 4))
            return
    gc.collect()  # what the failed network held
    torch.cuda.empty_cache()


def _memory_ran_out(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _start_workers(job: _Job, study: Study, show: Callable[[list[Any]], None]) -> None:
    """Processes that work until all is finished; Ctrl-C here stops them, and so does the end of this one."""
    spawn = torch.multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=_worker, args=(job, os.getpid()), daemon=True) for _ in range(job.config.workers)
    ]
    try:
        for worker in workers:
            worker.start()
        while alive := [worker.sentinel for worker in workers if worker.is_alive()]:
            wait(alive, timeout=1.0)
            show(study.trials())
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
                worker.join()
    done = len(in_state(study.trials(), "COMPLETE"))
    if done < job.config.trials:
        codes = ", ".join(str(worker.exitcode) for worker in workers)
        raise SearchStopped(
            f"all workers ended (exit codes {codes}) with {done} of {job.config.trials} networks finished; "
            "run again to go on"
        )


def _worker(job: _Job, parent: int) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    # Ctrl-C reaches the parent too, which terminates its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    choose(job.data.train.x.device.type, job.threads)

    def check_parent(_: list[Any]) -> None:
        if os.getppid() != parent:
            raise KeyboardInterrupt

    try:
        with closing(_study(job.config, job.estimators)) as study:
            _work(job, study, check_parent)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, RuntimeError) as error:
        print(f"\nworker {os.getpid()}: {error}", file=sys.stderr)
        sys.exit(1)
