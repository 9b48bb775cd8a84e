"""Searches within a budget of seconds, replayed on scores that are known already: nothing is trained again.

    replay(rows, space, columns, vote, budgets=(100.0,), searches=20, seed=0)

A ranking's folder has the scores of its networks and the seconds that each took. A search that is allowed so
many seconds may look at those alone, in an order of its own; what it chooses is looked up in the table at the
end. Each search has a random half of the networks, the same for all strategies, so that those without chance
differ from search to search, too.

| strategy | what it does with its seconds |
| --- | --- |
| random | real short trainings of networks at random; the best of them |
| evolution | the same, of the nearest to good ones that is not yet trained (Real et al. 2019) |
| halving | short real trainings of networks at random, longer ones of their better third, and so on |
| flops, vote | the most FLOPs; the best mean rank of the free scores |
| taught | the curriculum's last reading, of networks at random; the best of them |
| vote-taught | the best mean rank of the free scores and that reading |
| predictor | :mod:`minigtn.nas.predictor`, fitted on the real trainings of a few; the best prediction |
| X, then real | half of it (predictor: what it needs) for X, then real trainings of its best; the best |
| X, then halving | half of it for X, then halving that begins with its best |
| X, asha | networks at random, each as far as ``nas search --rungs`` would bring it |

Halving is successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943), which asha makes asynchronous
(:mod:`minigtn.nas.rungs`).
The seconds of meta-training and of tuning are in no budget: they are spent once for a space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigtn.nas.predictor import Columns, Index, columns_of, features_of, fit
from minigtn.nas.rungs import Look, goes_on, order
from minigtn.nas.statistics import Array, mean_rank
from minigtn.networks.spaces import Space
from minigtn.runs.seeds import Purpose, seed_for

TRAININGS = (8, 16, 32, 64)
"""Budgets by default: the seconds of so many real short trainings."""
POPULATION = 10
TOURNAMENT = 3
KEPT = 3
"""One in so many goes on to the next longer training."""
RIVALS = ("random", "evolution", "flops")
"""Strategies without a curriculum that all others are compared with, search by search."""


@dataclass(frozen=True)
class Seen:
    """All that a search may look at: scores and seconds, no truth."""

    values: dict[str, Array]
    """By column, (n,); what is not finite is minus infinity."""
    seconds: dict[str, Array]
    choices: NDArray[np.str_]
    """(n, number of choices): the architectures."""
    columns: Columns
    vote: tuple[str, ...]
    fitted: int
    """Networks that the predictor is fitted on; 0: none."""

    def part(self, index: Index) -> Seen:
        """With these networks alone."""
        values = {name: column[index] for name, column in self.values.items()}
        seconds = {name: column[index] for name, column in self.seconds.items()}
        return Seen(values, seconds, self.choices[index], self.columns, self.vote, self.fitted)

    def cost(self, names: Sequence[str]) -> Array:
        """Seconds of these columns together, (n,)."""
        return self.columns.cost(names, self.seconds)

    @property
    def real(self) -> Array:
        return self.values[self.columns.real]

    @property
    def real_seconds(self) -> Array:
        return self.seconds[self.columns.real]


Strategy = Callable[[Seen, float, np.random.Generator], int | None]
"""The network chosen within so many seconds; None where they do not suffice for any."""


def replay(
    rows: list[dict[str, Any]],
    space: Space,
    columns: Columns,
    vote: Sequence[str],
    budgets: Sequence[float],
    searches: int,
    seed: int,
    fitted: int,
) -> dict[str, Any]:
    """What each strategy finds in the table, by budget: mean and standard deviation over the searches, of the
    regret, too, the best truth among the search's networks minus that of the one found, and of the difference
    from what the ``RIVALS`` find in the same searches.

    ``budgets`` in seconds; none: those of ``TRAININGS``. Cost: about a second.
    """
    values = columns_of(rows, "scores", columns)
    values = {name: np.where(np.isfinite(column), column, -np.inf) for name, column in values.items()}
    seconds = columns_of(rows, "seconds", columns)
    choices = np.array([list(space.to_choices(row["arch"]).values()) for row in rows])
    known = tuple(vote) if vote and set(vote) <= set(columns.free) else ()
    everything = Seen(values, seconds, choices, columns, known, fitted)
    truth = np.array([row["truth"] for row in rows])
    mean_real = float(everything.real_seconds.mean())
    budgets = tuple(budgets) or tuple(round(k * mean_real, 3) for k in TRAININGS)
    halves = []
    for search in range(searches):
        rng = np.random.default_rng(seed_for(seed, Purpose.REPLAY, search))
        halves.append(np.sort(rng.permutation(len(rows))[: (len(rows) + 1) // 2]))
    return {
        "searches": searches,
        "candidates": len(halves[0]),
        "real": columns.real,
        "real_seconds": mean_real,
        "best": _spread([truth[half].max() for half in halves]),
        "budgets": [
            {"seconds": budget, "strategies": _found(everything, truth, halves, budget, seed)}
            for budget in budgets
        ],
    }


def _found(
    everything: Seen, truth: Array, halves: list[Index], budget: float, seed: int
) -> dict[str, dict[str, Any]]:
    best = [float(truth[half].max()) for half in halves]
    found: dict[str, list[float | None]] = {}
    for name, strategy in strategies(everything).items():
        found[name] = []
        for search, half in enumerate(halves):
            rng = np.random.default_rng(seed_for(seed_for(seed, Purpose.REPLAY, search), Purpose.REPLAY, 1))
            choice = strategy(everything.part(half), budget, rng)
            found[name].append(None if choice is None else float(truth[half][choice]))
    return {
        name: {
            "found": _spread([value for value in mine if value is not None]),
            "regret": _spread(_differences(best, mine)),
            "searches": sum(value is not None for value in mine),
            "minus": {r: _spread(_differences(mine, found[r])) for r in RIVALS if r in found and r != name},
        }
        for name, mine in found.items()
    }


def _differences(a: Sequence[float | None], b: Sequence[float | None]) -> list[float]:
    """Search by search, of those in which both found something."""
    return [x - y for x, y in zip(a, b, strict=True) if x is not None and y is not None]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"mean": None, "std": None}
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def strategies(seen: Seen) -> dict[str, Strategy]:
    """Those for which there are the columns."""
    columns = seen.columns
    result: dict[str, Strategy] = {"random": _random, "evolution": _evolution}
    if len(columns.rungs) > 1:
        result["halving"] = lambda seen, budget, rng: _halving(seen, rng.permutation(len(seen.real)), budget)
    if "flops" in columns.free:
        result["flops"] = lambda seen, budget, rng: _best(seen, ("flops",), budget, rng)
    if seen.vote:
        result["vote"] = lambda seen, budget, rng: _best(seen, seen.vote, budget, rng)
        result |= _then("vote", seen.vote, columns)
    if columns.taught:
        first = columns.taught[:1]
        result["taught"] = lambda seen, budget, rng: _best(seen, first, budget, rng)
        result |= _then("taught", first, columns)
    if columns.taught and seen.vote:
        joined = (*seen.vote, *columns.taught[:1])
        result["vote-taught"] = lambda seen, budget, rng: _best(seen, joined, budget, rng)
        result |= _then("vote-taught", joined, columns)
        result["vote-taught, asha"] = lambda seen, budget, rng: _asha(seen, joined, budget, rng)
    for name, parts in (("predictor-free", columns.free), ("predictor", columns.all_features)):
        if not seen.fitted or (name == "predictor" and not columns.taught):
            continue
        result[name] = _predictor(parts, then_real=False)
        result[f"{name}, then real"] = _predictor(parts, then_real=True)
    return result


def _afford(order: Index, seconds: Array, budget: float) -> Index:
    """The first ones of an order that so many seconds suffice for."""
    return order[np.cumsum(seconds[order]) <= budget]


def _top(among: Index, scores: Array) -> int | None:
    return int(among[np.argmax(scores[among])]) if len(among) else None


def _joined(seen: Seen, names: Sequence[str], among: Index) -> Array:
    """The mean rank of these columns ``among`` some networks, minus infinity for the others, (n,)."""
    scores = np.full(len(seen.real), -np.inf)
    if len(among):
        scores[among] = mean_rank([seen.values[name][among] for name in names])
    return scores


def _random(seen: Seen, budget: float, rng: np.random.Generator) -> int | None:
    return _top(_afford(rng.permutation(len(seen.real)), seen.real_seconds, budget), seen.real)


def _best(seen: Seen, names: Sequence[str], budget: float, rng: np.random.Generator) -> int | None:
    """The best mean rank of these columns."""
    tried = _afford(rng.permutation(len(seen.real)), seen.cost(names), budget)
    return _top(tried, _joined(seen, names, tried))


def _then(label: str, names: Sequence[str], columns: Columns) -> dict[str, Strategy]:
    """Half of the seconds for these columns, the rest for trainings of their best."""

    def trained(seen: Seen, order: Index, budget: float) -> int | None:
        return _top(_afford(order, seen.real_seconds, budget), seen.real)

    def strategy(train: Callable[[Seen, Index, float], int | None]) -> Strategy:
        def search(seen: Seen, budget: float, rng: np.random.Generator) -> int | None:
            tried = _afford(rng.permutation(len(seen.real)), seen.cost(names), budget / 2)
            scores = _joined(seen, names, tried)
            left = budget - float(seen.cost(names)[tried].sum())
            found = train(seen, tried[np.argsort(-scores[tried], kind="stable")], left)
            return _top(tried, scores) if found is None else found

        return search

    result = {f"{label}, then real": strategy(trained)}
    if len(columns.rungs) > 1:
        result[f"{label}, then halving"] = strategy(_halving)
    return result


def _halving(seen: Seen, order: Index, budget: float) -> int | None:
    """The first ones of the order, as many as the seconds suffice for, are trained for the shortest time, the
    better ``KEPT``-th of them for the next longer one, and so on. Each training is a new one."""
    for n in range(len(order), 0, -1):
        among = order[:n]
        spent = 0.0
        for rung in seen.columns.rungs:
            spent += float(seen.seconds[rung][among].sum())
            best_first = among[np.argsort(-seen.values[rung][among], kind="stable")]
            among = best_first[: max(1, len(among) // KEPT)]
        if spent <= budget:
            return int(among[0])
    return None


def _asha(seen: Seen, names: Sequence[str], budget: float, rng: np.random.Generator) -> int | None:
    """These columns first, then the real trainings, each for one in ``KEPT`` of those that came as far."""
    rungs = [tuple(names), *((rung,) for rung in seen.columns.rungs)]
    climbs: list[list[Look]] = []
    left = budget
    tried = rng.permutation(len(seen.real))
    for network in tried:
        climbs.append([])
        for number, rung in enumerate(rungs):
            cost = float(seen.cost(rung)[network])
            if cost > left:
                break
            left -= cost
            values = [float(seen.values[name][network]) for name in rung]
            look = [value if math.isfinite(value) else None for value in values]
            others = [climb[number] for climb in climbs[:-1] if len(climb) > number]
            climbs[-1].append(look)
            if not goes_on(look, others, KEPT):
                break
        if not climbs[-1]:
            break
    return int(tried[np.argmax(order(climbs))]) if any(climbs) else None


def _evolution(seen: Seen, budget: float, rng: np.random.Generator) -> int | None:
    """Regularized evolution: the best of a few of the latest networks is the parent, and a child is the
    nearest scored network that is not yet trained, by the number of choices that differ."""
    order = rng.permutation(len(seen.real))
    trained: list[int] = []
    left = budget
    child = int(order[0])
    while seen.real_seconds[child] <= left:
        left -= seen.real_seconds[child]
        trained.append(child)
        fresh = order[~np.isin(order, trained)]
        if not len(fresh):
            break
        if len(trained) < POPULATION:
            child = int(fresh[0])
            continue
        latest = np.array(trained[-POPULATION:])
        parent = _top(rng.choice(latest, TOURNAMENT, replace=False), seen.real)
        away = (seen.choices[fresh] != seen.choices[parent]).sum(1)
        child = int(fresh[np.argmin(away)])
    return _top(np.array(trained, dtype=np.int64), seen.real)


def _predictor(names: Sequence[str], then_real: bool) -> Strategy:
    def strategy(seen: Seen, budget: float, rng: np.random.Generator) -> int | None:
        order = rng.permutation(len(seen.real))
        fitted = order[: seen.fitted]
        left = budget - float(seen.real_seconds[fitted].sum())
        cost = seen.cost(names)
        tried = _afford(order, cost, left)
        if len(tried) <= len(fitted):
            return None
        features = np.zeros((len(order), len(names)))
        features[tried] = features_of([seen.values[name][tried] for name in names])
        predicted = features @ fit(features, seen.real, fitted)
        if not then_real:
            return _top(tried, predicted)
        left -= float(cost[tried].sum())
        others = tried[~np.isin(tried, fitted)]
        survivors = _afford(others[np.argsort(-predicted[others], kind="stable")], seen.real_seconds, left)
        return _top(np.concatenate([fitted, survivors]), seen.real)

    return strategy
