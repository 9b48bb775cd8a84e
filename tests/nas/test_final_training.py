"""The final training: resumed to the same bits, stopped with a sentence where it diverges, test data read
once."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from minigtn import data
from minigtn.data.datasets import Dataset, Split
from minigtn.nas.final_training import (
    FinalConfig,
    FinalTraining,
    TrainingDiverged,
    cutout,
    final_training,
    seeded,
)
from minigtn.networks.spaces.cell_network import CellNetwork
from minigtn.runs.files import RUN_FILES, read_metrics

PLAN = (
    "0:conv3x3+1:identity,1:avg3x3+2:conv1x1,2:max2x2+3:identity,0:conv1x3-3x1+1:conv1x1,4:identity+5:conv3x3"
)
CELLS = FinalConfig(
    arch=f"{PLAN}/{PLAN}", cells_per_stage=1, channels=4, epochs=2, batch_size=32, lr=0.05, cutout=3,
    drop_path=0.2, dropout=0.2,
)  # fmt: skip
OTHERS = {
    "nas-bench-201": dataclasses.replace(
        CELLS,
        space="nas-bench-201",
        arch="|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    ),
    "nas-bench-macro": dataclasses.replace(
        CELLS, space="nas-bench-macro", arch="10000000", cells_per_stage=0, channels=0
    ),
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = data.load("digits")
    parts = {name: Split(part.x[:n], part.y[:n]) for name, part, n in
             (("train", whole.train, 100), ("valid", whole.valid, 60), ("test", whole.test, 50))}  # fmt: skip
    return dataclasses.replace(whole, **parts)


@pytest.fixture(scope="module")
def whole(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of CELLS that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    final_training(CELLS, digits, folder)
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    return {
        f"{p.name}/{k}": v
        for p in sorted(folder.glob("checkpoint*.safetensors"))
        for k, v in load_file(p).items()
    }


def records(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in record.items() if k != "seconds"}
        for record in read_metrics(folder / "metrics.jsonl")
    ]


def assert_same_run(folder: Path, whole: Path) -> None:
    ours = tensors(folder)
    theirs = tensors(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert records(folder) == records(whole)
    results = [json.loads((f / "result.json").read_text()) | {"seconds": 0} for f in (folder, whole)]
    assert results[0] == results[1]


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """The process gets the signal in that step, counted over all epochs."""
    real = FinalTraining._loss
    steps = [0]

    def loss(self: FinalTraining, *arguments: Any) -> tuple[Tensor, Tensor]:
        steps[0] += 1
        if steps[0] == step:
            os.kill(os.getpid(), number)
        return real(self, *arguments)

    monkeypatch.setattr(FinalTraining, "_loss", loss)


# ---- resume ----


def stop_twice_and_finish(config: FinalConfig, digits: Dataset, folder: Path) -> dict[str, Any]:
    for step, number, done in ((5, signal.SIGINT, 1), (2, signal.SIGTERM, 1)):  # three steps are an epoch
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(step, patch, number)
            torch.manual_seed(step)  # what the world did meanwhile does not matter
            with pytest.raises(KeyboardInterrupt):
                final_training(config, digits, folder)
        assert [record["step"] for record in records(folder)] == list(range(1, done + 1))
        assert not (folder / "result.json").exists()
    return final_training(config, digits, folder)


def test_interrupted_and_resumed_is_the_run_that_was_not(
    digits: Dataset, whole: Path, tmp_path: Path
) -> None:
    result = stop_twice_and_finish(CELLS, digits, tmp_path)
    assert_same_run(tmp_path, whole)
    assert {p.name for p in tmp_path.iterdir()} <= {*RUN_FILES}
    assert result["test_images"] == 50
    assert result["dataset"] == "digits"


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS.keys())
def test_the_other_spaces_resume_too(config: FinalConfig, digits: Dataset, tmp_path: Path) -> None:
    final_training(config, digits, tmp_path / "whole")
    stop_twice_and_finish(config, digits, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("lost", ["seed", "momentum", "averages", "number of the epoch"])
def test_whatever_a_checkpoint_could_lose_is_noticed(
    lost: str, digits: Dataset, whole: Path, tmp_path: Path
) -> None:
    training = FinalTraining(dataclasses.replace(CELLS, seed=1) if lost == "seed" else CELLS, digits)
    training.epoch()
    if lost == "momentum":
        training.sgd.state.clear()
    elif lost == "averages":
        training.network.stem[1].reset_running_stats()
    elif lost == "number of the epoch":
        training.progress.epoch -= 1
    training.epoch()
    if lost == "number of the epoch":
        training.progress.epoch += 1
    training.save_checkpoint(tmp_path)
    ours = tensors(tmp_path)
    theirs = tensors(whole)
    assert ours.keys() == theirs.keys()
    assert not all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_a_folder_with_other_settings_is_refused(digits: Dataset, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            final_training(CELLS, digits, tmp_path)
    with pytest.raises(
        ValueError, match=r"was made with other settings \(lr: 0.05 -> 0.1\); go on with the same ones"
    ):
        final_training(dataclasses.replace(CELLS, lr=0.1), digits, tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is not a readable checkpoint"):
        final_training(CELLS, digits, tmp_path)


# ---- divergence ----


@pytest.mark.parametrize(
    ("poisoned", "step", "what"), [("loss", 5, "loss is"), ("gradient", 6, "weights are")]
)
def test_what_is_not_finite_stops_and_keeps_the_checkpoint(
    poisoned: str,
    step: int,
    what: str,
    digits: Dataset,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = FinalTraining._loss
    steps = [0]

    def loss(self: FinalTraining, *arguments: Any) -> tuple[Tensor, Tensor]:
        steps[0] += 1
        value, logits = real(self, *arguments)
        if steps[0] == step:
            # the slope of a root at 0
            value = value * math.nan if poisoned == "loss" else value + (0 * logits.sum()).sqrt()
        return value, logits

    monkeypatch.setattr(FinalTraining, "_loss", loss)
    with pytest.raises(
        TrainingDiverged,
        match=rf"the {what} not finite in epoch 2, by step 3 of 3: lower lr \(it is 0.05\)"
        r".*of epoch 1 is kept",
    ):
        final_training(CELLS, digits, tmp_path)
    assert [record["step"] for record in records(tmp_path)] == [1]
    assert all(tensor.isfinite().all() for tensor in tensors(tmp_path).values())
    assert not (tmp_path / "result.json").exists()
    monkeypatch.undo()
    final_training(CELLS, digits, tmp_path)  # it was a passing fault: the run goes on from epoch 1
    assert_same_run(tmp_path, whole)


# ---- test data ----


class Counting:
    """A split that counts how often its images are asked for."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.reads = 0

    @property
    def x(self) -> Tensor:
        self.reads += 1
        return self.split.x

    @property
    def y(self) -> Tensor:
        return self.split.y

    def __len__(self) -> int:
        return len(self.split)


