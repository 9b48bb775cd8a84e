"""The command ``minigtn`` with all that it can do: thin commands over the library; flags come from the config
dataclasses.

Exit codes: 0 done · 1 a check failed or meta-training diverged · 2 bad input, with one sentence · 130 Ctrl-C,
with everything saved.
"""

from __future__ import annotations

import codecs
import dataclasses
import io
import statistics
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from minigtn import __version__, data
from minigtn.agents import commands as agents
from minigtn.agents.training import AgentTrainingDiverged
from minigtn.config import PRESETS, EvaluationConfig, RunConfig
from minigtn.nas import commands as nas
from minigtn.nas.final_training import TrainingDiverged
from minigtn.nas.study import SearchStopped
from minigtn.networks.families import LEARNERS
from minigtn.outer import run, transfer
from minigtn.outer.loop import MetaTrainingDiverged
from minigtn.pages import run_page
from minigtn.pages.export import export
from minigtn.runs.devices import Device, choose
from minigtn.runs.distributed import WorkerLost, workers
from minigtn.runs.files import read_json
from minigtn.studies import ablate, check
from minigtn.teaching.curriculum import load_curriculum

_CONFIG: Any = dataclasses.field(default_factory=RunConfig)


@dataclass(frozen=True)
class Train:
    """Meta-train a teacher, judge its curriculum on test data, write the run's folder and its report."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = _CONFIG
    preset: str = "digits"
    """Settings to start from: tiny, digits, digits-any, mnist-small, mnist-any, mnist-paper, cifar10-tiny,
    cifar10-small, cifar10-any, nas-201-cpu, nas-macro-cpu, cifar10-paper; every other flag changes one of
    them."""
    out: Path = Path("runs/demo")
    """The run's folder."""
    data_dir: Path | None = None
    """Folder with the data set's official files (also MINIGTN_DATA); without it they are downloaded once."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA if there is one."""
    threads: int = 1
    """CPU threads. One is fastest for small learners, and safest beside other work; the bits of a result
    depend on it."""
    resume: bool = False
    """Continue the run in --out from its checkpoint, to the same bits; a new folder simply starts."""
    overwrite: bool = False
    """Throw away a run that is in --out already."""

    def run(self) -> None:
        device = choose(self.device, self.threads, self.config.meta.precision)
        with workers(device) as team:
            images = data.load(self.config.dataset, self.data_dir).to(device)
            run.train(self.config, images, self.out, self.resume, overwrite=self.overwrite, workers=team)
            if team.writer:
                _show(self.out)


@dataclass(frozen=True)
class Evaluate:
    """Judge a finished run again, with its own evaluation settings but for those given here; replaces its
    result and report."""

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
        device = choose(self.device, self.threads)
        images = data.load(run.settings_of(self.run_folder).dataset, self.data_dir).to(device)
        run.evaluate_run(self.run_folder, images, self.evaluation)
        _show(self.run_folder)


@dataclass(frozen=True)
class Transfer:
    """Judge curricula on learners that their teachers never met, beside real data; goes on where it was
    stopped."""

    curricula: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, curriculum files, or names of curricula that come with the package, all for the same
    data; the learner and the seed are those of the first one's run."""
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    learners: tuple[str, ...] = tuple(LEARNERS)
    """Rows."""
    more: int = 10
    """Real data are also given so many times the steps, to see what a learner can reach."""
    out: Path | None = None
    """File for the result; without it transfer.json in the first folder, or here where that is no run's."""
    data_dir: Path | None = None
    """As for train."""
    device: Device = "auto"
    """Where to compute."""
    threads: int = 1
    """CPU threads."""

    def run(self) -> None:
        device = choose(self.device, self.threads)
        shown = {source.stem: load_curriculum(source).to(device) for source in self.curricula}
        if len(shown) < len(self.curricula):
            raise ValueError(
                "the columns are named by folders, files or curricula, so these names must differ; given "
                f"{' '.join(map(str, self.curricula))}"
            )
        first = self.curricula[0]
        config = run.settings_of(first) if first.is_dir() else transfer.settings_of(shown[first.stem])
        config = dataclasses.replace(config, evaluation=self.evaluation)
        dataset = data.load(config.dataset, self.data_dir).to(device)
        out = self.out or (first if first.is_dir() else Path()) / "transfer.json"
        result = transfer.transfer(config, dataset, shown, out, self.learners, self.more)
        print(f"{transfer.table(result)}\n\nfigures: {out}")


