"""The transfer matrix: does a curriculum teach learners that its teacher never met?

    result = transfer(config, data, {"one": load_curriculum("runs/a"), "many": load_curriculum("digits-10")})
    print(table(result))

Rows are the learners of :data:`minigtn.networks.families.LEARNERS`, scaled from the run's own and taught with
the step sizes as they are, and the ordinary networks of :data:`minigtn.networks.unmet.UNMET`, taught by
:func:`minigtn.teach` (:mod:`minigtn.outer.modules`). Columns are the curricula, real data with as many steps
and images, and real data with many times the steps. What a learner reaches with more real data says what it
can: a curriculum that teaches *every learner that reaches .95 on real data* is the claim to be read off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from minigtn.config import RunConfig
from minigtn.data.datasets import Dataset, averaged
from minigtn.networks.families import LEARNERS
from minigtn.networks.learners import Classifier, LearnerConfig
from minigtn.networks.unmet import UNMET
from minigtn.outer import modules
from minigtn.outer.evaluate import finalists, real_curves, taught_curves, tune_real_arm
from minigtn.runs.files import environment, read_json, write_json
from minigtn.runs.progress import progress_bar
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import from_dict, require_same, to_dict
from minigtn.teaching.curriculum import Curriculum
from minigtn.teaching.fidelity import Fidelity, made_for

GOOD = 0.95  # test accuracy that counts as having learned
ROWS = (*LEARNERS, *UNMET)


def settings_of(curriculum: Curriculum) -> RunConfig:
    """Data set, learner and seed of the run that made the curriculum, as it remembers them; all else as by
    default. ValueError where it does not say, or is for agents."""
    made = curriculum.provenance.get("config")
    if not isinstance(made, dict) or not {"dataset", "learner"} <= made.keys():
        raise ValueError(
            "this curriculum does not say which data set and learner it was made for; give a run's folder "
            "first"
        )
    learner = from_dict(LearnerConfig, made["learner"])
    fidelity = Fidelity(image_size=made_for(curriculum)[1].image_size)
    return RunConfig(dataset=made["dataset"], learner=learner, seed=made.get("seed", 0), fidelity=fidelity)


def transfer(
    config: RunConfig,
    data: Dataset,
    curricula: Mapping[str, Curriculum],
    path: Path | None = None,
    names: Iterable[str] | None = None,
    more: int = 10,
) -> dict[str, Any]:
    """Judge ``curricula`` on the zoo's learners (all, or ``names``); the figures as plain JSON values.

    ``config`` gives the learner that rows are scaled from, the seed, the number of fresh learners, and the
    grid of the real-data arms: for each learner lr and momentum are tuned on validation data, with as many
    steps and images as the curricula have, and the best of that (``evaluate.FINALISTS``) once more for
    ``more`` times the steps. Every figure is test accuracy after the last step: mean and standard deviation
    (n - 1) over ``config.evaluation.learners`` fresh learners. The curricula bring their own step sizes.

    ``path``: where the result is written after each row. A file that is there goes on where it stopped, if it
    was made with the same settings and curricula; ValueError if not. Raises ValueError for curricula that do
    not fit the data or each other, and unknown names.

    Time: for each learner about ``5 * FINALISTS * more + 200`` runs as long as the curriculum with the
    default grid, and as many readings. Memory: ``more * T`` batches of real images for every learner that is
    trained in one pass.
    """
    if more < 1:
        raise ValueError(f"more must be at least 1 times the steps of the curricula, not {more}")
    data = averaged(data, config.fidelity.image_size)
    T, B = _steps_and_batch(data, curricula)
    names = list(ROWS if names is None else names)
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names:
        raise ValueError(
            f"there is no learner {', '.join(unknown) or '(none given)'}; the learners are {', '.join(ROWS)}"
        )
    settings = {
        "dataset": data.name,
        "seed": config.seed,
        "learner": to_dict(config.learner),
        "evaluation": to_dict(config.evaluation),
        "more": more,
        "curricula": {name: _digest(curriculum) for name, curriculum in curricula.items()},
    }
    made = environment(data.train.x.device)
    counts = {
        "inner_steps": T,
        "batch_size": B,
        "n_learners": config.evaluation.learners,
        "more_steps": more * T,
        "good": GOOD,
    }
    rows = _rows_of(path, settings)
    bar = progress_bar(names, desc="transfer", unit="learner")
    for name in bar:
        bar.set_postfix_str(name)
        if name not in rows and name in UNMET:
            n = config.evaluation.learners
            rows[name] = modules.row(UNMET[name], config, data, curricula, T, B, more, n)
        elif name not in rows:
            entry = LEARNERS[name]
            learner = entry.build(config.learner, data.image_shape, data.n_classes)
            rows[name] = {
                "about": entry.about,
                "sampled": entry.sampled,
                **_row(learner, config, data, curricula, T, B, more),
            }
        result = {
            **counts,
            "rows": {name: rows[name] for name in ROWS if name in rows},
            "settings": settings,
            **made,
        }
        if path is not None:
            write_json(path, result)
    return result


def table(result: Mapping[str, Any]) -> str:
    """The matrix in plain text, and one line per curriculum with what can be claimed."""
    columns = [
        *result["settings"]["curricula"],
        f"real, {result['inner_steps']} steps",
        f"real, {result['more_steps']} steps",
    ]
    cells = {
        name: [*row["taught"].values(), row["real"], row["real_more"]] for name, row in result["rows"].items()
    }
    wide = max(len(name) for name in cells) + 2
    widths = [max(len(column), 13) + 2 for column in columns]
    steps, batch_size, n = (result[name] for name in ("inner_steps", "batch_size", "n_learners"))
    lines = [
        f"test accuracy (%) after {steps} steps of {batch_size} images, n = {n} fresh learners",
        " " * wide + "".join(column.rjust(width) for column, width in zip(columns, widths, strict=True)),
    ]
    for name, row in cells.items():
        shown = (
            f"{100 * cell['mean']:.1f} ± {100 * cell['std']:.1f}".rjust(width)
            for cell, width in zip(row, widths, strict=True)
        )
        lines.append(f"{name}{'' if result['rows'][name]['sampled'] else ' *'}".ljust(wide) + "".join(shown))
    lines.append("* of a family that no pool holds")
    able = [
        name
        for name, row in result["rows"].items()
        if max(row["real"]["mean"], row["real_more"]["mean"]) >= result["good"]
    ]
    for curriculum in result["settings"]["curricula"]:
        taught = [
            name for name in able if result["rows"][name]["taught"][curriculum]["mean"] >= result["good"]
        ]
        lines.append(
            f"{curriculum}: {len(taught)} of the {len(able)} learners that reach {result['good']:.0%} on "
            "real data reach it, too"
        )
    return "\n".join(lines)


def _row(
    learner: Classifier,
    config: RunConfig,
    data: Dataset,
    curricula: Mapping[str, Curriculum],
    T: int,
    B: int,
    more: int,
) -> dict[str, Any]:
    seeds = [seed_for(config.seed, Purpose.TEST, i) for i in range(config.evaluation.learners)]

    def real(steps: int, scores: list[dict[str, float]]) -> dict[str, float]:
        lr = scores[0]["lr"]
        momentum = scores[0]["momentum"]
        figures = _figures(real_curves(learner, data, data.test, seeds, steps, B, lr, momentum, every=steps))
        return {**figures, "lr": lr, "momentum": momentum}

    scores = tune_real_arm(learner, data, config.evaluation, config.seed, T, B)
    longer = tune_real_arm(learner, data, config.evaluation, config.seed, more * T, B, finalists(scores))
    device = data.train.x.device
    taught = {
        name: taught_curves(learner, c.to(device), data.test, seeds, every=T) for name, c in curricula.items()
    }
    return {
        "weights": sum(p.numel() for p in learner.init(0).values()),
        "taught": {name: _figures(curves) for name, curves in taught.items()},
        "real": real(T, scores),
        "real_more": real(more * T, longer),
    }


def _figures(curves: Tensor) -> dict[str, float]:
    """Of curves (n, readings), at the last reading."""
    return {"mean": curves[:, -1].mean().item(), "std": curves[:, -1].std().item()}


def _steps_and_batch(data: Dataset, curricula: Mapping[str, Curriculum]) -> tuple[int, int]:
    """T and B of all curricula. ValueError where they differ, or do not fit the data."""
    sizes = {name: tuple(curriculum.x.shape[:2]) for name, curriculum in curricula.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(
            "a transfer matrix needs one curriculum or several of the same number of steps and images; "
            f"given {sizes or 'none'}"
        )
    for name, curriculum in curricula.items():
        shape = tuple(curriculum.x.shape[2:])
        classes = len(curriculum.class_names)
        if (shape, classes) != (data.image_shape, data.n_classes):
            raise ValueError(
                f"the curriculum {name!r} teaches {classes} classes of {shape} images, but {data.name} has "
                f"{data.n_classes} of {data.image_shape}; give a curriculum that was made for {data.name}"
            )
    T, B = next(iter(sizes.values()))
    return T, B


def _digest(curriculum: Curriculum) -> str:
    parts = (curriculum.x, curriculum.y, curriculum.lr, curriculum.momentum)
    return hashlib.sha256(b"".join(part.detach().cpu().numpy().tobytes() for part in parts)).hexdigest()[:12]


def _rows_of(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The rows that ``path`` holds already."""
    if path is None or not path.exists():
        return {}
    saved = read_json(path)
    require_same(saved.get("settings", {}) if isinstance(saved, dict) else {}, settings, path)
    return dict(saved["rows"])
