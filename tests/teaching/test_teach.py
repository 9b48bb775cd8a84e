"""``teach``: the steps it takes, the choice of their size, and that no module is ruined."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pupils import classifier, make, same, state
from torch import Tensor, nn

import minigtn
from minigtn import load_curriculum, teach
from minigtn.inner.optimizers import OPTIMIZERS
from minigtn.networks.unmet import UNMET

# ---- the steps ----


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("momentum", [None, (0.9, 0.0, 0.5, 0.9), (0.0, 0.9, 0.9, 0.0)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muadam", "rmsprop"])
def test_teach_takes_the_steps_of_the_inner_loop(
    dtype: torch.dtype, tolerance: float, momentum: tuple[float, ...] | None, optimizer: str
) -> None:
    curriculum = make(dtype=dtype, momentum=momentum)
    module = classifier().to(dtype)
    if optimizer != "sgd":
        curriculum = dataclasses.replace(curriculum, optimizer=optimizer, lr=curriculum.lr / 10)
        tolerance = 10 * tolerance
    start = {name: p.detach().clone() for name, p in module.named_parameters()}

    def loss(params: dict[str, Tensor], batch: list[Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(module, params, (batch[0],)), batch[1])

    parts = (curriculum.x, curriculum.y), curriculum.lr, curriculum.momentum
    trained = minigtn.sgd(loss, start, *parts, optimizer=OPTIMIZERS[optimizer])
    taught = teach(module, curriculum, lr="learned")
    assert taught.chosen == f"learned {optimizer}"
    assert taught.lr == tuple(curriculum.lr.tolist())
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.detach(), trained[name].detach(), rtol=tolerance, atol=tolerance)
        assert (p - start[name]).norm() > 0.01


def test_a_number_is_a_constant_rate_of_torchs_own_optimizer() -> None:
    curriculum = make()
    for optimizer, theirs in (
        (None, lambda parameters: torch.optim.Adam(parameters, 0.02)),
        ("sgd", lambda parameters: torch.optim.SGD(parameters, 0.02, 0.9)),
    ):
        module = classifier()
        taught = teach(module, curriculum, lr=0.02, optimizer=optimizer)
        assert taught.chosen == f"{optimizer or 'adam'} at 0.02"
        other = classifier()
        stepper = theirs(other.parameters())
        losses = []
        for x, y in zip(curriculum.x, curriculum.y, strict=True):
            stepper.zero_grad()
            loss = F.cross_entropy(other(x), y)
            losses.append(loss.item())
            loss.backward()
            stepper.step()
        assert taught.losses == pytest.approx(losses, rel=1e-5)
        for p, q in zip(module.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_teach_takes_images_in_any_memory_layout() -> None:
    """Channels-last images, as a teacher makes them, lead to channels-last gradients of a convolution."""
    curriculum = make()
    trained = []
    for x in (curriculum.x, curriculum.x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)):
        module = classifier()
        teach(module, dataclasses.replace(curriculum, x=x), lr="learned")
        trained.append(module[0].weight.detach())
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-5, atol=1e-6)


def test_after_step_may_look_in_any_mode_and_under_any_context() -> None:
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(24, 3)
    ).eval()
    seen = []

    def look(t: int) -> None:
        seen.append((t, module.training and module[3].training))
        module.eval()

    for context in (torch.no_grad(), torch.inference_mode()):  # as in a script that only evaluates
        before = state(module)
        with context:
            teach(module, make(), after_step=look)
        assert not same(module, before)
    assert seen == 2 * [(t, True) for t in range(1, 5)]
    assert not module.training
    assert module(make().x[0]).isfinite().all()


# ---- the choice ----


def test_auto_takes_what_has_the_lowest_mean_loss_before_the_last_steps() -> None:
    curriculum = make(steps=7, lr=20.0)
    taught = teach(module := classifier(), curriculum)
    assert list(taught.tried) == [
        *("learned sgd x 2", "learned sgd", "learned sgd x 0.5", "learned sgd x 0.25", "learned sgd x 0.1"),
        *("learned sgd x 0.05", "adam at 0.001", "adam at 0.003", "adam at 0.01", "adam at 0.03"),
    ]
    one_by_one = {}
    for name in taught.tried:
        factor = name.partition(" x ")[2]
        fixed: dict[str, Any] = {"lr": float(name[8:])} if name.startswith("adam") else {"lr": "learned"}
        scaled = dataclasses.replace(curriculum, lr=curriculum.lr * float(factor or 1))
        other = classifier()
        result = teach(other, scaled, **fixed)
        one_by_one[name] = sum(result.losses[-2:]) / 2
        if name == taught.chosen:
            assert same(other, state(module))
            assert result.losses == taught.losses
    assert taught.tried == pytest.approx(one_by_one, rel=1e-5)
    assert taught.chosen == min(one_by_one, key=lambda name: one_by_one[name])
    assert taught.chosen not in ("learned sgd", "adam at 0.001")
    assert f"{taught.chosen}, the best of 10 tried; loss " in str(taught)
    assert 0 < taught.seconds < 60


def test_dropout_and_the_choice_repeat_to_the_bit() -> None:
    def run() -> tuple[dict[str, Tensor], Any, Tensor]:
        module = nn.Sequential(nn.Flatten(), nn.Linear(40, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 3))
        with torch.no_grad():
            for i, p in enumerate(module.parameters()):
                p.copy_(torch.linspace(-0.3, 0.3 + i, p.numel()).view_as(p).sin())
        torch.manual_seed(5)
        taught = teach(module, curriculum)
        return state(module), taught, torch.rand(3)

    curriculum = make()
    first, taught, after = run()
    again, repeated, after_again = run()
    assert all(first[name].equal(again[name]) for name in first)
    assert taught.tried == repeated.tried
    assert after.equal(after_again)
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(40, 3))
    before = state(module)
    positions = []
    for lr in ("auto", "learned"):
        module.load_state_dict(before)
        torch.manual_seed(5)
        teach(module, curriculum, lr=lr)
        positions.append(torch.rand(3))
    assert positions[0].equal(positions[1])  # trying out draws no random numbers


@pytest.mark.parametrize("seed", range(3))
def test_an_mlp_that_learned_steps_ruin_is_taught(seed: int) -> None:
    curriculum = load_curriculum("mnist-32")

    def mlp() -> nn.Module:
        torch.manual_seed(seed)
        return UNMET["relu-mlp"].make((1, 28, 28), 10)

    module = mlp()
    taught = teach(module, curriculum)
    assert all(p.isfinite().all() for p in module.parameters())
    assert taught.losses[-1] < taught.losses[0]
    assert taught.tried["learned sgd"] > math.log(10)  # worse than to know nothing


def test_learned_steps_that_ruin_an_mlp_raise_and_leave_it_as_it_was() -> None:
    curriculum = load_curriculum("mnist-32")
    raised = 0
    for seed in range(4):
        for factor in (1, 10):
            torch.manual_seed(seed)
            module = UNMET["relu-mlp"].make((1, 28, 28), 10)
            before = state(module)
            try:
                teach(module, dataclasses.replace(curriculum, lr=factor * curriculum.lr), lr="learned")
            except FloatingPointError:
                raised += 1
                assert same(module, before)
            assert all(p.isfinite().all() for p in module.parameters())
    assert raised >= 2


def test_a_training_that_got_worse_on_the_way_says_so() -> None:
    taught = teach(classifier(), make(steps=8, lr=1000.0), lr="learned")
    assert max(taught.losses) > 2 * taught.losses[0]
    assert f"; it rose to {max(taught.losses):.3g} on the way, these steps are too large; " in str(taught)
    assert "rose" not in str(teach(classifier(), make()))


def test_an_agents_curriculum_is_not_chosen_by_its_loss() -> None:
    """Which says nothing of returns: an agent of another day got to 500 while it rose, to 36 with the
    lowest."""
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    record = teach(policy, load_curriculum("cartpole-10"))
    assert list(record.tried) == [record.chosen] == ["learned sgd"]


def test_where_everything_diverges_the_module_is_as_before_and_told_so() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(40, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    module.eval()

    class Brittle(nn.Module):
        """Not finite once a weight has moved."""

        def __init__(self) -> None:
            super().__init__()
            self.inside = module
            self.register_buffer("start", module[1].weight.detach().clone())

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x) / (self.inside[1].weight - self.start).eq(0).all()

    brittle = Brittle()
    before = state(brittle)
    with pytest.raises(FloatingPointError, match=r"with learned sgd x 2, learned sgd, .*, adam at 0.03; "):
        teach(brittle, make())
    assert same(brittle, before)
    assert not module.training
    with pytest.raises(FloatingPointError, match=r"with adam at 0.1; the module is as it was before"):
        teach(brittle, make(), lr=0.1)
    assert same(brittle, before)


def test_an_error_of_the_callback_leaves_the_module_as_before() -> None:
    module = classifier()
    before = state(module)

    def stop(t: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(module, make(), after_step=stop)
    assert same(module, before)
