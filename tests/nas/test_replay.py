"""Searches replayed on made-up scores, where it is known what each must find; budgets are kept."""

import itertools
import json

import numpy as np
import pytest

from minigtn.nas import replay as module
from minigtn.nas.predictor import Columns
from minigtn.nas.replay import Seen, replay, strategies
from tiny_space import TinySpace

SPACE = TinySpace()
ARCHS = ["".join(digits) for digits in itertools.product("012", repeat=4)]  # 81
COLUMNS = Columns(("flops", "naswot"), ("gtn-4-loss", "gtn-4-accuracy", "gtn-4-tse"), ("real-64-loss",))
SECONDS = {
    "flops": 0.01,
    "naswot": 0.1,
    "gtn-4-loss": 1.0,
    "gtn-4-accuracy": 1.0,
    "gtn-4-tse": 0.9,
    "real-64-loss": 10.0,
}


def rows(**how):
    """81 networks whose truth is their number; each score the truth, unless ``how`` says otherwise."""
    result = []
    for arch in ARCHS:
        truth = float(int(arch, 3))
        scores = {name: how.get(name.split("-")[0], lambda t: t)(truth) for name in SECONDS}
        result.append({"arch": arch, "truth": truth, "scores": scores, "seconds": dict(SECONDS)})
    return result


def found(taken, budget, **changes):
    settings = {"vote": ("flops", "naswot"), "budgets": (budget,), "searches": 12, "seed": 0, "fitted": 8}
    (about,) = replay(taken, SPACE, COLUMNS, **(settings | changes))["budgets"]
    assert about["seconds"] == budget
    return about["strategies"]


def regret(result):
    return {name: about["regret"]["mean"] for name, about in result.items()}


def test_what_each_finds_is_known():
    rng = np.random.default_rng(0)
    taken = rows(flops=lambda t: -t, naswot=lambda t: float(rng.normal()))
    result = found(taken, 100.0)  # ten real trainings, or a hundred taught ones
    by = regret(result)
    assert by["taught"] == by["taught, then real"] == 0  # all 41 candidates are read
    assert by["predictor"] < 5  # eight real trainings, and twenty readings, for which 20 s are left
    assert by["flops"] == pytest.approx(result["taught"]["found"]["mean"] - result["flops"]["found"]["mean"])
    assert by["flops"] > 70  # the smallest
    assert 1 < by["random"] < 20  # the best of ten in 41
    ahead = result["taught"]["minus"]["random"]["mean"]
    assert ahead == pytest.approx(by["random"] - by["taught"])
    assert set(result["random"]["minus"]) == {"evolution", "flops"}
    assert by["vote"] > by["random"]
    json.dumps(result, allow_nan=False)


def test_a_budget_is_kept():
    taken = rows()
    assert regret(found(taken, 10.0))["random"] > 20  # one network, at random
    nothing = found(taken, 9.9)["random"]
    assert nothing["found"] == nothing["regret"] == nothing["minus"]["flops"] == {"mean": None, "std": None}
    assert nothing["searches"] == 0
    assert regret(found(taken, 1000.0))["random"] == 0
    assert found(taken, 79.0)["predictor"]["searches"] == 0  # eight real trainings are 80 s
    assert found(taken, 90.0)["predictor"]["searches"] == 12
    cheap = regret(found(taken, 5.0))
    assert cheap["flops"] == 0
    assert 1 < cheap["taught"] < 30  # five readings, or two and none real
    assert cheap["taught, then real"] > cheap["taught"]


@pytest.mark.parametrize("budget", [30.0, 80.0, 95.0, 130.0])
def test_no_strategy_spends_more_than_it_has(budget):
    """Each reading is counted where it is made: real seconds through what is compared at the end."""
    taken = rows()
    seen = Seen(
        {name: np.array([row["scores"][name] for row in taken]) for name in SECONDS},
        {name: np.full(81, seconds) for name, seconds in SECONDS.items()},
        np.array([list(row["arch"]) for row in taken]), COLUMNS, ("flops", "naswot"), 8,
    )  # fmt: skip
    spent = []
    afford = module._afford

    def counted(order, seconds, left):
        tried = afford(order, seconds, left)
        spent.append(float(seconds[tried].sum()))
        return tried

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_afford", counted)
        for name, strategy in strategies(seen).items():
            spent.clear()
            strategy(seen, budget, np.random.default_rng(0))
            fitted = 80.0 if "predictor" in name else 0.0
            assert sum(spent) + fitted <= budget + 1e-9 or (fitted and not sum(spent))


