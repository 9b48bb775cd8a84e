"""Scoring many networks, in this process or in several."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from typing import Any

import torch

from minigtn.runs.devices import choose
from minigtn.runs.distributed import WorkerLost

Task = tuple[Any, Any]
"""A network and the estimator that scores it (:mod:`minigtn.nas.scores`)."""


def score_all(
    tasks: Sequence[Task], workers: int = 1, stopped: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, Any]]:
    """(number of the task, its scores) as soon as they are known, in any order; once ``stopped()`` is true no
    other task is begun.

    With several workers each is a process that holds one network at a time; images and curriculum are in
    memory once. Scores do not depend on their number, but seconds do, where workers share a device. Raises
    WorkerLost where a worker was killed, and whatever an estimator raises.
    """
    numbered = enumerate(tasks)
    if workers == 1 or not tasks:
        for i, (network, estimator) in numbered:
            if stopped():
                return
            yield i, estimator.score(network)
        return
    spawn = torch.multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, _begin, (tasks[0][0].device.type, torch.get_num_threads()))
    running: dict[Future[Any], int] = {}
    try:
        while True:
            while len(running) < workers and not stopped() and (task := next(numbered, None)) is not None:
                running[pool.submit(_score, *task[1])] = task[0]
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()
    except BrokenProcessPool as error:
        raise WorkerLost(
            "a worker was killed, or ran out of memory; run again to go on, perhaps with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _score(network: Any, estimator: Any) -> Any:
    return estimator.score(network)


def _begin(device: str, threads: int) -> None:
    """What a worker does first: it computes as its parent does, leaves Ctrl-C to it, and does not outlive
    it."""
    choose(device, threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
