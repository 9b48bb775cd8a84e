"""The pool of ordinary networks: what is in it, what never is, and that it can be taught through."""

from __future__ import annotations

import collections
import typing

import pytest
import torch
from torch import nn

import minigtn
from minigtn import Checkpointed, Readout, Unrolled
from minigtn.networks import ordinary
from minigtn.networks.families import LEARNERS
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import LearnerConfig
from minigtn.networks.ordinary import MOST_MULTIPLY_ADDS, draw, sample

SEEDS = range(600)
SHAPE = (1, 28, 28)
PARTS = (
    *(nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.LayerNorm),
    *ordinary.ACTIVATIONS.values(),
)


@pytest.fixture(scope="module")
def drawn() -> list[ordinary.Ordinary]:
    return [draw(seed, SHAPE, 10) for seed in SEEDS]


def test_every_choice_occurs(drawn: list[ordinary.Ordinary]) -> None:
    convolutional = [c for c in drawn if c.channels]
    assert 0.65 < len(convolutional) / len(drawn) < 0.85
    assert {len(c.channels) for c in drawn} == {0, 1, 2, 3, 4}
    assert {c.kernel for c in convolutional} == {3, 5}
    for name, values in (("down", ordinary.Down), ("norm", ordinary.Norm)):
        assert {getattr(c, name) for c in convolutional} == set(typing.get_args(values))
    assert {c.norm for c in drawn if not c.channels} == {"none", "batch", "layer"}
    assert {c.activation for c in drawn} == set(ordinary.ACTIVATIONS)
    assert {len(c.hidden) for c in drawn if not c.channels} == {1, 2, 3}
    assert {(c.global_pool, len(c.hidden)) for c in convolutional} == {(False, 0), (False, 1), (True, 0)}
    assert {c.halvings for c in convolutional} == {1, 2, 3}
    assert max(collections.Counter(drawn).values()) < 12  # small dense ones come again, others hardly


def test_the_network_follows_from_the_seed() -> None:
    assert [draw(seed, SHAPE, 10) for seed in range(30)] == [draw(seed, SHAPE, 10) for seed in range(30)]
    pinned = draw(0, (1, 8, 8), 10)  # a resumed run meets the networks it would have met
    assert (pinned.channels, pinned.kernel, pinned.norm) == ((12, 24, 48), 5, "none")
    assert (pinned.activation, pinned.down, pinned.global_pool) == ("leaky-relu", "max", True)
    one, other = sample(3, SHAPE, 10), sample(3, SHAPE, 10)
    assert one == other  # so that what is captured for one is found again
    assert all(w.equal(v) for w, v in zip(one.init(5).values(), other.init(5).values(), strict=True))
    assert one != sample(4, SHAPE, 10)


def is_plain(module: nn.Module) -> bool:
    """One thing after the other, of the parts above, and no LeNet."""
    if type(module) is not nn.Sequential or any(type(part) not in PARTS for part in module):
        return False
    if any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in module):
        return False
    dense = sum(isinstance(part, nn.Linear) for part in module)
    return dense <= 2 or not isinstance(module[0], nn.Conv2d)


def test_families_held_back_for_judging_are_never_drawn(drawn: list[ordinary.Ordinary]) -> None:
    assert all(is_plain(config()) for config in drawn)
    base = LearnerConfig(channels=(8, 16), hidden=(16,))
    for name in ("residual", "depthwise", "lenet", "mixer"):
        assert not is_plain(LEARNERS[name].build(base, SHAPE, 10).make()), name
    assert not is_plain(nn.Sequential(nn.TransformerEncoderLayer(8, 2), nn.Linear(8, 10)))


def test_networks_are_affordable(drawn: list[ordinary.Ordinary]) -> None:
    assert max(config.multiply_adds for config in drawn) <= 1.2 * MOST_MULTIPLY_ADDS
    counted = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal counted
        counted += output.numel() * module.weight[0].numel()

    for config in drawn[:60]:
        module = config()
        for part in module:
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.register_forward_hook(count)
        counted = 0
        module(torch.randn(2, *SHAPE))
        assert counted == 2 * config.multiply_adds


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 8, 8), (3, 9, 20), (3, 32, 32), (1, 64, 64)])
def test_networks_are_valid_for_images_of_any_size(shape: tuple[int, int, int]) -> None:
    for seed in range(60):
        learner = sample(seed, shape, 7)
        x = torch.randn(4, *shape)
        logits = learner(learner.init(seed), x)
        assert logits.shape == (4, 7)
        assert logits.isfinite().all()


def test_weights_are_torchs_own() -> None:
    learner = sample(1, SHAPE, 10)
    torch.manual_seed(9)
    module = draw(1, SHAPE, 10)()
    for name, weight in learner.init(9).items():
        assert weight.equal(module.get_parameter(name).detach())
    assert not list(module.buffers())


def test_predictions_are_those_of_the_batch_and_of_nothing_before(drawn: list[ordinary.Ordinary]) -> None:
    config = next(c for c in drawn if c.norm == "batch" and c.channels)
    learner = ordinary.ModuleLearner(config, SHAPE)
    params = learner.init(0)
    x = torch.randn(6, *SHAPE)
    before = learner(params, x)
    learner(params, 5 + 3 * torch.randn(6, *SHAPE))
    assert learner(params, x).equal(before)


@pytest.mark.parametrize("seed", range(24))
def test_the_meta_gradient_flows_through_every_kind(seed: int) -> None:
    """Second derivatives of each kind of layer, as one adjoint and the other have them."""
    learner = sample(seed, (1, 8, 8), 3)
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 6, 1, 8, 8, generator=rng, dtype=torch.float64)
    y = torch.arange(6).remainder(3).expand(3, 6)
    real = torch.randn(1, 9, 1, 8, 8, generator=rng, dtype=torch.float64), torch.arange(9).view(1, 9) % 3

    def loss(params, batch):
        return cross_entropy(learner(params, batch[0]), batch[1])

    found = []
    for adjoint in (Unrolled(), Checkpointed()):
        leaf = x.clone().requires_grad_()
        start = learner.init(seed, dtype=torch.float64)
        optimizer = minigtn.MuAdam(eps=1e-3)
        _, losses = minigtn.sgd(loss, start, (leaf, y), 0.01, 0.5, adjoint, Readout(loss, real, 3), optimizer)
        found.append(torch.autograd.grad(losses.sum(), leaf)[0])
    assert (found[0].flatten(2).norm(dim=2) > 0).all(), learner.make  # every image of every step counts
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-12)