def test_evolution_goes_to_neighbours_of_the_best(monkeypatch):
    """With the truth as score it finds more than chance does; with noise it does not."""
    taken = rows()
    monkeypatch.setattr(module, "POPULATION", 6)
    good = regret(found(taken, 200.0, searches=40))
    assert good["evolution"] < good["random"]
    rng = np.random.default_rng(1)
    blind = regret(found(rows(real=lambda t: float(rng.normal())), 200.0, searches=40))
    assert blind["evolution"] > good["random"]


def test_truth_is_read_at_the_end_alone():
    """Another truth changes what a find is worth, not what is found."""
    one = found(rows(), 60.0)
    taken = rows()
    for row in taken:
        row["truth"] = 100 + 2 * row["truth"]
    other = found(taken, 60.0)
    for name in one:
        if one[name]["searches"]:
            assert other[name]["found"]["mean"] == pytest.approx(100 + 2 * one[name]["found"]["mean"])


def test_the_seed_gives_the_same_and_ruined_networks_are_never_found():
    taken = rows()
    assert found(taken, 60.0) == found(taken, 60.0) != found(taken, 60.0, seed=1)
    for row in taken[40:]:
        row["scores"]["real-64-loss"] = None
    assert found(taken, 400.0)["random"]["found"]["mean"] < 40


def test_default_budgets_are_real_trainings_and_strategies_need_their_columns():
    about = replay(rows(), SPACE, COLUMNS._replace(taught=()), (), (), 3, 0, 0)
    assert [budget["seconds"] for budget in about["budgets"]] == [80, 160, 320, 640]
    assert set(about["budgets"][0]["strategies"]) == {"random", "evolution", "flops"}
    assert (about["candidates"], about["searches"], about["real_seconds"]) == (41, 3, 10.0)


RUNGS = COLUMNS._replace(rungs=("real-16-loss", "real-32-loss", "real-64-loss"))


def halved(budget, shortest=lambda t: t):
    taken = rows()
    for row in taken:
        row["scores"] |= {"real-16-loss": shortest(row["truth"]), "real-32-loss": row["truth"]}
        row["seconds"] |= {"real-16-loss": 2.5, "real-32-loss": 5.0}
    (about,) = replay(taken, SPACE, RUNGS, ("flops",), (budget,), 12, 0, 0)["budgets"]
    return about["strategies"]


def test_halving_trains_more_networks_than_whole_trainings_allow():
    """All 41 for 2.5 s, 13 of them for 5 s, 4 for 10 s: 207.5 s; whole trainings of 20."""
    by = regret(halved(207.5))
    assert by["halving"] == 0
    assert by["random"] > 0
    misled = regret(halved(207.5, shortest=lambda t: -t))
    assert misled["halving"] > 50
    assert misled["random"] == by["random"]


def test_halving_spends_no_more_than_it_has():
    assert halved(17.4)["halving"]["searches"] == 0  # one network takes 2.5, 5 and 10 s
    assert regret(halved(17.5))["halving"] > 10


def test_halving_begins_with_the_best_of_the_vote():
    by = regret(halved(60.0))
    assert by["vote, then halving"] == 0
    assert by["halving"] > 0


def test_the_rungs_of_a_search_are_replayed():
    """Each network, in a known order, comes as far as the rule of the search lets it."""
    taken = rows(flops=lambda t: -t, naswot=lambda t: -t)
    seen = Seen(
        {name: np.array([row["scores"][name] for row in taken]) for name in SECONDS},
        {name: np.full(81, seconds) for name, seconds in SECONDS.items()},
        np.array([list(row["arch"]) for row in taken]), COLUMNS, ("flops", "naswot"), 0,
    )  # fmt: skip
    names = COLUMNS.taught[:1]
    rng = np.random.default_rng
    seed = next(seed for seed in range(99) if rng(seed).permutation(81)[0] < rng(seed).permutation(81)[1])
    first, second = rng(seed).permutation(81)[:2]
    assert module._asha(seen, names, 0.9, rng(seed)) is None  # not even one reading
    assert module._asha(seen, names, 1.5, rng(seed)) == first
    assert module._asha(seen, names, 21.5, rng(seed)) == first  # read and trained; the second only read
    assert module._asha(seen, names, 22.0, rng(seed)) == second
    assert module._asha(seen, names, 1000.0, rng(seed)) == 80
    by = regret(found(taken, 60.0))
    assert by["vote-taught, asha"] > 10  # two of the three that vote are upside down
    assert regret(found(rows(), 60.0))["vote-taught, asha"] < 10


def test_without_shorter_trainings_there_is_no_halving():
    assert "halving" not in found(rows(), 60.0)
