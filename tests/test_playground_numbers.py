"""The playground computes what minigtn computes: its files run in Node, with the numbers of torch."""

from __future__ import annotations

import functools
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import minigtn
from minigtn.agents.environments import CartPole
from minigtn.networks.learners import Learner, LearnerConfig, LearnerLoss
from playground_files import FOLDER, build

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node, for the playground's files")

T = 10
NETWORKS = 4
POINTS = 12
REAL = 128
WEIGHTS = 1e-4
STEPS = {"conv": 2, "dense": 32}
"""With convolutions some activation soon stands at the kink of its leaky ReLU, where float32 and float64
part: torch's own, too, by as much (1.6e-3 after three steps)."""
META_GRADIENT = 1e-5
READERS = {
    "conv": LearnerConfig(
        channels=(8, 16), pool_after=(1, 2), hidden=(32,), norm="batch", pool="average", weight_norm=False
    ),
    "dense": LearnerConfig(
        channels=(), pool_after=(), hidden=(128,), norm="batch", pool="average", weight_norm=False
    ),
}


def distance(a: Tensor, b: Tensor) -> float:
    """|a - b| relative to |b|."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


# ---- what is asked ----


def plane_loss(params: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross entropy of M 2-16-2 tanh networks, summed over them."""
    x, y = batch
    hidden = torch.tanh(x @ params["w0"] + params["b0"])
    logits = hidden @ params["w1"] + params["b1"]
    return -(y * F.log_softmax(logits, -1)).sum() / x.shape[-2]


@functools.cache
def meta_inputs() -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)

    def uniform(bound: float, *shape: int) -> Tensor:
        return bound * (2 * torch.rand(shape, generator=rng) - 1)

    params = {
        "w0": uniform(5 / math.sqrt(2), NETWORKS, 2, 16),
        "b0": uniform(5 / math.sqrt(2), NETWORKS, 1, 16),
        "w1": uniform(0.25, NETWORKS, 16, 2),
        "b1": uniform(0.25, NETWORKS, 1, 2),
    }
    real = uniform(2.0, 1, REAL, 2)
    return {
        "x": uniform(1.2, 1, POINTS, 2),
        "lr": torch.linspace(0.2, 0.6, T),
        "y": F.one_hot(torch.arange(POINTS) % 2, 2).float()[None],
        "params": params,
        "realX": real,
        "realY": F.one_hot((real[..., 0] * real[..., 1] > 0).long(), 2).float(),
    }


def plain(value: Any) -> Any:
    """Tensors as the Node script reads them."""
    if isinstance(value, Tensor):
        return {"numbers": value.flatten().tolist(), "shape": list(value.shape)}
    return [plain(part) for part in value.values()]


