"""Episodes of many policies side by side, in torch or in gymnasium.

episodes = play(Simulation(env, n, rng), act, env.limit)
episodes.returns()                                    # (n,)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from minigtn.agents.environments import Environment

Act = Callable[[Tensor], Tensor]
"""Observations (n, F) -> actions (n,)."""
LOOK_EVERY = (
    20  # steps between two looks at whether all episodes are over: on a GPU each look waits for the device
)


class Running(Protocol):
    """n episodes under way."""

    observation: Tensor
    """(n, F)."""

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (n,) -> rewards (n,) and whether each episode is over for good (n,); ``observation`` moves
        on. What an episode does after its end is of no account."""


class Simulation:
    """n episodes of an environment in torch."""

    def __init__(
        self, env: Environment, n: int, rng: torch.Generator, device: torch.device | str = "cpu"
    ) -> None:
        self.env = env
        self.state = env.reset(n, rng).to(device)
        self.observation = env.observe(self.state)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        self.state, reward, terminated = self.env.step(self.state, action)
        self.observation = self.env.observe(self.state)
        return reward, terminated


class Gymnasium:
    """n episodes through gymnasium's vector interface; ``make`` returns one of its environments. Episode i
    starts from seed + i."""

    def __init__(self, make: Callable[[], Any], n: int, seed: int) -> None:
        import gymnasium

        self.vector = gymnasium.vector.SyncVectorEnv([make] * n)
        first, _ = self.vector.reset(seed=seed)
        self.observation = torch.as_tensor(first, dtype=torch.float32)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        observation, reward, terminated, _, _ = self.vector.step(action.cpu().numpy())
        self.observation = torch.as_tensor(np.asarray(observation), dtype=torch.float32)
        return torch.as_tensor(np.asarray(reward), dtype=torch.float32), torch.as_tensor(terminated)

    def close(self) -> None:
        self.vector.close()


@dataclass(frozen=True)
class Episodes:
    """n episodes, L the length of the longest."""

    observations: Tensor
    """(L, n, F), before each action."""
    actions: Tensor
    """(L, n)."""
    rewards: Tensor
    """(L, n), 0 after the end."""
    alive: Tensor
    """(L, n), 1 for the steps that belong to the episode, 0 after its end."""
    last: Tensor
    """(n, F), the observation after step L: the last one of the episodes that were cut off there; of no
    account for the others."""
    terminated: Tensor
    """(n,) bool: ended for good, rather than cut off at the limit."""

    def returns(self) -> Tensor:
        """Undiscounted return of each episode, (n,)."""
        return self.rewards.sum(0)

    def steps(self) -> int:
        """Environment steps taken."""
        return int(self.alive.sum())


@torch.no_grad()
def play(running: Running, act: Act, limit: int) -> Episodes:
    """All episodes to their end, ``limit`` steps at most. Memory: L*n*(F + 3) numbers. Time: L steps of the
    environment and the policy."""
    observations: list[Tensor] = []
    actions: list[Tensor] = []
    rewards: list[Tensor] = []
    overs: list[Tensor] = []
    finished = torch.zeros(len(running.observation), dtype=torch.bool, device=running.observation.device)
    for t in range(limit):
        observations.append(running.observation)
        actions.append(act(running.observation))
        reward, over = running.step(actions[-1])
        rewards.append(reward)
        overs.append(over)
        if t % LOOK_EVERY == LOOK_EVERY - 1:
            finished |= torch.stack(overs[-LOOK_EVERY:]).any(0)
            if finished.all():
                break
    ended = torch.stack(overs).cumsum(0) > 0
    alive = torch.cat([torch.ones_like(ended[:1]), ~ended[:-1]])
    length = int(alive.sum(0).max())
    alive = alive[:length].to(rewards[0].dtype)
    seen = torch.stack(observations[:length])
    earned = torch.stack(rewards[:length]) * alive
    return Episodes(seen, torch.stack(actions[:length]), earned, alive, running.observation, ended[-1])


def sampler(logits_of: Act, rng: torch.Generator) -> Act:
    """Actions drawn from the distribution that the logits give (by the Gumbel-max trick); ``rng`` lives on
    their device."""
    drawn: list[Tensor] = []

    def act(observation: Tensor) -> Tensor:
        logits = logits_of(observation)
        if not drawn:  # many steps' noise at once: small draws cost as much as large ones
            exponential = logits.new_empty(LOOK_EVERY, *logits.shape).exponential_(generator=rng)
            drawn.extend(exponential.log_().neg_().unbind())
        return (logits + drawn.pop()).argmax(-1)

    return act


def greedy(logits_of: Act) -> Act:
    """The most probable action."""
    return lambda observation: logits_of(observation).argmax(-1)


def side_by_side(policy: Callable[[Any, Tensor], Tensor], params: Any, n_policies: int) -> Act:
    """Logits of M stacked policies, each for its own share of the n episodes: the first n/M, the next n/M,
    ..."""

    def logits(observation: Tensor) -> Tensor:
        own = observation.view(n_policies, -1, observation.shape[-1])
        return policy(params, own).flatten(0, 1)

    return logits


def of_modules(modules: Sequence[torch.nn.Module]) -> Act:
    """The same for ordinary modules, one after the other."""

    def logits(observation: Tensor) -> Tensor:
        shares = observation.chunk(len(modules))
        return torch.cat([module(share) for module, share in zip(modules, shares, strict=True)])

    return logits
