"""Checks for the exercises of lesson 11, in the manner of `checks`, which hands them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from checks.common import Hint, close, exercise, judge

Function = Callable[..., Any]

# -------------------------------------------------------------------------------- 11, teach an agent


@exercise
def check_11_returns_to_go(returns_to_go: Function) -> None:
    """``returns_to_go(rewards, gamma)``: (L, n) -> (L, n)."""
    rng = torch.Generator().manual_seed(0)
    rewards = torch.randn(6, 3, generator=rng, dtype=torch.float64)
    gamma = 0.9
    before = rewards.clone()
    got = returns_to_go(rewards, gamma)
    if not isinstance(got, Tensor) or got.shape != rewards.shape:
        shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        raise Hint(
            f"returns_to_go(rewards, gamma) should be a tensor of the shape of rewards, (6, 3), not {shape}"
        )
    if not rewards.equal(before):
        raise Hint("rewards was changed in place: make a new tensor, the episodes are still needed")
    right = _to_go(rewards, gamma)
    usual = {
        "this sums what came before step t; policies are to be praised for what comes after": _to_go(
            rewards.flip(0), gamma
        ).flip(0),
        "later rewards should be discounted by gamma for every step that they are away": _to_go(rewards, 1.0),
        "the reward of step t itself belongs to it, too": _to_go(rewards, gamma) - rewards,
        "discount from step t on, not from the start of the episode": _from_start(rewards, gamma),
    }
    judge("returns_to_go(rewards, gamma)", got.detach(), right, usual)


def _to_go(rewards: Tensor, gamma: float) -> Tensor:
    rows = [sum(gamma ** (s - t) * rewards[s] for s in range(t, len(rewards))) for t in range(len(rewards))]
    return torch.stack(rows)  # type: ignore[arg-type]


def _from_start(rewards: Tensor, gamma: float) -> Tensor:
    rows = [sum(gamma**s * rewards[s] for s in range(t, len(rewards))) for t in range(len(rewards))]
    return torch.stack(rows)  # type: ignore[arg-type]


@exercise
def check_11_surrogate(surrogate: Function) -> None:
    """``surrogate(logits, actions, advantages)``: (N, K), (N,), (N,) -> scalar."""
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(8, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    actions = torch.arange(8).remainder(3)
    advantages = torch.randn(8, generator=rng, dtype=torch.float64)
    got = surrogate(logits, actions, advantages)
    if not isinstance(got, Tensor) or got.dim():
        raise Hint(
            "surrogate(logits, actions, advantages) should be one number, a scalar: the mean over the steps"
        )
    if not got.requires_grad:
        raise Hint("the result is cut off from logits: no .item(), no .detach() on the way")
    chosen = logits.log_softmax(-1)[torch.arange(8), actions]
    right = -(advantages * chosen).mean()
    usual = {
        "the sign: a loss falls when the return rises, so there is a minus in front": -right,
        "this is a sum: take the mean over the steps": 8 * right,
        "take the logarithm of the probability": -(advantages * chosen.exp()).mean(),
        "logits are no log-probabilities yet: log_softmax first": -(
            advantages * logits[torch.arange(8), actions]
        ).mean(),
    }
    judge(
        "surrogate(logits, actions, advantages)",
        got.detach(),
        right.detach(),
        {hint: wrong.detach() for hint, wrong in usual.items()},
    )
    (found,) = torch.autograd.grad(got, logits)
    (expected,) = torch.autograd.grad(right, logits)
    if not close(found, expected):
        raise Hint(
            "the number is right, but not its gradient by logits: log pi(action) alone carries one, all of it"
        )


@exercise
def check_11_repaid_after(repaid_after: Function) -> None:
    """``repaid_after(teacher_steps, steps_per_agent)``: a whole number of agents."""
    for teacher_steps, steps_per_agent, right in (
        (1_000_000, 20_000, 50),
        (1_000_001, 20_000, 51),
        (5, 20_000, 1),
    ):
        got = repaid_after(teacher_steps, steps_per_agent)
        what = f"repaid_after({teacher_steps:,}, {steps_per_agent:,})"
        if isinstance(got, Tensor | float) and float(got) != int(got):
            raise Hint(
                f"{what} should be a whole number of agents, not {float(got):g}: there is no part of an agent"
            )
        if got == right - 1:
            raise Hint(f"{what} is {got}, but that many agents do not repay it yet: round up")
        if got != right:
            raise Hint(f"{what} should be {right}, but is {got}")
