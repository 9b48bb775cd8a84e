"""The surrogate: right by finite differences, a policy gradient by enumeration, and its checker fails on a
wrong gradient."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from minigtn.agents.environments import CartPole
from minigtn.agents.policies import Policy, PolicyConfig, SumOfImitations
from minigtn.agents.rollout import Episodes
from minigtn.agents.surrogate import (
    Critic,
    PolicyGradient,
    advantages,
    readout_of,
    standardize,
    weights_at_readings,
)
from minigtn.inner.training import sgd
from minigtn.studies import check
from minigtn.studies.agent_problem import agent_problem


def test_the_meta_gradient_is_that_of_finite_differences() -> None:
    problem = agent_problem()
    gradients = problem.gradients(check.ADJOINTS["Unrolled"])
    assert set(gradients) == {"weights", "images", "labels", "lr", "momentum"}
    for name, d in gradients.items():
        assert check.difference_from_differences(problem, name, d) < check.DIFFERENCE_TOLERANCE
        wrong = d.clone()
        wrong.view(-1)[0] += 1e-3 * d.abs().max()
        assert check.difference_from_differences(problem, name, wrong) > check.DIFFERENCE_TOLERANCE


@pytest.mark.parametrize("name", ["Checkpointed(1)", "Checkpointed(3)", "Reversible"])
def test_all_adjoints_agree(name: str) -> None:
    problem = agent_problem()
    expected = problem.gradients(check.ADJOINTS["Unrolled"])
    allowed = check.REVERSIBLE_TOLERANCE if name == "Reversible" else check.TOLERANCE
    for key, d in problem.gradients(check.ADJOINTS[name]).items():
        assert check.relative_difference(d, expected[key]) < allowed


def test_it_is_the_gradient_of_the_expected_return() -> None:
    """A bandit with two actions: the expected return is a sum over actions, and the surrogate's gradient,
    weighted by how often each action is taken, is that sum's gradient."""
    policy = Policy(PolicyConfig(hidden=(5,)), 3, 2)
    params = {name: p.double().requires_grad_() for name, p in policy.init([4]).items()}
    x = torch.randn(1, 6, 3, dtype=torch.float64)
    reward = torch.randn(6, 2, dtype=torch.float64)
    p = policy(params, x).softmax(-1)
    expected = torch.autograd.grad(-(p[0] * reward).sum(), list(params.values()), retain_graph=True)
    found = [torch.zeros_like(q) for q in params.values()]
    for action in range(2):
        weights = (p[..., action] * reward[:, action]).detach()
        batch = (x, torch.full((1, 6), action), weights, torch.ones(1, 6))
        loss = PolicyGradient(policy, 0.0)(params, batch)
        for total, part in zip(found, torch.autograd.grad(loss, list(params.values())), strict=True):
            total += part
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_entropy_bonus_makes_undecided() -> None:
    policy = Policy(PolicyConfig(hidden=()), 2, 3)
    params = {name: 3 * p for name, p in policy.init([0]).items()}
    x = torch.randn(1, 7, 2)
    batch = (x, torch.zeros(1, 7, dtype=torch.long), torch.zeros(1, 7), torch.full((1, 7), 1 / 7))
    entropy = torch.distributions.Categorical(logits=policy(params, x)).entropy().mean()
    torch.testing.assert_close(PolicyGradient(policy, 0.5)(params, batch), -0.5 * entropy)


def test_sharpness_multiplies_the_logits() -> None:
    policy = Policy(PolicyConfig(hidden=()), 2, 3)
    params = policy.init([0])
    batch = (torch.randn(1, 7, 2), torch.randint(3, (1, 7)), torch.randn(1, 7), torch.zeros(1, 7))
    louder = {
        name: 3 * p for name, p in params.items()
    }  # without a hidden layer these are three times the logits
    torch.testing.assert_close(
        PolicyGradient(policy, 0.0, 3.0)(params, batch), PolicyGradient(policy)(louder, batch)
    )


def some_episodes(L: int = 6, n: int = 8) -> Episodes:
    lengths = torch.tensor([2, 3, 6, 1, 6, 5, 4, 6])
    alive = (torch.arange(L)[:, None] < lengths).float()
    rewards = torch.randn(L, n) * alive
    return Episodes(
        torch.randn(L, n, 4), torch.randint(2, (L, n)), rewards, alive, torch.randn(n, 4), lengths < L
    )


