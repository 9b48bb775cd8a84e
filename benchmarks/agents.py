"""What does it take to solve an environment: ten synthetic batches, or how many real steps?

    python benchmarks/agents.py --size full --out benchmarks/records/<date>_agents   # an hour on one thread
    python benchmarks/agents.py --size tiny --out DIR                                # the same, small, for CI
    python benchmarks/agents.py --out DIR --only cartpole baselines

Each part writes one JSON file into the folder and is skipped where that file is there. All returns are
undiscounted, of greedy policies in gymnasium itself; no setting was chosen by them (validation episodes in
torch chose).
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minigtn.agents import judging
from minigtn.agents.bandit import BanditConfig
from minigtn.agents.config import PRESETS, TEACHER, AgentConfig, JudgeConfig, OuterConfig
from minigtn.agents.environments import make
from minigtn.agents.policies import PolicyConfig
from minigtn.agents.rollout import Simulation, greedy, of_modules, play
from minigtn.agents.runs import train
from minigtn.agents.teacher import StateTeacher
from minigtn.agents.training import AgentTraining
from minigtn.runs.files import environment, write_json
from minigtn.runs.seeds import seed_for
from minigtn.teaching.curriculum import Curriculum, load_curriculum

SMALL_OUTER = OuterConfig(
    outer_steps=2, tries=2, policies=2, episodes=2, valid_every=2, valid_policies=2, valid_episodes=2
)
POLICIES = {
    "tanh 8": PolicyConfig((8,)),
    "tanh 32 (the teacher's own)": PolicyConfig((32,)),
    "tanh 64": PolicyConfig((64,)),
    "tanh 128": PolicyConfig((128,)),
    "tanh 512": PolicyConfig((512,)),
    "linear": PolicyConfig(()),
    "tanh 32-32": PolicyConfig((32, 32)),
    "tanh 64-64": PolicyConfig((64, 64)),
    "ReLU 32": PolicyConfig((32,), "relu"),
    "ReLU 64-64": PolicyConfig((64, 64), "relu"),
    "GELU 32": PolicyConfig((32,), "gelu"),
    "SiLU 32": PolicyConfig((32,), "silu"),
}
PHYSICS: dict[str, dict[str, float]] = {
    "standard": {},
    "pole x 0.5": {"length": 0.25},
    "pole x 2": {"length": 1.0},
    "pole x 4": {"length": 2.0},
    "gravity of the moon (1.6)": {"gravity": 1.6},
    "gravity x 2": {"gravity": 19.6},
    "pole mass x 5": {"masspole": 0.5},
    "force x 0.5": {"force_mag": 5.0},
    "force x 2": {"force_mag": 20.0},
}
BUDGETS = (160, 1_024, 5_120, 20_480)
"""Real environment steps of the baselines; 160 is what ten steps on 16 states would be."""


class Bench:
    """A folder of JSON files, one per part."""

    def __init__(self, out: Path, tiny: bool) -> None:
        self.out = out
        self.tiny = tiny
        out.mkdir(parents=True, exist_ok=True)

    def config(self, env: str, seed: int) -> AgentConfig:
        config = dataclasses.replace(PRESETS[env], seed=seed)
        return self.small(config)

    def small(self, config: AgentConfig) -> AgentConfig:
        if not self.tiny:
            return config
        return dataclasses.replace(config, outer=SMALL_OUTER, judge=JudgeConfig(policies=2, episodes=2))

    def run(self, name: str, config: AgentConfig) -> dict[str, Any]:
        return train(config, self.out / "runs" / name, resume=True)

    def part(self, name: str, make_it: Callable[[], dict[str, Any]]) -> None:
        path = self.out / f"{name}.json"
        if path.exists():
            print(f"{path} is there already")
            return
        started = time.monotonic()
        cpu = time.process_time()
        result = make_it()
        spent = {
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }
        write_json(path, {**result, **spent, **environment(torch.device("cpu"))})
        print(f"{path}: {spent['seconds']} s", flush=True)


def solved(bench: Bench, env: str, seeds: int) -> dict[str, Any]:
    """Meta-training and judgement for each outer seed."""
    rows = []
    for seed in range(1 if bench.tiny else seeds):
        result = bench.run(f"{env}-{seed}", bench.config(env, seed))
        rows.append(
            {"seed": seed, **{name: result[name] for name in ("taught", "untaught", "curve", "training")}}
        )
    return {"rows": rows}


def one_step(bench: Bench) -> dict[str, Any]:
    """T = 1: 64 states in one batch, for a wide policy. docs/log.md says why a narrow one cannot be taught in
    one step."""
    base = PRESETS["CartPole-v1"]
    teacher = dataclasses.replace(base.teacher, inner_steps=1, spread=1.0)  # as they were judged
    outer = OuterConfig(valid_policies=64)
    rows = []
    for seed in range(1 if bench.tiny else 3):
        config = AgentConfig(seed=seed, policy=PolicyConfig((512,)), teacher=teacher, outer=outer)
        result = bench.run(f"one-step-512-{seed}", bench.small(config))
        rows.append({"seed": seed, **{name: result[name] for name in ("taught", "training")}})
    return {"states": 64, "policy": "tanh 512", "rows": rows}


def transfer(bench: Bench) -> dict[str, Any]:
    """The first curriculum on other policies, inner optimizers and physics; 20 policies, 10
    episodes each."""
    rows: dict[str, Any] = {"policies": {}, "optimizers": {}, "physics": {}}
    for seed in (0,):
        config = dataclasses.replace(
            bench.config("CartPole-v1", seed),
            judge=JudgeConfig(policies=2 if bench.tiny else 20, episodes=10),
        )
        bench.run(f"CartPole-v1-{seed}", bench.config("CartPole-v1", seed))
        curriculum = load_curriculum(bench.out / "runs" / f"CartPole-v1-{seed}")
        for name, policy in list(POLICIES.items())[: 2 if bench.tiny else None]:
            rows["policies"].setdefault(name, []).append(judging.judge(config, curriculum, policy))
        for name, physics in list(PHYSICS.items())[: 2 if bench.tiny else None]:
            rows["physics"].setdefault(name, []).append(
                judging.judge(config, curriculum, env=make("CartPole-v1", **physics))
            )
        for name, other in other_optimizers(curriculum).items():
            rows["optimizers"].setdefault(name, []).append(judging.judge(config, other))
    return rows


def other_optimizers(curriculum: Curriculum) -> dict[str, Curriculum]:
    """The same states for other optimizers than SGD: their step sizes are their usual ones, since the learned
    ones are SGD's."""
    constant = {"momentum": torch.full_like(curriculum.momentum, 0.9)}
    answer = {"SGD, lr halved": dataclasses.replace(curriculum, lr=curriculum.lr / 2)}
    answer["SGD, constant lr (the mean) and momentum"] = dataclasses.replace(
        curriculum,
        lr=curriculum.lr.mean().expand_as(curriculum.lr),
        momentum=curriculum.momentum.mean().expand_as(curriculum.lr),
    )
    for lr in (0.03, 0.1):
        answer[f"Adam, lr {lr}"] = dataclasses.replace(
            curriculum, optimizer="adam", lr=torch.full_like(curriculum.lr, lr), **constant
        )
    zero = {"momentum": torch.zeros_like(curriculum.momentum)}
    answer["RMSprop, lr 0.02"] = dataclasses.replace(
        curriculum, optimizer="rmsprop", lr=torch.full_like(curriculum.lr, 0.02), **zero
    )
    return answer


