"""The main job as a library function: one folder, resumed to the same bits, never mixed with another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import minigtn
from minigtn import cli
from minigtn.data import Dataset
from minigtn.outer.loop import MetaTraining
from minigtn.runs.files import RUN_FILES, read_json, read_metrics
from tiny import TINY, train

FILES = {*RUN_FILES, "tensorboard"}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return minigtn.data.load("digits")


@pytest.fixture(scope="module")
def whole(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that was never stopped, and what the function returned."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, minigtn.train(TINY, digits, folder)


def interrupt_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in that outer step, which is finished first."""
    step = MetaTraining.outer_step

    def outer_step(self: MetaTraining, interrupted: Any) -> Any:
        return step(self, lambda: self.progress.step >= steps - 1)._replace(stop=self.progress.step >= steps)

    run = MetaTraining.run

    def stopped(self: MetaTraining, folder: Path) -> None:
        run(self, folder)
        raise KeyboardInterrupt  # as the end of deferred_interrupt does

    monkeypatch.setattr(MetaTraining, "outer_step", outer_step)
    monkeypatch.setattr(MetaTraining, "run", stopped)


def test_the_result_is_the_file(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, result = whole
    assert {path.name for path in folder.iterdir()} == FILES
    saved = read_json(folder / "result.json")
    assert json.loads(json.dumps(result)) == saved
    assert saved["n_learners"] == 2
    assert saved["gtn_accuracy"] == saved["gtn_curve"]["mean"][-1]


def test_resumed_to_the_same_bits(
    digits: Dataset, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            minigtn.train(TINY, digits, tmp_path, resume=True)  # a new folder simply starts
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
    assert not (tmp_path / "curriculum.safetensors").exists()
    result = minigtn.train(TINY, digits, tmp_path, resume=True)
    folder, expected = whole
    name = "curriculum.safetensors"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    timed = {"seconds": 0, "evaluation_seconds": 0, "seconds_per_learner": 0}
    assert {**result, **timed} == {**expected, **timed}
    ours = [{**record, "seconds": 0} for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert ours == [{**record, "seconds": 0} for record in read_metrics(folder / "metrics.jsonl")]


def test_a_finished_run_is_not_judged_again(
    digits: Dataset, whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = whole

    def never(*_: Any) -> None:
        raise AssertionError("judged again")

    monkeypatch.setattr("minigtn.outer.run.final_evaluation", never)
    assert minigtn.train(TINY, digits, folder, resume=True) == json.loads(json.dumps(result))


def test_a_folder_with_a_run_is_refused(digits: Dataset, whole: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = whole
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=f"^{folder} already holds a run"):
        minigtn.train(TINY, digits, folder)
    with pytest.raises(
        ValueError, match=r"was made with other settings \(seed: 0 -> 4\); go on with the same"
    ):
        minigtn.train(dataclasses.replace(TINY, seed=4), digits, folder, resume=True)
    with pytest.raises(ValueError, match="give one of them"):
        minigtn.train(TINY, digits, folder, resume=True, overwrite=True)
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_command_says_how_to_go_on_after_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_after(2, monkeypatch)
    with pytest.raises(SystemExit) as end:
        cli.main(train(TINY, tmp_path / "run"))
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("\nminigtn: stopped; the same command with --resume goes on\n")
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
