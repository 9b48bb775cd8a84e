"""Ablations: what each part of a Generative Teaching Network is worth, as tables of many small
meta-trainings.

    minigtn ablate curriculum steps --preset digits --seeds 3 --out runs/ablations

Every row of a table is the run's config with some settings changed, meta-trained once per outer seed; a row's
figure is the test accuracy of fresh learners, averaged for each outer seed, with a 95 % interval over the
seeds (Student's t), and its difference from the first row, seed by seed. Questions: Such et al. 2019 (arXiv
1912.07768), section 3 and the authors' code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigtn.config import RunConfig
from minigtn.data.datasets import Dataset, averaged
from minigtn.outer.evaluate import real_curves, taught_curves, tune_real_arm
from minigtn.outer.loop import MetaTraining, MetaTrainingDiverged
from minigtn.outer.meta_gradient import base_learner
from minigtn.runs.claim import claimed
from minigtn.runs.files import environment, read_json, write_atomically, write_json
from minigtn.runs.progress import progress_bar
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import require_same, to_dict
from minigtn.teaching.teacher import VARIANTS

Settings = dict[str, Any]
"""Changes of a RunConfig by dotted name, such as {"teacher.lr": 0.1}."""


@dataclass(frozen=True)
class Table:
    """A question and the settings that answer it; the first row is what the others are compared with."""

    question: str
    rows: dict[str, Settings]
    real_arm: bool = False
    """Whether every row stands beside the same learner on real data, tuned, for as many steps and images."""


def _grid() -> dict[str, Settings]:
    """Weight normalization in learner and generator, on and off, over inner and outer learning rates."""
    rows = {}
    for on in (True, False):
        for inner in (0.02, 0.1, 0.5):
            for outer in (0.003, 0.01, 0.03):
                name = f"{'with' if on else 'without'}, inner lr {inner:g}, outer lr {outer:g}"
                rows[name] = {
                    "learner.weight_norm": on,
                    "teacher.weight_norm": on,
                    "teacher.lr": inner,
                    "meta.lr": outer,
                }
    return rows


TABLES: dict[str, Table] = {
    "curriculum": Table(
        "Does the order of the images matter, and who makes them?",
        {
            name: {f"teacher.{setting}": value for setting, value in settings.items()}
            for name, settings in VARIANTS.items()
        },
        real_arm=True,
    ),
    "weight-norm": Table("Does weight normalization widen the range of learning rates that work?", _grid()),
    "readout": Table(
        "Do intermediate losses help?",
        {
            "after every step": {"meta.readout_every": 1},
            "after every fourth": {"meta.readout_every": 4},
            "after the last": {"meta.readout_every": 0},
        },
    ),
    "step-sizes": Table(
        "Are learned learning rates and momenta worth it?",
        {
            "learned": {},
            **{
                f"fixed at lr {lr:g}": {"teacher.learn_step_sizes": False, "teacher.lr": lr}
                for lr in (0.05, 0.1, 0.2, 0.5)
            },
        },
    ),
    "labels": Table("Are soft labels worth it?", {"fixed": {}, "learned": {"teacher.labels": "learned"}}),
    "learners": Table(
        "Are several learners per outer step worth their time?",
        {f"{n} per step": {"meta.learners": n} for n in (1, 2, 4)},
    ),
    "optimizer": Table(
        "Which inner optimizer?",
        {
            "SGD with momentum": {},
            **{
                f"Adam, inner lr {lr:g}": {"teacher.optimizer": "adam", "teacher.lr": lr}
                for lr in (0.003, 0.01, 0.03)
            },
        },
    ),
    "learner": Table(
        "Which learners are easy to teach?",
        {
            f"{norm}, {pool} pooling": {"learner.norm": norm, "learner.pool": pool}
            for norm in ("batch", "mean-only")
            for pool in ("average", "max")
        },
        real_arm=True,
    ),
    "steps": Table(
        "How many inner steps does a curriculum need?",
        {f"T = {n}": {"teacher.inner_steps": n} for n in (1, 2, 4, 8, 16, 32, 64)},
        real_arm=True,
    ),
    "real-images": Table(
        "Does a generator beat real images whose step sizes are learned in the same way?",
        {name: {f"teacher.{k}": v for k, v in VARIANTS[name].items()} for name in ("full", "real")},
        real_arm=True,
    ),
}


def changed(config: Any, settings: Mapping[str, Any]) -> Any:
    """``config`` with these settings, by dotted name."""
    for name, value in settings.items():
        first, _, rest = name.partition(".")
        value = changed(getattr(config, first), {rest: value}) if rest else value
        config = dataclasses.replace(config, **{first: value})
    return config


def ablate(
    config: RunConfig, data: Dataset, tables: Iterable[str], seeds: int, folder: Path
) -> dict[str, Any]:
    """Everything that ``folder`` does not hold yet, then ``ablations.json``, ``ablations.md`` and a figure
    per table; returns the first.

    A meta-training is a run of its own in ``folder/runs``, so that all can be stopped and continued. Time:
    rows * seeds runs. One seed is a quick look: its table has no intervals. ValueError for unknown tables, no
    seed, a folder that was made with another config, or one in which another process is at work.
    """
    tables = list(tables)
    unknown = [name for name in tables if name not in TABLES]
    if unknown or not tables:
        raise ValueError(f"the tables are {', '.join(TABLES)}; given {', '.join(unknown) or 'none'}")
    if seeds < 1:
        raise ValueError(f"there must be at least 1 outer seed (2 for an interval), not {seeds}")
    data = averaged(data, config.fidelity.image_size)
    with claimed(folder):
        return _ablate(config, data, tables, seeds, folder)


def _ablate(config: RunConfig, data: Dataset, tables: list[str], seeds: int, folder: Path) -> dict[str, Any]:
    _belongs_to(folder, config)
    jobs = [(table, row, seed) for table in tables for row in TABLES[table].rows for seed in range(seeds)]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {
        table: {row: [] for row in TABLES[table].rows} for table in tables
    }
    for table, row, seed in progress_bar(jobs, desc="meta-trainings", unit="run", position=1):
        settings = {**TABLES[table].rows[row], "seed": seed}
        found[table][row].append(_run(changed(config, settings), data, folder, TABLES[table].real_arm))
    result = {
        "config": to_dict(config),
        "outer_seeds": seeds,
        "tables": {
            table: [_summary(row, runs, found[table]) for row, runs in found[table].items()]
            for table in tables
        },
        **environment(data.train.x.device),
    }
    write_json(folder / "ablations.json", result)
    write_atomically(folder / "ablations.md", markdown(result))
    for table in tables:
        write_atomically(folder / f"{table}.png", _figure(TABLES[table].question, result["tables"][table]))
    return result


def _belongs_to(folder: Path, config: RunConfig) -> None:
    """The folder belongs to one config."""
    path = folder / "config.json"
    if path.exists():
        require_same(read_json(path)["config"], config, folder)
    else:
        write_json(path, {"config": to_dict(config)})


def _run(config: RunConfig, data: Dataset, folder: Path, with_real_arm: bool) -> dict[str, Any]:
    """One meta-training and its judgement, from disk if it is there. Rows of several tables with the same
    settings share a run."""
    place = folder / "runs" / _digest(config)
    path = place / "ablation.json"
    if not path.exists():
        training = MetaTraining(config, data)
        training.catch_up(place)
        diverged = False
        try:
            training.run(place)
        except MetaTrainingDiverged:
            diverged = True
        seeds = [seed_for(config.seed, Purpose.TEST, i) for i in range(config.evaluation.learners)]
        learner = base_learner(config, data)
        curves = taught_curves(
            learner, training.best_curriculum_for, data.test, seeds, every=config.teacher.inner_steps
        )
        accuracies = curves[:, -1]
        write_json(path, {
            "seed": config.seed,
            "accuracy": accuracies.mean().item(),
            "std_over_learners": accuracies.std().item(),
            "valid_accuracy": training.progress.best_accuracy,
            "best_step": training.progress.best_step,
            "skipped": training.progress.skipped,
            "diverged": diverged,
            "seconds": round(training.progress.seconds, 1),
            "settings": to_dict(config),
        })  # fmt: skip
    run = read_json(path)
    if with_real_arm:
        run["real"] = _real_arm(config, data, folder)
    return run


def _real_arm(config: RunConfig, data: Dataset, folder: Path) -> dict[str, float]:
    """Test accuracy of the learner on as many real batches, tuned on validation data: once for each learner,
    T, B and seed."""
    T = config.teacher.inner_steps
    B = config.teacher.batch_size
    plain = RunConfig(config.dataset, config.seed, config.learner, evaluation=config.evaluation)
    path = folder / "runs" / f"real-{T}-{B}-{_digest(plain)}.json"
    if not path.exists():
        learner = base_learner(config, data)
        best = tune_real_arm(learner, data, config.evaluation, config.seed, T, B)[0]
        seeds = [seed_for(config.seed, Purpose.TEST, i) for i in range(config.evaluation.learners)]
        curves = real_curves(learner, data, data.test, seeds, T, B, best["lr"], best["momentum"], every=T)
        write_json(path, {**best, "accuracy": curves[:, -1].mean().item()})
    return read_json(path)


def _digest(config: RunConfig) -> str:
    """A name for a config, the same in every process."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]


