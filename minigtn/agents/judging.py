"""The judgement: fresh ordinary modules, taught by ``minigtn.teach``, then put into gymnasium itself.

Nothing of the training's fast path is used here: not its policies, not its environments.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minigtn.agents import config as purpose
from minigtn.agents.config import AgentConfig
from minigtn.agents.environments import Environment
from minigtn.agents.policies import PolicyConfig
from minigtn.agents.rollout import Gymnasium, Simulation, greedy, of_modules, play
from minigtn.runs.seeds import seed_for
from minigtn.teaching.curriculum import Curriculum
from minigtn.teaching.teach import teach

FIRST_SEEDS = 2**31  # gymnasium takes seeds below 2**32; each call uses n from here on


def fresh_policies(config: AgentConfig, policy: PolicyConfig, n: int) -> list[nn.Sequential]:
    """n untaught modules with seeds of the judgement's own."""
    env = config.make_env()
    seeds = [seed_for(config.seed, purpose.JUDGED, i) for i in range(n)]
    return [policy.module(len(env.features), env.n_actions, seed) for seed in seeds]


def taught(
    module: nn.Module, curriculum: Curriculum, after_step: Callable[[int], None] | None = None
) -> nn.Module:
    """The module, taught with the learned step sizes; one that they ruin counts as not taught."""
    with contextlib.suppress(FloatingPointError):  # the module is as it was, then
        teach(module, curriculum, "learned", after_step=after_step)
    return module


def returns_in_gymnasium(modules: Sequence[nn.Module], env: Environment, episodes: int, seed: int) -> Tensor:
    """Undiscounted returns (n modules, episodes) of greedy play in gymnasium, with the physics of ``env``.

    Episode j of module i starts from ``seed + i * episodes + j``. Cost: on one thread some 10 (CartPole) to
    60 (Acrobot) microseconds per step and episode. Raises ImportError without gymnasium.
    """
    running = Gymnasium(env.gymnasium, len(modules) * episodes, seed)
    try:
        return play(running, greedy(of_modules(modules)), env.limit).returns().view(len(modules), episodes)
    finally:
        running.close()


def curve(
    modules: Sequence[nn.Module], curriculum: Curriculum, env: Environment, episodes: int, seed: int
) -> Tensor:
    """Mean greedy return (n modules, T + 1) before the first and after each inner step, in torch; teaches the
    modules."""
    stages: list[list[nn.Module]] = [[] for _ in range(len(curriculum.x) + 1)]
    for module in modules:
        of_module = [copy.deepcopy(module)] * len(stages)

        def keep(t: int, module: nn.Module = module, of_module: list[nn.Module] = of_module) -> None:
            of_module[t] = copy.deepcopy(module)

        taught(module, curriculum, keep)
        for stage, kept in zip(stages, of_module, strict=True):
            stage.append(kept)
    rows = []
    for stage in stages:
        running = Simulation(env, len(modules) * episodes, torch.Generator().manual_seed(seed))
        rows.append(
            play(running, greedy(of_modules(stage)), env.limit).returns().view(len(modules), episodes).mean(1)
        )
    return torch.stack(rows, 1)


def judge(
    config: AgentConfig,
    curriculum: Curriculum,
    policy: PolicyConfig | None = None,
    env: Environment | None = None,
) -> dict[str, Any]:
    """The judgement of a run's curriculum: fresh policies taught, then ``judge.episodes`` greedy episodes of
    each in gymnasium.

    ``policy``, ``env``: others than the teacher's own, for transfer. Returns the JSON values of
    :func:`summary`, and the seconds that teaching one policy took.
    """
    env = env or config.make_env()
    modules = fresh_policies(config, policy or config.policy, config.judge.policies)
    started = time.perf_counter()
    for module in modules:
        taught(module, curriculum)
    seconds = (time.perf_counter() - started) / len(modules)
    seed = FIRST_SEEDS + seed_for(config.seed, purpose.JUDGED_EPISODES, 0) % 2**30
    each = returns_in_gymnasium(modules, env, config.judge.episodes, seed)
    return {**summary(each), "seconds_per_policy": round(seconds, 5)}


def summary(returns: Tensor) -> dict[str, Any]:
    """Returns (policies, episodes) as JSON values: mean and standard deviation over policies of their means,
    the worst of those, the worst episode of all, and each policy's mean."""
    means = returns.mean(1)
    return {
        "mean": round(means.mean().item(), 3),
        "std": round(means.std().item(), 3) if len(means) > 1 else None,
        "worst_policy": round(means.min().item(), 3),
        "worst_episode": round(returns.min().item(), 3),
        "policies": len(means),
        "episodes": returns.shape[1],
        "each": [round(value, 2) for value in means.tolist()],
    }


def untaught(config: AgentConfig) -> dict[str, Any]:
    """The same judgement of policies that nobody taught."""
    modules = fresh_policies(config, config.policy, config.judge.policies)
    seed = FIRST_SEEDS + seed_for(config.seed, purpose.JUDGED_EPISODES, 0) % 2**30
    return summary(returns_in_gymnasium(modules, config.make_env(), config.judge.episodes, seed))