@dataclass(frozen=True)
class Ablate:
    """Meta-train once per row and outer seed of the tables named, and write them down: what each part is
    worth."""

    tables: tyro.conf.Positional[tuple[str, ...]]
    """Any of: curriculum, weight-norm, readout, step-sizes, labels, learners, optimizer, learner, steps,
    real-images."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = _CONFIG
    preset: str = "digits"
    """Settings to start from, as for train."""
    seeds: int = 3
    """Outer seeds per row; with one there is a quick look, and no interval."""
    out: Path = Path("runs/ablations")
    """Folder; what it holds already is not done again."""
    data_dir: Path | None = None
    """As for train."""
    device: Device = "auto"
    """Where to compute."""
    threads: int = 1
    """CPU threads."""

    def run(self) -> None:
        device = choose(self.device, self.threads, self.config.meta.precision)
        dataset = data.load(self.config.dataset, self.data_dir).to(device)
        print(ablate.markdown(ablate.ablate(self.config, dataset, self.tables, self.seeds, self.out)))


@dataclass(frozen=True)
class Report:
    """Draw a run's plots and its HTML page."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of the run, finished or not."""

    def run(self) -> None:
        run.settings_of(self.run_folder)  # says what is wrong with a folder that holds no run
        print(run_page.write(self.run_folder))


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
        export(load_curriculum(self.source), self.target, self.pixels)
        print(f"{self.target} ({self.target.stat().st_size / 2**20:.2f} MiB)")


@dataclass(frozen=True)
class Check:
    """Prove the meta-gradients on this machine: every adjoint against finite differences and each other."""

    device: Device = "auto"
    """Where to compute."""

    def run(self) -> None:
        if not check.run(str(choose(self.device))):
            sys.exit(1)


COMMANDS: dict[str, type] = {
    "train": Train,
    "evaluate": Evaluate,
    "transfer": Transfer,
    "ablate": Ablate,
    "report": Report,
    "export": Export,
    "check": Check,
}
GROUPS: dict[str, tuple[dict[str, type], str]] = {
    "nas": (nas.COMMANDS, "Architecture search with a teacher instead of the data"),
    "rl": (agents.COMMANDS, "Teach agents: synthetic states that make a policy in a few steps"),
}
AGAIN = "; the same command goes on"
AFTER_A_STOP = {"train": "; the same command with --resume goes on", "ablate": AGAIN, "transfer": AGAIN}


