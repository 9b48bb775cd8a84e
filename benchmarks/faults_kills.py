"""Commands killed by SIGKILL at random moments, and two commands at once in one folder."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from faults_commands import LONGEST, Job, command, differences, last_sentence, tracebacks

KINDS = ("train", "rank", "search")
SHARED = 3
"""Jobs that are compared with one undisturbed one."""
IN_USE = "another process is at work in"


def kills(kind: str, wanted: int, place: Path, rng: np.random.Generator) -> dict[str, Any]:
    """At least ``wanted`` kills of jobs of one kind, each job then finished and compared with an undisturbed
    one.

    After a kill the job is started again and killed again, at a moment that is uniform in the time that a
    whole one takes; what is saved for good may never become less. A job that was killed twice without having
    saved anything more is left alone until it has (an architecture whose worker dies three times is given up,
    by design).
    """
    counts: dict[str, Any] = {"kills": 0, "jobs": 0, "same_bits": 0, "steps_lost": 0, "tracebacks": 0}
    place.mkdir(parents=True, exist_ok=True)
    counts["killed_after"] = []  # how much was saved for good at each kill
    while counts["kills"] < wanted:
        number = counts["jobs"]
        seed = number // SHARED
        log = place / f"{kind}-{number}.log"
        if number % SHARED == 0:
            whole = Job(kind, place / f"{kind}-whole-{seed}" / "run", seed)
            started = time.monotonic()
            whole.finish(log)
            seconds = time.monotonic() - started
        job = Job(kind, place / f"{kind}-{number}" / "run", seed)
        kept = 0
        idle = 0
        while True:
            with command(job.argv(), log) as process:
                if idle >= 2:
                    _until_saved(job, kept, process)
                    idle = 0
                process.join(float(rng.uniform(0.0, seconds)))
                process.kill()
                process.join()
            if process.exitcode != -signal.SIGKILL:  # it was faster
                assert process.exitcode == 0, f"{kind}: exit code {process.exitcode}, see {log}"
                break
            now = job.kept()
            counts["kills"] += 1
            counts["killed_after"].append(now)
            counts["steps_lost"] += max(0, kept - now)
            idle = 0 if now > kept else idle + 1
            kept = now
        changed = differences(whole.bits(), job.bits())
        counts["jobs"] += 1
        counts["same_bits"] += not changed
        counts["tracebacks"] += tracebacks(log)
        if changed:
            counts.setdefault("changed", []).append({"job": number, "parts": changed})
        else:
            shutil.rmtree(job.folder.parent)
    counts["seconds_of_a_whole_job"] = round(seconds, 2)
    return counts


def _until_saved(job: Job, before: int, process: Any) -> None:
    deadline = time.monotonic() + LONGEST
    while process.is_alive() and job.kept() <= before:
        assert time.monotonic() < deadline, "hangs"
        time.sleep(0.05)


def two_at_once(kind: str, times: int, place: Path, rng: np.random.Generator) -> dict[str, Any]:
    """The same command twice at once in one folder: one does it, the other is told so, and nothing is mixed.
    (Of two searches both work: a study is there to be shared.)"""
    counts: dict[str, Any] = {"pairs": times, "refused": 0, "both_did": 0, "same_bits": 0, "tracebacks": 0}
    whole = Job(kind, place / f"two-{kind}-whole" / "run", 0)
    log = place / f"two-{kind}.log"
    whole.finish(log)
    for i in range(times):
        job = Job(kind, place / f"two-{kind}-{i}" / "run", 0)
        codes = []
        with command(job.argv(), log) as one:
            time.sleep(float(rng.uniform(0.0, 0.3)))
            mine = place / f"two-{kind}-{i}.log"
            with command(job.argv(), mine) as other:
                for process in (one, other):
                    process.join(LONGEST)
                    codes.append(process.exitcode)
        refused = sorted(codes) == [0, 2] and any(IN_USE in last_sentence(text) for text in (log, mine))
        assert refused or codes == [0, 0], f"{kind}: exit codes {codes}, see {log} and {mine}"
        counts["refused"] += refused
        counts["both_did"] += not refused
        same = not differences(whole.bits(), job.bits()) if kind != "search" else _each_once(job)
        counts["same_bits"] += same
        counts["tracebacks"] += tracebacks(mine)
    counts["tracebacks"] += tracebacks(log)
    return counts


def _each_once(job: Job) -> bool:
    """Whether a search has all its trials; each architecture is there once by construction."""
    return len(job.finished_trials()) == 5