ACTIONS = [int(a) for a in torch.randint(2, (60,), generator=torch.Generator().manual_seed(3))]
START = [0.01, -0.02, -0.06, 0.1]


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    asked = {
        "meta": {name: plain(value) for name, value in meta_inputs().items()},
        "data": build().page_data(),
        "steps": STEPS,
        "actions": ACTIONS,
        "start": START,
    }
    command = ["node", str(Path(__file__).with_suffix("").with_name("playground_numbers.js")), str(FOLDER)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- the meta-gradient ----


def meta_gradient(forgotten: int = 0) -> tuple[float, Tensor, Tensor]:
    """Meta-loss and its gradients for points (12, 2) and learning rates (10,), by minigtn.sgd in float64; as
    if the first ``forgotten`` steps did not depend on the points."""
    inputs = meta_inputs()
    x = inputs["x"][0].double().requires_grad_()
    lr = inputs["lr"].double().requires_grad_()
    params = {name: p.double() for name, p in inputs["params"].items()}
    shown = torch.stack([x.detach() if t < forgotten else x for t in range(T)])
    batches = (shown, inputs["y"].double().expand(T, POINTS, 2))
    taught = minigtn.sgd(plane_loss, params, batches, lr)
    loss = plane_loss(taught, (inputs["realX"].double(), inputs["realY"].double())) / NETWORKS
    of_x, of_lr = torch.autograd.grad(loss, (x, lr))
    return loss.item(), of_x, of_lr


def test_the_meta_gradient_is_that_of_minigtn(answers: dict[str, Any]) -> None:
    loss, of_x, of_lr = meta_gradient()
    got = answers["meta"]
    assert got["loss"] == pytest.approx(loss, rel=META_GRADIENT)
    assert distance(torch.tensor(got["x"]), of_x.flatten()) < META_GRADIENT
    assert distance(torch.tensor(got["lr"]), of_lr) < META_GRADIENT


def test_a_gradient_that_misses_one_inner_step_would_be_found(answers: dict[str, Any]) -> None:
    _, of_x, _ = meta_gradient(forgotten=1)
    assert distance(torch.tensor(answers["meta"]["x"]), of_x.flatten()) > 100 * META_GRADIENT


# ---- trained weights ----


def from_page(network: str, weights: list[list[float]]) -> dict[str, Tensor]:
    """A reader's weights as minigtn.networks.learners has them: (out, in[, 3, 3]), features channel by
    channel."""
    numbers = [torch.tensor(part, dtype=torch.float32) for part in weights]
    if network == "dense":
        names = ["dense1.weight", "dense1.norm_scale", "dense1.bias", "head.weight", "head.bias"]
        numbers[0] = numbers[0].view(784, 128).T.contiguous()
        numbers[3] = numbers[3].view(128, 10).T.contiguous()
        return dict(zip(names, numbers, strict=True))
    layers = ("conv1", "conv2", "dense1")
    names = [f"{layer}.{role}" for layer in layers for role in ("weight", "norm_scale", "bias")]
    numbers[0] = numbers[0].view(3, 3, 1, 8).permute(3, 2, 0, 1).contiguous()
    numbers[3] = numbers[3].view(3, 3, 8, 16).permute(3, 2, 0, 1).contiguous()
    numbers[6] = numbers[6].view(7, 7, 16, 32).permute(3, 2, 0, 1).reshape(32, 784)
    numbers[9] = numbers[9].view(32, 10).T.contiguous()
    return dict(zip([*names, "head.weight", "head.bias"], numbers, strict=True))


@pytest.mark.parametrize("network", READERS)
def test_a_curriculum_trains_the_same_weights(answers: dict[str, Any], network: str) -> None:
    got = answers[network]
    steps = STEPS[network]
    curriculum = minigtn.load_curriculum("mnist-32")
    learner = Learner(READERS[network], (1, 28, 28), 10)
    start = {name: p.double() for name, p in from_page(network, got["before"]).items()}
    assert {name: p.shape for name, p in start.items()} == {n: p.shape for n, p in learner.init(0).items()}
    parts = (curriculum.x, curriculum.y, curriculum.lr, curriculum.momentum)
    x, y, lr, momentum = (part[:steps].double() for part in parts)
    with torch.no_grad():
        taught = minigtn.sgd(LearnerLoss(learner), start, (x, y), lr, momentum=momentum)
    after = from_page(network, got["after"])
    for name, p in taught.items():
        assert distance(after[name], p) < WEIGHTS, name
        assert distance(start[name], p) > 100 * WEIGHTS, f"{name} was not trained"


# ---- CartPole ----


def test_the_policy_is_taught_as_minigtn_teaches_it(answers: dict[str, Any]) -> None:
    curriculum = minigtn.load_curriculum("cartpole-10")
    names = ("w0", "b0", "w1", "b1")
    shapes = ((1, 4, 32), (1, 1, 32), (1, 32, 2), (1, 1, 2))

    def weights(numbers: list[list[float]]) -> dict[str, Tensor]:
        parts = zip(names, numbers, shapes, strict=True)
        return {name: torch.tensor(part).double().view(shape) for name, part, shape in parts}

    start = weights(answers["policy"][0])
    parts = (curriculum.x, curriculum.y, curriculum.lr, curriculum.momentum)
    x, y, lr, momentum = (part.double() for part in parts)
    with torch.no_grad():
        taught = minigtn.sgd(plane_loss, start, (x, y), lr, momentum=momentum)
    after = weights(answers["policy"][-1])
    for name in names:
        assert distance(after[name], taught[name]) < WEIGHTS, name
        assert distance(start[name], taught[name]) > 100 * WEIGHTS, name
    states = torch.tensor(answers["states"]).double()
    hidden = torch.tanh(states @ taught["w0"][0] + taught["b0"][0])
    chosen = (hidden @ taught["w1"][0] + taught["b1"][0]).argmax(1)
    assert chosen.tolist() == answers["chosen"]
    assert 0 < sum(answers["chosen"]) < len(ACTIONS)


def test_the_physics_are_those_of_minigtn(answers: dict[str, Any]) -> None:
    state = torch.tensor([START], dtype=torch.float64)
    env = CartPole()
    states = []
    for action in ACTIONS:
        state, _, _ = env.step(state, torch.tensor([action]))
        states.append(state[0])
    assert distance(torch.tensor(answers["states"], dtype=torch.float64), torch.stack(states)) < 1e-12
