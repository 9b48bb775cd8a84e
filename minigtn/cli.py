"""``minigtn train | evaluate | report | export | check``: thin commands over the library; flags come from the config dataclasses.

Exit codes: 0 done · 1 a check failed or meta-training diverged · 2 bad input, with one sentence · 130 Ctrl-C, with everything saved.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from minigtn import check, data, report
from minigtn.config import PRESETS, EvaluationConfig, RunConfig, from_dict, require_same, to_dict
from minigtn.curriculum import Curriculum, load_curriculum
from minigtn.distributed import WorkerLost, local_rank, workers
from minigtn.evaluate import final_evaluation
from minigtn.files import environment, read_json, remove_run, write_json
from minigtn.interrupt import deferred_interrupt
from minigtn.meta import MetaTraining, MetaTrainingDiverged
from minigtn.meta_gradient import estimated_bytes

Device = Literal["auto", "cpu", "cuda"]
MIB = 2**20
_CONFIG: Any = dataclasses.field(default_factory=RunConfig)


@dataclass(frozen=True)
class Train:
    """Meta-train a teacher, judge its curriculum on test data, write the run's folder and its report."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = _CONFIG
    preset: str = "digits"
    """Settings to start from: digits, mnist-small, mnist-paper, cifar10-paper; every other flag changes one of them."""
    out: Path = Path("runs/demo")
    """The run's folder."""
    data_dir: Path | None = None
    """Folder with the data set's official files (also MINIGTN_DATA); without it they are downloaded once."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA if there is one."""
    threads: int = 1
    """CPU threads. One is fastest for small learners, and safest beside other work; the bits of a result depend on it."""
    resume: bool = False
    """Continue the run in --out from its checkpoint, to the same bits; a new folder simply starts."""
    overwrite: bool = False
    """Throw away a run that is in --out already."""

    def run(self) -> None:
        device = _device(self.device, self.threads)
        if self.resume and self.overwrite:
            raise ValueError("--resume continues a run and --overwrite replaces it; give one of them")
        with workers(device) as team:
            if team.writer:
                self._check_folder(device)
            dataset = data.load(self.config.dataset, self.data_dir).to(device)
            training = MetaTraining(self.config, dataset, team)
            if team.writer and self.overwrite:
                remove_run(self.out)
            if team.writer and not (self.out / "config.json").exists():
                write_json(self.out / "config.json", {"config": to_dict(self.config), **environment(device)})
            team.wait()  # for the folder
            if (self.out / "checkpoint.safetensors").exists():
                training.load_checkpoint(self.out)
            if team.writer and not training.finished:
                sizes = estimated_bytes(self.config, dataset, training.teacher, training.learner)
                shown = ", ".join(f"{name} {size / MIB:,.1f}" for name, size in sizes.items())
                total = sum(sizes.values()) / MIB
                print(f"{self.config.dataset} on {device}: estimated peak memory of an outer step {total:,.1f} MiB ({shown})")
            elif team.writer:
                print(f"{self.out}: all {self.config.meta.outer_steps} outer steps are done already")
            if not training.finished:
                training.run(self.out)
            if team.writer:
                self._finish(training, dataset)

    def _check_folder(self, device: torch.device) -> None:
        """Nothing that is there may be lost or mixed with other things."""
        begun = (self.out / "config.json").exists()
        if begun and not self.resume and not self.overwrite:
            raise ValueError(f"{self.out} already holds a run; use --resume to continue it, --overwrite to replace it, or another --out")
        if begun and self.resume:
            require_same(_config(self.out), self.config, self.out)
            now, then = environment(device), read_json(self.out / "config.json")
            changed = [name for name in now if now[name] != then.get(name)]
            if changed:
                print(f"note: {self.out} began with another {' and '.join(changed)}; it goes on, but perhaps not to the same bits")

    def _finish(self, training: MetaTraining, dataset: data.Dataset) -> None:
        """Curriculum, judgement on test data, report."""
        curriculum = training.result()
        with deferred_interrupt():  # KeyboardInterrupt would get lost in safetensors
            curriculum.save(self.out / "curriculum.safetensors")
        if not (self.out / "result.json").exists():
            _judge(self.out, self.config, dataset, curriculum, training.progress.seconds)
        _show(self.out)


@dataclass(frozen=True)
class Evaluate:
    """Judge a finished run again, with the evaluation settings given here (others: their defaults); replaces its result and report."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    data_dir: Path | None = None
    """As for train."""
    device: Device = "auto"
    """Where to compute."""
    threads: int = 1
    """CPU threads."""

    def run(self) -> None:
        device = _device(self.device, self.threads)
        config = dataclasses.replace(_config(self.run_folder), evaluation=self.evaluation)
        old = self.run_folder / "result.json"
        seconds = read_json(old).get("seconds") if old.exists() else None
        dataset, curriculum = data.load(config.dataset, self.data_dir), load_curriculum(self.run_folder)
        _judge(self.run_folder, config, dataset.to(device), curriculum, seconds)
        _show(self.run_folder)


@dataclass(frozen=True)
class Report:
    """Draw a run's plots and its HTML page."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run, finished or not."""

    def run(self) -> None:
        _config(self.run_folder)  # says what is wrong with a folder that holds no run
        print(report.write(self.run_folder))


