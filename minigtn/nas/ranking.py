"""How well do cheap estimates rank networks? Scores beside a published table's accuracies, with intervals.

    config = RankConfig(space="nas-bench-macro", networks=100)
    estimators = EstimatorConfig(curriculum="runs/cifar")
    result = rank(config, estimators, data, Path("table.csv"), Path("runs/rank"))

The folder holds ``config.json``, ``tuning.json``, ``scores.jsonl`` (a line per network, training and repeat,
written as soon as it is known), and ``rank.json`` and ``report.html``, which follow from these.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from minigtn.data.datasets import Dataset
from minigtn.nas import predictor, report
from minigtn.nas.candidate import Candidate, Estimator
from minigtn.nas.parallel import score_all
from minigtn.nas.replay import replay
from minigtn.nas.scores import FREE, UNTUNED, EstimatorConfig, at_fidelity, make, parts
from minigtn.nas.statistics import compare
from minigtn.nas.tables import draw, read_scores, scored
from minigtn.nas.trainings import column_of
from minigtn.networks.spaces import Space
from minigtn.networks.spaces.tables import read_table, truth_column
from minigtn.runs.claim import claimed
from minigtn.runs.files import Lines, environment, read_json, require_config, write_json
from minigtn.runs.interrupt import deferred_interrupt
from minigtn.runs.progress import progress_bar
from minigtn.runs.settings import at_least, require_same, to_dict
from minigtn.teaching.curriculum import load_curriculum
from minigtn.teaching.fidelity import pool_of

MAY_CHANGE = (
    "networks", "estimators", "repeats", "vote", "predictor_networks", "budgets", "searches", "bootstrap",
    "workers",
)  # fmt: skip
"""When ranking goes on."""
FILES = ("config.json", "tuning.json", "scores.jsonl", "rank.json", "report.html")


@dataclass(frozen=True)
class RankConfig:
    """Which networks are ranked, by what."""

    space: str = ""
    """Search space; by default that of the curriculum's teacher, or nas-bench-macro."""
    estimators: tuple[str, ...] = ("gtn", "real", "real-constant", *FREE)
    """Who scores: gtn, real (annealed, a training for each reading), real-constant, gtn-real (real from
    taught weights on), params, flops, synflow, naswot."""
    networks: int = 100
    """Networks drawn from the table, none of the pool that the curriculum's teacher met; more later keeps
    the first ones. 0: all of it."""
    seed: int = 0
    """The draw, the networks' initial weights and real batches, and the bootstrap follow from it."""
    truth: str = ""
    """The table's accuracy column; by default mean_acc, cifar10_test or accuracy."""
    repeats: int = 1
    """Initial weights of each network; its scores are means over them. More later keeps the first ones."""
    vote: tuple[str, ...] = ("flops", "synflow", "naswot")
    """Columns whose mean rank is the column vote, where they are all there."""
    predictor_networks: int = 16
    """Networks whose real short trainings weigh free scores and taught readings, for the column predictor,
    which is judged on the others; at most half of the networks. 0: no predictor."""
    budgets: tuple[float, ...] = ()
    """Seconds of the searches that are replayed on the scores; by default those of 8, 16, 32 and 64 real
    short trainings."""
    searches: int = 20
    """Searches of each kind, each among another half of the networks. 0: none."""
    bootstrap: int = 1000
    """Resamples of the networks for the 95 % intervals."""
    workers: int = 1
    """Processes that score networks side by side, on one device."""

    def __post_init__(self) -> None:
        at_least(
            self, networks=0, seed=0, repeats=1, predictor_networks=0, searches=0, bootstrap=1, workers=1
        )
        if self.predictor_networks in (1, 2):
            raise ValueError(
                f"a predictor is not fitted on {self.predictor_networks} networks; give predictor-networks "
                "at least 3, or 0 for none"
            )
        if not all(0 < budget < math.inf for budget in self.budgets):
            raise ValueError(f"budgets must be positive numbers of seconds, but they are {self.budgets}")
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
    Cost: networks * repeats * the sum of the estimators' costs, and the tuning of real data, which is tuned
    for each reading. Networks are scored on the device of ``data``, which are averaged down to the fidelity's
    image size.
    """
    estimators, space, data = at_fidelity(estimators, config.space, data, space)
    config = replace(config, space=space.name)
    truth = read_table(table, config.truth, space)  # refused before anything is tuned
    column = truth_column(table, config.truth)
    for name in config.estimators:
        for settings, _ in parts(name, estimators).values():
            make(name, settings, space, data, config.seed, UNTUNED)
    taught = {"gtn", "gtn-real"} & set(config.estimators)
    pools = [pool_of(load_curriculum(name)) for name in estimators.curricula] if taught else []
    met = frozenset().union(*pools)
    archs = draw(truth, config.networks, config.seed, without=met)
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
        for part, (settings, curve) in parts(name, estimators).items():
            known = tuning.get(part)
            made.append(make(name, settings, space, data, config.seed, known, config.workers, curve))
            if made[-1].tuning and known is None:
                tuning[part] = made[-1].tuning
                write_json(folder / "tuning.json", tuning)
    lines = scored(folder)  # without a line that a kill left torn
    done = {(line["arch"], line["repeat"], column) for line in lines for column in line["scores"]}
    networks = [
        Candidate(arch, space, data, config.seed, estimators.valid_images, estimators.valid_batch, repeat)
        for arch in archs
        for repeat in range(config.repeats)
    ]
    tasks = [
        (n, e)
        for n in networks
        for e in made
        if any((n.arch, n.repeat, column) not in done for column in e.columns)
    ]
    bar_of = partial(
        progress_bar,
        desc="score",
        unit="score",
        initial=len(networks) * len(made) - len(tasks),
        total=len(networks) * len(made),
    )
    with closing(Lines(folder / "scores.jsonl", lines)) as file, deferred_interrupt() as interrupted:
        for i, scores in bar_of(score_all(tasks, config.workers, interrupted.is_set), disable=not bar):
            network = tasks[i][0]
            line: dict[str, Any] = {"arch": network.arch, "repeat": network.repeat}
            line |= {"truth": truth[network.arch], "scores": {}, "seconds": {}}
            for column, score in scores.items():
                line["scores"][column] = score.value if math.isfinite(score.value) else None
                line["seconds"][column] = round(score.seconds, 6)
            file.write(line)
    columns = list(dict.fromkeys(column for estimator in made for column in estimator.columns))
    rows = read_scores(folder, archs, config.repeats)
    result = compare(rows, columns, config.vote, config.bootstrap, config.seed)
    result |= {"archs": archs, "truth": truth_name, "score": estimators.score, "config": to_dict(config)}
    _combine(config, rows, result, space)
    result |= _repaid(estimators.curricula, result)
    write_json(folder / "rank.json", result)
    report.write(folder)
    return result


def _combine(config: RankConfig, rows: list[dict[str, Any]], result: dict[str, Any], space: Space) -> None:
    """Add to ``result`` what follows from the scores of several columns: predictors and replayed searches, or
    why there are none."""
    columns = predictor.columns_for(list(result["columns"]), FREE, result["score"])
    enough = config.predictor_networks and len(rows) >= 2 * config.predictor_networks
    if columns is None or not enough:
        result["predictor"] = {
            "missing": "no predictor: it takes free scores, real annealed trainings, and at least twice as "
            f"many networks as are fitted ({config.predictor_networks})"
        }
    else:
        judged, about = predictor.judged(
            rows, columns, config.vote, config.predictor_networks, config.bootstrap, config.seed
        )
        result["columns"] |= judged
        result["predictor"] = about
    if columns is not None and config.searches:
        result["replay"] = replay(
            rows, space, columns, config.vote, config.budgets, config.searches, config.seed,
            config.predictor_networks if enough else 0,
        )  # fmt: skip


def _repaid(curricula: tuple[str, ...], result: dict[str, Any]) -> dict[str, Any]:
    """What the meta-training took, where the curricula are runs' folders, and after how many networks that
    is less than what real trainings take longer than taught ones; None: never."""
    paths = [Path(name).expanduser() / "result.json" for name in curricula]
    columns = [column for column in map(column_of, result["columns"]) if column is not None]
    taught = [c for c in columns if (c.arm, c.score) == ("gtn", result["score"])]
    if not (paths and taught and all(path.exists() for path in paths)):
        return {}
    spent = sum(read_json(path).get("seconds", math.nan) for path in paths)
    if not math.isfinite(spent):
        return {}
    mine = max(taught, key=lambda c: c.steps)
    theirs = [str(c) for c in columns if c.arm == "real" and c.score == mine.score and c.steps >= mine.steps]

    def after(name: str) -> int | None:
        longer, shorter = (result["columns"][n]["seconds"]["mean"] for n in (name, str(mine)))
        return math.ceil(spent / (longer - shorter)) if longer > shorter else None

    return {"meta_training": {"seconds": spent, "repaid": {name: after(name) for name in theirs}}}


def _begin(config: RankConfig, estimators: EstimatorConfig, data: Dataset, folder: Path) -> None:
    """Write ``config.json``; ValueError where the folder's scores were made with other settings."""
    ours = {**to_dict(config), **to_dict(estimators)}
    path = folder / "config.json"
    if require_config(folder, FILES, "delete them, or use another --out"):
        saved = read_json(path)
        require_same(saved.get("config", {}) if isinstance(saved, dict) else {}, ours, folder, MAY_CHANGE)
    write_json(path, {"config": ours, "dataset": data.name, **environment(data.train.x.device)})
