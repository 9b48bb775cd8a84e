"""Architecture search on an Optuna study that any number of processes on any number of hosts share.

    found = search(SearchConfig(space="nas-bench-macro", estimator="gtn", trials=100, workers=3),
    EstimatorConfig(curriculum="runs/cifar"), data)

Who runs what, and what happens when a worker dies: :mod:`minigtn.nas.study`. Who proposes what is a function
of the finished trials and the seed (:mod:`minigtn.nas.proposals`), so that one worker finds the same networks
every time; which of them get longer estimates: :mod:`minigtn.nas.rungs`. Imports Optuna when called, not with
the package.
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
from typing import Any

import torch

from minigtn.data.datasets import Dataset
from minigtn.nas.candidate import Candidate, Estimator
from minigtn.nas.proposals import History, ProposalConfig, propose
from minigtn.nas.rungs import Look, Rung, estimates, goes_on, make_rungs, order
from minigtn.nas.scores import UNTUNED, EstimatorConfig, at_fidelity
from minigtn.nas.study import Claim, Finished, SearchStopped, Study, failures, in_state
from minigtn.networks.spaces import Space
from minigtn.runs.devices import choose
from minigtn.runs.progress import progress_bar
from minigtn.runs.settings import at_least, to_dict

MAY_CHANGE = ("trials", "workers", "storage", "study", "heartbeat")  # when a search goes on


@dataclass(frozen=True)
class SearchConfig(ProposalConfig):
    """What is searched, how, and where the study is kept."""

    space: str = ""
    """Search space; by default that of the curriculum's teacher, or nas-bench-macro."""
    estimator: str = "gtn"
    """What is maximized: gtn, real, real-constant or gtn-real, at the last step, params, flops, synflow or
    naswot. Several joined by +, as in flops+naswot+gtn: the mean of a network's ranks."""
    rungs: tuple[str, ...] = ()
    """Longer estimates, such as real-128 real-512 (annealed, so many steps), one after the other for the
    better ones of the networks that came as far (minigtn.nas.rungs)."""
    keep: int = 3
    """One network in so many goes on to the next rung."""
    trials: int = 100
    """Distinct architectures to finish, over all workers and resumed runs."""
    workers: int = 1
    """Processes started here; the same command on another host adds its own."""
    storage: str = "sqlite:///study.db"
    """Where the study is kept: sqlite:///FILE on one host, postgresql://USER:PASSWORD@HOST/DATABASE for
    many."""
    study: str = "minigtn"
    """The study's name; every command that names it must have the same settings."""
    heartbeat: float = 10.0
    """Seconds between a worker's signs of life; after six missed ones its trial is tried again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, trials=1, workers=1, keep=2)
        if not 0 < self.heartbeat < math.inf:
            raise ValueError(f"heartbeat must be a positive number of seconds, but it is {self.heartbeat}")
        if "://" not in self.storage:
            raise ValueError(
                "storage must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE, but it is "
                f"{self.storage!r}"
            )


@dataclass(frozen=True)
class Found:
    """What a search found: (arch, score) of every finished trial, best first, how often each kind of failure
    was met, and by architecture the last estimate that it was given, which the score is of (the first of
    several that are joined)."""

    ranking: list[tuple[str, float]]
    failures: dict[str, int]
    reached: dict[str, str]


@dataclass(frozen=True)
class _Job:
    """All that a worker needs; picklable, tensors in shared memory."""

    config: SearchConfig
    estimators: EstimatorConfig
    data: Dataset
    space: Space
    rungs: tuple[Rung, ...]
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
    ``config`` names, rungs included. Trials carry the attributes arch, scores (a list for each rung that they
    came to), seconds, params, flops, valid_batch, worker and error, for optuna-dashboard; a score that is not
    finite is minus infinity there. Cost: ``trials`` scores over the workers, the longer ones of ``rungs`` for
    one in ``keep`` of them, one in ``keep`` of these, and so on, and a few reads of the study's list for
    each.

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
    names = (config.estimator, *config.rungs)
    make_of = partial(make_rungs, names, estimators, space, data, config.seed)
    if estimator is None:
        make_of(dict.fromkeys(estimates(names), UNTUNED))  # refused before the study is begun
    with closing(_study(config, estimators)) as study:
        tuning = dict(study.recall("tuning") or {})

        def keep(name: str, found: dict[str, Any]) -> None:
            tuning[name] = found
            study.remember("tuning", tuning)

        own = (Rung(config.estimator, (estimator,)),) if estimator else None
        rungs = own or make_of(dict(tuning), keep)
        job = _Job(config, estimators, data, space, rungs, torch.get_num_threads())
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
        study.fail_lost(study.trials())  # what a killed worker began beyond those asked for
        return _found(study.trials(), rungs)


def _found(trials: list[Any], rungs: tuple[Rung, ...]) -> Found:
    finished = in_state(trials, "COMPLETE")
    places = order([trial.user_attrs["scores"] for trial in finished])
    best_first = sorted(range(len(finished)), key=lambda i: -places[i])
    ranking = [(finished[i].user_attrs["arch"], finished[i].value) for i in best_first]
    reached = {t.user_attrs["arch"]: rungs[len(t.user_attrs["scores"]) - 1].name for t in finished}
    return Found(ranking, failures(trials), reached)


def _study(config: SearchConfig, estimators: EstimatorConfig) -> Study:
    fixed = {name: value for name, value in to_dict(config).items() if name not in MAY_CHANGE} | to_dict(
        estimators
    )
    return Study(config.storage, config.study, config.trials, config.heartbeat, fixed)


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
        claim = study.claim(trials, job.space, partial(_propose, job), job.estimators.valid_batch)
        if claim is None:
            time.sleep(min(1.0, config.heartbeat))
        else:
            _score(job, study, claim)


def _propose(job: _Job, finished: Finished, known: set[str]) -> str:
    places = order([trial.user_attrs["scores"] for _, trial in finished])
    history: History = [(arch, float(place)) for (arch, _), place in zip(finished, places, strict=True)]
    return propose(job.config, job.space, history, known)


def _climb(job: _Job, study: Study, trial: int, network: Candidate) -> tuple[list[Look], float]:
    """What is seen of the network on each rung that it comes to, and the seconds."""
    looks: list[Look] = []
    seconds = 0.0
    for number, rung in enumerate(job.rungs):
        look, took = rung.look(network)
        looks.append(look)
        seconds += took
        if number + 1 == len(job.rungs):
            break
        study.note(trial, scores=looks)
        others = [theirs[number] for theirs in study.others(trial, "scores") if len(theirs) > number]
        if not goes_on(look, others, job.config.keep):
            break
    return looks, seconds


def _score(job: _Job, study: Study, claim: Claim) -> None:
    network = Candidate(
        claim.arch, job.space, job.data, job.config.seed, job.estimators.valid_images, claim.valid_batch
    )
    with study.beating(claim.trial):
        try:
            looks, seconds = _climb(job, study, claim.trial, network)
        except KeyboardInterrupt:
            study.end(claim.trial, "PRUNED", error="stopped")
            raise
        except Exception as error:
            smaller = {"next_batch": max(1, claim.valid_batch // 2)} if _memory_ran_out(error) else {}
            study.end(claim.trial, "FAIL", error=f"{type(error).__name__}: {error}"[:500], **smaller)
        else:
            value = -math.inf if looks[-1][0] is None else looks[-1][0]
            study.end(claim.trial, "COMPLETE", value, scores=looks, seconds=round(seconds, 4))
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
