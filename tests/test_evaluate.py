"""The judgement of a curriculum, and which data it reads when."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from minigtn import Curriculum, data, evaluate
from minigtn.config import EvaluationConfig, Purpose, seed_for
from minigtn.data import Dataset, Split
from minigtn.evaluate import accuracy, accuracy_curve, final_evaluation, real_batches, real_curves, taught_curves, tune_real_arm
from minigtn.layers import cross_entropy
from minigtn.learners import Learner
from tiny import EVALUATION, LEARNER, TINY

LEARNERS = Learner(LEARNER, (1, 8, 8), 10)


class Untouchable:
    """A split that nobody may read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a split was read that must not be")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def curriculum(digits: Dataset) -> Curriculum:
    """Real images as a curriculum of 6 steps."""
    x, y = real_batches(digits.train, 6, 32, seed=1)
    labels = torch.nn.functional.one_hot(y, 10).float()
    steps = torch.full((6,), 0.3), torch.linspace(0.2, 0.7, 6)
    return Curriculum(x, labels, *steps, digits.class_names, digits.mean, digits.std)


def test_accuracy_counts_hits_over_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH", 4)
    split = Split(torch.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]], torch.tensor([0, 1, 2, 0, 1, 0, 0, 0, 2, 0]))
    assert accuracy(lambda params, x: x, {}, split).item() == pytest.approx(0.8)


@pytest.mark.parametrize("every", [1, 4, 6])
def test_a_curve_is_the_accuracy_along_a_plain_run_of_torch(digits: Dataset, curriculum: Curriculum, every: int) -> None:
    params = {name: p.requires_grad_() for name, p in LEARNERS.init(5).items()}
    optimiser = torch.optim.SGD(params.values(), lr=0.3)
    expected = []
    for t, (x, y) in enumerate(zip(curriculum.x, curriculum.y, strict=True), 1):
        optimiser.param_groups[0]["momentum"] = curriculum.momentum[t - 1].item()
        optimiser.zero_grad()
        cross_entropy(LEARNERS(params, x), y).backward()
        optimiser.step()
        if t % every == 0 or t == 6:
            expected.append(accuracy(LEARNERS, params, digits.valid).item())
    curve = taught_curves(LEARNERS, curriculum, digits.valid, [5], every)[0].tolist()
    assert curve == pytest.approx(expected, abs=1.5 / len(digits.valid))  # the last bits may flip one image
    assert curve[-1] > 0.2


def test_real_batches_are_training_images_with_their_labels(digits: Dataset) -> None:
    x, y = real_batches(digits.train, 3, 5, seed=2)
    assert x.shape == (3, 5, 1, 8, 8)
    where = (digits.train.x == x[1, 2]).flatten(1).all(1)
    assert digits.train.y[where].tolist() == [y[1, 2].item()]
    again, other = real_batches(digits.train, 3, 5, seed=2)[0], real_batches(digits.train, 3, 5, seed=3)[0]
    assert again.equal(x)
    assert not other.equal(x)


def test_the_real_arm_is_tuned_without_test_data_and_best_first(digits: Dataset) -> None:
    grid = EvaluationConfig(learners=2, real_lrs=(1e-4, 0.3, 0.5), real_momenta=(0.0, 0.9), tuning_learners=2)
    unread = dataclasses.replace(digits, test=Untouchable())
    tuned = tune_real_arm(LEARNERS, unread, grid, seed=0, steps=6, batch_size=32)
    assert {(t["lr"], t["momentum"]) for t in tuned} == {(lr, m) for lr in grid.real_lrs for m in grid.real_momenta}
    scores = [t["valid_accuracy"] for t in tuned]
    assert scores == sorted(scores, reverse=True)
    assert tuned[0]["lr"] > 1e-4
    seeds = [seed_for(0, Purpose.TUNING, i) for i in range(2)]
    best = real_curves(LEARNERS, unread, digits.valid, seeds, 6, 32, tuned[0]["lr"], tuned[0]["momentum"])
    assert best[:, -1].mean().item() == pytest.approx(scores[0])


def test_final_evaluation(digits: Dataset, curriculum: Curriculum) -> None:
    config = dataclasses.replace(TINY, evaluation=dataclasses.replace(EVALUATION, learners=3))
    result = final_evaluation(config, digits, curriculum)
    assert {k: result[k] for k in ("inner_steps", "batch_size", "n_learners")} == {"inner_steps": 6, "batch_size": 32, "n_learners": 3}
    seeds = [seed_for(0, Purpose.TEST, i) for i in range(3)]
    best = result["real_arm"]
    for arm, curves in (
        ("gtn", taught_curves(LEARNERS, curriculum, digits.test, seeds)),
        ("real", real_curves(LEARNERS, digits, digits.test, seeds, 6, 32, best["lr"], best["momentum"])),
    ):
        assert result[f"{arm}_accuracy"] == pytest.approx(curves[:, -1].mean().item())
        assert result[f"{arm}_accuracy_std"] == pytest.approx(curves[:, -1].std().item())
        assert result[f"{arm}_curve"]["mean"] == pytest.approx(curves.mean(0).tolist())
        assert len(result[f"{arm}_curve"]["std"]) == 6
    assert best["tuned_on"] == "validation"
    assert best["at_edge_of_grid"] is True  # a grid of two learning rates is all edge
    assert best["tuning"][0]["valid_accuracy"] >= best["tuning"][-1]["valid_accuracy"]
    assert final_evaluation(config, digits, curriculum) == result


def test_final_evaluation_is_where_test_data_are_read(digits: Dataset, curriculum: Curriculum) -> None:
    with pytest.raises(AssertionError, match="must not be"):
        final_evaluation(TINY, dataclasses.replace(digits, test=Untouchable()), curriculum)


def test_the_curve_of_untrained_steps_is_constant(digits: Dataset, curriculum: Curriculum) -> None:
    curve = accuracy_curve(LEARNERS, 3, curriculum.x, curriculum.y, 0.0, 0.0, digits.valid)
    assert curve.shape == (6,)
    assert curve.eq(accuracy(LEARNERS, LEARNERS.init(3), digits.valid)).all()
