"""Estimators: each says what its definition says, repeats itself, and finds the better of two networks where
that is plain."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import minigtn
from minigtn import data
from minigtn.nas.scores import Candidate, EstimatorConfig, RealTraining, ZeroCost, make
from tiny_space import TinySpace

DIGITS = data.load("digits")
SPACE = TinySpace()
CONFIG = EstimatorConfig(
    curriculum="digits-10",
    steps=4,
    valid_images=100,
    valid_batch=50,
    probe_images=16,
    real_lrs=(0.03, 0.3),
    real_momenta=(0.0, 0.9),
)
SETTINGS = {"lr": 0.3, "momentum": 0.5}


def network(arch="0120", **changes) -> Candidate:
    return Candidate(
        **{
            "arch": arch,
            "space": SPACE,
            "data": DIGITS,
            "seed": 0,
            "valid_images": 100,
            "valid_batch": 50,
            **changes,
        }
    )


def score(name, images=8, **changes) -> float:
    return ZeroCost(name, images).score(network(**changes))[name].value


class Linear(TinySpace):
    """One linear layer on pixels and a ReLU: scores can be computed by hand."""

    def build(self, arch, n_classes=10, in_channels=3, running_stats=False):
        return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, n_classes), nn.ReLU())


@pytest.mark.parametrize("name", ["gtn", "real", "tse", "real-2x", "params", "flops", "synflow", "naswot"])
def test_every_estimator_repeats_itself_and_leaves_the_global_generator_alone(name):
    estimator = make(name, CONFIG, SPACE, DIGITS, 0, tuning=SETTINGS)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = estimator.score(network())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second = estimator.score(network())
    assert tuple(first) == estimator.columns == tuple(second)
    for column in first:
        assert first[column].value == second[column].value
        assert math.isfinite(first[column].value)
        assert first[column].seconds >= 0
    if name not in ("params", "flops"):
        assert (
            estimator.score(network(seed=1))[estimator.columns[0]].value != first[estimator.columns[0]].value
        )


def test_columns_say_the_steps():
    columns = [
        make(name, CONFIG, SPACE, DIGITS, 0, tuning=SETTINGS).columns for name in ("gtn", "real", "tse-9x")
    ]
    assert columns == [("gtn-4",), ("real-4", "tse-4"), ("tse-36",)]
    whole = replace(CONFIG, steps=0)
    assert make("gtn", whole, SPACE, DIGITS, 0).columns == ("gtn-10",)
    real = make("real-2x", whole, SPACE, DIGITS, 0, tuning=SETTINGS)
    assert (real.steps, real.batch_size) == (20, minigtn.load_curriculum("digits-10").x.shape[1])
    # real data can be scored before the curriculum is made
    later = replace(CONFIG, curriculum="not/yet/there", steps=4, batch_size=10)
    assert make("real", later, SPACE, DIGITS, 0, tuning=SETTINGS).columns == ("real-4", "tse-4")


def test_gtn_is_teach_and_validation_accuracy():
    curriculum = minigtn.load_curriculum("digits-10")
    estimator = make("gtn", replace(CONFIG, steps=0), SPACE, DIGITS, 0)
    score = estimator.score(network("2222"))["gtn-10"].value
    with network("2222").built() as module:
        minigtn.teach(module, curriculum, lr="learned")
        module.eval()
        hits = sum(
            (module(DIGITS.valid.x[i : i + 50]).argmax(1) == DIGITS.valid.y[i : i + 50]).sum()
            for i in (0, 50)
        )
    assert score == hits.item() / 100


def test_test_data_are_never_read():
    nothing = replace(DIGITS, test=data.Split(torch.empty(0, 1, 8, 8), torch.empty(0, dtype=torch.long)))
    for name in ("gtn", "real"):
        estimator = make(name, CONFIG, SPACE, nothing, 0, tuning=SETTINGS)
        assert estimator.score(network(data=nothing))[estimator.columns[0]].value > 0


def test_real_data_by_hand():
    """Two steps of heavy-ball SGD on a linear softmax, with gradients written out; accuracy and the sum of
    the losses agree."""
    real = RealTraining(2, 20, 0.2, 0.5)
    scores = real.score(network(space=_Softmax()))
    with network(space=_Softmax()).built() as module:
        W, b = (p.detach().double().clone() for p in module.parameters())
    vW = torch.zeros_like(W)
    vb = torch.zeros_like(b)
    total = 0.0
    for step in range(2):
        x, y = network().batch(step, 20)
        x = x.flatten(1).double()
        p = torch.softmax(x @ W.T + b, 1)
        total += -p[torch.arange(20), y].log().mean().item()
        error = (p - nn.functional.one_hot(y, 10)) / 20
        vW = 0.5 * vW + error.T @ x
        vb = 0.5 * vb + error.sum(0)
        W = W - 0.2 * vW
        b = b - 0.2 * vb
    right = (DIGITS.valid.x[:100].flatten(1).double() @ W.T + b).argmax(1) == DIGITS.valid.y[:100]
    assert scores["tse-2"].value == pytest.approx(-total, rel=1e-5)
    assert scores["real-2"].value == right.double().mean().item()
    assert scores["tse-2"].seconds <= scores["real-2"].seconds


class _Softmax(TinySpace):
    def build(self, arch, n_classes=10, in_channels=3, running_stats=False):
        return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, n_classes))


def test_training_that_diverges_is_not_finite():
    scores = RealTraining(30, 20, 1e30, 0.9).score(network())
    assert not any(math.isfinite(score.value) for score in scores.values())


def test_networks_normalize_with_their_batch_in_evaluation():
    whole, halves = (
        make("real", CONFIG, SPACE, DIGITS, 0, tuning=SETTINGS).score(network(valid_batch=n))
        for n in (100, 10)
    )
    assert whole["real-4"].value != halves["real-4"].value


def test_synflow_by_hand():
    """Of one linear layer on an image of ones R = sum abs(w) + sum abs(b), so that sum abs(w * dR/dw) = sum
    abs(w)."""
    with network(space=Linear()).built() as module:
        expected = module[1].weight.detach().double().abs().sum().log().item()
    assert score("synflow", space=Linear()) == pytest.approx(expected, rel=1e-12)
    assert score("synflow", arch="2222") > score("synflow", arch="0000")


def test_naswot_by_hand():
    with network(space=Linear()).built() as module:
        codes = module(network().batch(0, 6)[0]) > 0
    alike = [
        [sum(int(a == b) for a, b in zip(row, other, strict=True)) for other in codes.tolist()]
        for row in codes.tolist()
    ]
    expected = torch.tensor(alike, dtype=torch.float64).det().abs().log().item()
    assert score("naswot", images=6, space=Linear()) == pytest.approx(expected, rel=1e-9)


def test_naswot_without_relu_is_one_sentence():
    with pytest.raises(ValueError, match=r"naswot counts .* has none"):
        score("naswot", space=_Softmax())


def test_sizes_come_from_the_space():
    assert score("params") == SPACE.params("0120")
    assert score("flops") == SPACE.flops("0120")


def test_tuning_takes_the_best_by_validation_and_says_what_it_cost():
    real = make("real", replace(CONFIG, real_lrs=(1e-6, 0.3), tuning_networks=2), SPACE, DIGITS, 0)
    tuning = real.tuning
    assert real.lr == tuning["lr"] == 0.3
    assert len(tuning["tried"]) == 4
    assert len(tuning["networks"]) == 2
    assert max(setting["valid_accuracy"] for setting in tuning["tried"]) == tuning["valid_accuracy"]
    assert tuning["at_edge_of_grid"]
    assert tuning["seconds"] > 0
    best = [real.score(network(arch))["real-4"].value for arch in tuning["networks"]]
    assert sum(best) / 2 == tuning["valid_accuracy"]
    again = make("real", CONFIG, SPACE, DIGITS, 0, tuning=tuning)
    assert (again.lr, again.momentum) == (real.lr, real.momentum)


def test_the_curriculums_learning_rates_are_scaled_as_validation_says():
    plain = make("gtn", CONFIG, SPACE, DIGITS, 0)
    assert plain.tuning == {}
    scaled = make("gtn", replace(CONFIG, lr_scales=(1e-4, 1.0, 0.5), tuning_networks=2), SPACE, DIGITS, 0)
    tried = {setting["lr_scale"]: setting["valid_accuracy"] for setting in scaled.tuning["tried"]}
    assert sorted(tried) == [1e-4, 0.5, 1.0]
    assert tried[1e-4] < max(tried.values()) == scaled.tuning["valid_accuracy"]
    assert scaled.curriculum.lr.equal(scaled.tuning["lr_scale"] * plain.curriculum.lr)
    # not tuned again
    again = make("gtn", replace(CONFIG, lr_scales=(7.0, 8.0)), SPACE, DIGITS, 0, tuning=scaled.tuning)
    assert again.curriculum.lr.equal(scaled.curriculum.lr)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("magic", {}, "there is no estimator 'magic'"),
        ("params-2x", {}, "there is no estimator 'params-2x'"),
        ("real-0x", {}, "there is no estimator 'real-0x'"),
        ("vote", {}, "there is no estimator 'vote'"),
        ("gtn", {"curriculum": ""}, "gtn needs a curriculum"),
        ("gtn", {"steps": 11}, "the curriculum has 10 steps, so gtn cannot take 11"),
        ("gtn", {"curriculum": "mnist-16"}, "give a curriculum made for these data|no curriculum file"),
        ("real", {"curriculum": "", "steps": 0}, "real needs a number of steps and a batch size"),
        ("real", {"real_momenta": (1.0,)}, "real_momenta must be"),
        ("real", {"real_lrs": ()}, "real_lrs must be"),
        ("gtn", {"lr_scales": (1.0, 0.0)}, "lr_scales must be"),
        ("gtn", {"valid_batch": 0}, "valid_batch must be at least 1"),
    ],
)
def test_bad_settings_are_one_sentence(name, changes, sentence):
    with pytest.raises((ValueError, OSError), match=sentence):
        make(name, replace(CONFIG, **changes), SPACE, DIGITS, 0, tuning=SETTINGS)
