"""minigtn's commands in processes that can be killed, at a small size, and what makes finished runs equal.

The processes are forked from a server that has imported the package once: a run then starts in a tenth of a
second. A job is a command on digits, in a folder, that can be given again to go on.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from minigtn.cli import main
from minigtn.pages import page
from minigtn.runs.files import load_tensors, read_json, read_metrics

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("minigtn.cli", "torch._dynamo", "torch.utils.tensorboard", "sklearn.datasets", "scipy.stats"),
        *("optuna.storages._rdb.storage", "sqlalchemy.dialects.sqlite", "alembic.command"),
    ]
)
LONGEST = 300
"""Seconds after which a command counts as hanging."""
VARIES = ("seconds", "evaluation_seconds", "seconds_per_learner", "meta_training", "replay", "commit")
"""What a clock says, and what follows from it (searches within budgets of seconds); and the commit: somebody
may work on the source tree meanwhile."""


def _child(argv: list[str], log: str, file_bytes: int | None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    page.figure = _no_figure
    main(argv)


def _no_figure(title: str, draw: Any, alt: str, caption: str, *moving: Any) -> str:
    """In place of the pages' figures, whose drawing takes more time than all the rest of a small run."""
    return page.card(title, "", caption)


@contextmanager
def command(argv: list[str], log: Path, file_bytes: int | None = None) -> Iterator[ForkServerProcess]:
    """``minigtn argv`` in a process of its own, at most until the end of the block.

    Its output goes to ``log``. ``file_bytes``: no file can be made longer than that, as where a disk is full.
    """
    process = CONTEXT.Process(target=_child, args=(argv, str(log), file_bytes))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@dataclass(frozen=True)
class Job:
    """A command in ``folder``."""

    kind: str
    """train, rank or search."""
    folder: Path
    seed: int

    def argv(self) -> list[str]:
        """The command; given again it goes on."""
        out = ["--out", str(self.folder)]
        common = ["--seed", str(self.seed), "--dataset", "digits", "--device", "cpu"]
        small = [
            "--estimate.curriculum",
            "digits-10",
            "--estimate.steps",
            "2",
            "--estimate.valid-images",
            "60",
        ]
        small += [
            "--estimate.batch-size",
            "10",
            "--estimate.valid-batch",
            "60",
            "--estimate.probe-images",
            "4",
        ]
        if self.kind == "train":
            outer = ["--meta.outer-steps", "12", "--meta.checkpoint-every", "2", "--meta.valid-every", "5"]
            inner = ["--teacher.inner-steps", "2", "--teacher.batch-size", "10", "--learner.channels", "4"]
            judged = ["--evaluation.learners", "2", "--evaluation.real-lrs", "0.1", "--meta.real-batch", "32"]
            return ["train", "--preset", "tiny", *outer, *inner, *judged, "--resume", *common, *out]
        if self.kind == "rank":
            tuned = ["--estimate.real-lrs", "0.1", "--estimate.real-momenta", "0.5"]
            tuned += ["--estimate.tuning-networks", "1"]
            what = ["--estimators", "gtn", "real", "params", "--networks", "4", "--bootstrap", "5"]
            table = _table(self.folder.parent / "table.csv")
            return ["nas", "rank", str(table), *common, *small, *tuned, *what, *out]
        sampler = ["--estimator", "naswot", "--trials", "5", "--population", "3", "--tournament", "2"]
        self.folder.mkdir(parents=True, exist_ok=True)
        place = ["--storage", f"sqlite:///{self.folder}/study.db", "--heartbeat", "0.1", "--show", "0"]
        return ["nas", "search", *common, *small, *sampler, *place]

    def finish(self, log: Path) -> None:
        """Run it to its end; AssertionError where that cannot be done."""
        with command(self.argv(), log) as process:
            process.join(LONGEST)
            assert process.exitcode == 0, f"{self.kind}: exit code {process.exitcode}, see {log}"

    def bits(self) -> dict[str, Any]:
        """All that is to be the same in two runs: everything but what clocks say."""
        if self.kind == "train":
            tensors, about = load_tensors(self.folder / "checkpoint.safetensors")
            return {
                "curriculum": (self.folder / "curriculum.safetensors").read_bytes(),
                "checkpoint": {name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
                "progress": _timeless(about["progress"]),
                "metrics": _timeless(read_metrics(self.folder / "metrics.jsonl")),
                "result": _timeless(read_json(self.folder / "result.json")),
            }
        if self.kind == "rank":
            lines = read_metrics(self.folder / "scores.jsonl")
            scores = sorted((line["arch"], sorted(line["scores"].items())) for line in lines)
            rank = _timeless(read_json(self.folder / "rank.json"))
            return {"scores": scores, "rank": rank}
        return {"finished": self.finished_trials()}

    def finished_trials(self) -> list[tuple[str, float]]:
        """Architecture and score of the finished trials of a search, in the order of their first proposal."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.folder}/study.db")
        try:
            if "minigtn" not in optuna.get_all_study_names(storage):
                return []
            trials = optuna.load_study(study_name="minigtn", storage=storage).get_trials()
        finally:
            storage.engine.dispose()
        order = list(dict.fromkeys(trial.user_attrs["arch"] for trial in trials))
        done = {t.user_attrs["arch"]: t.value for t in trials if t.state.name == "COMPLETE"}
        return [(arch, done[arch]) for arch in order if arch in done]

    def kept(self) -> int:
        """How much is saved for good: outer steps in the checkpoint, networks scored, trials finished.

        Reads it in full, so that damage would be seen."""
        if self.kind == "train":
            path = self.folder / "checkpoint.safetensors"
            step = load_tensors(path)[1]["progress"]["step"] if path.exists() else 0
            steps = [record["step"] for record in read_metrics(self.folder / "metrics.jsonl")]
            assert steps[:step] == list(range(1, step + 1)), "a line of the metrics is lost"
            return step
        if self.kind == "rank":
            return len(read_metrics(self.folder / "scores.jsonl"))
        return len(self.finished_trials()) if (self.folder / "study.db").exists() else 0


def _table(path: Path) -> Path:
    if not path.exists():
        archs = ["".join(digits) + "000000" for digits in itertools.product("01", repeat=2)]
        archs += ["0" * 7 + "1", "1" + "0" * 7]
        rows = [f"{arch},{90 + i / 10}" for i, arch in enumerate(dict.fromkeys(archs))]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["arch,accuracy", *rows]) + "\n")
    return path


def _timeless(value: Any) -> Any:
    """JSON values without what a clock says."""
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if name not in VARIES}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def tracebacks(log: Path) -> int:
    """How many are in the output."""
    return log.read_text(errors="replace").count("Traceback (most recent call last)") if log.exists() else 0


def last_sentence(log: Path) -> str:
    """What minigtn said at last."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("minigtn: ")]
    return lines[-1].removeprefix("minigtn: ") if lines else ""


def differences(a: Any, b: Any) -> list[str]:
    """The parts of :meth:`Job.bits` that differ."""
    return [name for name in a if json.dumps(a[name], default=repr) != json.dumps(b[name], default=repr)]