@dataclass(frozen=True)
class Export:
    """Write a curriculum to one file: .safetensors for load_curriculum, .npz for NumPy, .png to look at."""

    source: tyro.conf.Positional[str]
    """A run's folder, a curriculum file, or the name of one that comes with the package."""
    target: tyro.conf.Positional[Path]
    """File to write; its ending chooses the format."""
    pixels: Literal["float32", "uint8"] = "float32"
    """Numbers of a .safetensors file; uint8 is a quarter of the size."""

    def run(self) -> None:
        report.export(load_curriculum(self.source), self.target, self.pixels)
        print(f"{self.target} ({self.target.stat().st_size / 2**20:.2f} MiB)")


@dataclass(frozen=True)
class Check:
    """Prove the meta-gradients on this machine: every adjoint against finite differences and each other."""

    device: Device = "auto"
    """Where to compute."""

    def run(self) -> None:
        if not check.run(str(_device(self.device, threads=1))):
            sys.exit(1)


COMMANDS: dict[str, type] = {"train": Train, "evaluate": Evaluate, "report": Report, "export": Export, "check": Check}


def main(argv: list[str] | None = None) -> None:
    """The command ``minigtn``; ``python -m minigtn`` is the same."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: minigtn COMMAND [--help] ...\n")
        for name, about in COMMANDS.items():
            print(f"  {name:<10}{(about.__doc__ or '').strip()}")
        sys.exit(0 if argv else 2)
    try:
        command = COMMANDS.get(argv[0])
        if command is None:
            raise ValueError(f"there is no command {argv[0]!r}; the commands are {', '.join(COMMANDS)}")
        default = _preset(argv) if command is Train else None
        arguments: Any = tyro.cli(command, args=argv[1:], prog=f"minigtn {argv[0]}", default=default)
        arguments.run()
    except KeyboardInterrupt:
        print("\nminigtn: stopped" + ("; the same command with --resume goes on" if argv[0] == "train" else ""), file=sys.stderr)
        sys.exit(130)
    except (MetaTrainingDiverged, WorkerLost) as error:
        print(f"minigtn: {error}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError) as error:
        print(f"minigtn: {error}", file=sys.stderr)
        sys.exit(2)


def _preset(argv: list[str]) -> Train:
    """The defaults that the other flags start from: a preset is read before they are."""
    name = "digits"
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            name = argv[i + 1]
        elif word.startswith("--preset="):
            name = word.partition("=")[2]
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
    return Train(config=PRESETS[name], preset=name)


def _device(name: str, threads: int) -> torch.device:
    """The device, set up so that results repeat bit for bit on it."""
    if threads < 1:
        raise ValueError(f"--threads must be at least 1, not {threads}")
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("--device cuda was given, but torch sees no CUDA device; use --device cpu, or install a CUDA build of torch")
    device = torch.device("cuda", local_rank()) if available and name != "cpu" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def _config(folder: Path) -> RunConfig:
    """The settings that the run in ``folder`` was made with."""
    saved = read_json(folder / "config.json")
    return from_dict(RunConfig, saved.get("config") if isinstance(saved, dict) else saved)


def _judge(folder: Path, config: RunConfig, dataset: data.Dataset, curriculum: Curriculum, seconds: float | None) -> None:
    started = time.monotonic()
    device = dataset.train.x.device
    result = final_evaluation(config, dataset, curriculum.to(device))
    result |= {"seconds": seconds, "evaluation_seconds": round(time.monotonic() - started, 3)}
    write_json(folder / "result.json", {**result, "config": to_dict(config), **environment(device)})


def _show(folder: Path) -> None:
    """The short table, and where the report is."""
    result = read_json(folder / "result.json")
    page = report.write(folder)
    real = result["real_arm"]
    steps, batch, n = (result[name] for name in ("inner_steps", "batch_size", "n_learners"))
    print(f"\ntest accuracy after {steps} steps of {batch} images, n = {n} fresh learners")
    tuned = f"real data, tuned (lr {real['lr']:g}, momentum {real['momentum']:g})"
    for name, arm in (("taught by the curriculum", "gtn"), (tuned, "real")):
        print(f"  {name:<44}{result[f'{arm}_accuracy']:7.1%} ± {result[f'{arm}_accuracy_std']:.1%}")
    print(f"  {'difference':<44}{100 * (result['gtn_accuracy'] - result['real_accuracy']):+6.1f} points")
    print(f"\nreport: {page}")
