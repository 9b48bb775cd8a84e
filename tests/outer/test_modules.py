"""Networks never met: what is judged, on which data, and that a run reports it."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from minigtn import Curriculum, data, teach
from minigtn.config import EvaluationConfig
from minigtn.data.datasets import Dataset, Split
from minigtn.networks.unmet import UNMET
from minigtn.outer import modules
from minigtn.outer.evaluate import real_batches
from minigtn.outer.modules import RealArm, accuracy_of, judged, row
from minigtn.runs.seeds import Purpose, seed_for
from tiny import TINY

CONFIG = dataclasses.replace(TINY, evaluation=EvaluationConfig(transfer=2))
NETWORK = UNMET["relu-mlp"]


@pytest.fixture(scope="module")
def few() -> Dataset:
    """A fifth of the digits."""
    whole = data.load("digits")
    parts = {
        name: Split(getattr(whole, name).x[:200], getattr(whole, name).y[:200])
        for name in ("train", "valid", "test")
    }
    return dataclasses.replace(whole, **parts)


@pytest.fixture(scope="module")
def curriculum(few: Dataset) -> Curriculum:
    x, y = real_batches(few.train, 3, 20, seed=0)
    labels = nn.functional.one_hot(y, 10).float()
    sizes = torch.full((3,), 0.003), torch.full((3,), 0.9)
    return Curriculum(x, labels, *sizes, few.class_names, few.mean, few.std, {}, "adam")


def test_the_figures_are_those_of_modules_taught_and_read_in_evaluation_mode(
    few: Dataset, curriculum: Curriculum
) -> None:
    found = row(NETWORK, CONFIG, few, {"one": curriculum}, 3, 20, 2, 2)
    seeds = [seed_for(0, Purpose.TEST, i) for i in range(2)]
    taught = []
    for seed in seeds:
        torch.manual_seed(seed)
        module = NETWORK.make((1, 8, 8), 10)
        teach(module, curriculum)
        module.eval()
        taught.append((module(few.test.x).argmax(1) == few.test.y).double().mean().item())
    mean = sum(taught) / 2
    std = abs(taught[0] - taught[1]) / 2**0.5
    assert found["taught"]["one"] == pytest.approx({"mean": mean, "std": std})
    assert found["weights"] == 64 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert found["real"]["lr"] in modules.RATES[found["real"]["optimizer"]]
    assert found["real_more"]["mean"] > 0.1
    json.dumps(found, allow_nan=False)


def test_the_real_arm_is_that_of_torch_optim(few: Dataset) -> None:
    for arm, make in (
        (RealArm("sgd", 0.1), lambda p: torch.optim.SGD(p, 0.1, 0.9)),
        (RealArm("adam", 0.01), lambda p: torch.optim.Adam(p, 0.01)),
    ):
        trained = []
        for by_hand in (False, True):
            torch.manual_seed(1)
            module = NETWORK.make((1, 8, 8), 10)
            if by_hand:
                optimizer = make(module.parameters())
                for x, y in zip(*real_batches(few.train, 4, 20, 5), strict=True):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(module(x), y).backward()
                    optimizer.step()
            else:
                arm.train(module, few, 4, 20, 5)
            trained.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
        assert trained[0].equal(trained[1])


def test_the_better_of_sgd_and_adam_counts_by_validation_data(
    few: Dataset, curriculum: Curriculum, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test images are read with the chosen settings alone."""
    monkeypatch.setattr(modules, "RATES", {"sgd": (1e-6, 0.1), "adam": (1e-6,)})
    monkeypatch.setattr(modules, "FINALISTS", 2)
    read = []
    train = RealArm.train

    def watch(self: RealArm, module: nn.Module, images: Dataset, steps: int, *args: int) -> None:
        read.append((self, steps))
        train(self, module, images, steps, *args)

    monkeypatch.setattr(RealArm, "train", watch)
    found = row(NETWORK, CONFIG, few, {"one": curriculum}, 10, 20, 3, 2)
    assert (found["real"]["optimizer"], found["real"]["lr"]) == ("sgd", 0.1)
    assert (found["real_more"]["optimizer"], found["real_more"]["lr"]) == ("sgd", 0.1)
    assert [steps for _, steps in read].count(30) == 2 + 2  # finalists, then the best one on test data
    assert [steps for _, steps in read].count(10) == 3 * modules.TUNING_SEEDS + 2


def test_batch_norm_is_read_with_the_statistics_of_what_was_trained_on(few: Dataset) -> None:
    torch.manual_seed(0)
    module = UNMET["resnet"].make((1, 8, 8), 10)
    RealArm("adam", 0.01).train(module, few, 10, 20, 0)
    module.train()
    with torch.no_grad():
        batch = (module(few.test.x).argmax(1) == few.test.y).double().mean().item()
    assert accuracy_of(module, few.test) > batch - 0.1 > 0.3
    assert not module.training
    assert all(norm.momentum == 0.1 for norm in module.modules() if isinstance(norm, nn.BatchNorm2d))


def test_a_matrix_has_every_network(
    few: Dataset, curriculum: Curriculum, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "UNMET", {name: UNMET[name] for name in ("relu-mlp", "tiny-vit")})
    shown = []

    def varies(seed: int) -> Curriculum:
        shown.append(seed)
        return curriculum

    matrix = judged(CONFIG, few, varies, more=2)
    assert list(matrix["rows"]) == ["relu-mlp", "tiny-vit"]
    assert (matrix["inner_steps"], matrix["more_steps"], matrix["n_learners"]) == (3, 6, 2)
    assert len(set(shown)) == 2  # each its own
    assert matrix["rows"] == judged(CONFIG, few, curriculum, more=2)["rows"]


@pytest.mark.parametrize("name", UNMET)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_networks_fit_every_image_size(name: str, shape: tuple[int, int, int]) -> None:
    module = UNMET[name].make(shape, 7)
    assert module(torch.randn(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("transfer", [1, -2])
def test_one_network_has_no_spread(transfer: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 .* or 0 for no matrix, not {transfer}"):
        EvaluationConfig(transfer=transfer)
