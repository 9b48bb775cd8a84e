"""Curricula of plain vectors, beside those of images: the file, teaching, and what refuses them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from minigtn import Curriculum, load_curriculum, sgd, teach
from minigtn.agents.environments import CartPole
from minigtn.agents.policies import Policy, PolicyConfig, SumOfImitations
from minigtn.agents.rollout import Simulation, greedy, of_modules, play
from minigtn.pages.export import export


def make(steps: int = 4) -> Curriculum:
    x = torch.randn(steps, 6, 3)
    y = torch.randn(steps, 6, 2).softmax(-1)
    lr = torch.linspace(0.3, 0.05, steps)
    return Curriculum(
        x,
        y,
        lr,
        torch.linspace(0.2, 0.8, steps),
        ("left", "right"),
        (1.0, 2.0, 3.0),
        (0.5, 1.0, 2.0),
        {"by": "a test"},
    )


def test_a_file_of_vectors_gives_back_every_bit(tmp_path: Path) -> None:
    curriculum = make()
    curriculum.save(tmp_path / "c.safetensors")
    back = load_curriculum(tmp_path / "c.safetensors")
    assert back.x.equal(curriculum.x)
    assert back.y.equal(curriculum.y)
    assert not back.of_images
    assert back.class_names == ("left", "right")


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 5), (4, 6, 3, 5, 5, 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs x \(T, B, C, H, W\) or \(T, B, C\)"):
        dataclasses.replace(make(), x=torch.zeros(shape))


def test_a_mean_and_std_for_each_feature() -> None:
    with pytest.raises(ValueError, match="2 means and 3 stds"):
        dataclasses.replace(make(), mean=(0.0, 0.0))
    vectors = torch.randn(5, 3)
    expected = (vectors - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(make().standardize(vectors), expected)


def test_teach_takes_the_steps_of_the_inner_loop_on_vectors() -> None:
    curriculum = make()
    config = PolicyConfig(hidden=(5,))
    policy = Policy(config, 3, 2)
    module = config.module(3, 2, seed=7)
    trained = sgd(
        SumOfImitations(policy),
        policy.init([7]),
        (curriculum.x, curriculum.y),
        curriculum.lr,
        curriculum.momentum,
    )
    teach(module, curriculum)
    for p, q in zip(module.parameters(), trained.values(), strict=True):
        torch.testing.assert_close(p, q[0], rtol=1e-5, atol=1e-6)
    assert not module[0].weight.allclose(config.module(3, 2, seed=7)[0].weight, atol=1e-3)


def test_what_draws_images_refuses_vectors_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"a contact sheet shows images, and this curriculum holds vectors of features, x \(4, 6, 3\)",
    ):
        export(make(), tmp_path / "sheet.png", "float32")
    with pytest.raises(ValueError, match="pixels='uint8' is for images"):
        make().save(tmp_path / "c.safetensors", pixels="uint8")
    assert not list(tmp_path.iterdir())
    export(make(), tmp_path / "c.npz", "float32")
    assert (tmp_path / "c.npz").stat().st_size > 100


@pytest.mark.parametrize(
    ("name", "shape", "hidden"), [("cartpole-10", (10, 64, 4), 32), ("cartpole-1", (1, 64, 4), 512)]
)
def test_a_curriculum_that_comes_with_the_package_solves_cartpole(
    name: str, shape: tuple[int, ...], hidden: int
) -> None:
    curriculum = load_curriculum(name)
    assert curriculum.x.shape == shape
    assert curriculum.class_names == ("left", "right")
    observations = torch.randn(5, 4)
    assert curriculum.standardize(observations).equal(observations)  # as gymnasium gives them
    policy = PolicyConfig((hidden,))
    fresh = [policy.module(4, 2, seed) for seed in range(8)]
    taught = [policy.module(4, 2, seed) for seed in range(8)]
    for module in taught:
        teach(module, curriculum)
    env = CartPole()
    returns = []
    for modules in (fresh, taught):
        running = Simulation(env, 32, torch.Generator().manual_seed(0))
        returns.append(play(running, greedy(of_modules(modules)), env.limit).returns().mean())
    assert returns[0] < 100
    assert returns[1] > 475


def test_a_module_for_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not take this curriculum's batches, \(6, 3\)"):
        teach(nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), make())