def test_test_data_are_read_once_at_the_end(digits: Dataset, tmp_path: Path) -> None:
    test = Counting(digits.test)
    watched = dataclasses.replace(digits, test=test)
    config = OTHERS["nas-bench-201"]
    training = FinalTraining(config, watched)
    training.run(tmp_path / "unjudged")
    assert test.reads == 0
    result = final_training(config, watched, tmp_path / "run")
    assert test.reads == 1
    assert final_training(config, watched, tmp_path / "run") == result
    assert test.reads == 1
    assert result["test_accuracy"] == training.accuracy(digits.test)


# ---- the training itself ----


def test_it_learns(digits: Dataset, tmp_path: Path) -> None:
    config = dataclasses.replace(
        OTHERS["nas-bench-201"], channels=8, epochs=8, augment=False, cutout=0, lr=0.1
    )
    result = final_training(config, digits, tmp_path)
    first = records(tmp_path)[0]
    last = records(tmp_path)[-1]
    assert last["loss"] < first["loss"]
    assert result["valid_accuracy"] == last["valid_accuracy"] > 0.4
    assert [r["lr"] for r in records(tmp_path)] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    )


def test_drop_path_auxiliary_loss_and_dropout_matter(digits: Dataset, tmp_path: Path) -> None:
    losses = []
    for change in (
        {},
        {"drop_path": 0.0},
        {"auxiliary": 0.0},
        {"dropout": 0.0},
        {"cutout": 0},
        {"augment": False},
    ):
        training = FinalTraining(dataclasses.replace(CELLS, **change), digits)
        record = training.epoch()
        assert record is not None
        losses.append(record["loss"])
        assert isinstance(training.network, CellNetwork)
        # half of the training is done
        assert training.network.drop_path == pytest.approx(training.config.drop_path / 2)
    assert len(set(losses)) == len(losses)
    assert losses[2] < losses[0] - 0.5  # without the auxiliary head's share


