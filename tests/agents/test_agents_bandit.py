"""The synthetic environment: an exact rule, a differentiable training, and a run of its own."""

from __future__ import annotations

import pytest
import torch

from minigtn.agents.bandit import Bandit, BanditConfig, SumOfBanditLosses
from minigtn.agents.config import AgentConfig, OuterConfig
from minigtn.agents.environments import CartPole
from minigtn.agents.policies import Policy, PolicyConfig
from minigtn.agents.training import AgentTraining
from minigtn.inner.training import sgd
from minigtn.studies import check

OUTER = OuterConfig(
    outer_steps=2, tries=2, policies=2, episodes=2, valid_every=2, valid_policies=2, valid_episodes=2
)


def test_its_loss_is_the_expected_reward() -> None:
    """Against a mean over many sampled actions."""
    policy = Policy(PolicyConfig(hidden=(5,)), 4, 3)
    params = policy.init([0, 1])
    x = torch.randn(6, 4)
    r = torch.randn(6, 3)
    actions = torch.distributions.Categorical(logits=policy(params, x)).sample((20_000,))  # (n, 2, 6)
    earned = r.expand(20_000, 2, 6, 3).gather(-1, actions.unsqueeze(-1)).mean((0, 3))
    torch.testing.assert_close(
        SumOfBanditLosses(policy)(params, (x, r)), -earned.sum(0).mean(), rtol=0, atol=0.01
    )
    entropy = torch.distributions.Categorical(logits=policy(params, x)).entropy().sum(0).mean()
    bonus = SumOfBanditLosses(policy, 0.3)(params, (x, r)) - SumOfBanditLosses(policy)(params, (x, r))
    torch.testing.assert_close(bonus, -0.3 * entropy)


def test_training_on_it_is_differentiable() -> None:
    """The gradient of what an agent earns after training, by the rewards, against finite differences, for two
    adjoints."""
    policy = Policy(PolicyConfig(hidden=(4,)), 4, 2)
    start = policy.init([0, 1], dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    x, r = (torch.randn(3, 5, size, generator=rng, dtype=torch.float64) for size in (4, 2))
    inner = SumOfBanditLosses(policy, 0.1)

    def meta_loss(r: torch.Tensor, adjoint: check.Adjoint) -> torch.Tensor:
        trained = sgd(inner, start, (x, r), 0.5, 0.5, adjoint)
        return inner(trained, (x[0], x[0, :, :2].sin()))

    u = torch.randn(r.shape, generator=rng, dtype=torch.float64)
    h = 1e-5
    expected = (
        meta_loss(r + h * u, check.ADJOINTS["Unrolled"]) - meta_loss(r - h * u, check.ADJOINTS["Unrolled"])
    ) / (2 * h)
    for name in ("Unrolled", "Checkpointed(1)"):
        leaf = r.clone().requires_grad_()
        (d,) = torch.autograd.grad(meta_loss(leaf, check.ADJOINTS[name]), leaf)
        torch.testing.assert_close((d * u).sum(), expected, rtol=1e-6, atol=1e-12)
        assert (1.001 * d * u).sum() != pytest.approx(expected.item(), rel=1e-6)


def test_it_draws_other_states_for_every_agent() -> None:
    bandit = Bandit(BanditConfig(inner_steps=3, batch_size=50), CartPole(), 0)
    x, r, lr, momentum = bandit(1)
    assert x.shape == (3, 50, 4)
    assert r.shape == (3, 50, 2)
    assert x.equal(bandit(1)[0])
    assert not x.equal(bandit(2)[0])
    torch.testing.assert_close(x.std((0, 1)), torch.tensor(CartPole.scale), rtol=0.3, atol=0)
    (x.square().sum() + r.square().sum() + lr.sum() + momentum.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in bandit.parameters() if p.requires_grad)


def test_a_teacher_of_this_kind_is_meta_trained() -> None:
    training = AgentTraining(
        AgentConfig(policy=PolicyConfig(hidden=(6,)), outer=OUTER), bandit=BanditConfig(3, 4)
    )
    before = [p.clone() for p in training.learned]
    for _ in range(2):
        record = training.outer_step()
    assert 8 < training.validate() <= 500
    assert record["skipped"] == 0
    assert all((a - b).abs().max() > 0 for a, b in zip(before, training.learned, strict=True))
    with pytest.raises(ValueError, match="it has no curriculum"):
        training.result()
    with pytest.raises(ValueError, match="width must be at least 1"):
        BanditConfig(width=0)