# ---- tables ----


def mean_and_interval(values: list[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95 % interval by Student's t (None: of a single value); the values are
    independent draws."""
    from scipy.stats import t  # late: imports slowly

    n = len(values)
    mean = statistics.fmean(values)
    if n == 1:
        return mean, None
    return mean, float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)


def _summary(
    row: str, runs: list[dict[str, Any]], table: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """One row: figures over the outer seeds, and differences from the first row, seed by seed."""
    accuracies = [run["accuracy"] for run in runs]
    first = [run["accuracy"] for run in next(iter(table.values()))]
    mean, interval = mean_and_interval(accuracies)
    difference, its_interval = mean_and_interval([a - b for a, b in zip(accuracies, first, strict=True)])
    summary = {
        "row": row,
        "accuracy": mean,
        "interval": interval,
        "accuracies": accuracies,
        "difference": difference,
        "difference_interval": its_interval,
        "diverged": sum(run["diverged"] for run in runs),
        "skipped": sum(run["skipped"] for run in runs),
        "seconds": statistics.fmean(run["seconds"] for run in runs),
    }
    if "real" in runs[0]:
        of_real = [run["real"]["accuracy"] for run in runs]
        real, its_interval = mean_and_interval(of_real)
        gain, interval_of_gain = mean_and_interval([a - b for a, b in zip(accuracies, of_real, strict=True)])
        summary |= {
            "real_accuracy": real,
            "real_interval": its_interval,
            "real_accuracies": of_real,
            "gain": gain,
            "gain_interval": interval_of_gain,
        }
    return summary


def markdown(result: dict[str, Any]) -> str:
    """All tables of :func:`ablate`'s result as one page."""
    n = result["outer_seeds"]
    learners = result["config"]["evaluation"]["learners"]
    over = f"mean over n = {n} outer seeds with its 95 % interval (Student's t)"
    if n == 1:
        over = "of one outer seed: a quick look, without an interval, from which nothing follows"
    lines = [
        "# Ablations",
        "",
        f"Test accuracy in % of {learners} fresh learners after the last inner step, {over}, and the "
        "difference from the first row and from real data, seed by seed. Data: "
        f"{result['config']['dataset']}; "
        f"{result['device']}; commit {result['commit']}.",
    ]
    for name, rows in result["tables"].items():
        real = "real_accuracy" in rows[0]
        lines += ["", f"## {name}: {TABLES[name].question}", ""]
        lines += [
            "| | taught | difference |"
            + (" real data, tuned | taught - real |" if real else "")
            + " diverged | seconds |"
        ]
        lines += ["| --- | ---: | ---: |" + (" ---: | ---: |" if real else "") + " ---: | ---: |"]
        for row in rows:
            cells = [row["row"], _percent(row["accuracy"], row["interval"])]
            cells += ["" if row is rows[0] else _percent(row["difference"], row["difference_interval"], "+")]
            if real:
                cells.append(_percent(row["real_accuracy"], row["real_interval"]))
                cells.append(_percent(row["gain"], row["gain_interval"], "+"))
            cells += [f"{row['diverged']} of {n}", f"{row['seconds']:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(value: float, interval: float | None, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}" + ("" if interval is None else f" ± {100 * interval:.1f}")


def _figure(question: str, rows: list[dict[str, Any]]) -> bytes:
    """A line per row: every outer seed a faint dot, the mean and its interval over them, and the real-data
    arm beside it; a PNG."""
    from matplotlib.figure import Figure  # late: imports slowly

    figure = Figure(figsize=(7.5, 1.2 + 0.34 * len(rows)), layout="constrained", dpi=110)
    axes = figure.subplots()
    for y, row in enumerate(rows):
        accuracies = [100 * a for a in row["accuracies"]]
        axes.plot(accuracies, [y] * len(accuracies), "o", color="#0072b2", alpha=0.3, markersize=5)
        axes.errorbar(
            100 * row["accuracy"],
            y,
            xerr=100 * (row["interval"] or 0),
            fmt="o",
            color="#0072b2",
            capsize=3,
            label="taught",
        )
        if "real_accuracy" in row:
            limits = 100 * row["real_accuracy"], 100 * (row["real_interval"] or 0)
            axes.errorbar(
                limits[0],
                y + 0.2,
                xerr=limits[1],
                fmt="s",
                color="#d55e00",
                capsize=3,
                label="real data, tuned",
            )
    axes.set_yticks(range(len(rows)), [row["row"] for row in rows])
    axes.invert_yaxis()
    axes.set(
        xlabel="test accuracy of fresh learners [%]: "
        + (
            "one outer seed"
            if len(rows[0]["accuracies"]) == 1
            else "outer seeds, their mean and its 95 % interval"
        ),
        title=question,
    )
    axes.grid(axis="x", alpha=0.3)
    if "real_accuracy" in rows[0]:
        axes.legend(*[part[:2] for part in axes.get_legend_handles_labels()], loc="best")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
