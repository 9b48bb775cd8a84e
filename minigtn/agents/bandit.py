"""The second kind of teacher: a synthetic environment. A learned contextual bandit, on which a fresh agent
trains by an RL rule of its own.

The bandit hands out a state and, for each action, a reward (Liesen et al. 2024, arXiv 2406.12589, find that
such one-step environments do as well as learned Markov processes). The agent's rule is the policy gradient,
and since the bandit tells the reward of *every* action, its expectation over the agent's own actions is a
finite sum: exact, and differentiable through all k steps of training,

    loss(w; s, r) = - mean_i sum_a pi_w(a | s_i) * r(s_i, a)  -  entropy * mean_i H(pi_w(. | s_i)).

So nothing is sampled in the inner loop; the outer loss is the surrogate of :mod:`minigtn.agents.surrogate`,
as for the other teacher.

    bandit = Bandit(BanditConfig(), env, seed=0)
    states, rewards, lr, momentum = bandit(seed)     # (T, B, F), (T, B, K), (T,), (T,)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigtn.agents.environments import Environment
from minigtn.agents.policies import Policy
from minigtn.inner.training import Params
from minigtn.teaching.teacher import Teacher, TeacherConfig


@dataclass(frozen=True)
class BanditConfig:
    """The synthetic environment, and how an agent trains on it."""

    inner_steps: int = 10
    """T: training steps of the agent."""
    batch_size: int = 16
    """B: states that the bandit hands out per step, drawn anew for every agent."""
    width: int = 32
    """Of the hidden layer of the network that maps a state to the rewards of its actions."""
    lr: float = 0.5
    """Initial inner learning rate, learned per step."""
    momentum: float = 0.5
    """Initial inner momentum, learned per step."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"a bandit's width must be at least 1, not {self.width}")
        self.parts()

    def parts(self) -> TeacherConfig:
        """The step sizes' and the states' part, as :class:`minigtn.teaching.teacher.Teacher` knows it.
        ValueError for what it does not allow."""
        return TeacherConfig(
            inner_steps=self.inner_steps,
            batch_size=self.batch_size,
            images="pixels",
            lr=self.lr,
            momentum=self.momentum,
        )


class Bandit(nn.Module):
    """``states, rewards, lr, momentum = bandit(seed)``: states (T, B, F) drawn from a normal distribution
    with learned mean and scale, rewards (T, B, K) by a network of the state, lr and momentum (T,). Its
    parameters are the outer loop's ``theta``."""

    scale: Tensor

    def __init__(self, config: BanditConfig, env: Environment, seed: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("scale", torch.tensor(env.scale), persistent=False)
        n_features = len(env.features)
        self.parts = Teacher(
            config.parts(), (1,), env.n_actions, seed
        )  # for its step sizes: its one-number pixels are not used
        self.parts.pixels.requires_grad_(False)
        self.mean = nn.Parameter(torch.zeros(n_features))
        self.log_scale = nn.Parameter(torch.zeros(n_features))
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.rewards = nn.Sequential(
                nn.Linear(n_features, config.width), nn.Tanh(), nn.Linear(config.width, env.n_actions)
            )

    def forward(self, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        size = (self.config.inner_steps, self.config.batch_size, len(self.scale))
        units = self.mean + self.log_scale.exp() * torch.randn(size, generator=rng).to(self.scale.device)
        return units * self.scale, self.rewards(units), self.parts.lr(), self.parts.momentum()


@dataclass(frozen=True)
class SumOfBanditLosses:
    """``loss(params, (x, r))``: minus what M stacked policies earn on average on the bandit, summed over
    them.

    x (B, F), r (B, K) rewards of every action, for all of them."""

    policy: Policy
    entropy: float = 0.0

    def __call__(self, params: Params, batch: Sequence[Tensor]) -> Tensor:
        x, r = batch
        log_p = F.log_softmax(self.policy(params, x), -1)
        p = log_p.exp()
        return -(p * (r - self.entropy * log_p)).sum((0, 2)).mean()