def baselines(bench: Bench) -> dict[str, Any]:
    """PPO and A2C of stable-baselines3 on real steps, networks and judge as for the taught; 3 seeds."""
    try:
        from stable_baselines3 import A2C, PPO
    except ImportError as error:
        if bench.tiny:
            return {"skipped": str(error)}
        raise

    env = make("CartPole-v1")
    rows: list[dict[str, Any]] = []
    seeds = range(1 if bench.tiny else 3)
    episodes = 2 if bench.tiny else 20
    for name, algorithm, settings in (
        ("PPO", PPO, {"n_steps": 160, "batch_size": 32, "learning_rate": 0.003}),
        ("PPO", PPO, {"n_steps": 512, "batch_size": 64, "learning_rate": 0.003}),
        ("A2C", A2C, {"learning_rate": 0.003}),
    ):
        budgets = BUDGETS[:1] if bench.tiny else BUDGETS
        if name == "PPO":
            budgets = tuple(b for b in budgets if (b == BUDGETS[0]) == (settings["n_steps"] == BUDGETS[0]))
        for budget in budgets:
            returns = []
            seconds = []
            for seed in seeds:
                started = time.process_time()
                kind = {"net_arch": [32], "activation_fn": nn.Tanh}
                agent = algorithm(
                    "MlpPolicy", env.gymnasium(), seed=seed, policy_kwargs=kind, device="cpu", **settings
                )
                agent.learn(budget)
                seconds.append(time.process_time() - started)
                net = agent.policy
                module = nn.Sequential(*net.mlp_extractor.policy_net, net.action_net)
                returns.append(
                    judging.returns_in_gymnasium([module], env, episodes, seed=10_000 + 1000 * seed)
                )
            summary = judging.summary(torch.cat(returns))
            rows.append(
                {
                    "name": name,
                    "settings": settings,
                    "steps": budget,
                    **summary,
                    "cpu_seconds_per_agent": sum(seconds) / len(seconds),
                }
            )
            print(name, budget, summary["mean"], flush=True)
    return {"rows": rows}


