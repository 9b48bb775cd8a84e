"""How well do cheap estimates rank networks? Scores beside a published table's accuracies, with intervals.

    config, estimators = RankConfig(space="nas-bench-macro", networks=100),
    EstimatorConfig(curriculum="runs/cifar") result = rank(config, estimators, data, Path("table.csv"),
    Path("runs/rank"))

The folder holds ``config.json``, ``tuning.json``, ``scores.jsonl`` (a line per network and estimator, written
as soon as it is known), and ``rank.json`` and ``report.html``, which follow from these. Imports SciPy when
called, not with the package.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigtn.data.datasets import Dataset
from minigtn.nas import report
from minigtn.nas.parallel import score_all
from minigtn.nas.scores import UNTUNED, Candidate, Estimator, EstimatorConfig, make
from minigtn.nas.tables import draw, read_scores, read_table, scored, truth_column
from minigtn.networks import spaces
from minigtn.networks.spaces import Space
from minigtn.runs.claim import claimed
from minigtn.runs.files import Lines, environment, read_json, require_config, write_json
from minigtn.runs.interrupt import deferred_interrupt
from minigtn.runs.progress import progress_bar
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import at_least, require_same, to_dict

MAY_CHANGE = ("networks", "estimators", "vote", "bootstrap", "workers")  # when ranking goes on
FILES = ("config.json", "tuning.json", "scores.jsonl", "rank.json", "report.html")
MEASURES = ("spearman", "kendall", "precision", "regret")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RankConfig:
    """Which networks are ranked, by what."""

    space: str = "nas-bench-macro"
    """Search space."""
    estimators: tuple[str, ...] = ("gtn", "real", "params", "flops", "synflow", "naswot")
    """Columns: gtn, real (with tse), real-Nx, tse, tse-Nx, params, flops, synflow, naswot."""
    networks: int = 100
    """Networks drawn from the table; more later keeps the first ones. 0: all of it."""
    seed: int = 0
    """The draw, the networks' initial weights and real batches, and the bootstrap follow from it."""
    truth: str = ""
    """The table's accuracy column; by default mean_acc, cifar10_test or accuracy."""
    vote: tuple[str, ...] = ("flops", "synflow", "naswot")
    """Columns whose mean rank is the column vote, where they are all there."""
    bootstrap: int = 1000
    """Resamples of the networks for the 95 % intervals."""
    workers: int = 1
    """Processes that score networks side by side, on one device."""

    def __post_init__(self) -> None:
        at_least(self, networks=0, seed=0, bootstrap=1, workers=1)
        if not self.estimators or len(set(self.estimators)) < len(self.estimators):
            raise ValueError(
                "estimators must be at least one name, each once, but they are "
                f"{' '.join(self.estimators) or '(none)'}"
            )


def rank(
    config: RankConfig,
    estimators: EstimatorConfig,
    data: Dataset,
    table: Path,
    folder: Path,
    space: Space | None = None,
    bar: bool = True,
) -> dict[str, Any]:
    """Score networks of ``table`` (CSV: arch, accuracy) with every estimator, compare, write the folder;
    resume by calling again.

    Returns the content of ``rank.json``. What is scored stays, also when networks or estimators are added;
    other changes are a ValueError, and so is another process that is at work in the folder.
    Cost: networks * the sum of the estimators' costs, and the tuning of real data. Networks are scored on the
    device of ``data``.
    """
    space = spaces.get(config.space) if space is None else space
    truth = read_table(table, config.truth, space)  # refused before anything is tuned
    archs = draw(truth, config.networks, config.seed)
    column = truth_column(table, config.truth)
    for name in config.estimators:
        make(name, estimators, space, data, config.seed, UNTUNED)
    with claimed(folder):
        return _rank(
            config, estimators, data, {arch: truth[arch] for arch in archs}, column, folder, space, bar
        )


def _rank(
    config: RankConfig,
    estimators: EstimatorConfig,
    data: Dataset,
    truth: dict[str, float],
    truth_name: str,
    folder: Path,
    space: Space,
    bar: bool,
) -> dict[str, Any]:
    archs = list(truth)
    _begin(config, estimators, data, folder)
    tuning = read_json(folder / "tuning.json") if (folder / "tuning.json").exists() else {}
    made: list[Estimator] = []
    for name in config.estimators:
        made.append(make(name, estimators, space, data, config.seed, tuning.get(name), config.workers))
        if made[-1].tuning and name not in tuning:
            tuning[name] = made[-1].tuning
            write_json(folder / "tuning.json", tuning)
    known = scored(folder)  # without a line that a kill left torn
    done = {(line["arch"], column) for line in known for column in line["scores"]}
    networks = [
        Candidate(arch, space, data, config.seed, estimators.valid_images, estimators.valid_batch)
        for arch in archs
    ]
    tasks = [
        (n, e) for n in networks for e in made if any((n.arch, column) not in done for column in e.columns)
    ]
    bar_of = partial(
        progress_bar,
        desc="score",
        unit="score",
        initial=len(networks) * len(made) - len(tasks),
        total=len(networks) * len(made),
    )
    with closing(Lines(folder / "scores.jsonl", known)) as file, deferred_interrupt() as interrupted:
        for i, scores in bar_of(score_all(tasks, config.workers, interrupted.is_set), disable=not bar):
            arch = tasks[i][0].arch
            line: dict[str, Any] = {"arch": arch, "truth": truth[arch], "scores": {}, "seconds": {}}
            for column, score in scores.items():
                line["scores"][column] = score.value if math.isfinite(score.value) else None
                line["seconds"][column] = round(score.seconds, 6)
            file.write(line)
    columns = [column for estimator in made for column in estimator.columns]
    result = compare(
        read_scores(folder, archs), list(dict.fromkeys(columns)), config.vote, config.bootstrap, config.seed
    )
    write_json(
        folder / "rank.json",
        result | {"archs": archs, "truth": truth_name, "config": to_dict(config)},
    )
    report.write(folder)
    return result


