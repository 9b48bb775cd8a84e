"""How well scores agree with the truth, with intervals, and whether one score agrees better than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigtn.nas.trainings import Column, column_of
from minigtn.runs.seeds import Purpose, seed_for

MEASURES = ("spearman", "kendall", "precision", "regret")
PARTS = ("all", "better_half")

Array = NDArray[np.float64]


def compare(
    rows: list[dict[str, Any]], columns: Sequence[str], vote: Sequence[str], bootstrap: int, seed: int
) -> dict[str, Any]:
    """Every column against the truth, on all networks and on the half with the higher truth: value and 95 %
    interval of each measure, and ``against`` its :func:`rivals` the difference of both, with a paired
    interval.

    A score that is not finite (null) ranks last; they are counted. Intervals: percentiles over ``bootstrap``
    resamples of the networks, the same for all columns; they say what another draw of networks would change,
    not what another seed of a network would. Time: ``bootstrap * n**2`` multiply-adds, eight times, for each
    column.
    """
    truth = np.array([row["truth"] for row in rows])
    values = {column: np.array([row["scores"][column] for row in rows], float) for column in columns}
    seconds = {column: np.array([row["seconds"][column] for row in rows]) for column in columns}
    made_of = votes(columns, vote)
    for name, parts in made_of.items():
        values[name] = mean_rank([values[column] for column in parts])
        seconds[name] = np.sum([seconds[column] for column in parts], axis=0)
    better = np.sort(np.argsort(-truth, kind="stable")[: (len(rows) + 1) // 2])
    result: dict[str, Any] = {
        column: {
            "not_finite": int((~np.isfinite(scores)).sum()),
            "seconds": {
                "mean": float(seconds[column].mean()),
                "std": float(seconds[column].std()),
                "total": float(seconds[column].sum()),
            },
            "against": {rival: {} for rival in rivals(column, list(values))},
        }
        for column, scores in values.items()
    }
    for part, index in zip(PARTS, (np.arange(len(rows)), better), strict=True):
        counts = resamples(len(index), bootstrap, seed)
        found = {column: measures(scores[index], truth[index]) for column, scores in values.items()}
        drawn = {column: measures(scores[index], truth[index], counts) for column, scores in values.items()}
        for column, about in result.items():
            about[part] = {name: interval(found[column][name], drawn[column][name]) for name in MEASURES}
            for rival, differences in about["against"].items():
                differences[part] = {
                    name: interval(
                        found[column][name] - found[rival][name], drawn[column][name] - drawn[rival][name]
                    )
                    for name in MEASURES
                }
    return {
        "networks": len(rows),
        "better_half": len(better),
        "bootstrap": bootstrap,
        "votes": {name: list(parts) for name, parts in made_of.items()},
        "columns": result,
    }


def votes(columns: Sequence[str], vote: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The columns whose mean ranks are columns of their own: vote, and vote-taught, which has the first
    reading of a curriculum, too. Empty where a part of the vote is missing."""
    if not vote or not set(vote) <= set(columns):
        return {}
    taught = [name for name in columns if (c := column_of(name)) is not None and c.arm == "gtn"]
    more = {"vote-taught": (*vote, taught[0])} if taught and taught[0] not in vote else {}
    return {"vote": tuple(vote), **more}


def rivals(name: str, columns: Sequence[str]) -> list[str]:
    """What a column is compared with: FLOPs; a vote with a taught reading, with the vote without; one that a
    curriculum begins, with real trainings that are read for the same, after as many steps, after eight times
    as many and after the most."""
    found = ["flops"] if "flops" in columns and name != "flops" else []
    if name == "vote-taught":
        found += ["vote"]
    mine = column_of(name)
    if mine is None or mine.arm not in ("gtn", "gtn-real"):
        return found
    for arm in ("real", "real-constant"):
        theirs = [c for c in map(column_of, columns) if c and (c.arm, c.score) == (arm, mine.score)]
        most = max((c.steps for c in theirs), default=0)
        found += [
            str(Column(arm, k, mine.score))
            for k in sorted({c.steps for c in theirs} & {mine.steps, 8 * mine.steps, most})
        ]
    return found


