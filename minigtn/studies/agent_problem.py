"""The agents' part of ``minigtn check``: the meta-gradient of the surrogate, with the episodes held fixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from minigtn.agents.environments import CartPole
from minigtn.agents.policies import Policy, PolicyConfig, SumOfImitations
from minigtn.agents.rollout import Simulation, play, sampler, side_by_side
from minigtn.agents.surrogate import (
    Critic,
    PolicyGradient,
    Readout,
    advantages,
    readout_of,
    weights_at_readings,
)
from minigtn.inner.adjoints import Adjoint
from minigtn.inner.training import sgd
from minigtn.studies.problems import MOMENTA, Problem

POLICIES = 2
STATES = 5  # per inner step
EPISODES = 2  # of each policy at each reading
STEPS_PLAYED = 12


@dataclass(frozen=True)
class AgentProblem(Problem):
    """A small inner run of stacked policies, and the surrogate of episodes that they really played, as its
    meta-loss."""

    policy: Policy = dataclasses.field(kw_only=True)
    readout: Readout = dataclasses.field(kw_only=True)

    def meta_loss(self, adjoint: Adjoint, inputs: Mapping[str, Tensor]) -> Tensor:
        """The sum of the readings, each with another weight."""
        params = self.unflatten(inputs["weights"])
        batches = (inputs["images"], inputs["labels"])
        _, losses = sgd(
            SumOfImitations(self.policy),
            params,
            batches,
            inputs["lr"],
            inputs["momentum"],
            adjoint,
            self.readout,
        )
        return (losses * torch.arange(1, len(losses) + 1).to(losses)).sum()

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Problem:
        moved = [x.to(device, dtype if x.is_floating_point() else x.dtype) for x in self.readout.batches]
        inputs = {name: x.to(device, dtype) for name, x in self.inputs.items()}
        return dataclasses.replace(
            self, inputs=inputs, readout=dataclasses.replace(self.readout, batches=tuple(moved))
        )


def agent_problem(*, steps: int = 7, every: int = 3) -> AgentProblem:
    """``agent``: two policies for CartPole, taught for 7 steps, that play real episodes after steps 3, 6 and
    7; in float64."""
    env = CartPole()
    rng = torch.Generator().manual_seed(1)
    policy = Policy(PolicyConfig(hidden=(6,)), len(env.features), env.n_actions)
    params = policy.init(range(POLICIES), dtype=torch.float64)
    x = torch.randn(steps, STATES, len(env.features), generator=rng, dtype=torch.float64)
    y = torch.randn(steps, STATES, env.n_actions, generator=rng, dtype=torch.float64).softmax(-1)
    lr = torch.linspace(0.4, 0.2, steps, dtype=torch.float64)
    momentum = torch.tensor([MOMENTA[t % len(MOMENTA)] for t in range(steps)], dtype=torch.float64)
    kept = weights_at_readings(SumOfImitations(policy), params, (x, y, lr, momentum), every)
    together = {name: torch.cat([at[name] for at in kept]).float() for name in params}
    n_policies = len(kept) * POLICIES
    running = Simulation(env, n_policies * EPISODES, rng)
    episodes = play(running, sampler(side_by_side(policy, together, n_policies), rng), STEPS_PLAYED)
    progress = torch.linspace(0, 1, n_policies * EPISODES)
    advantage, _ = advantages(episodes, Critic(env.scale, 0), progress, 0.9, 0.9, 1.0)
    readout = readout_of(PolicyGradient(policy, 0.1, 1.5), episodes, advantage, len(kept), POLICIES, every)
    readout = dataclasses.replace(
        readout, batches=tuple(b.double() if b.is_floating_point() else b for b in readout.batches)
    )
    w = torch.cat([p.reshape(-1) for p in params.values()])
    inputs = {"weights": w, "images": x, "labels": y, "lr": lr, "momentum": momentum}
    shapes = {name: p.shape for name, p in params.items()}
    nothing = (x[:0, 0], torch.zeros(0, dtype=torch.long))
    return AgentProblem("agent", policy, shapes, inputs, nothing, every, policy=policy, readout=readout)
