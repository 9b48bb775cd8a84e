"""A combined predictor: free scores and taught readings, weighed by what real short trainings of a few
networks say.

    weights = fit(features, real, chosen)  # ridge regression on ranks, its strength by leave-one-out

Each feature is the rank of a network among all that were scored; the target is the rank of its real short
training among the fitted ones. No entry of the table is read but to judge, on the networks that were not
fitted, and for many choices of those that were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigtn.nas.statistics import MEASURES, PARTS, Array, interval, mean_rank, measures, ranks, resamples
from minigtn.nas.trainings import SCORES, Column, column_of
from minigtn.runs.seeds import Purpose, seed_for

Index = NDArray[np.int64]
CHOICES = 100
"""Random choices of the fitted networks."""
STRENGTHS = np.logspace(-2, 3, 11)
"""Of the ridge: added to each feature's sum of squares, which is about the number of fitted networks."""


class Columns(NamedTuple):
    """What a predictor is made of: names of columns."""

    free: tuple[str, ...]
    taught: tuple[str, ...]
    """The last readings of the curriculum: the ranking's score first, then the others; empty without one."""
    rungs: tuple[str, ...]
    """Annealed trainings, read for the ranking's score: the longest one, and before it those of at least a
    quarter of its steps, the shortest first."""

    @property
    def real(self) -> str:
        """The target: the longest annealed training."""
        return self.rungs[-1]

    @property
    def all_features(self) -> tuple[str, ...]:
        return (*self.free, *self.taught)

    def cost(self, names: Sequence[str], seconds: Mapping[str, Array]) -> Array:
        """Seconds of these features, (n,): each free score, and the readings of one taught training once."""
        alone = [seconds[name] for name in names if name not in self.taught]
        together = [seconds[name] for name in names if name in self.taught]
        return np.sum([*alone, *([np.max(together, axis=0)] if together else [])], axis=0)


def columns_for(names: Sequence[str], free: Sequence[str], score: str) -> Columns | None:
    """What there is of it among the columns ``names``; None where a predictor lacks free scores or real
    trainings."""
    readings = [column for column in map(column_of, names) if column is not None]
    lengths = sorted(c.steps for c in readings if (c.arm, c.score) == ("real", score))
    last = max((c.steps for c in readings if c.arm == "gtn"), default=0)
    present = tuple(name for name in free if name in names)
    if not present or not lengths:
        return None
    order = sorted(SCORES, key=lambda name: name != score)
    taught = tuple(str(Column("gtn", last, name)) for name in order) if last else ()
    rungs = tuple(str(Column("real", k, score)) for k in lengths if 4 * k >= lengths[-1])
    return Columns(present, taught, rungs)


def columns_of(rows: list[dict[str, Any]], kind: str, columns: Columns) -> dict[str, Array]:
    """The "scores", or "seconds", of the rows by column, (n,)."""
    names = (*columns.all_features, *columns.rungs)
    return {name: np.array([row[kind][name] for row in rows], float) for name in names}


def features_of(values: Sequence[Array]) -> Array:
    """Scores (n,) of each column as features (n, F): ranks of mean 0 and deviation 1; one that says the same
    of all networks is 0."""
    by_rank = np.stack([ranks(column) for column in values], axis=1)
    deviation = by_rank.std(0)
    return by_rank / np.where(deviation > 0, deviation, 1)


def fit(features: Array, real: Array, chosen: Index) -> Array:
    """Weights (F,) of the features (n, F), from the scores ``real`` (n,), of which those of the networks
    ``chosen`` (m,) are read.

    Ridge regression of ranks; of ``STRENGTHS`` the one with the least squared error on a network left out.
    Time: a singular value decomposition of (m, F).
    """
    X = features[chosen]
    X = X - X.mean(0)
    y = ranks(real[chosen])
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    shrunk = s**2 / (s**2 + STRENGTHS[:, None])
    fitted = (shrunk * (U.T @ y)) @ U.T  # (strengths, m)
    leverage = 1 / len(y) + shrunk @ (U**2).T
    left_out = (y - fitted) / np.maximum(1 - leverage, 1e-9)
    best = STRENGTHS[np.argmin((left_out**2).mean(1))]
    weights: Array = Vt.T @ (s / (s**2 + best) * (U.T @ y))
    return weights


