"""``minigtn rl train | evaluate | report``: thin commands over this package; flags come from its config
dataclasses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from minigtn.agents import report, runs
from minigtn.agents.config import PRESETS, AgentConfig, JudgeConfig
from minigtn.runs.devices import Device, choose

_CONFIG: Any = dataclasses.field(default_factory=AgentConfig)


@dataclass(frozen=True)
class Train:
    """Meta-train a teacher of agents, judge its curriculum in gymnasium, write the run's folder and its
    report."""

    config: Annotated[AgentConfig, tyro.conf.arg(name="")] = _CONFIG
    out: Path = Path("runs/agents")
    """The run's folder."""
    device: Device = "cpu"
    """Where to compute. The episodes are small: a CPU is the right place unless there are thousands side by
    side."""
    threads: int = 1
    """CPU threads. One is fastest here; the bits of a result depend on it."""
    resume: bool = False
    """Continue the run in --out from its checkpoint, to the same bits; a new folder simply starts."""
    overwrite: bool = False
    """Throw away a run that is in --out already."""

    def run(self) -> None:
        device = choose(self.device, self.threads)
        result = runs.train(self.config, self.out, device, resume=self.resume, overwrite=self.overwrite)
        _show(self.out, result)


@dataclass(frozen=True)
class Evaluate:
    """Judge a finished run again, by its own settings but for those given here; replaces its result and
    report."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    judge: JudgeConfig = dataclasses.field(default_factory=JudgeConfig)
    threads: int = 1
    """CPU threads."""

    def run(self) -> None:
        choose("cpu", self.threads)
        _show(self.run_folder, runs.evaluate(self.run_folder, self.judge))


@dataclass(frozen=True)
class Report:
    """Draw a run's page."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run, finished or not."""

    def run(self) -> None:
        print(report.write(self.run_folder))


COMMANDS: dict[str, type] = {"train": Train, "evaluate": Evaluate, "report": Report}


def defaults(command: type, words: list[str]) -> Any:
    """What the flags change: the settings for the environment that is named, or those of the run; read before
    the flags are."""
    if command is Train:
        env = "CartPole-v1"
        for i, word in enumerate(words):
            if word == "--env" and i + 1 < len(words):
                env = words[i + 1]
            elif word.startswith("--env="):
                env = word.partition("=")[2]
        if env not in PRESETS:
            raise ValueError(f"there is no environment {env!r} here; there are {', '.join(PRESETS)}")
        return Train(config=PRESETS[env])
    run = next((Path(word) for word in words if (Path(word) / "config.json").is_file()), None)
    if command is Evaluate and run is not None:
        return Evaluate(tyro.MISSING, judge=runs.read_config(run).judge)
    return None


def _show(folder: Path, result: dict[str, Any]) -> None:
    """The short table, and where the report is."""
    page = report.write(folder)
    taught = result["taught"]
    steps = result["config"]["teacher"]["inner_steps"]
    states = steps * result["config"]["teacher"]["batch_size"]
    sizes = f"n = {taught['policies']} fresh policies, {taught['episodes']} episodes each"
    print(f"\nreturn in gymnasium's {result['config']['env']}, {sizes}")
    for name, arm in (
        (f"taught, {steps} steps on {states} synthetic states", taught),
        ("not taught", result["untaught"]),
    ):
        print(f"  {name:<44}{arm['mean']:8.1f} ± {arm['std']:.1f}   worst policy {arm['worst_policy']:.1f}")
    if result["training"]:
        print(f"  the teacher itself played {result['training']['env_steps']:,} environment steps")
    print(f"\nreport: {page}")
