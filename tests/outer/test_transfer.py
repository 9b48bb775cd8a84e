"""The transfer matrix: what its figures are, which data it reads, and that it goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from minigtn import Curriculum, data
from minigtn.config import EvaluationConfig, RunConfig
from minigtn.data.datasets import Dataset, Split
from minigtn.networks.families import LEARNERS
from minigtn.outer import evaluate, transfer
from minigtn.outer.evaluate import real_batches, real_curves, taught_curves
from minigtn.outer.transfer import table
from minigtn.runs.seeds import Purpose, seed_for
from tiny import LEARNER, TINY

GRID = EvaluationConfig(learners=2, real_lrs=(0.01, 0.1, 0.3), real_momenta=(0.5,), tuning_learners=1)
CONFIG = dataclasses.replace(TINY, evaluation=GRID)
NAMES = ["base", "lenet"]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """A tenth of it."""
    whole = data.load("digits")
    parts = {
        name: Split(getattr(whole, name).x[:100], getattr(whole, name).y[:100])
        for name in ("train", "valid", "test")
    }
    return dataclasses.replace(whole, **parts)


@pytest.fixture(scope="module")
def curricula(digits: Dataset) -> dict[str, Curriculum]:
    """Real images as two curricula of 3 steps."""
    made = {}
    for i, name in enumerate(("one", "many")):
        x, y = real_batches(digits.train, 3, 16, seed=i)
        labels = torch.nn.functional.one_hot(y, 10).float()
        lr = torch.full((3,), 0.2 + 0.1 * i)
        made[name] = Curriculum(
            x, labels, lr, torch.full((3,), 0.5), digits.class_names, digits.mean, digits.std
        )
    return made


def test_the_figures_are_those_of_fresh_learners_on_test_data(
    digits: Dataset, curricula: dict[str, Curriculum]
) -> None:
    result = transfer.transfer(CONFIG, digits, curricula, names=NAMES, more=2)
    assert {k: result[k] for k in ("inner_steps", "batch_size", "n_learners", "more_steps")} == {
        "inner_steps": 3, "batch_size": 16, "n_learners": 2, "more_steps": 6,
    }  # fmt: skip
    assert list(result["rows"]) == NAMES
    assert [row["sampled"] for row in result["rows"].values()] == [True, False]
    seeds = [seed_for(CONFIG.seed, Purpose.TEST, i) for i in range(2)]
    for name, row in result["rows"].items():
        learner = LEARNERS[name].build(LEARNER, (1, 8, 8), 10)
        assert row["weights"] == sum(p.numel() for p in learner.init(0).values())
        for column, curriculum in curricula.items():
            last = taught_curves(learner, curriculum, digits.test, seeds, every=3)[:, -1]
            assert row["taught"][column] == pytest.approx(
                {"mean": last.mean().item(), "std": last.std().item()}
            )
        for arm, steps in (("real", 3), ("real_more", 6)):
            sizes = row[arm]["lr"], row[arm]["momentum"]
            last = real_curves(learner, digits, digits.test, seeds, steps, 16, *sizes)[:, -1]
            assert row[arm]["mean"] == pytest.approx(last.mean().item())
            assert sizes[0] in GRID.real_lrs
    json.dumps(result, allow_nan=False)


def test_step_sizes_of_the_real_arms_are_tuned_without_test_data(
    digits: Dataset, curricula: dict[str, Curriculum], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, Any]] = []

    def tune(
        learner: Any,
        data: Dataset,
        config: EvaluationConfig,
        seed: int,
        steps: int,
        batch_size: int,
        grid: Any = None,
    ) -> Any:
        calls.append((steps, grid))
        return [{"lr": lr, "momentum": 0.5, "valid_accuracy": 1 - lr} for lr in (0.01, 0.1, 0.3)]

    monkeypatch.setattr(transfer, "tune_real_arm", tune)
    monkeypatch.setattr(evaluate, "FINALISTS", 2)
    transfer.transfer(CONFIG, digits, curricula, names=["base"], more=4)
    assert calls == [(3, None), (12, [(0.01, 0.5), (0.1, 0.5)])]


def test_a_stopped_matrix_goes_on_and_is_the_same(
    digits: Dataset, curricula: dict[str, Curriculum], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "transfer.json"
    whole = transfer.transfer(CONFIG, digits, curricula, names=NAMES, more=1)
    done: list[Any] = []

    def stop(learner: Any, *args: Any) -> dict[str, Any]:
        if done:
            raise KeyboardInterrupt
        done.append(learner)
        return row(learner, *args)

    row = transfer._row
    monkeypatch.setattr(transfer, "_row", stop)
    with pytest.raises(KeyboardInterrupt):
        transfer.transfer(CONFIG, digits, curricula, path, NAMES, more=1)
    assert list(json.loads(path.read_text())["rows"]) == ["base"]
    done.clear()
    resumed = transfer.transfer(CONFIG, digits, curricula, path, NAMES, more=1)
    assert len(done) == 1  # the row that was missing
    assert resumed == whole
    assert json.loads(path.read_text())["rows"] == whole["rows"]


def test_a_file_of_other_settings_is_refused(
    digits: Dataset, curricula: dict[str, Curriculum], tmp_path: Path
) -> None:
    path = tmp_path / "transfer.json"
    transfer.transfer(CONFIG, digits, curricula, path, ["dense"], more=1)
    others: list[tuple[RunConfig, dict[str, Curriculum], int]] = [
        (dataclasses.replace(CONFIG, seed=1), curricula, 1),
        (CONFIG, {"one": curricula["one"]}, 1),
        (CONFIG, {**curricula, "one": curricula["many"]}, 1),
        (CONFIG, curricula, 2),
    ]
    for config, shown, more in others:
        with pytest.raises(ValueError, match=r"was made with other settings .*; go on with the same ones"):
            transfer.transfer(config, digits, shown, path, ["dense"], more=more)
    path.write_text("[]")
    with pytest.raises(ValueError, match="made with other settings"):
        transfer.transfer(CONFIG, digits, curricula, path, ["dense"], more=1)


def test_what_does_not_fit_is_refused(digits: Dataset, curricula: dict[str, Curriculum]) -> None:
    one = curricula["one"]
    short = dataclasses.replace(one, x=one.x[:2], y=one.y[:2], lr=one.lr[:2], momentum=one.momentum[:2])
    with pytest.raises(ValueError, match="the same number of steps and images"):
        transfer.transfer(CONFIG, digits, {"one": one, "short": short})
    with pytest.raises(ValueError, match="given none"):
        transfer.transfer(CONFIG, digits, {})
    large = dataclasses.replace(one, x=torch.zeros(3, 16, 1, 28, 28))
    with pytest.raises(
        ValueError,
        match=r"'one' teaches 10 classes of \(1, 28, 28\) images, but digits has 10 of \(1, 8, 8\)",
    ):
        transfer.transfer(CONFIG, digits, {"one": large})
    with pytest.raises(ValueError, match=r"no learner vgg; the learners are base, wide"):
        transfer.transfer(CONFIG, digits, curricula, names=["base", "vgg"])
    with pytest.raises(ValueError, match="at least 1"):
        transfer.transfer(CONFIG, digits, curricula, more=0)


def test_the_table_shows_all_and_counts_the_claim() -> None:
    def figure(mean: float) -> dict[str, float]:
        return {"mean": mean, "std": 0.0123}

    def row(one: float, many: float, real: float, more: float, sampled: bool = True) -> dict[str, Any]:
        return {
            "taught": {"one": figure(one), "many": figure(many)},
            "real": figure(real),
            "real_more": figure(more),
            "sampled": sampled,
        }

    rows = {
        "base": row(0.98, 0.97, 0.9, 0.96),
        "dense": row(0.5, 0.951, 0.96, 0.94),
        "mixer": row(0.2, 0.96, 0.8, 0.94, sampled=False),
    }
    result = {
        "inner_steps": 3,
        "batch_size": 16,
        "n_learners": 7,
        "more_steps": 30,
        "good": 0.95,
        "rows": rows,
    }
    text = table({**result, "settings": {"curricula": {"one": "", "many": ""}}})
    lines = text.splitlines()
    assert lines[0] == "test accuracy (%) after 3 steps of 16 images, n = 7 fresh learners"
    assert lines[1].split("  ")[-1].strip() == "real, 30 steps"
    assert re.split(r"\s{2,}", lines[2]) == ["base", *(f"{mean}.0 ± 1.2" for mean in (98, 97, 90, 96))]
    assert lines[4].startswith("mixer *")
    assert len({len(line) for line in lines[1:5]}) == 1
    assert "one: 1 of the 2 learners that reach 95% on real data reach it, too" in text
    assert "many: 2 of the 2 learners that reach 95% on real data reach it, too" in text