def judged(
    rows: list[dict[str, Any]],
    columns: Columns,
    vote: Sequence[str],
    networks: int,
    bootstrap: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns "predictor" and "predictor-free" (free scores alone) in the form of
    :func:`minigtn.nas.statistics.compare`, and what there is to say of them.

    Values are means over ``CHOICES`` random choices of the ``networks`` that are fitted, each on all the
    others; a resample has one of the choices, so that an interval says what another draw of networks *and*
    another choice would change. ``against`` FLOPs, the ``vote`` of the free scores, the first taught reading
    and the predictor with free scores alone, on the same networks. Seconds: features of all networks and the
    real trainings of the fitted ones, over all networks.
    """
    truth = np.array([row["truth"] for row in rows])
    n = len(rows)
    scored = columns_of(rows, "scores", columns)
    seconds = columns_of(rows, "seconds", columns)
    rng = np.random.default_rng(seed_for(seed, Purpose.FITTED, 0))
    chosen = [rng.permutation(n)[:networks] for _ in range(CHOICES)]
    fitting = float(np.mean([seconds[columns.real][fitted].sum() for fitted in chosen]))
    made_of = {"predictor": columns.all_features} if columns.taught else {}
    made_of["predictor-free"] = columns.free
    scores = {name: [column] * CHOICES for name, column in _rivals(scored, columns, vote).items()}
    result: dict[str, Any] = {}
    weights: dict[str, dict[str, float]] = {}
    for name, parts in reversed(made_of.items()):
        features = features_of([scored[part] for part in parts])
        each = [fit(features, scored[columns.real], fitted) for fitted in chosen]
        result[name] = {
            "not_finite": 0,
            "seconds": _seconds(columns.cost(parts, seconds), fitting),
            "against": {rival: {} for rival in scores},
        }
        weights[name] = dict(zip(parts, np.mean(each, axis=0).round(3).tolist(), strict=True))
        scores[name] = [features @ w for w in each]
    ahead: dict[str, dict[str, float]] = {name: {} for name in made_of}
    better = np.sort(np.argsort(-truth, kind="stable")[: (n + 1) // 2])
    for part, index in zip(PARTS, (np.arange(n), better), strict=True):
        counts = resamples(len(index), bootstrap, seed)
        kept = [~np.isin(index, fitted) for fitted in chosen]
        found = {
            name: _on_the_others([column[index] for column in each], truth[index], kept, counts)
            for name, each in scores.items()
        }
        for name, about in result.items():
            whole, drawn = found[name]
            about[part] = {m: interval(_mean(whole[m]), drawn[m]) for m in MEASURES}
            for rival, differences in about["against"].items():
                theirs, their_drawn = found[rival]
                differences[part] = {
                    m: interval(_mean(whole[m] - theirs[m]), drawn[m] - their_drawn[m]) for m in MEASURES
                }
                if part == "all":
                    ahead[name][rival] = float((whole["spearman"] > theirs["spearman"]).mean())
    about = {"networks": networks, "choices": CHOICES, "target": columns.real}
    return {name: result[name] for name in made_of}, {**about, "weights": weights, "ahead": ahead}


def _rivals(scored: dict[str, Array], columns: Columns, vote: Sequence[str]) -> dict[str, Array]:
    """Scores (n,) that are fitted to nothing: FLOPs, the first taught reading, the vote."""
    rivals = {name: scored[name] for name in ("flops", *columns.taught[:1]) if name in scored}
    if vote and set(vote) <= set(columns.free):
        rivals["vote"] = mean_rank([scored[name] for name in vote])
    return rivals


def _seconds(cost: Array, fitting: float) -> dict[str, float]:
    """Of one network and of all, the real trainings of those that were fitted shared by all."""
    total = float(cost.sum()) + fitting
    return {"mean": total / len(cost), "std": float(cost.std()), "total": total}


def _on_the_others(
    scores: list[Array], truth: Array, kept: list[NDArray[np.bool_]], counts: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Measures of each choice on the networks that it ``kept`` for judging, (CHOICES,), and those of the
    resamples, each with one of the choices in turn, (B,). NaN where a resample left nothing to judge."""
    whole: dict[str, list[Array]] = {name: [] for name in MEASURES}
    drawn: dict[str, list[Array]] = {name: [] for name in MEASURES}
    for c, (score, keep) in enumerate(zip(scores, kept, strict=True)):
        there = np.concatenate([np.ones((1, len(keep))), counts[c :: len(kept)]]) * keep
        some = there.sum(1) > 0
        found = {name: np.full(len(there), np.nan) for name in MEASURES}
        if some.any():
            for name, values in measures(score, truth, there[some]).items():
                found[name][some] = values
        for name, values in found.items():
            whole[name].append(values[:1])
            drawn[name].append(values[1:])
    return (
        {name: np.concatenate(parts) for name, parts in whole.items()},
        {name: np.concatenate(parts) for name, parts in drawn.items()},
    )


def _mean(values: Array) -> Array:
    """Of those that are defined, (1,); NaN without any."""
    finite = values[np.isfinite(values)]
    return np.array([finite.mean() if len(finite) else np.nan])
