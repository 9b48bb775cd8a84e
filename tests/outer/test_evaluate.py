"""The judgement of a curriculum, and which data it reads when."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from minigtn import Checkpointed, Curriculum, Readout, Unrolled, data, sgd
from minigtn.config import EvaluationConfig
from minigtn.data.datasets import Dataset, Split
from minigtn.inner.optimizers import SGD
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import Learner
from minigtn.outer import batched, evaluate
from minigtn.outer.batched import SumOfLosses, most_together, stack, unstack
from minigtn.outer.evaluate import (
    accuracy,
    confusion,
    final_evaluation,
    reading_steps,
    real_batches,
    real_curves,
    seconds_of_training,
    steps_to_reach,
    taught_curves,
    taught_predictions,
    tune_real_arm,
)
from minigtn.runs.seeds import Purpose, seed_for
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


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (1, None, [1]),
        (2, None, [1, 2]),
        (8, None, [1, 2, 4, 8]),
        (10, None, [1, 2, 4, 8, 10]),
        (10, 4, [4, 8, 10]),
        (6, 6, [6]),
    ],
)
def test_readings_are_at_powers_of_two_or_every_k_th_step_and_at_the_last(
    steps: int, every: int | None, expected: list[int]
) -> None:
    assert reading_steps(steps, every) == expected


@pytest.mark.parametrize("every", [None, 1, 4, 6])
def test_a_curve_is_the_accuracy_along_a_plain_run_of_torch(
    digits: Dataset, curriculum: Curriculum, every: int | None
) -> None:
    params = {name: p.requires_grad_() for name, p in LEARNERS.init(5).items()}
    optimizer = torch.optim.SGD(params.values(), lr=0.3)
    expected = []
    for t, (x, y) in enumerate(zip(curriculum.x, curriculum.y, strict=True), 1):
        optimizer.param_groups[0]["momentum"] = curriculum.momentum[t - 1].item()
        optimizer.zero_grad()
        cross_entropy(LEARNERS(params, x), y).backward()
        optimizer.step()
        if t in reading_steps(6, every):
            expected.append(accuracy(LEARNERS, params, digits.valid).item())
    curve = taught_curves(LEARNERS, curriculum, digits.valid, [5], every)[0].tolist()
    assert curve == pytest.approx(expected, abs=1.5 / len(digits.valid))  # the last bits may flip one image
    assert curve[-1] > 0.2


def test_the_confusion_counts_what_the_taught_learners_saw(digits: Dataset, curriculum: Curriculum) -> None:
    seeds = [3, 4]
    predicted = taught_predictions(LEARNERS, curriculum, digits.valid, seeds)
    counts = torch.tensor(confusion(predicted[:, -1], digits.valid.y, 10))
    assert counts.sum(1).tolist() == (2 * torch.bincount(digits.valid.y, minlength=10)).tolist()
    curves = taught_curves(LEARNERS, curriculum, digits.valid, seeds)
    assert counts.diagonal().sum() / counts.sum() == pytest.approx(curves[:, -1].mean().item())
    assert confusion(torch.tensor([[0, 2, 2]]), torch.tensor([0, 1, 2]), 3) == [
        [1, 0, 0],
        [0, 0, 1],
        [0, 0, 1],
    ]


def test_real_batches_are_training_images_with_their_labels(digits: Dataset) -> None:
    x, y = real_batches(digits.train, 3, 5, seed=2)
    assert x.shape == (3, 5, 1, 8, 8)
    where = (digits.train.x == x[1, 2]).flatten(1).all(1)
    assert digits.train.y[where].tolist() == [y[1, 2].item()]
    again = real_batches(digits.train, 3, 5, seed=2)[0]
    other = real_batches(digits.train, 3, 5, seed=3)[0]
    assert again.equal(x)
    assert not other.equal(x)


def test_the_real_arm_is_tuned_without_test_data_and_best_first(digits: Dataset) -> None:
    grid = EvaluationConfig(learners=2, real_lrs=(1e-4, 0.3, 0.5), real_momenta=(0.0, 0.9), tuning_learners=2)
    unread = dataclasses.replace(digits, test=Untouchable())
    tuned = tune_real_arm(LEARNERS, unread, grid, seed=0, steps=6, batch_size=32)
    assert {(t["lr"], t["momentum"]) for t in tuned} == {
        (lr, m) for lr in grid.real_lrs for m in grid.real_momenta
    }
    scores = [t["valid_accuracy"] for t in tuned]
    assert scores == sorted(scores, reverse=True)
    assert tuned[0]["lr"] > 1e-4
    seeds = [seed_for(0, Purpose.TUNING, i) for i in range(2)]
    best = real_curves(LEARNERS, unread, digits.valid, seeds, 6, 32, tuned[0]["lr"], tuned[0]["momentum"])
    assert best[:, -1].mean().item() == pytest.approx(scores[0])


def test_the_real_arm_is_tuned_on_the_first_validation_images(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = EvaluationConfig(learners=2, real_lrs=(0.3,), real_momenta=(0.0,), tuning_learners=2)
    seeds = [seed_for(0, Purpose.TUNING, i) for i in range(2)]
    monkeypatch.setattr(evaluate, "TUNING_IMAGES", 50)
    some = Split(digits.valid.x[:50], digits.valid.y[:50])
    (score,) = tune_real_arm(LEARNERS, digits, grid, 0, 3, 8)
    assert score["valid_accuracy"] == pytest.approx(
        real_curves(LEARNERS, digits, some, seeds, 3, 8, 0.3, 0.0, every=3).mean().item()
    )


def test_final_evaluation(digits: Dataset, curriculum: Curriculum) -> None:
    config = dataclasses.replace(TINY, evaluation=dataclasses.replace(EVALUATION, learners=3))
    result = final_evaluation(config, digits, curriculum)
    expected = {"inner_steps": 6, "batch_size": 32, "n_learners": 3, "steps": [1, 2, 4, 6]}
    assert {k: result[k] for k in expected} == expected
    seeds = [seed_for(0, Purpose.TEST, i) for i in range(3)]
    best = result["real_arm"]
    for arm, curves in (
        ("gtn", taught_curves(LEARNERS, curriculum, digits.test, seeds)),
        ("real", real_curves(LEARNERS, digits, digits.test, seeds, 6, 32, best["lr"], best["momentum"])),
    ):
        assert result[f"{arm}_accuracy"] == pytest.approx(curves[:, -1].mean().item())
        assert result[f"{arm}_accuracy_std"] == pytest.approx(curves[:, -1].std().item())
        assert result[f"{arm}_curve"]["mean"] == pytest.approx(curves.mean(0).tolist())
        assert len(result[f"{arm}_curve"]["std"]) == 4
    assert "longer" not in result
    assert best["tuned_on"] == "validation"
    assert best["tuning_images"] == len(digits.valid)
    assert best["at_edge_of_grid"] is True  # a grid of two learning rates is all edge
    assert best["tuning"][0]["valid_accuracy"] >= best["tuning"][-1]["valid_accuracy"]
    again = final_evaluation(config, digits, curriculum)
    for one in (result, again):
        assert all(seconds > 0 for seconds in one.pop("seconds_per_learner").values())
    assert again == result


@pytest.mark.parametrize("lr", [0.3, 1e-9])
def test_the_longer_real_arm_is_tuned_again_among_the_finalists(
    digits: Dataset, curriculum: Curriculum, lr: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def tune(
        learner: Any,
        data: Dataset,
        config: EvaluationConfig,
        seed: int,
        steps: int,
        batch_size: int,
        grid: Any = None,
    ) -> Any:
        calls.append((steps, batch_size, grid))
        grid = grid[::-1] if grid else [(0.1, 0.5), (lr, 0.8), (0.5, 0.9)]
        return [{"lr": lr, "momentum": momentum, "valid_accuracy": 0.5} for lr, momentum in grid]

    monkeypatch.setattr(evaluate, "tune_real_arm", tune)
    monkeypatch.setattr(evaluate, "FINALISTS", 2)
    result = final_evaluation(
        dataclasses.replace(TINY, evaluation=dataclasses.replace(EVALUATION, more=3)), digits, curriculum
    )
    assert calls == [(6, 32, None), (18, 32, [(0.1, 0.5), (lr, 0.8)])]
    assert (result["real_arm"]["lr"], result["inner_steps"]) == (0.1, 6)
    longer = result["longer"]
    assert (longer["lr"], longer["momentum"], longer["steps"]) == (lr, 0.8, [1, 2, 4, 8, 16, 18])
    curves = real_curves(
        LEARNERS, digits, digits.test, [seed_for(0, Purpose.TEST, i) for i in range(2)], 18, 32, lr, 0.8
    )
    assert longer["curve"] == {
        "mean": pytest.approx(curves.mean(0).tolist()),
        "std": pytest.approx(curves.std(0).tolist()),
    }
    assert (longer["accuracy"], longer["accuracy_std"]) == pytest.approx(
        (curves[:, -1].mean().item(), curves[:, -1].std().item())
    )
    if lr == 0.3:
        before, at = (
            longer["curve"]["mean"][longer["steps"].index(longer["steps_to_match"]) + i] for i in (-1, 0)
        )
        assert before < result["gtn_accuracy"] <= at
    else:  # learners that stay as they were
        assert longer["steps_to_match"] is None


@pytest.mark.parametrize(("level", "step"), [(0.0, 1), (0.5, 2), (0.7, 4), (0.8, 4), (0.81, None)])
def test_a_level_is_reached_at_the_first_reading_that_is_not_below_it(level: float, step: int | None) -> None:
    assert steps_to_reach(level, [1, 2, 4, 8], [0.1, 0.5, 0.8, 0.7]) == step


def test_final_evaluation_is_where_test_data_are_read(digits: Dataset, curriculum: Curriculum) -> None:
    with pytest.raises(AssertionError, match="must not be"):
        final_evaluation(TINY, dataclasses.replace(digits, test=Untouchable()), curriculum)


def test_the_curve_of_untrained_steps_is_constant(digits: Dataset, curriculum: Curriculum) -> None:
    still = dataclasses.replace(curriculum, lr=torch.zeros(6), momentum=torch.zeros(6))
    curve = taught_curves(LEARNERS, still, digits.valid, [3], every=1)
    assert curve.shape == (1, 6)
    assert curve.eq(accuracy(LEARNERS, LEARNERS.init(3), digits.valid)).all()


def test_seconds_of_training_is_the_median_of_whole_runs(
    curriculum: Curriculum, monkeypatch: pytest.MonkeyPatch
) -> None:
    # runs of 5, 1, 2, 9 and 3 seconds
    clock = iter([0.0, 5.0, 10.0, 11.0, 20.0, 22.0, 30.0, 39.0, 40.0, 43.0])
    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: next(clock))
    assert (
        seconds_of_training(
            LEARNERS, (curriculum.x, curriculum.y, curriculum.lr, curriculum.momentum, SGD()), 0
        )
        == 3.0
    )


def test_every_learner_can_be_taught_a_curriculum_of_its_own(digits: Dataset, curriculum: Curriculum) -> None:
    def own(seed: int) -> Curriculum:
        order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        return dataclasses.replace(curriculum, x=curriculum.x[order], y=curriculum.y[order])

    curves = taught_curves(LEARNERS, own, digits.valid, [1, 2])
    assert curves.equal(
        torch.cat([taught_curves(LEARNERS, own(seed), digits.valid, [seed]) for seed in (1, 2)])
    )
    assert not curves[1].equal(taught_curves(LEARNERS, curriculum, digits.valid, [2])[0])
    result = final_evaluation(TINY, digits, own)
    seeds = [seed_for(0, Purpose.TEST, i) for i in range(2)]
    assert result["gtn_accuracy"] == pytest.approx(
        taught_curves(LEARNERS, own, digits.test, seeds)[:, -1].mean().item()
    )


# ---- several learners in one pass ----

CONV = dict(norm="batch", hidden=(6,))
KINDS = [
    {**CONV, "pool": "max"},
    {**CONV, "pool": "average", "weight_norm": False},
    {"norm": "mean-only", "pool": "max", "hidden": ()},
]


@pytest.mark.parametrize("kind", KINDS)
def test_learners_trained_in_one_pass_are_those_trained_alone(
    digits: Dataset, curriculum: Curriculum, kind: dict[str, Any]
) -> None:
    learner = Learner(dataclasses.replace(LEARNER, **kind), (1, 8, 8), 10)
    members = [learner.init(seed, dtype=torch.float64) for seed in range(3)]
    own = [
        tuple(
            part.double() if part.is_floating_point() else part
            for part in real_batches(digits.train, 6, 8, s)
        )
        for s in range(3)
    ]
    step_sizes = curriculum.lr.double(), curriculum.momentum.double()

    def alone(params: dict[str, Any], batch: Any) -> torch.Tensor:
        return cross_entropy(learner(params, batch[0]), batch[1])

    shared = curriculum.x[:, :8].double(), curriculum.y[:, :8].double()
    stacked = tuple(torch.stack(parts, 1) for parts in zip(*own, strict=True))
    for batches, together in (([shared] * 3, shared), (own, stacked)):
        trained = unstack(sgd(SumOfLosses(learner), stack(members), together, *step_sizes))
        for member, batch, found in zip(members, batches, trained, strict=True):
            expected = sgd(alone, member, batch, *step_sizes)
            for name, weight in expected.items():
                torch.testing.assert_close(found[name], weight, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed(2)])
def test_the_meta_gradient_of_learners_in_one_pass_is_the_sum_of_theirs(
    digits: Dataset, adjoint: Any
) -> None:
    members = [LEARNERS.init(seed, dtype=torch.float64) for seed in range(2)]
    x, y = (
        part.double()
        for part in (
            digits.train.x[:24].view(3, 8, 1, 8, 8),
            torch.eye(10)[digits.train.y[:24]].view(3, 8, 10),
        )
    )
    real = digits.train.x[None, 30:50].double(), digits.train.y[None, 30:50]

    def gradients(runs: list[tuple[Any, Any]]) -> tuple[torch.Tensor, ...]:
        inputs = [
            part.clone().requires_grad_()
            for part in (x, y, torch.full((3,), 0.1).double(), torch.full((3,), 0.5).double())
        ]
        images, labels, lr, momentum = inputs
        total = torch.zeros((), dtype=torch.float64)
        for loss, params in runs:
            total = (
                total
                + sgd(loss, params, (images, labels), lr, momentum, adjoint, Readout(loss, real, 3))[1].sum()
            )
        return torch.autograd.grad(total, inputs)

    def alone(params: dict[str, Any], batch: Any) -> torch.Tensor:
        return cross_entropy(LEARNERS(params, batch[0]), batch[1])

    expected = gradients([(alone, member) for member in members])
    for found, wanted in zip(gradients([(SumOfLosses(LEARNERS), stack(members))]), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-11)


def test_evaluation_is_the_same_in_one_pass_and_one_by_one(
    digits: Dataset, curriculum: Curriculum, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def curves(together: int) -> list[torch.Tensor]:
        monkeypatch.setattr(batched, "most_together", lambda *_: together)
        taught = taught_curves(LEARNERS, curriculum, digits.valid, iter(range(5)))
        return [taught, real_curves(LEARNERS, digits, digits.valid, range(5), 6, 32, 0.3, 0.5)]

    for one_by_one, two, five in zip(curves(1), curves(2), curves(8), strict=True):
        assert one_by_one.shape == (5, 4)
        # the last bits may flip one image
        torch.testing.assert_close(two, one_by_one, rtol=0, atol=1.5 / len(digits.valid))
        torch.testing.assert_close(five, one_by_one, rtol=0, atol=1.5 / len(digits.valid))
        assert len(set(one_by_one[:, -1].tolist())) > 1


def test_learners_go_together_where_it_pays() -> None:
    assert most_together(torch.device("cpu")) == 1
    assert most_together(torch.device("cuda")) > 1