def slow_advantages(episodes: Episodes, critic: Critic, progress: Tensor, gamma: float, lam: float) -> Tensor:
    """By the definition, one episode at a time."""
    L, n = episodes.rewards.shape
    answer = torch.zeros(L, n)
    for i in range(n):
        length = int(episodes.alive[:, i].sum())
        seen = torch.cat([episodes.observations[:length, i], episodes.last[i : i + 1]])
        values = critic(seen, progress[i].expand(length + 1)).detach()
        values[-1] *= float(not episodes.terminated[i])
        deltas = episodes.rewards[:length, i] + gamma * values[1:] - values[:-1]
        for t in range(length):
            answer[t, i] = sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, length))
    return answer


@pytest.mark.parametrize(("gamma", "lam"), [(0.9, 0.7), (0.99, 1.0), (0.5, 0.0)])
def test_advantages_are_those_of_the_definition(gamma: float, lam: float) -> None:
    episodes = some_episodes()
    critic = Critic((1.0, 2.0, 3.0, 4.0), 0)
    progress = torch.linspace(0, 1, 8)
    found, targets = advantages(episodes, critic, progress, gamma, lam, 1.0)
    torch.testing.assert_close(
        found, slow_advantages(episodes, critic, progress, gamma, lam), rtol=1e-4, atol=1e-5
    )
    values = critic(episodes.observations, progress.expand(6, 8))
    torch.testing.assert_close(targets, (found + values) * episodes.alive)
    half, _ = advantages(
        dataclasses.replace(episodes, rewards=2 * episodes.rewards), critic, progress, gamma, lam, 2.0
    )
    torch.testing.assert_close(half, found, rtol=1e-4, atol=1e-5)


def test_standardized_advantages_count_real_steps_alone() -> None:
    episodes = some_episodes()
    found = standardize(5 + 3 * torch.randn(6, 8), episodes.alive)
    real = found[episodes.alive > 0]
    assert found[episodes.alive == 0].abs().max() == 0
    torch.testing.assert_close(
        torch.stack([real.mean(), real.std(correction=0)]), torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0
    )


def test_the_readout_holds_each_policys_own_episodes() -> None:
    policy = Policy(PolicyConfig(hidden=()), 4, 2)
    episodes = some_episodes()
    readout = readout_of(
        PolicyGradient(policy), episodes, episodes.rewards, readings=2, n_policies=2, every=1
    )
    observations, actions, weights, shares = readout.batches
    assert observations.shape == (2, 2, 12, 4)
    assert actions.shape == weights.shape == shares.shape == (2, 2, 12)
    for r in range(2):
        for m in range(2):
            first = 4 * r + 2 * m  # of two episodes
            own = torch.cat([episodes.observations[:, first], episodes.observations[:, first + 1]])
            torch.testing.assert_close(observations[r, m], own)
    torch.testing.assert_close(shares.sum((1, 2)), torch.ones(2))
    for r in range(2):  # each reading has mean 0 and standard deviation 1 over its own steps
        steps = (shares[r] > 0).sum()
        assert weights[r].sum().abs() < 1e-6
        torch.testing.assert_close(weights[r].square().sum() * steps, torch.tensor(1.0))
    assert weights[shares == 0].abs().max() == 0


def test_the_first_pass_keeps_the_weights_that_the_second_reads() -> None:
    problem = agent_problem()
    params = problem.unflatten(problem.inputs["weights"])
    lesson = (
        problem.inputs["images"],
        problem.inputs["labels"],
        problem.inputs["lr"],
        problem.inputs["momentum"],
    )
    kept = weights_at_readings(SumOfImitations(problem.policy), params, lesson, every=3)
    assert len(kept) == 3
    for at, steps in zip(kept, (3, 6, 7), strict=True):
        batches = (lesson[0][:steps], lesson[1][:steps])
        expected = sgd(SumOfImitations(problem.policy), params, batches, lesson[2][:steps], lesson[3][:steps])
        for name, p in expected.items():
            torch.testing.assert_close(at[name], p, rtol=1e-12, atol=1e-12)
            assert not at[name].requires_grad


def test_stacked_policies_are_the_modules_one_by_one() -> None:
    config = PolicyConfig(hidden=(7, 5), activation="relu")
    env = CartPole()
    policy = Policy(config, 4, env.n_actions)
    params = policy.init([3, 8])
    x = torch.randn(2, 9, 4)
    for i, seed in enumerate((3, 8)):
        module = config.module(4, env.n_actions, seed)
        torch.testing.assert_close(policy(params, x)[i], module(x[i]))
        torch.testing.assert_close(policy(params, x[0])[i], module(x[0]))
    torch.manual_seed(0)
    config.module(4, 2, 99)  # its random numbers touch no other stream
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.rand(1) == after


def test_policies_need_units() -> None:
    with pytest.raises(ValueError, match="at least one unit"):
        PolicyConfig(hidden=(8, 0))
