"""The outer loop: what it does with bad gradients, what it keeps, and what it never reads."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minigtn import load_curriculum
from minigtn.data.datasets import Dataset
from minigtn.networks.learners import Learner
from minigtn.outer import loop, meta_gradient
from minigtn.outer.loop import MetaTraining, MetaTrainingDiverged
from minigtn.runs.files import read_metrics
from minigtn.runs.seeds import Purpose, seed_for
from tiny import LEARNER, TEACHER, TINY, tiny


def test_it_learns(digits: Dataset) -> None:
    config = dataclasses.replace(
        tiny(outer_steps=80, lr=0.02, valid_every=0, real_batch=128),
        learner=dataclasses.replace(LEARNER, channels=(8,)),
    )
    training = MetaTraining(config, digits)
    before = training.validate()
    losses = [training.outer_step().meta_loss for _ in range(80)]
    assert training.finished
    assert sum(losses[-10:]) < sum(losses[:10]) - 10 * 0.2
    assert training.validate() > before + 0.15


def test_a_run_without_validations_ends_with_the_last_teacher(digits: Dataset, tmp_path: Path) -> None:
    training = MetaTraining(tiny(valid_every=0), digits)
    training.run(tmp_path)
    curriculum = training.result()
    assert curriculum.x.equal(training.teacher.images().detach())
    assert curriculum.provenance["outer_steps_taken"] == 6
    assert ["valid_accuracy" in record for record in read_metrics(tmp_path / "metrics.jsonl")] == [
        False
    ] * 5 + [True]


def test_the_teacher_that_is_best_on_validation_data_is_kept(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    scores = iter([0.3, 0.7, 0.7, 0.5])

    def taught_curves(learner: Learner, curriculum: Any, *_: Any, **__: Any) -> Tensor:
        seen.append(curriculum.x)
        return torch.tensor([[next(scores)]])

    monkeypatch.setattr(loop, "taught_curves", taught_curves)
    training = MetaTraining(tiny(outer_steps=8), digits)
    training.run(tmp_path)
    assert (
        vars(training.progress).items()
        >= {"best_step": 4, "best_accuracy": pytest.approx(0.7), "step": 8}.items()
    )
    now = training.teacher.images()
    best = training.result()
    assert best.x.equal(seen[1])
    assert not best.x.equal(seen[3])
    assert best.provenance["outer_steps_taken"] == 4
    assert training.teacher.images().equal(now)  # asking for the result changes nothing
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], round(r["valid_accuracy"], 3)) for r in records if "valid_accuracy" in r] == [
        (2, 0.3),
        (4, 0.7),
        (6, 0.7),
        (8, 0.5),
    ]


def test_the_schedule_is_a_cosine_from_lr_to_its_last_fraction(digits: Dataset) -> None:
    training = MetaTraining(tiny(outer_steps=4, lr=0.1, final_lr=0.2, valid_every=0), digits)
    used = []
    for _ in range(4):
        used.append((training.outer_step().outer_lr, training.adam.param_groups[0]["lr"]))
    assert [a for a, _ in used] == [b for _, b in used]
    assert [a for a, _ in used] == pytest.approx(
        [0.02 + 0.04 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    )


def test_clipping_scales_the_meta_gradient(digits: Dataset) -> None:
    whole = MetaTraining(tiny(clip_norm=0.0), digits)
    clipped = MetaTraining(tiny(clip_norm=0.01), digits)
    norm = whole.outer_step().grad_norm
    assert clipped.outer_step().grad_norm == norm > 0.02
    for a, b in zip(whole.teacher.parameters(), clipped.teacher.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad * (0.01 / norm), rtol=1e-4, atol=1e-9)


def test_meta_training_evaluation_and_validation_share_no_seed(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    init = Learner.init
    monkeypatch.setattr(
        Learner, "init", lambda self, seed, **kwargs: used.append(seed) or init(self, seed, **kwargs)
    )
    training = MetaTraining(TINY, digits)
    for _ in range(6):
        training.outer_step()
    training.validate()
    assert used == [seed_for(0, Purpose.LEARNER, i) for i in range(6)] + [seed_for(0, Purpose.VALIDATION, 0)]
    assert not set(used) & {
        seed_for(0, purpose, i) for purpose in (Purpose.TEST, Purpose.TUNING) for i in range(1000)
    }


# ---- what is not finite ----


def poisoned(monkeypatch: pytest.MonkeyPatch, steps: set[int], what: str) -> None:
    """The meta-loss, or only its gradient, is infinite in these outer steps (counted from 1)."""
    calls = itertools.count(1)
    whole = meta_gradient.meta_loss

    def meta_loss(*args: Any) -> Tensor:
        loss = whole(*args)
        if next(calls) in steps:
            loss = loss + (math.inf if what == "loss" else 0)
            loss.register_hook(lambda g: g * (math.inf if what == "gradient" else 1))
        return loss

    monkeypatch.setattr(meta_gradient, "meta_loss", meta_loss)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_is_skipped_and_counted(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    poisoned(monkeypatch, {2, 3, 5}, what)
    training = MetaTraining(tiny(max_skipped=3), digits)
    states = [training._snapshot()]
    for _ in range(6):
        training.outer_step()
        states.append(training._snapshot())
    unchanged = [all(a[k].equal(b[k]) for k in a) for a, b in itertools.pairwise(states)]
    assert unchanged == [False, True, True, False, True, False]
    assert all(p.isfinite().all() for p in training.teacher.parameters())
    assert vars(training.progress).items() >= {"step": 6, "skipped": 3, "skipped_in_a_row": 0}.items()


def test_many_in_a_row_stop_the_run_with_advice_and_a_checkpoint(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, {3, 4, 5}, "loss")
    training = MetaTraining(tiny(max_skipped=3, checkpoint_every=100), digits)
    with pytest.raises(
        MetaTrainingDiverged,
        match=r"3 meta-gradients in a row were not finite \(outer step 5\): lower meta.lr",
    ) as caught:
        training.run(tmp_path)
    assert "\n" not in str(caught.value)
    assert [r["skipped"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [0, 0, 1, 2, 3]
    assert '"meta_loss": null' in (tmp_path / "metrics.jsonl").read_text()
    again = MetaTraining(training.config, digits)
    again.load_checkpoint(tmp_path)
    assert again.progress == training.progress
    again.run(tmp_path)  # the loss is finite from here on
    assert again.progress.step == 6


def test_an_overflow_of_the_reversible_adjoint_is_skipped_too(digits: Dataset) -> None:
    config = tiny(adjoint="reversible")
    learner = dataclasses.replace(LEARNER, norm="none", weight_norm=False)
    training = MetaTraining(
        dataclasses.replace(
            config, learner=learner, teacher=dataclasses.replace(TEACHER, lr=9.9, inner_steps=12)
        ),
        digits,
    )
    record = training.outer_step()
    assert math.isnan(record.meta_loss)
    assert record.skipped == 1


# ---- checkpoints ----


@pytest.fixture
def trained(digits: Dataset, tmp_path: Path) -> MetaTraining:
    training = MetaTraining(TINY, digits)
    training.run(tmp_path)
    return training


def test_a_checkpoint_holds_everything_and_no_pickle(
    digits: Dataset, trained: MetaTraining, tmp_path: Path
) -> None:
    again = MetaTraining(TINY, digits)
    again.load_checkpoint(tmp_path)
    assert again.progress == trained.progress
    for ours, theirs in ((again._snapshot(), trained._snapshot()), (again.best, trained.best)):
        assert ours.keys() == theirs.keys()
        assert all(ours[k].equal(theirs[k]) for k in ours)
    # one step beyond the end: Adam's moments are the same too
    assert again.outer_step() == trained.outer_step()
    assert all(
        a.equal(b) for a, b in zip(again._snapshot().values(), trained._snapshot().values(), strict=True)
    )
    trained.result().save(tmp_path / "curriculum.safetensors")
    assert load_curriculum(tmp_path).x.equal(again.result().x)


def test_other_settings_are_refused_by_name(digits: Dataset, trained: MetaTraining, tmp_path: Path) -> None:
    other = dataclasses.replace(tiny(lr=0.5), seed=1)
    with pytest.raises(
        ValueError,
        match=r"made with other settings \(seed: 0 -> 1; meta.lr: 0.01 -> 0.5\); go on with the same",
    ) as caught:
        MetaTraining(other, digits).load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def rewritten(content: bytes, **changed: Any) -> bytes:
    """The same safetensors file with other metadata."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = changed
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-10],
        lambda content: b"garbage" * 100,
        lambda content: rewritten(content, about="{"),
        lambda content: rewritten(content, about='{"config": {}, "progress": {}}'),
        lambda content: rewritten(content, about="[]"),
        lambda content: rewritten(content, other=""),
    ],
    ids=["empty", "torn", "garbage", "torn JSON", "no settings", "a list", "no metadata"],
)
def test_a_damaged_checkpoint_is_one_sentence(
    digits: Dataset, trained: MetaTraining, tmp_path: Path, damage: Any
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=f"{path} is not a readable checkpoint .*; start afresh with --overwrite"
    ) as caught:
        MetaTraining(TINY, digits).load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
