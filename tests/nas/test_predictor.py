"""The combined predictor: weights by hand; better where that is plain; fitted networks never judge."""

import json

import numpy as np
import pytest

from minigtn.nas import predictor
from minigtn.nas.predictor import Columns, columns_for, features_of, fit, judged

NAMES = ("flops", "synflow", "naswot", "gtn-4-loss", "gtn-4-accuracy", "gtn-4-tse", "real-64-loss")
COLUMNS = Columns(("flops", "synflow", "naswot"), NAMES[3:6], ("real-64-loss",))
VOTE = ("flops", "synflow", "naswot")


def rows(n=60, taught=0.3, free=1.5, real=0.2, seed=0):
    """Networks whose scores are their truth and noise."""
    rng = np.random.default_rng(seed)
    noise = {"flops": free, "synflow": free, "naswot": 50.0, "real-64-loss": real} | dict.fromkeys(
        NAMES[3:6], taught
    )
    result = []
    for i in range(n):
        truth = float(rng.normal())
        scores = {name: truth + noise[name] * float(rng.normal()) for name in NAMES}
        seconds = {name: {"gtn": 2.0, "real": 8.0}.get(name.split("-")[0], 0.5) for name in NAMES}
        result.append({"arch": str(i), "truth": truth, "scores": scores, "seconds": seconds})
    return result


def test_columns_are_the_last_readings_and_the_longest_real_training():
    names = ["flops", "gtn-2-loss", "gtn-16-tse", "gtn-16-loss", "real-4-loss", "real-64-loss", "real-64-tse",
             "real-16-loss", "real-constant-128-loss"]  # fmt: skip
    found = columns_for(names, ("params", "flops"), "loss")
    taught = ("gtn-16-loss", "gtn-16-accuracy", "gtn-16-tse")
    assert found == Columns(("flops",), taught, ("real-16-loss", "real-64-loss"))
    assert found.real == "real-64-loss"
    assert columns_for(names, ("params", "flops"), "tse").taught[0] == "gtn-16-tse"
    assert columns_for(["flops", "real-4-loss"], ("flops",), "loss").taught == ()
    assert columns_for(["flops", "gtn-4-loss", "real-constant-4-loss"], ("flops",), "loss") is None
    assert columns_for(["gtn-4-loss", "real-4-loss"], ("flops",), "loss") is None


def test_features_are_ranks_and_one_that_says_nothing_is_zero():
    features = features_of([np.array([1.0, 100.0, 3.0, np.nan]), np.ones(4)])
    assert features[:, 1].tolist() == [0, 0, 0, 0]
    assert np.argsort(features[:, 0]).tolist() == [3, 0, 2, 1]
    assert (features[:, 0].mean(), features[:, 0].std()) == pytest.approx((0, 1))


def test_weights_are_those_of_ridge_regression_and_their_strength_of_leave_one_out(monkeypatch):
    """By the normal equations, every network left out in turn."""
    rng = np.random.default_rng(0)
    features = features_of(list(rng.normal(size=(5, 40))))
    real = features @ [1.0, 0.5, 0, 0, 0] + 0.5 * rng.normal(size=40)
    chosen = rng.permutation(40)[:12]

    def by_hand(among, strength):
        X = features[among] - features[among].mean(0)
        targets = np.argsort(np.argsort(real[chosen])).astype(float)[np.isin(chosen, among)]
        w = np.linalg.solve(X.T @ X + strength * np.eye(5), X.T @ (targets - targets.mean()))
        return w, targets.mean() - features[among].mean(0) @ w

    errors = []
    for strength in predictor.STRENGTHS:
        left_out = 0.0
        for k, network in enumerate(chosen):
            w, intercept = by_hand(np.delete(chosen, k), strength)
            left_out += (features[network] @ w + intercept - np.argsort(np.argsort(real[chosen]))[k]) ** 2
        errors.append(left_out)
    best = predictor.STRENGTHS[int(np.argmin(errors))]
    assert fit(features, real, chosen) == pytest.approx(by_hand(chosen, best)[0])
    assert errors[0] != pytest.approx(min(errors))
    monkeypatch.setattr(predictor, "STRENGTHS", predictor.STRENGTHS[:1])
    assert fit(features, real, chosen) != pytest.approx(by_hand(chosen, best)[0])


