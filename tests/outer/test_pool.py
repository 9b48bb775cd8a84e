"""A pool drawn from a published table: its entries are the targets, its networks never judge, and a run goes
on to the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from minigtn import data
from minigtn.config import RunConfig
from minigtn.data.datasets import Dataset
from minigtn.nas.ranking import RankConfig, rank
from minigtn.nas.scores import EstimatorConfig
from minigtn.networks import spaces
from minigtn.outer.loop import MetaTraining
from minigtn.outer.pool import pool_of
from minigtn.outer.ranked import Targets
from minigtn.outer.run import train
from minigtn.runs.files import read_json
from minigtn.teaching import fidelity
from minigtn.teaching.curriculum import load_curriculum
from minigtn.teaching.fidelity import Fidelity
from tiny import tiny

SPACE = spaces.get("nas-bench-201", channels=2, cells_per_stage=1)
ARCHS = list(dict.fromkeys(SPACE.sample(seed) for seed in range(9)))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    lines = [f"{arch},{50 + 3 * i},{i}" for i, arch in enumerate(ARCHS)]
    path.write_text("\n".join(["arch,accuracy,other", *lines]) + "\n")
    return path


def config(table: Path, **meta: Any) -> RunConfig:
    settings = {
        "learners": 3, "sample_learners": "nas-bench-201", "sample_pool": 4, "rank_weight": 1.0,
        "readout_every": 2, "rank_table": str(table), "valid_every": 0, "outer_steps": 4,
    }  # fmt: skip
    return dataclasses.replace(tiny(**(settings | meta)), fidelity=Fidelity(channels=2, cells=1))


def test_the_pool_is_of_the_table_whatever_the_order_of_its_rows(table: Path) -> None:
    pool = pool_of(config(table))
    assert len(set(pool.archs)) == 4
    assert list(pool.accuracies) == [50 + 3 * ARCHS.index(arch) for arch in pool.archs]
    assert pool.column == "accuracy"
    other = pool_of(config(table, rank_truth="other"))
    assert (list(other.accuracies), other.column) == ([ARCHS.index(arch) for arch in pool.archs], "other")
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header, *reversed(lines)]))
    assert pool_of(config(table)) == pool
    assert pool_of(dataclasses.replace(config(table), seed=1)).archs != pool.archs
    assert pool_of(config(table, sample_pool=9)).archs[:4] == pool.archs


def test_entries_are_targets_and_nothing_real_is_trained(
    table: Path, digits: Dataset, monkeypatch: Any
) -> None:
    monkeypatch.setattr(Targets, "_train", lambda *_: pytest.fail("trained"))
    training = MetaTraining(config(table), digits)
    gradient = training.meta_gradient
    targets = [gradient.targets.of(member, gradient._of_pool(member)) for member in range(4)]
    assert targets == [-accuracy for accuracy in gradient.pool.accuracies]  # lower is better
    built = SPACE.build(gradient.pool.archs[2], in_channels=1)
    expected = {name: p.shape for name, p in built.named_parameters()}
    assert {name: p.shape for name, p in gradient._of_pool(2).init(0).items()} == expected
    records = [training.outer_step().record() for _ in range(3)]
    assert any("in_order" in record for record in records)
    made = training.result().provenance
    assert made["pool"] == list(gradient.pool.archs)
    cost = made["real_trainings"]
    assert (cost["networks"], cost["real_steps"], cost["seconds"]) == (4, 0, 0.0)
    assert cost["table"] == "column accuracy of table.csv: trainings that others made, not counted here"


def test_the_order_of_the_entries_is_what_is_taught(table: Path, digits: Dataset) -> None:
    """Turned around, they give another meta-gradient; stretched, the same."""

    def gradient_with(entry: Any) -> torch.Tensor:
        lines = [f"{arch},{entry(i)}" for i, arch in enumerate(ARCHS)]
        table.write_text("\n".join(["arch,accuracy", *lines]))
        training = MetaTraining(config(table), digits)
        training.meta_gradient.add(training.teacher, 0, range(3))
        return torch.cat([p.grad.flatten() for p in training.teacher.parameters() if p.grad is not None])

    up = gradient_with(lambda i: i)
    assert torch.equal(up, gradient_with(lambda i: 2.0**i))
    assert not torch.allclose(up, gradient_with(lambda i: -i))


def test_stopped_and_resumed_it_is_the_same(table: Path, digits: Dataset, tmp_path: Path) -> None:
    whole = MetaTraining(config(table), digits)
    for _ in range(4):
        whole.outer_step()
    half = MetaTraining(config(table), digits)
    for _ in range(2):
        half.outer_step()
    half.save_checkpoint(tmp_path)
    again = MetaTraining(config(table), digits)
    again.load_checkpoint(tmp_path)
    for _ in range(2):
        again.outer_step()
    for mine, theirs in zip(again.teacher.parameters(), whole.teacher.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    table.write_text(
        table.read_text().replace(",50,", ",99,").replace(",53,", ",98,").replace(",56,", ",97,")
    )
    table.write_text(
        table.read_text().replace(",59,", ",96,").replace(",62,", ",95,").replace(",65,", ",94,")
    )
    with pytest.raises(
        ValueError, match=r"table.csv has changed since this run began.*; give the table as it was"
    ):
        MetaTraining(config(table), digits).load_checkpoint(tmp_path)


def test_a_ranking_judges_none_of_the_pool_though_the_table_is_gone(table: Path, tmp_path: Path) -> None:
    digits = data.load("digits")
    folder = tmp_path / "run"
    train(config(table, outer_steps=1), digits, folder)
    result = read_json(folder / "result.json")
    assert result["pool"] == list(pool_of(config(table)).archs)
    assert "column accuracy of table.csv" in result["real_trainings"]["table"]
    judged = tmp_path / "elsewhere.csv"
    table.rename(judged)
    assert fidelity.pool_of(load_curriculum(folder)) == set(result["pool"])
    estimators = EstimatorConfig(curriculum=str(folder), valid_images=20, valid_batch=20)
    settings = RankConfig(estimators=("gtn", "flops"), networks=0, bootstrap=5)
    ranked = rank(settings, estimators, digits, judged, tmp_path / "rank", bar=False)
    assert set(ranked["archs"]) == set(ARCHS) - set(result["pool"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sample_learners": "zoo"}, "meta.rank-table is a table of networks of a search space"),
        ({"sample_pool": 0, "rank_weight": 0.0}, "give meta.sample-pool"),
        ({"sample_after": 2}, "leave meta.sample-after out"),
        ({"rank_table": "", "rank_truth": "other"}, "meta.rank-truth is a column of meta.rank-table"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(
    table: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(config(table, **changes), fidelity=Fidelity())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rank_table": "nothing.csv"}, "there is no table nothing.csv; write one as CSV"),
        ({"sample_pool": 10}, r"a pool of 10 networks cannot be drawn from the 9 of .*table.csv; make meta"),
        ({"rank_truth": "acc"}, "needs a column arch and a column acc"),
        ({"sample_learners": "nas-bench-macro"}, "table.csv, line 2: an architecture of nas-bench-macro is"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_the_folder_is_begun(
    table: Path, digits: Dataset, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    given = config(table, **{name: value for name, value in changes.items() if name != "sample_learners"})
    if "sample_learners" in changes:
        meta = dataclasses.replace(given.meta, **changes)
        given = dataclasses.replace(given, meta=meta, fidelity=Fidelity(channels=2))
    with pytest.raises((ValueError, OSError), match=sentence):
        train(given, digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()