def measures(score: Array, truth: Array, counts: Array | None = None) -> dict[str, Array]:
    """Agreement of scores (n,) with the truth (n,) in B resamples, in which networks are there ``counts``
    (B, n) times (None: B = 1, each once): (B,) for each name; NaN where all scores, or all truths, are alike.

    spearman, kendall (tau-b) · precision: the fraction of the best tenth by score (rounded up) that is in the
    best tenth by truth · regret: the best truth minus that of the best-scored network. Of tied scores each
    counts with its share; one that is not finite is below all others. Both correlations come from the signs
    of all differences: sum_j w_j sign(x_i - x_j) is twice the rank of i, ties averaged, around its mean.
    """
    score = np.where(np.isfinite(score), score, -np.inf)
    counts = np.ones((1, len(truth))) if counts is None else counts
    a = _signs(score)
    b = _signs(truth)
    rank_a = counts @ a.T
    rank_b = counts @ b.T
    spearman = _ratio(counts, rank_a * rank_b, rank_a**2, rank_b**2)
    kendall = _ratio(counts, counts @ (a * b), counts @ a**2, counts @ b**2)
    tenth = np.ceil(counts.sum(1) / 10)
    precision = (counts * _top(score, counts, tenth) * _top(truth, counts, tenth)).sum(1) / tenth
    chosen = (counts * _top(score, counts, np.ones(len(counts)))) @ truth
    regret = np.where(counts > 0, truth, -np.inf).max(1) - chosen
    return {"spearman": spearman, "kendall": kendall, "precision": precision, "regret": regret}


def _signs(x: Array) -> Array:
    """(n, n): 1 where x_i > x_j, -1 where it is less."""
    above = (x[:, None] > x).astype(float)
    return above - above.T


def _ratio(counts: Array, both: Array, first: Array, second: Array) -> Array:
    norm = np.sqrt((counts * first).sum(1) * (counts * second).sum(1))
    defined = norm > 0
    return np.where(defined, (counts * both).sum(1) / np.where(defined, norm, 1), np.nan)


def _top(x: Array, counts: Array, k: Array) -> Array:
    """How much each network belongs to the k (B,) largest of each resample, in [0, 1], (B, n); those tied for
    a place share it."""
    above = counts @ (x > x[:, None]).T.astype(float)
    tied = counts @ (x == x[:, None]).astype(float)
    return np.clip((k[:, None] - above) / np.maximum(tied, 1), 0, 1)


def resamples(n: int, bootstrap: int, seed: int) -> Array:
    """How often each of n networks is in each resample: (bootstrap, n)."""
    rng = np.random.default_rng(seed_for(seed, Purpose.BOOTSTRAP, 0))
    drawn = rng.integers(n, size=(bootstrap, n))
    return np.stack([np.bincount(index, minlength=n) for index in drawn]).astype(float)


def interval(value: Array, drawn: Array) -> dict[str, float | None]:
    """A value (1,), and the percentiles of those of its resamples (B,) that are defined."""
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, (2.5, 97.5)).tolist() if len(drawn) else (None, None)
    return {"value": float(value[0]) if math.isfinite(value[0]) else None, "low": low, "high": high}


def ranks(values: Array) -> Array:
    """Ranks around their mean, (n,), ties averaged; what is not finite comes last, that is, lowest. Time: a
    sort."""
    finite = np.where(np.isfinite(values), values, -np.inf)
    in_order = np.sort(finite)
    below, not_above = (np.searchsorted(in_order, finite, side) for side in ("left", "right"))
    return (below + not_above - len(values)) / 2


def mean_rank(scores: Sequence[Array]) -> Array:
    """Several scores (n,) as one, (n,): the mean of their ranks."""
    mean: Array = np.mean([ranks(score) for score in scores], axis=0)
    return mean
