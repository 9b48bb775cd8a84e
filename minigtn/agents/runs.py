"""A run's folder: meta-training, judgement, page. What the commands call.

result = train(AgentConfig(), Path("runs/cartpole"))
result = evaluate(Path("runs/cartpole"), JudgeConfig(policies=50))
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from minigtn.agents import judging
from minigtn.agents.config import AgentConfig, JudgeConfig
from minigtn.agents.training import AgentTraining
from minigtn.runs.claim import claimed, goes_on
from minigtn.runs.files import environment, read_json, write_json
from minigtn.runs.interrupt import deferred_interrupt
from minigtn.runs.settings import from_dict, require_same, to_dict
from minigtn.teaching.curriculum import load_curriculum

CURVE_POLICIES = 10  # of the judged policies, followed through the inner steps
CURVE_EPISODES = 10


def train(
    config: AgentConfig,
    folder: Path,
    device: torch.device | str = "cpu",
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Meta-train, judge in gymnasium, write ``folder``: ``config.json``, ``metrics.jsonl``,
    ``checkpoint.safetensors``, ``curriculum.safetensors``, ``result.json``. Returns the result.

    ``resume``: a run that was stopped goes on from its last checkpoint, to the same bits; a finished one
    gives back its result. Cost: for CartPole some 90 s of one thread, and 20 s for the judgement. Raises
    ValueError where ``folder`` holds a run already or one with other settings, or another process is at work
    in it, CannotWrite, ImportError without gymnasium, AgentTrainingDiverged, KeyboardInterrupt after Ctrl-C
    with everything saved.
    """
    config.make_env().gymnasium().close()  # a missing package is told before the training, not after it
    device = torch.device(device)
    if resume and overwrite:
        raise ValueError("resume continues a run and overwrite replaces it; give one of them")
    training = AgentTraining(config, device)  # it refuses what does not fit; nothing is written yet
    with claimed(folder):
        return _run(training, folder, resume, overwrite)


def _run(training: AgentTraining, folder: Path, resume: bool, overwrite: bool) -> dict[str, Any]:
    config = training.config
    if goes_on(folder, resume, overwrite):
        require_same(read_config(folder), config, folder)
    if not (folder / "config.json").exists():
        write_json(
            folder / "config.json",
            {"kind": "agents", "config": to_dict(config), **_environment(training.device)},
        )
    if (folder / "checkpoint.safetensors").exists():
        training.load_checkpoint(folder)
    if not training.finished:
        training.run(folder)
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    with deferred_interrupt():  # KeyboardInterrupt would get lost in safetensors
        training.result().save(folder / "curriculum.safetensors")
    return _judge(folder, config, vars(training.progress))


def evaluate(folder: Path, judge: JudgeConfig | None = None) -> dict[str, Any]:
    """Judge a finished run again, by its own settings or by ``judge``; replaces its result. Raises as
    :func:`train`, and ValueError for a run that is not finished."""
    config = read_config(folder)
    if not (folder / "curriculum.safetensors").exists():
        raise ValueError(
            f"the run in {folder} is not finished: minigtn rl train, as before with --resume, goes on"
        )
    if judge is not None:
        config = dataclasses.replace(config, judge=judge)
    path = folder / "result.json"
    with claimed(folder):
        return _judge(folder, config, read_json(path)["training"] if path.exists() else None)


def read_config(folder: Path) -> AgentConfig:
    """The settings that the run in ``folder`` was made with. ValueError where it is a run of another kind."""
    saved = read_json(folder / "config.json")
    if not isinstance(saved, dict) or saved.get("kind") != "agents":
        raise ValueError(f"{folder} holds no run of agents; give the folder of one made by minigtn rl train")
    return from_dict(AgentConfig, saved.get("config"))


def _judge(folder: Path, config: AgentConfig, training: dict[str, Any] | None) -> dict[str, Any]:
    started = time.monotonic()
    curriculum = load_curriculum(folder)
    env = config.make_env()
    some = judging.fresh_policies(config, config.policy, min(CURVE_POLICIES, config.judge.policies))
    curves = judging.curve(some, curriculum, env, CURVE_EPISODES, config.seed)
    result = {
        "taught": judging.judge(config, curriculum),
        "untaught": judging.untaught(config),
        "curve": {
            "mean": _rounded(curves.mean(0)),
            "std": _rounded(curves.std(0)),
            "policies": len(some),
            "episodes": CURVE_EPISODES,
        },
        "training": training,
        "evaluation_seconds": round(time.monotonic() - started, 3),
        "config": to_dict(config),
        **_environment(torch.device("cpu")),
    }
    write_json(folder / "result.json", result)
    return result


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]


def _environment(device: torch.device) -> dict[str, Any]:
    """As for other runs, with the version of gymnasium."""
    from importlib.metadata import version

    about = environment(device)
    about["versions"]["gymnasium"] = version("gymnasium")
    return about
