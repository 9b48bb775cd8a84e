"""Teach to rank: the loss says what it says, its meta-gradient is exact through every adjoint, a wrong one is
caught, and the real trainings behind it are made once and counted."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from minigtn import Checkpointed, Reversible, Unrolled, sgd
from minigtn.config import RunConfig
from minigtn.data.datasets import Dataset, Split
from minigtn.outer import meta_gradient, ranked
from minigtn.outer.loop import MetaTraining
from minigtn.outer.meta_gradient import MetaGradient
from minigtn.outer.ranked import Targets, ranked_loss
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.teaching.fidelity import Fidelity
from minigtn.teaching.teacher import Teacher
from tiny import tiny

RANKED = {
    "learners": 3, "sample_learners": "nas-bench-201", "sample_pool": 8, "rank_weight": 2.0,
    "rank_temperature": 0.5, "rank_steps": 4, "readout_every": 2,
}  # fmt: skip


def config(**meta: Any) -> RunConfig:
    return dataclasses.replace(tiny(**(RANKED | meta)), fidelity=Fidelity(channels=2, cells=1))


@pytest.fixture
def exact(digits: Dataset) -> Dataset:
    """A few digits in float64."""
    parts = {name: getattr(digits, name) for name in ("train", "valid")}
    return dataclasses.replace(
        digits, **{name: Split(part.x[:80].double(), part.y[:80]) for name, part in parts.items()}
    )


# ---- the loss ----


def test_the_loss_by_hand():
    readings = torch.tensor([[9.0, 1.0], [9.0, 3.0], [9.0, 2.0]])
    targets = torch.tensor([0.1, 0.2, 0.3])  # the first two pairs are in order, the last is not
    pairs = [(1.0, 3.0), (1.0, 2.0), (3.0, 2.0)]
    expected = sum(math.log1p(math.exp((better - worse) / 0.5)) for better, worse in pairs) / 3
    loss, weights, in_order = ranked.ranked(readings, targets, 2.0, 0.5)
    assert loss.item() == pytest.approx(5.5 + 2 * expected)
    assert in_order == pytest.approx(2 / 3)
    assert weights[:, 0].tolist() == pytest.approx([1 / 6] * 3)  # of the mean alone
    assert weights.sum().item() == pytest.approx(1)  # a pair pushes one as much as it pulls the other
    assert weights[1, 1] > 1 / 6 > weights[2, 1]


def test_only_the_order_of_the_targets_counts_and_equal_ones_make_no_pair():
    readings = torch.rand(4, 3)
    one, other = (
        ranked_loss(readings, torch.tensor(t), 1.0, 0.1) for t in ([1.0, 2, 3, 9], [0.0, 0.1, 7, 8])
    )
    assert one == other
    assert one != ranked_loss(readings, torch.tensor([2.0, 1, 3, 9]), 1.0, 0.1)
    nothing = ranked.ranked(readings, torch.tensor([5.0, 5, 5, 5]), 1.0, 0.1)
    assert nothing.loss == readings.mean()
    assert nothing.in_order is None
    ruined = ranked.ranked(readings, torch.tensor([1.0, math.inf, math.inf, 2]), 1.0, 0.1)
    assert ruined.weights.isfinite().all()


# ---- the meta-gradient ----


def outer_loss(gradient: MetaGradient, teacher: Teacher, step: int) -> Tensor:
    """The outer loss of a step, in one go and without any adjoint."""
    meta = gradient.config.meta
    readings = []
    targets = []
    with torch.no_grad():
        x, y, lr, momentum, _ = teacher()
        for number in range(step * meta.learners, (step + 1) * meta.learners):
            drawn = gradient._draw(step, [number])
            readings.append(
                sgd(drawn.readout.loss, drawn.start, (x, y), lr, momentum, readout=drawn.readout)[1]
            )
            member = seed_for(gradient.config.seed, Purpose.LEARNER, number) % meta.sample_pool
            targets.append(gradient.targets.of(member, drawn.cohort.learner))
    targets = torch.tensor(targets, dtype=torch.float64)
    return ranked_loss(torch.stack(readings), targets, meta.rank_weight, meta.rank_temperature)


def slope_and_difference(data: Dataset, adjoint: Any, name: str = "z") -> tuple[float, float]:
    """The meta-gradient of an outer step along a direction, and finite differences of the outer loss."""
    gradient = MetaGradient(config(), data)
    gradient.adjoint = adjoint
    teacher = Teacher(gradient.config.teacher, data.image_shape, 10, 7, torch.float64)
    for p in teacher.parameters():
        p.grad = torch.zeros_like(p)
    loss = gradient.add(teacher, 0, range(3))
    assert loss.item() == pytest.approx(outer_loss(gradient, teacher, 0).item(), rel=1e-6)
    parameter = dict(teacher.named_parameters())[name]
    direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    direction /= direction.norm()

    def loss_at(step: float) -> float:
        with torch.no_grad():
            parameter.add_(step * direction)
            value = outer_loss(gradient, teacher, 0).item()
            parameter.sub_(step * direction)
        return value

    h = 1e-7  # these networks bend at every ReLU
    difference = (loss_at(h) - loss_at(-h)) / (2 * h)
    return (parameter.grad * direction).sum().item(), difference


@pytest.mark.parametrize("name", ["z", "lr_raw"])
@pytest.mark.parametrize(
    "adjoint", [Unrolled(), Checkpointed(2), Reversible()], ids=lambda a: type(a).__name__
)
def test_the_meta_gradient_is_that_of_finite_differences(exact: Dataset, adjoint: Any, name: str) -> None:
    slope, difference = slope_and_difference(exact, adjoint, name)
    assert abs(slope) > 1e-5
    assert slope == pytest.approx(difference, rel=1e-4)


def test_a_wrong_weight_is_caught(exact: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> ranked.Ranked:
        right = ranked.ranked(*arguments)
        weights = right.weights.clone()
        weights[1, -1] *= 1.02
        return right._replace(weights=weights)

    monkeypatch.setattr(meta_gradient, "ranked", wrong)
    slope, difference = slope_and_difference(exact, Checkpointed())
    assert slope != pytest.approx(difference, rel=1e-4)


def test_without_a_weight_nothing_changes(exact: Dataset) -> None:
    """The mean alone: with a weight that is next to nothing the two passes give what one pass does."""
    gradients = []
    for weight in (0.0, 1e-12):
        gradient = MetaGradient(config(rank_weight=weight), exact)
        teacher = Teacher(gradient.config.teacher, exact.image_shape, 10, 7, torch.float64)
        gradient.add(teacher, 1, range(3))
        gradients.append(torch.cat([p.grad.flatten() for p in teacher.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert gradients[0].norm() > 1e-4


@pytest.mark.parametrize("adjoint", [Checkpointed(2), Reversible()], ids=lambda a: type(a).__name__)
def test_networks_that_wait_give_what_two_passes_give(
    exact: Dataset, adjoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All trained and then walked back, each is trained once less; also where learners are clipped."""
    for changes in ({}, {"clip_learner": 1e-3}):
        gradients = []
        for once in (True, False):
            gradient = MetaGradient(config(**changes), exact)
            gradient.adjoint = adjoint
            assert meta_gradient.waits(gradient.config, adjoint) or not once
            if not once:
                monkeypatch.setattr(meta_gradient, "waits", lambda *_: False)
            teacher = Teacher(gradient.config.teacher, exact.image_shape, 10, 7, torch.float64)
            loss = gradient.add(teacher, 1, range(3))
            monkeypatch.undo()
            gradients.append(torch.cat([loss.view(1), *(p.grad.flatten() for p in teacher.parameters())]))
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
        assert gradients[0][1:].norm() > 1e-6
    varies = dataclasses.replace(gradient.config.teacher, z="gaussian")
    assert not meta_gradient.waits(config(), Unrolled())
    assert not meta_gradient.waits(config(), Checkpointed(graphs=True))
    assert not meta_gradient.waits(dataclasses.replace(gradient.config, teacher=varies), adjoint)


