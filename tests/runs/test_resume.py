"""A run that is stopped in any way, at any time, and resumed, is the run that was never stopped.

The commands run in processes of their own, forked from a server that has imported the package once: a run
then starts in a tenth of a second, so that it can be killed often.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from safetensors import safe_open

from minigtn.cli import main
from minigtn.runs.files import RUN_FILES, read_metrics
from tiny import EVALUATION, tiny, train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["minigtn.cli", "torch.utils.tensorboard", "sklearn.datasets"])
CONFIG = dataclasses.replace(
    tiny(outer_steps=24, checkpoint_every=4, valid_every=5),
    evaluation=dataclasses.replace(EVALUATION, learners=12),
)
FINISHED = {*RUN_FILES, "tensorboard"}


@contextmanager
def command(folder: Path, *words: str) -> Iterator[ForkServerProcess]:
    """``minigtn train`` in a process of its own, at most until the end of the block."""
    process = CONTEXT.Process(target=main, args=([*train(CONFIG, folder), *words],))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def finish(folder: Path) -> None:
    with command(folder, "--resume") as process:
        process.join(120)
        assert process.exitcode == 0


def wait_for(event: Callable[[], bool], process: ForkServerProcess) -> None:
    deadline = time.monotonic() + 60
    while not event():
        assert process.is_alive(), "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def steps_done(folder: Path) -> int:
    return len(read_metrics(folder / "metrics.jsonl"))


def assert_same_run(folder: Path, whole: Path) -> None:
    assert {p.name for p in folder.iterdir()} == FINISHED
    assert (folder / "curriculum.safetensors").read_bytes() == (whole / "curriculum.safetensors").read_bytes()
    ours, theirs = ([{**r, "seconds": 0} for r in read_metrics(f / "metrics.jsonl")] for f in (folder, whole))
    assert ours == theirs
    assert [r["step"] for r in ours] == list(range(1, 25))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(folder)
    assert {p.name for p in folder.iterdir()} == FINISHED
    return folder


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "before the first step": lambda folder: (folder / "config.json").exists(),
    "early, before a checkpoint": lambda folder: steps_done(folder) >= 3,
    "at a checkpoint": lambda folder: (
        any(folder.glob(".checkpoint.safetensors.*.part")) or steps_done(folder) >= 8
    ),
    "in the middle": lambda folder: steps_done(folder) >= 14,
    "late": lambda folder: steps_done(folder) >= 23,
    "in the evaluation": lambda folder: (folder / "curriculum.safetensors").exists(),
}


def test_killed_again_and_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for i, event in enumerate(MOMENTS.values()):
        with command(folder, "--resume") as process:
            wait_for(lambda event=event: event(folder), process)
            time.sleep(0.007 * i)  # not always at the same place
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        assert not (folder / "result.json").exists()
    finish(folder)
    assert_same_run(folder, whole)


def test_interrupted_in_meta_training(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stopped = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        with command(folder, "--resume") as process:
            wait_for(lambda after=stopped + 2: steps_done(folder) > after, process)
            os.kill(process.pid, number)
            process.join(60)
            assert process.exitcode == 130
        before = stopped
        stopped = steps_done(folder)
        assert before + 2 < stopped < 24
        # the step in hand was finished and saved
        with safe_open(folder / "checkpoint.safetensors", "pt") as file:
            assert json.loads(file.metadata()["about"])["progress"]["step"] == stopped
    finish(folder)
    assert_same_run(folder, whole)


def test_interrupted_in_the_evaluation(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with command(folder) as process:
        wait_for(lambda: (folder / "curriculum.safetensors").exists(), process)
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 130
    assert not (folder / "result.json").exists()
    finish(folder)
    assert_same_run(folder, whole)