def test_validation_images_can_join(digits: Dataset, tmp_path: Path) -> None:
    config = dataclasses.replace(CELLS, epochs=1, train_on_valid=True)
    training = FinalTraining(config, digits)
    assert len(training.train) == 160
    assert training.steps == 5
    assert final_training(config, digits, tmp_path)["valid_accuracy"] is None
    assert "valid_accuracy" not in records(tmp_path)[0]


def test_paper_sizes() -> None:
    sizes = [
        dataclasses.replace(CELLS, cells_per_stage=0, channels=channels).make_space()
        for channels in (0, 64, 128)
    ]
    assert [(s.cells_per_stage, s.channels) for s in sizes] == [(6, 32), (6, 64), (6, 128)]
    assert dataclasses.replace(OTHERS["nas-bench-201"], cells_per_stage=0, channels=0).make_space().params(
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    ) == 73306  # fmt: skip


# ---- augmentation ----


@pytest.mark.parametrize("side", [1, 3, 4])
def test_cutout_blanks_one_square_per_image(side: int) -> None:
    x = torch.rand(900, 2, 9, 7) + 0.5
    out = cutout(x, torch.Generator().manual_seed(2), side)
    assert out.shape == x.shape
    blank = out == 0
    assert torch.equal(out[~blank], x[~blank])
    assert torch.equal(blank[:, 0], blank[:, 1])
    heights = blank[:, 0].any(2).sum(1)
    widths = blank[:, 0].any(1).sum(1)
    assert torch.equal(blank[:, 0].sum((1, 2)), heights * widths)  # a rectangle
    assert heights.max() == widths.max() == side
    assert blank[:, 0].any(0).all()  # any pixel can be hit
    assert (heights * widths < side * side).any() == (side > 1)  # at the border less is blanked
    assert torch.equal(out, cutout(x, torch.Generator().manual_seed(2), side))
    assert not torch.equal(out, cutout(x, torch.Generator().manual_seed(3), side))
    assert cutout(x, torch.Generator(), 0) is x


def test_seeded_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(9, torch.device("cpu")):
            drawn.append(torch.rand(5))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.get_rng_state(), before)


# ---- settings ----


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, not 1"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\), but it is 1.0"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\)"),
        ({"lr": math.nan}, "lr must be positive and finite, but it is nan"),
        ({"weight_decay": math.inf}, "weight_decay must be at least 0, not inf"),
        ({"arch": "00000000"}, "an architecture of cells reads .*not '00000000'"),
        ({"space": "darts"}, "there is no search space 'darts'"),
        (
            {"space": "nas-bench-macro", "arch": "00000000", "cells_per_stage": 2},
            "nas-bench-macro has no size 'cells_per_stage'",
        ),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(CELLS, **change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cutout": 8}, "a cutout of 8 blanks whole images of 8 x 8 pixels"),
        ({"batch_size": 101}, "100 training images do not fill a batch of 101"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_refused(
    change: dict[str, Any], sentence: str, digits: Dataset
) -> None:
    with pytest.raises(ValueError, match=sentence):
        FinalTraining(dataclasses.replace(CELLS, **change), digits)


def test_stop_leaves_an_epoch_half_way(digits: Dataset) -> None:
    training = FinalTraining(CELLS, digits)
    answers: Callable[[], bool] = iter([False, True]).__next__
    assert training.epoch(answers) is None
    assert training.progress.epoch == 0
