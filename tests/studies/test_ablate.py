"""Ablations: the tables' settings, the statistics, and a whole small one that is stopped and goes on."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from pathlib import Path

import pytest

from minigtn import data
from minigtn.config import PRESETS, RunConfig
from minigtn.data.datasets import Dataset
from minigtn.outer.loop import MetaTraining
from minigtn.studies import ablate
from minigtn.studies.ablate import TABLES, Table, changed, mean_and_interval
from tiny import TINY, tiny


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_a_config_of_its_own(table: str, digits: Dataset) -> None:
    configs = [changed(TINY, settings) for settings in TABLES[table].rows.values()]
    assert all(isinstance(config, RunConfig) for config in configs)
    assert len({str(config) for config in configs}) == len(configs) >= 2
    for config in configs:
        if config.teacher.inner_steps <= 4:
            assert math.isfinite(MetaTraining(config, digits).outer_step().meta_loss)


def test_settings_are_changed_by_dotted_name() -> None:
    config = changed(TINY, {"teacher.lr": 0.3, "learner.weight_norm": False, "seed": 5})
    assert (config.teacher.lr, config.learner.weight_norm, config.seed) == (0.3, False, 5)
    assert dataclasses.replace(config, teacher=TINY.teacher, learner=TINY.learner, seed=0) == TINY
    with pytest.raises((TypeError, AttributeError)):
        changed(TINY, {"teacher.speed": 1})


def test_intervals_are_students() -> None:
    mean, half = mean_and_interval([0.90, 0.92, 0.97])
    assert mean == pytest.approx(0.93)
    assert half == pytest.approx(4.302653 * statistics.stdev([0.90, 0.92, 0.97]) / math.sqrt(3), rel=1e-6)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "short": {"meta.outer_steps": 2},
        "longer": {},
        "wild": {"teacher.lr": 9.9, "meta.max_skipped": 1, "learner.norm": "none"},
    }
    monkeypatch.setitem(TABLES, "steps", Table("Is longer better?", rows, real_arm=True))


def test_a_table_is_made_once_and_goes_on(
    digits: Dataset, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    whole = MetaTraining.run

    def run(self: MetaTraining, folder: Path) -> None:
        calls.append(self.config)
        if len(calls) == 3:
            raise KeyboardInterrupt
        whole(self, folder)

    monkeypatch.setattr(MetaTraining, "run", run)
    with pytest.raises(KeyboardInterrupt):
        ablate.ablate(tiny(outer_steps=3), digits, ["steps"], 2, tmp_path)
    assert not (tmp_path / "ablations.json").exists()
    result = ablate.ablate(tiny(outer_steps=3), digits, ["steps"], 2, tmp_path)
    assert len(calls) == 7  # six runs, one of them begun twice
    again = ablate.ablate(tiny(outer_steps=3), digits, ["steps"], 2, tmp_path)
    assert len(calls) == 7
    assert again == result
    assert json.loads(json.dumps(result)) == json.loads((tmp_path / "ablations.json").read_text())
    short, longer, wild = result["tables"]["steps"]
    assert short["accuracy"] == pytest.approx(statistics.fmean(short["accuracies"]))
    assert short["difference"] == 0
    assert longer["difference"] == pytest.approx(longer["accuracy"] - short["accuracy"])
    assert 0.05 < short["real_accuracy"] <= 1
    assert short["real_accuracy"] == longer["real_accuracy"]
    assert longer["gain"] == pytest.approx(longer["accuracy"] - longer["real_accuracy"])
    pairs = zip(longer["accuracies"], longer["real_accuracies"], strict=True)
    assert longer["gain_interval"] == pytest.approx(mean_and_interval([a - b for a, b in pairs])[1])
    assert wild["row"] == "wild"
    page = (tmp_path / "ablations.md").read_text()
    assert "mean over n = 2 outer seeds" in page
    assert page.count("\n| ") == 5
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("tables", "seeds", "message"),
    [
        (["colour"], 3, "the tables are curriculum, weight-norm, .*; given colour"),
        ([], 3, "given none"),
        (["steps"], 0, "there must be at least 1 outer seed"),
    ],
)
def test_bad_input_is_one_sentence(
    digits: Dataset, tmp_path: Path, tables: list[str], seeds: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ablate.ablate(TINY, digits, tables, seeds, tmp_path)


def test_a_folder_of_other_settings_is_refused(digits: Dataset, tmp_path: Path, small: None) -> None:
    ablate.ablate(tiny(outer_steps=1), digits, ["steps"], 2, tmp_path)
    with pytest.raises(
        ValueError, match=r"was made with other settings \(seed: 0 -> 1\); go on with the same ones"
    ):
        ablate.ablate(dataclasses.replace(tiny(outer_steps=1), seed=1), digits, ["steps"], 2, tmp_path)


def test_the_paper_can_be_ablated() -> None:
    config = PRESETS["mnist-paper"]
    assert changed(config, TABLES["steps"].rows["T = 64"]).teacher.inner_steps == 64


def test_one_seed_is_a_quick_look_without_an_interval(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"short": {"meta.outer_steps": 1}, "longer": {}}
    monkeypatch.setitem(TABLES, "steps", Table("Is longer better?", rows, real_arm=True))
    result = ablate.ablate(tiny(outer_steps=2), digits, ["steps"], 1, tmp_path)
    first = result["tables"]["steps"][0]
    assert [first[name] for name in ("interval", "difference_interval", "real_interval")] == [None] * 3
    page = ablate.markdown(result)
    assert "one outer seed: a quick look, without an interval, from which nothing follows" in page
    assert "±" not in page
    assert f"| short | {100 * first['accuracy']:.1f} |" in page
    assert (tmp_path / "steps.png").read_bytes()[1:4] == b"PNG"
