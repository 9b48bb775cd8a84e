"""The curricula that come with the package still teach a network that their teachers never met."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from minigtn import data, load_curriculum, teach


def network(channels: int, side: int) -> nn.Module:
    """Plain PyTorch, close to the learners of the presets."""
    norm = {"momentum": None, "track_running_stats": False}
    return nn.Sequential(
        *(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.AvgPool2d(2),
            nn.BatchNorm2d(16, **norm),
            nn.LeakyReLU(0.1),
        ),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.AvgPool2d(2), nn.BatchNorm2d(32, **norm), nn.LeakyReLU(0.1)),
        *(
            nn.Flatten(),
            nn.Linear(32 * (side // 4) ** 2, 64),
            nn.BatchNorm1d(64, **norm),
            nn.LeakyReLU(0.1),
            nn.Linear(64, 10),
        ),
    )


@pytest.mark.parametrize(
    ("name", "dataset", "least"),
    [
        ("digits-10", "digits", 0.85),
        ("digits-any", "digits", 0.88),
        ("mnist-16", "mnist", 0.9),
        ("mnist-32", "mnist", 0.92),
        ("mnist-any", "mnist", 0.88),
        ("cifar10-16", "cifar10", 0.25),
        ("cifar10-any", "cifar10", 0.28),
    ],
)
def test_a_torch_model_learns_from_it(name: str, dataset: str, least: float) -> None:
    if dataset != "digits" and not os.environ.get("MINIGTN_DATA"):
        pytest.skip("MINIGTN_DATA names no folder with the files")
    try:
        real = data.load(dataset)
    except data.DataError as error:  # it may hold the files of another data set
        pytest.skip(str(error))
    curriculum = load_curriculum(name)
    real = data.averaged(real, curriculum.x.shape[-1])
    accuracies = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = network(real.image_shape[0], real.image_shape[-1])
        untaught = (net(real.valid.x[:1000]).argmax(1) == real.valid.y[:1000]).float().mean()
        teach(net, curriculum)
        with torch.no_grad():
            accuracies.append(
                (net(real.valid.x[:1000]).argmax(1) == real.valid.y[:1000]).float().mean().item()
            )
        assert untaught < 0.4
    assert sum(accuracies) / 3 > least, accuracies


def test_the_curriculum_for_the_papers_learner_says_so() -> None:
    curriculum = load_curriculum("mnist-paper")
    assert curriculum.x.shape == (32, 128, 1, 28, 28)
    assert curriculum.optimizer == "sgd"
    assert curriculum.provenance["config"]["learner"]["channels"] == [64, 128]


def test_each_knows_the_moments_of_its_real_images() -> None:
    names = ("digits-10", "digits-any", "mnist-16", "mnist-32", "mnist-any", "mnist-paper", "cifar10-16",
             "cifar10-any")  # fmt: skip
    for name in names:
        curriculum = load_curriculum(name)
        assert curriculum.moments.shape == (2, *curriculum.x.shape[2:])
        mean, std = curriculum.moments  # of images that were standardized per channel
        torch.testing.assert_close(mean.mean((1, 2)), torch.zeros(len(mean)), rtol=0, atol=1e-3)
        spread = std.square().mean((1, 2)) + mean.square().mean((1, 2))
        if name != "cifar10-any":  # of images that were averaged down afterwards
            torch.testing.assert_close(spread, torch.ones(len(mean)), rtol=2e-3, atol=0)
        assert spread.min() > 0.8
    for name in names[:2]:
        torch.testing.assert_close(load_curriculum(name).moments, data.load("digits").moments)