# ---- statistics ----


def compare(
    rows: list[dict[str, Any]], columns: list[str], vote: tuple[str, ...], bootstrap: int, seed: int
) -> dict[str, Any]:
    """Every column against the truth, on all networks and on the half with the higher truth: value and 95 %
    interval of each measure.

    A score that is not finite (null) ranks last; they are counted. Intervals: percentiles over ``bootstrap``
    resamples of the networks; they say what another draw of networks would change, not what another seed of a
    network would.
    """
    truth = np.array([row["truth"] for row in rows])
    ranks = {column: _ranks(np.array([row["scores"][column] for row in rows], float)) for column in columns}
    seconds = {column: np.array([row["seconds"][column] for row in rows]) for column in columns}
    if vote and set(vote) <= set(columns):
        ranks["vote"] = _ranks(np.mean([ranks[column] for column in vote], axis=0))
        seconds["vote"] = np.sum([seconds[column] for column in vote], axis=0)
    better = np.sort(np.argsort(-truth, kind="stable")[: (len(rows) + 1) // 2])
    result: dict[str, Any] = {}
    for column, values in ranks.items():
        lost = sum(row["scores"].get(column, 0.0) is None for row in rows)
        spent = {
            "mean": float(seconds[column].mean()),
            "std": float(seconds[column].std()),
            "total": float(seconds[column].sum()),
        }
        result[column] = {"not_finite": lost, "seconds": spent}
        for part, index in (("all", np.arange(len(rows))), ("better_half", better)):
            result[column][part] = _with_intervals(values[index], truth[index], bootstrap, seed)
    return {
        "networks": len(rows),
        "better_half": len(better),
        "bootstrap": bootstrap,
        "vote": list(vote),
        "columns": result,
    }


def measures(score: Array, truth: Array) -> dict[str, float]:
    """Agreement of scores (n,) with the truth (n,); NaN where all scores, or all truths, are alike.

    spearman, kendall (tau-b) · precision: the fraction of the best tenth by score (rounded up) that is in the
    best tenth by truth · regret: the best truth minus that of the best-scored network. Of tied scores each
    counts with its share.
    """
    from scipy.stats import kendalltau, rankdata

    top = -(-len(truth) // 10)
    regret = truth.max() - float(_top(score, 1) @ truth)
    precision = float(_top(score, top) @ _top(truth, top)) / top
    if np.ptp(score) == 0 or np.ptp(truth) == 0:
        return {"spearman": math.nan, "kendall": math.nan, "precision": precision, "regret": regret}
    a, b = (values - values.mean() for values in (rankdata(score), rankdata(truth)))
    spearman = float(a @ b / math.sqrt((a @ a) * (b @ b)))
    return {
        "spearman": spearman,
        "kendall": float(kendalltau(score, truth).statistic),
        "precision": precision,
        "regret": regret,
    }


def _with_intervals(score: Array, truth: Array, bootstrap: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed_for(seed, Purpose.BOOTSTRAP, 0))
    resamples = rng.integers(len(truth), size=(bootstrap, len(truth)))
    value = measures(score, truth)
    repeated = [measures(score[index], truth[index]) for index in resamples]
    result = {}
    for name in MEASURES:
        spread = np.array([each[name] for each in repeated])
        spread = spread[np.isfinite(spread)]
        low, high = np.percentile(spread, (2.5, 97.5)).tolist() if len(spread) else (None, None)
        result[name] = {
            "value": value[name] if math.isfinite(value[name]) else None,
            "low": low,
            "high": high,
        }
    return result


def _top(values: Array, k: int) -> Array:
    """How much each of ``values`` (n,) belongs to the k largest: weights in [0, 1] that sum to k; those tied
    for a place share it."""
    least = np.sort(values)[-k]
    above = values > least
    tied = values == least
    return above + tied * ((k - above.sum()) / tied.sum())


def _ranks(values: Array) -> Array:
    """Ranks from 1, ties averaged; what is not finite comes last, that is, first."""
    from scipy.stats import rankdata

    return rankdata(np.where(np.isfinite(values), values, -np.inf))


def _begin(config: RankConfig, estimators: EstimatorConfig, data: Dataset, folder: Path) -> None:
    """Write ``config.json``; ValueError where the folder's scores were made with other settings."""
    ours = {**to_dict(config), **to_dict(estimators)}
    path = folder / "config.json"
    if require_config(folder, FILES, "delete them, or use another --out"):
        saved = read_json(path)
        require_same(saved.get("config", {}) if isinstance(saved, dict) else {}, ours, folder, MAY_CHANGE)
    write_json(path, {"config": ours, "dataset": data.name, **environment(data.train.x.device)})
