"""A search by three workers on PostgreSQL: workers and commands are killed, and the server goes away."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from faults_commands import LONGEST, Job, command, tracebacks
from postgres import NoPostgres, Postgres, postgres

WORKERS = 3
HEARTBEAT = 0.5


def database(trials: int, kills: int, away: float, place: Path, rng: np.random.Generator) -> dict[str, Any]:
    """A search of ``trials`` networks, of which ``kills`` processes are killed at random moments, and whose
    server goes away for ``away`` seconds in the middle.

    Killed are workers and, now and then, the command itself, whose workers then end. Every network is there
    once in the end, with the score that one undisturbed worker gives it."""
    try:
        with postgres() as server:
            return _search(server, trials, kills, away, place, rng)
    except NoPostgres as reason:
        return {"skipped": str(reason)}


def _argv(url: str, trials: int) -> list[str]:
    job = Job("search", Path("unused"), 0)
    argv = job.argv()
    argv[argv.index("--storage") + 1] = url
    argv[argv.index("--trials") + 1] = str(trials)
    argv[argv.index("--heartbeat") + 1] = str(HEARTBEAT)
    return [*argv, "--workers", str(WORKERS)]


def _search(
    server: Postgres, trials: int, kills: int, away: float, place: Path, rng: np.random.Generator
) -> dict[str, Any]:
    log = place / "database.log"
    counts: dict[str, Any] = {
        "workers": WORKERS, "trials": trials, "killed_workers": 0, "killed_commands": 0, "commands": 0,
        "seconds_away": 0.0,
    }  # fmt: skip
    gone = False
    finished = False
    while not finished:
        with command(_argv(server.url, trials), log) as process:
            counts["commands"] += 1
            workers = _workers(process.pid)
            while process.is_alive():
                process.join(float(rng.uniform(0.5, 2.5)))
                done = counts["killed_workers"] + counts["killed_commands"]
                if not process.is_alive():
                    break
                if not gone and _finished(server.url) >= trials // 2:
                    server.stop()
                    time.sleep(away)
                    server.start()
                    counts["seconds_away"] = away
                    gone = True
                elif done < kills and _finished(server.url) > 0:
                    workers = _workers(process.pid)
                    if workers and rng.random() < 0.7:
                        os.kill(workers[int(rng.integers(len(workers)))], signal.SIGKILL)
                        counts["killed_workers"] += 1
                    else:
                        process.kill()
                        counts["killed_commands"] += 1
            process.join(LONGEST)
            finished = process.exitcode == 0
            assert process.exitcode in (0, 1, -signal.SIGKILL), f"exit code {process.exitcode}, see {log}"
        _wait_for_the_end_of(workers)
    counts |= _verdict(server.url, trials)
    counts["tracebacks"] = tracebacks(log)
    return counts


def _workers(parent: int | None) -> list[int]:
    """Processes that score: the children of a search but for multiprocessing's own."""
    try:
        children = psutil.Process(parent).children()
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def _wait_for_the_end_of(workers: list[int]) -> None:
    """Workers see within a trial that their parent is gone."""
    deadline = time.monotonic() + LONGEST
    while any(psutil.pid_exists(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their command"
        time.sleep(0.2)


def _trials(url: str) -> list[Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(url)
    try:
        if "minigtn" not in optuna.get_all_study_names(storage):
            return []
        return list(optuna.load_study(study_name="minigtn", storage=storage).get_trials())
    finally:
        storage.engine.dispose()


def _finished(url: str) -> int:
    return sum(trial.state.name == "COMPLETE" for trial in _trials(url))


def _verdict(url: str, trials: int) -> dict[str, Any]:
    from minigtn import Candidate, ZeroCost, data, spaces

    found = _trials(url)
    complete = {t.user_attrs["arch"]: t.value for t in found if t.state.name == "COMPLETE"}
    count = sum(t.state.name == "COMPLETE" for t in found)
    space = spaces.get("nas-bench-macro")
    digits = data.load("digits")
    wrong = 0
    for arch, value in complete.items():
        network = Candidate(arch, space, digits, 0, 60, 60)
        wrong += ZeroCost("naswot", 4).score(network)["naswot"].value != value
    return {
        "complete": count,
        "distinct": len(complete),
        "as_asked": count == len(complete) == trials,
        "wrong_scores": wrong,
        "tried_again": sum(t.state.name == "FAIL" for t in found),
        "withdrawn": sum(t.state.name == "PRUNED" for t in found),
        "unfinished": sum(not t.state.is_finished() for t in found),
    }
