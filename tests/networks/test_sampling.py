"""Sampled learners are valid, varied and affordable; the rows of the transfer matrix can be trained and
taught."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import minigtn
from minigtn import Checkpointed, Readout, data
from minigtn.config import PRESETS
from minigtn.data.datasets import Dataset
from minigtn.networks.families import LEARNERS
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import CIFAR_LEARNER, MNIST_LEARNER, Learner, LearnerConfig
from minigtn.networks.sampling import ModuleLearner, sample
from minigtn.outer.batched import SumOfLosses, stack

SMALL = LearnerConfig(channels=(8, 16), hidden=(16,), norm="batch", pool="average")
SEEDS = range(400)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


def multiply_adds(config: LearnerConfig, image_shape: tuple[int, int, int]) -> int:
    """Of one image, counted at the layers."""
    _, height, width = image_shape
    total = 0
    for name, shape in Learner(config, image_shape, 10)._shapes.items():
        positions = height * width if name.startswith("conv") else 1
        total += math.prod(shape) * positions
        if name.startswith("conv") and int(name[4:]) in config.pool_after:
            up = config.pool == "max"
            height = (height + up) // 2
            width = (width + up) // 2
    return total


# ---- sampling ----


def test_every_choice_occurs() -> None:
    found = [sample(MNIST_LEARNER, seed) for seed in SEEDS]
    assert {len(c.channels) for c in found} == {0, 1, 2, 3}
    assert {c.channels[0] for c in found if len(c.channels) == 2} == {32, 48, 64, 80}
    assert {c.pool for c in found} == {"max", "average"}
    assert {c.norm for c in found} == {"batch", "mean-only"}
    assert {c.weight_norm for c in found} == {True, False}
    assert {c.hidden for c in found if c.channels and c.channels[0] == 64} == {(256,), (128,), ()}
    assert {(c.global_pool, bool(c.hidden)) for c in found if c.channels} == {
        (False, True),
        (False, False),
        (True, False),
    }
    assert all(c.hidden and not c.global_pool for c in found if not c.channels)
    assert sum(sample(MNIST_LEARNER, seed) == MNIST_LEARNER for seed in SEEDS) < 20


def test_the_learner_follows_from_the_seed() -> None:
    assert [sample(SMALL, seed) for seed in range(20)] == [sample(SMALL, seed) for seed in range(20)]
    assert len({sample(SMALL, seed) for seed in range(20)}) > 15
    pinned = LearnerConfig(
        channels=(32,),
        pool_after=(1,),
        hidden=(),
        global_pool=True,
        pool="max",
        norm="mean-only",
        weight_norm=True,
    )
    assert sample(MNIST_LEARNER, 1) == pinned  # a resumed run meets the learners it would have met


@pytest.mark.parametrize(
    ("base", "shape"),
    [
        (PRESETS["digits"].learner, (1, 8, 8)),
        (PRESETS["mnist-small"].learner, (1, 28, 28)),
        (MNIST_LEARNER, (1, 28, 28)),
        (CIFAR_LEARNER, (3, 32, 32)),
    ],
)
def test_sampled_learners_are_valid_and_not_much_more_expensive(
    base: LearnerConfig, shape: tuple[int, int, int]
) -> None:
    most = 1.6 * multiply_adds(base, shape)
    assert all(multiply_adds(sample(base, seed), shape) <= most for seed in SEEDS)


@pytest.mark.parametrize("size", [8, 12, 20, 28, 32])
def test_sampled_learners_are_valid_for_all_image_sizes(size: int) -> None:
    for seed in range(60):
        learner = Learner(sample(SMALL, seed), (3, size, size), 7)
        assert learner(learner.init(seed), torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    "base",
    [
        LearnerConfig(channels=(), pool_after=(), hidden=(12, 8)),
        LearnerConfig(channels=(4,), pool_after=(1,)),
    ],
)
def test_dense_and_shallow_bases_have_variations_too(base: LearnerConfig) -> None:
    found = [sample(base, seed) for seed in range(100)]
    assert {len(c.channels) for c in found} == ({0} if not base.channels else {0, 1, 2})
    assert len({(c.hidden, c.norm, c.weight_norm) for c in found}) > 8


def test_sampled_learners_learn(digits: Dataset) -> None:
    """A few steps on real digits make the loss of every one smaller."""
    x = digits.train.x[:96].view(6, 16, 1, 8, 8)
    y = digits.train.y[:96].view(6, 16)
    for seed in range(40):
        learner = Learner(sample(SMALL, seed), (1, 8, 8), 10)

        def loss(params, batch, learner=learner):
            return cross_entropy(learner(params, batch[0]), batch[1])

        before = learner.init(seed)
        with torch.no_grad():
            after = minigtn.sgd(loss, before, (x, y), 0.02, 0.5)
            everything = x.flatten(0, 1), y.flatten()
            assert loss(after, everything) < loss(before, everything), learner.config


def test_the_meta_gradient_flows_through_sampled_learners(digits: Dataset) -> None:
    y = digits.train.y[:24].view(3, 8)
    readings = (digits.valid.x[None, :16], digits.valid.y[None, :16])
    for seed in range(12):
        learner = Learner(sample(SMALL, seed), (1, 8, 8), 10)

        def loss(params, batch, learner=learner):
            return cross_entropy(learner(params, batch[0]), batch[1])

        x = digits.train.x[:24].view(3, 8, 1, 8, 8).clone().requires_grad_()
        _, losses = minigtn.sgd(
            loss, learner.init(seed), (x, y), 0.05, 0.5, Checkpointed(), Readout(loss, readings, 3)
        )
        (d_x,) = torch.autograd.grad(losses.sum(), x)
        assert d_x.isfinite().all()
        assert (d_x.flatten(2).norm(dim=2) > 0).all(), learner.config  # every image of every step counts


# ---- the rows ----


def test_there_are_nine_rows_and_families_that_are_never_sampled() -> None:
    assert len(LEARNERS) >= 9
    assert sum(not entry.sampled for entry in LEARNERS.values()) >= 2
    built = {name: entry.build(SMALL, (1, 8, 8), 10) for name, entry in LEARNERS.items()}
    assert all(
        isinstance(built[name], Learner if entry.sampled else ModuleLearner)
        for name, entry in LEARNERS.items()
    )
    assert built["base"] == Learner(SMALL, (1, 8, 8), 10)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_rows_are_built_for_every_image_size(name: str, shape: tuple[int, int, int]) -> None:
    learner = LEARNERS[name].build(SMALL, shape, 10)
    params = learner.init(3)
    with torch.no_grad():
        logits = learner(params, torch.randn(4, *shape))
    assert logits.shape == (4, 10)
    assert logits.isfinite().all()
    assert learner.image_shape == shape


@pytest.mark.parametrize("name", LEARNERS)
def test_rows_are_pure_and_train_alone_and_in_one_pass(name: str, digits: Dataset) -> None:
    learner = LEARNERS[name].build(SMALL, digits.image_shape, 10)
    members = [learner.init(seed, dtype=torch.float64) for seed in (1, 2)]
    state = torch.get_rng_state()
    again = learner.init(1, dtype=torch.float64)
    assert torch.get_rng_state().equal(state)
    assert all(again[key].equal(weight) for key, weight in members[0].items())
    assert any(not members[1][key].equal(weight) for key, weight in members[0].items())
    x = digits.train.x[:80].view(5, 16, 1, 8, 8).double()
    y = digits.train.y[:80].view(5, 16)

    def loss(params, batch):
        return cross_entropy(learner(params, batch[0]), batch[1])

    with torch.no_grad():
        alone = [minigtn.sgd(loss, member, (x, y), 0.05, 0.5) for member in members]
        together = minigtn.sgd(SumOfLosses(learner), stack(members), (x, y), 0.05, 0.5)
        everything = x.flatten(0, 1), y.flatten()
        assert loss(alone[0], everything) < loss(members[0], everything)
    for key, weight in stack(alone).items():
        torch.testing.assert_close(together[key], weight, rtol=1e-8, atol=1e-10)


def test_a_module_learner_is_the_module() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

    learner = ModuleLearner(make, (1, 2, 2))
    torch.manual_seed(7)
    module = make()
    x = torch.randn(5, 1, 2, 2)
    assert learner(learner.init(7), x).equal(module(x))