def simple_teachers(bench: Bench) -> dict[str, Any]:
    """Teachers that lack something: nothing learned; step sizes alone (a third of the outer steps, one outer
    seed); states of a solved policy, labelled by it (behaviour cloning)."""
    seeds = (0,)
    answer: dict[str, Any] = {
        "random teacher": [],
        "best random teacher, step sizes learned": [],
        "behaviour cloning": [],
    }
    for seed in seeds:
        config = bench.config("CartPole-v1", seed)
        env = config.make_env()
        untrained = StateTeacher(config.teacher, env, seed_for(seed, TEACHER, 0)).curriculum(env, {})
        answer["random teacher"].append(judging.judge(config, untrained))
        if seed == 0:
            teacher = dataclasses.replace(config.teacher, learn_states=False)
            outer = config.outer if bench.tiny else dataclasses.replace(config.outer, outer_steps=100)
            result = bench.run(
                f"step-sizes-{seed}", dataclasses.replace(config, teacher=teacher, outer=outer)
            )
            answer["best random teacher, step sizes learned"].append(result["taught"])
        bench.run(f"CartPole-v1-{seed}", config)
        curriculum = load_curriculum(bench.out / "runs" / f"CartPole-v1-{seed}")
        answer["behaviour cloning"].append(
            judging.judge(config, cloning(config, curriculum)) | {"of": "a taught policy"}
        )
    return answer


def cloning(config: AgentConfig, curriculum: Curriculum) -> Curriculum:
    """As many states, drawn from episodes of a policy that solves the environment, with its actions; T steps
    with the best of a grid of lr and momentum on validation policies."""
    env = config.make_env()
    expert = judging.taught(judging.fresh_policies(config, config.policy, 1)[0], curriculum)
    T, B, _ = curriculum.x.shape
    rng = torch.Generator().manual_seed(config.seed)
    episodes = play(Simulation(env, 32, rng), greedy(of_modules([expert])), env.limit)
    visited = episodes.observations[episodes.alive > 0]
    x = visited[torch.randint(len(visited), (T * B,), generator=rng)].view(T, B, -1)
    with torch.no_grad():
        y = nn.functional.one_hot(expert(x).argmax(-1), env.n_actions).float()
    best: tuple[float, Curriculum] | None = None
    for lr in (0.1, 0.3, 1.0, 3.0, 10.0):
        for momentum in (0.0, 0.5, 0.9):
            steps = torch.ones(T)
            candidate = dataclasses.replace(
                curriculum, x=x, y=y, lr=lr * steps, momentum=momentum * steps, provenance={}
            )
            value = validation(config, candidate)
            if best is None or value > best[0]:
                best = (value, candidate)
    assert best is not None
    return best[1]


def validation(config: AgentConfig, curriculum: Curriculum) -> float:
    """Mean return of 8 fresh policies with other seeds than the judgement's, in torch."""
    other = dataclasses.replace(config, seed=config.seed + 10**6)
    modules = judging.fresh_policies(other, config.policy, 8)
    return judging.curve(modules, curriculum, config.make_env(), 4, config.seed)[:, -1].mean().item()


def synthetic_environment(bench: Bench) -> dict[str, Any]:
    """The second kind of teacher, a learned contextual bandit; validation in torch, since it makes no
    curriculum file."""
    config = bench.config("CartPole-v1", 0)
    training = AgentTraining(config, bandit=BanditConfig())
    curve = []
    for step in range(2 if bench.tiny else 100):
        record = training.outer_step()
        if (step + 1) % 20 == 0 or bench.tiny:
            curve.append(
                {"step": step + 1, "validation": training.validate(), "env_steps": record["env_steps"]}
            )
    return {"curve": curve, "policies": config.outer.valid_policies, "episodes": config.outer.valid_episodes}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "cartpole": lambda bench: solved(bench, "CartPole-v1", 3),
    "transfer": transfer,
    "baselines": baselines,
    "simple_teachers": simple_teachers,
    "one_step": one_step,
    "synthetic_environment": synthetic_environment,
    "acrobot": lambda bench: solved(bench, "Acrobot-v1", 3),
    "pendulum": lambda bench: solved(bench, "Pendulum-v1", 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("tiny", "full"), default="full")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.out, arguments.size == "tiny")
    for name in arguments.only:
        bench.part(name, lambda name=name: PARTS[name](bench))


if __name__ == "__main__":
    main()