def test_only_the_real_trainings_of_the_fitted_are_read():
    rng = np.random.default_rng(0)
    features = features_of(list(rng.normal(size=(3, 20))))
    real = rng.normal(size=20)
    chosen = np.arange(5)
    other = real.copy()
    other[5:] = 99 * rng.normal(size=15)
    assert np.array_equal(fit(features, real, chosen), fit(features, other, chosen))
    other[0] = 100.0
    assert not np.array_equal(fit(features, real, chosen), fit(features, other, chosen))


def test_readings_that_say_more_than_the_free_scores_make_it_better():
    result, about = judged(rows(), COLUMNS, VOTE, 16, 200, 0)
    both = result["predictor"]
    free = result["predictor-free"]
    assert both["all"]["spearman"]["value"] > 0.85 > free["all"]["spearman"]["value"]
    for rival in ("vote", "predictor-free", "flops"):
        assert both["against"][rival]["all"]["spearman"]["low"] > 0
    assert both["all"]["spearman"]["low"] < both["all"]["spearman"]["value"] < both["all"]["spearman"]["high"]
    # the free ones are weighed: naswot, which says nothing, is a third of the vote
    assert free["against"]["vote"]["all"]["spearman"]["value"] > 0.02
    weights = about["weights"]["predictor-free"]
    assert abs(weights["naswot"]) < 0.5 * weights["flops"]
    assert about["ahead"]["predictor"]["vote"] == 1.0
    assert about["target"] == "real-64-loss"
    json.dumps([result, about], allow_nan=False)


def test_readings_that_say_nothing_do_not():
    result, _ = judged(rows(taught=50.0), COLUMNS, VOTE, 16, 200, 0)
    assert result["predictor"]["against"]["predictor-free"]["all"]["spearman"]["value"] < 0.01
    assert result["predictor"]["against"]["predictor-free"]["all"]["spearman"]["low"] < 0


def test_it_is_judged_on_the_others_alone():
    """The truth of networks that are always fitted does not matter: here all but the four last ones."""
    taken = rows(12)

    def spearman(taken):
        return judged(taken, COLUMNS, VOTE, 8, 20, 0)[0]["predictor"]["all"]["spearman"]["value"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "CHOICES", 1)
        before = spearman(taken)
        rng = np.random.default_rng(predictor.seed_for(0, predictor.Purpose.FITTED, 0))
        fitted = rng.permutation(12)[:8]
        for i in fitted:
            taken[i]["truth"] *= -7
        assert spearman(taken) == before
        other = next(i for i in range(12) if i not in fitted)
        taken[other]["truth"] += 99
        assert spearman(taken) != before


def test_its_seconds_hold_the_real_trainings_of_the_fitted_and_a_taught_training_once():
    result, _ = judged(rows(40), COLUMNS, VOTE, 16, 10, 0)
    assert result["predictor-free"]["seconds"]["mean"] == pytest.approx(3 * 0.5 + 16 * 8 / 40)
    assert result["predictor"]["seconds"]["mean"] == pytest.approx(3 * 0.5 + 2 + 16 * 8 / 40)
    assert result["predictor"]["seconds"]["total"] == pytest.approx(40 * 3.5 + 16 * 8)


def test_few_networks_and_ruined_ones_are_no_error():
    taken = rows(8)
    for row in taken[:3]:
        row["scores"]["gtn-4-loss"] = None
    taken[4]["scores"]["real-64-loss"] = None
    result, _ = judged(taken, COLUMNS, (), 4, 20, 0)
    assert "vote" not in result["predictor"]["against"]
    json.dumps(result, allow_nan=False)
