"""Which networks of a published table are ranked, and the rows of a ranking's ``scores.jsonl``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from minigtn.runs.files import read_metrics
from minigtn.runs.seeds import Purpose, seed_for


def draw(
    truth: dict[str, float], networks: int, seed: int, without: Collection[str] = frozenset()
) -> list[str]:
    """``networks`` architectures at random (0: all), none of them ``without``, such that fewer are the first
    ones of more."""
    shuffled = np.random.default_rng(seed_for(seed, Purpose.RANKED, 0)).permutation(sorted(truth)).tolist()
    left = [arch for arch in shuffled if arch not in without]
    if networks > len(left):
        met = f", {len(truth) - len(left)} of which the teacher met" if len(left) < len(truth) else ""
        raise ValueError(
            f"{networks} networks were asked for, but the table has {len(truth)}{met}; give at most "
            f"{len(left)}, or 0 for all"
        )
    return left[: networks or None]


def read_scores(folder: Path, archs: list[str] | None = None, repeats: int = 1) -> list[dict[str, Any]]:
    """A row per network of a folder's ``scores.jsonl`` (those in ``archs``, in that order): arch, truth, and
    by column the mean score over the first ``repeats`` initial weights (None where one is) and the sum of
    their seconds."""
    rows: dict[str, dict[str, Any]] = {}
    for line in scored(folder):
        if line["repeat"] >= repeats:
            continue
        row = rows.setdefault(
            line["arch"], {"arch": line["arch"], "truth": line["truth"], "scores": {}, "seconds": {}}
        )
        for name in ("scores", "seconds"):
            for column, value in line[name].items():
                row[name].setdefault(column, {})[line["repeat"]] = value
    for row in rows.values():
        row["scores"] = {column: _mean(by_repeat.values()) for column, by_repeat in row["scores"].items()}
        row["seconds"] = {column: sum(by_repeat.values()) for column, by_repeat in row["seconds"].items()}
    return [rows[arch] for arch in (rows if archs is None else archs)]


def _mean(values: Collection[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return sum(finite) / len(finite) if len(finite) == len(values) else None


def scored(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's ``scores.jsonl``; ValueError for one that is no line of scores."""
    lines = read_metrics(folder / "scores.jsonl")
    for number, line in enumerate(lines, 1):
        parts: list[Any] = [line.get(name) for name in ("scores", "seconds")]
        numbers = [
            value for part in parts if isinstance(part, dict) for value in part.values() if value is not None
        ]
        if (
            not isinstance(line.get("arch"), str)
            or type(line.get("repeat")) is not int
            or not all(isinstance(part, dict) for part in parts)
            or not all(type(value) in (int, float) for value in (*numbers, line.get("truth")))
            or parts[0].keys() != parts[1].keys()
        ):
            raise ValueError(
                f"{folder / 'scores.jsonl'}, line {number}, is damaged (no scores of a network); mend it, or "
                "delete the line"
            )
    return lines
