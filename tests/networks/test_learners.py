"""The learners against the same networks in torch.nn, and what their configs allow."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from minigtn.networks.layers import Params
from minigtn.networks.learners import CIFAR_LEARNER, MNIST_LEARNER, Learner, LearnerConfig

SMALL_CIFAR = dataclasses.replace(CIFAR_LEARNER, channels=(4, 4, 6, 6, 8))
SMALL_MNIST = dataclasses.replace(MNIST_LEARNER, channels=(4, 6), hidden=(8,))


class GlobalAverage(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def torch_network(config: LearnerConfig, params: Params) -> nn.Sequential:
    """The same network from torch's layers, with plain weights and (torch's) batch normalization."""
    parts: list[nn.Module] = []
    state: list[Tensor] = []
    for i in range(1, len(config.channels) + 1):
        w = params[f"conv{i}.weight"]
        parts.append(nn.Conv2d(w.shape[1], w.shape[0], 3, padding=1, bias=False))
        if i in config.pool_after:
            parts.append(nn.MaxPool2d(3, 2, 1) if config.pool == "max" else nn.AvgPool2d(2))
        parts += [nn.BatchNorm2d(w.shape[0]), nn.LeakyReLU(0.1)]
        state += [w, params[f"conv{i}.norm_scale"], params[f"conv{i}.bias"]]
    parts.append(GlobalAverage() if config.global_pool else nn.Flatten())
    for i in range(1, len(config.hidden) + 1):
        w = params[f"dense{i}.weight"]
        parts += [
            nn.Linear(w.shape[1], w.shape[0], bias=False),
            nn.BatchNorm1d(w.shape[0]),
            nn.LeakyReLU(0.1),
        ]
        state += [w, params[f"dense{i}.norm_scale"], params[f"dense{i}.bias"]]
    parts.append(nn.Linear(*reversed(params["head.weight"].shape)))
    state += [params["head.weight"], params["head.bias"]]
    network = nn.Sequential(*parts).double()
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), state, strict=True):
            parameter.copy_(value)
    return network


@pytest.mark.parametrize("pool", ["max", "average"])
@pytest.mark.parametrize(
    ("config", "shape"),
    [(SMALL_MNIST, (1, 28, 28)), (SMALL_CIFAR, (3, 32, 32)), (LearnerConfig((), (), (9, 5)), (1, 3, 5))],
)
def test_learner_is_the_same_network_in_torch(
    config: LearnerConfig, shape: tuple[int, int, int], pool: str
) -> None:
    config = dataclasses.replace(config, pool=pool, norm="batch", weight_norm=False)
    learner = Learner(config, shape, 10)
    params = learner.init(3, dtype=torch.float64)
    # biases and scales of their own
    params = {name: p + 0.1 * torch.randn_like(p) for name, p in params.items()}
    x = torch.randn(6, *shape, dtype=torch.float64)
    torch.testing.assert_close(learner(params, x), torch_network(config, params)(x))


@pytest.mark.parametrize("norm", ["none", "mean-only", "batch"])
@pytest.mark.parametrize("pool", ["max", "average"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (2, 5, 4)])
def test_odd_sizes_and_gradients_of_every_weight(shape: tuple[int, int, int], pool: str, norm: str) -> None:
    learner = Learner(LearnerConfig((4, 5), (1, 2), (6,), pool=pool, norm=norm), shape, 3)
    params = {name: p.requires_grad_() for name, p in learner.init(0).items()}
    logits = learner(params, torch.randn(9, *shape))
    assert logits.shape == (9, 3)
    logits.sin().sum().backward()
    assert [name for name, p in params.items() if not p.grad.isfinite().all() or not p.grad.any()] == []


@pytest.mark.parametrize("config", [SMALL_MNIST, SMALL_CIFAR])
def test_weight_normalized_and_plain_start_as_the_same_function(config: LearnerConfig) -> None:
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    logits = []
    for weight_norm in (True, False):
        learner = Learner(dataclasses.replace(config, weight_norm=weight_norm), (3, 16, 16), 5)
        logits.append(learner(learner.init(7, dtype=torch.float64), x))
    torch.testing.assert_close(*logits)


def test_fresh_weights_follow_from_the_seed() -> None:
    learner = Learner(SMALL_MNIST, (1, 8, 8), 10)
    first = learner.init(1)
    again = learner.init(1)
    other = learner.init(2)
    assert all(first[name].equal(again[name]) for name in first)
    assert not first["head.direction"].equal(other["head.direction"])
    assert {p.dtype for p in first.values()} == {torch.float32}
    assert {p.dtype for p in learner.init(1, dtype=torch.float64).values()} == {torch.float64}


def test_head_scale_scales_the_first_logits() -> None:
    x = torch.randn(4, 1, 8, 8)
    whole, tenth = (
        Learner(dataclasses.replace(SMALL_MNIST, head_scale=scale), (1, 8, 8), 10) for scale in (1.0, 0.1)
    )
    torch.testing.assert_close(tenth(tenth.init(5), x), 0.1 * whole(whole.init(5), x))


def test_the_papers_networks_have_their_sizes() -> None:
    mnist = Learner(MNIST_LEARNER, (1, 28, 28), 10).init(0)
    cifar = Learner(CIFAR_LEARNER, (3, 32, 32), 10).init(0)
    assert mnist["dense1.direction"].shape == (256, 128 * 7 * 7)
    assert cifar["head.direction"].shape == (10, 256)
    assert {name.split(".")[0] for name in cifar} == {"conv1", "conv2", "conv3", "conv4", "conv5", "head"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool_after": (3,)}, "names convolution 3, but there are 2; use numbers from 1 to 2"),
        ({"pool_after": (0,)}, "names convolution 0"),
        ({"channels": (4, 0)}, "widths must be positive"),
        ({"hidden": (-1,)}, "widths must be positive"),
        ({"head_scale": 0.0}, "head_scale must be positive"),
        ({"head_scale": float("nan")}, "head_scale must be positive"),
    ],
)
def test_bad_config_is_one_sentence(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        LearnerConfig(**settings)
    assert "\n" not in str(caught.value)


def test_images_too_small_for_the_pooling_are_refused_at_once() -> None:
    config = LearnerConfig(channels=(4, 4, 4), pool_after=(1, 2, 3), pool="average")
    with pytest.raises(
        ValueError, match=r"images of \(1, 4, 8\) are too small for pooling after \(1, 2, 3\)"
    ):
        Learner(config, (1, 4, 8), 10)