def test_two_workers_see_all_the_networks_of_a_step(exact: Dataset) -> None:
    """Each walks back its own, with weights from the readings of all."""
    shares: list[list[Tensor]] = []
    sums: list[list[Tensor]] = []
    for turn in (0, 1):  # first it is noted what each has to say, then each hears the sum
        shares.append([])
        for rank, mine in enumerate((range(0, 3, 2), range(1, 3, 2))):

            def sum_(tensors: list[Tensor], rank: int = rank, turn: int = turn) -> None:
                if turn == 0:
                    sums.append([t.clone() for t in tensors])
                else:
                    for i, t in enumerate(tensors):
                        t.copy_(sums[0][i] + sums[1][i])

            gradient = MetaGradient(config(), exact)
            teacher = Teacher(gradient.config.teacher, exact.image_shape, 10, 7, torch.float64)
            loss = gradient.add(teacher, 0, mine, sum_)
            shares[turn].append(torch.cat([loss.view(1), *(p.grad.flatten() for p in teacher.parameters())]))
    gradient = MetaGradient(config(), exact)
    teacher = Teacher(gradient.config.teacher, exact.image_shape, 10, 7, torch.float64)
    loss = gradient.add(teacher, 0, range(3))
    alone = torch.cat([loss.view(1), *(p.grad.flatten() for p in teacher.parameters())])
    torch.testing.assert_close(shares[1][0] + shares[1][1], alone)
    assert (shares[0][0] + shares[0][1] - alone).norm() > 1e-4  # without the sum they do not