def main(argv: list[str] | None = None) -> None:
    """The command ``minigtn``; ``python -m minigtn`` is the same."""
    argv = sys.argv[1:] if argv is None else argv
    _print_what_can_be_printed()
    threading.excepthook = _of_a_thread
    if argv == ["--version"]:
        print(f"minigtn {__version__}")
        return
    commands = COMMANDS
    name = "minigtn"
    group = ""
    if argv[:1] and argv[0] in GROUPS:
        group, *argv = argv
        commands = GROUPS[group][0]
        name = f"minigtn {group}"
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {name} COMMAND [--help] ..." + " | --version" * (name == "minigtn") + "\n")
        about = {word: " ".join((command.__doc__ or "").split()) for word, command in commands.items()}
        if commands is COMMANDS:
            for word, (inner, text) in GROUPS.items():
                about[word] = f"{text}: minigtn {word} {' | '.join(inner)}."
        for word, text in about.items():
            print(f"  {word:<10}{text}")
        sys.exit(0 if argv else 2)
    try:
        command = commands.get(argv[0])
        if command is None:
            known = [*commands, *(GROUPS if commands is COMMANDS else [])]
            raise ValueError(f"there is no command {argv[0]!r}; the commands are {', '.join(known)}")
        default = agents.defaults(command, argv[1:]) if group == "rl" else _defaults(command, argv[1:])
        arguments: Any = tyro.cli(command, args=argv[1:], prog=f"{name} {argv[0]}", default=default)
        arguments.run()
    except KeyboardInterrupt:
        goes_on = AGAIN if group == "nas" else AFTER_A_STOP.get(argv[0], "")
        print("\nminigtn: stopped" + goes_on, file=sys.stderr)
        sys.exit(130)
    except (
        MetaTrainingDiverged,
        WorkerLost,
        TrainingDiverged,
        SearchStopped,
        AgentTrainingDiverged,
    ) as error:
        print(f"minigtn: {error}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError) as error:
        print(f"minigtn: {error}", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        if group != "rl":
            raise
        print(f"minigtn: {error}", file=sys.stderr)
        sys.exit(2)


def _print_what_can_be_printed() -> None:
    """A terminal that has no "±" gets "+-", and a question mark for anything else that it has not: no reason
    to fail after a finished run."""
    codecs.register_error("minigtn", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="minigtn")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join("+-" if letter == "±" else "?" for letter in lost), error.end


def _of_a_thread(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread: what the disk says there is met here, too, and told in one sentence."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


def _defaults(command: type, words: list[str]) -> Any:
    """What the flags change: a preset, or the settings of the run that is named; read before the flags
    are."""
    if command in (Train, Ablate):
        name = "digits"
        for i, word in enumerate(words):
            if word == "--preset" and i + 1 < len(words):
                name = words[i + 1]
            elif word.startswith("--preset="):
                name = word.partition("=")[2]
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
        return command(
            config=PRESETS[name], preset=name, **({"tables": tyro.MISSING} if command is Ablate else {})
        )
    folder = next((Path(word) for word in words if (Path(word) / "config.json").is_file()), None)
    if command in (Evaluate, Transfer) and folder is not None:
        return command(tyro.MISSING, evaluation=run.settings_of(folder).evaluation)
    return None


def _show(folder: Path) -> None:
    """The short table, and where the report is."""
    result = read_json(folder / "result.json")
    real = result["real_arm"]
    steps, batch, n = (result[name] for name in ("inner_steps", "batch_size", "n_learners"))
    print(f"\ntest accuracy after {steps} steps of {batch} images, n = {n} fresh learners")
    tuned = f"real data, tuned (lr {real['lr']:g}, momentum {real['momentum']:g})"
    for name, arm in (("taught by the curriculum", "gtn"), (tuned, "real")):
        print(f"  {name:<44}{result[f'{arm}_accuracy']:7.1%} ± {result[f'{arm}_accuracy_std']:.1%}")
    print(f"  {'difference':<44}{100 * (result['gtn_accuracy'] - result['real_accuracy']):+6.1f} points")
    if longer := result.get("longer"):
        name = f"real data, tuned for {longer['steps'][-1]} steps"
        print(f"  {name:<44}{longer['accuracy']:7.1%} ± {longer['accuracy_std']:.1%}")
    if matrix := result.get("transfer"):
        rows = matrix["rows"].values()
        print(f"\n{len(rows)} ordinary networks never met, n = {matrix['n_learners']} each, mean")
        print(f"  {'taught by the curriculum':<44}{_mean(row['taught']['curriculum'] for row in rows):7.1%}")
        for arm, length in (("real", steps), ("real_more", matrix["more_steps"])):
            name = f"real data, tuned for each, {length} steps"
            print(f"  {name:<44}{_mean(row[arm] for row in rows):7.1%}")
    print(f"\nreport: {folder / 'report.html'}")


def _mean(figures: Iterable[dict[str, float]]) -> float:
    return statistics.mean(figure["mean"] for figure in figures)
