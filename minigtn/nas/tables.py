"""Published tables of architectures with their accuracies, and the rows of a ranking's ``scores.jsonl``."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from minigtn.runs.files import read_metrics
from minigtn.runs.seeds import Purpose, seed_for

TRUTHS = ("mean_acc", "cifar10_test", "accuracy")  # known names of a table's accuracy column


def truth_column(table: Path, name: str = "") -> str:
    """The name of the table's accuracy column; ValueError where there is none of that name (by default, of
    the known ones)."""
    with table.open(newline="") as file:
        columns = next(csv.reader(file), [])
    found = [column for column in ([name] if name else TRUTHS) if column in columns]
    if "arch" not in columns or not found:
        wanted = name or f"one of {', '.join(TRUTHS)}"
        raise ValueError(
            f"{table} needs a column arch and a column {wanted}, but it has {', '.join(columns) or 'none'}; "
            "name one as truth"
        )
    return found[0]


def read_table(table: Path, column: str = "") -> dict[str, float]:
    """Accuracy of each architecture; ValueError, with the line, for a number that cannot be read or an
    architecture met twice."""
    column = truth_column(table, column)
    truth = {}
    with table.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                value = float(row[column])
            except (TypeError, ValueError):
                value = math.nan
            if not math.isfinite(value) or row["arch"] in truth:
                fault = (
                    f"{column} {row[column]!r} is no number"
                    if not math.isfinite(value)
                    else f"{row['arch']} stands there twice"
                )
                raise ValueError(f"{table}, line {number}: {fault}")
            truth[row["arch"]] = value
    return truth


def draw(truth: dict[str, float], networks: int, seed: int) -> list[str]:
    """``networks`` architectures at random (0: all), such that fewer are the first ones of more."""
    if networks > len(truth):
        raise ValueError(
            f"{networks} networks were asked for, but the table has {len(truth)}; give at most that, or 0 "
            "for all"
        )
    shuffled = np.random.default_rng(seed_for(seed, Purpose.RANKED, 0)).permutation(sorted(truth)).tolist()
    return shuffled[: networks or None]


def read_scores(folder: Path, archs: list[str] | None = None) -> list[dict[str, Any]]:
    """A row per network of a folder's ``scores.jsonl`` (those in ``archs``, in that order): arch, truth,
    scores and seconds by column."""
    rows: dict[str, dict[str, Any]] = {}
    for line in read_metrics(folder / "scores.jsonl"):
        row = rows.setdefault(
            line["arch"], {"arch": line["arch"], "truth": line["truth"], "scores": {}, "seconds": {}}
        )
        row["scores"] |= line["scores"]
        row["seconds"] |= line["seconds"]
    return [rows[arch] for arch in (rows if archs is None else archs)]