# ---- the real trainings ----


def test_targets_are_trained_once_counted_and_kept(digits: Dataset, tmp_path: Any, monkeypatch: Any) -> None:
    training = MetaTraining(config(), digits)
    records = [training.outer_step().record() for _ in range(3)]
    cost = training.meta_gradient.targets.cost()
    assert 2 <= cost["networks"] <= 8
    assert cost["real_steps"] == 4 * cost["networks"]
    assert cost["seconds"] > 0
    assert all(0 <= record["in_order"] <= 1 for record in records if "in_order" in record)
    assert any("in_order" in record for record in records)
    assert training.result().provenance["real_trainings"] == cost
    training.save_checkpoint(tmp_path)
    again = MetaTraining(config(), digits)
    again.load_checkpoint(tmp_path)
    monkeypatch.setattr(Targets, "_train", lambda *_: pytest.fail("trained again"))
    assert again.meta_gradient.targets.known == training.meta_gradient.targets.known
    again.meta_gradient.add(again.teacher, 0, range(3))


def test_a_target_is_the_validation_loss_of_a_real_training_that_learns(digits: Dataset) -> None:
    long = config(rank_steps=60, rank_lr=0.1)
    learner = MetaGradient(long, digits)._learner(0, 0)
    short = Targets(config(rank_steps=1), digits).of(0, learner)
    targets = Targets(long, digits)
    assert targets.of(0, learner) < short - 0.2
    assert targets.of(0, learner) == Targets(long, digits).of(0, learner)
    ruined = Targets(config(rank_lr=1e30), digits)
    assert ruined.of(0, learner) == math.inf
    saved = ruined.state()
    ruined.load_state(saved)
    assert ruined.known[0][0] == math.inf


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rank_weight": -1.0}, "meta.rank-weight must not be negative"),
        ({"rank_temperature": 0.0}, "meta.rank-temperature .* positive"),
        ({"rank_lr": 0.0}, "meta.rank-lr .* positive"),
        ({"rank_steps": 0}, "meta.rank_steps must be at least 1"),
        (
            {"learners": 1},
            "meta.rank-weight compares the networks of an outer step: give meta.learners, at least 2",
        ),
        ({"sample_pool": 0}, "and meta.sample-pool"),
    ],
)
def test_bad_settings_are_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        config(**changes)
