"""Estimators: each says what its definition says, repeats itself, and finds the better of two networks where
that is plain."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import minigtn
from minigtn import data
from minigtn.nas.candidate import Candidate
from minigtn.nas.scores import EstimatorConfig, at_fidelity, make, parts
from minigtn.nas.trainings import RealTraining
from minigtn.nas.zero_cost import ZeroCost
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


@pytest.mark.parametrize(
    "name", ["gtn", "real", "real-constant", "gtn-real", "params", "flops", "synflow", "naswot"]
)
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


def test_columns_say_arm_steps_and_score():
    columns = [make(name, CONFIG, SPACE, DIGITS, 0, tuning=SETTINGS).columns for name in ("gtn", "real")]
    assert columns[0] == ("gtn-4-loss", "gtn-4-accuracy", "gtn-4-tse")
    assert columns[1] == ("real-4-loss", "real-4-accuracy", "real-4-tse")
    whole = replace(CONFIG, steps=0, score="tse")
    assert make("gtn", whole, SPACE, DIGITS, 0).columns[0] == "gtn-10-tse"
    real = make("real-constant", replace(whole, real_steps=20), SPACE, DIGITS, 0, tuning=SETTINGS)
    assert real.columns[0] == "real-constant-20-tse"
    assert (real.steps, real.batch_size) == (20, minigtn.load_curriculum("digits-10").x.shape[1])
    # real data can be scored before the curriculum is made
    later = replace(CONFIG, curriculum="not/yet/there", steps=4, batch_size=10)
    assert make("real", later, SPACE, DIGITS, 0, tuning=SETTINGS).columns[0] == "real-4-loss"


def test_a_ranking_reads_along_the_way_but_annealed_trainings_end_where_they_are_read():
    settings = replace(CONFIG, steps=3, batch_size=10, real_steps=9)
    ((config, curve),) = parts("real-constant", settings).values()
    constant = make("real-constant", config, SPACE, DIGITS, 0, SETTINGS, curve=curve)
    assert constant.columns[::3] == tuple(f"real-constant-{k}-loss" for k in (9, 8, 4, 3, 2, 1))
    ((config, curve),) = parts("gtn", replace(settings, read_at=(2, 200))).values()
    assert make("gtn", config, SPACE, DIGITS, 0, curve=curve).columns[::3] == ("gtn-3-loss", "gtn-2-loss")
    after_taught = parts("gtn-real", replace(settings, read_at=(5,)))
    assert list(after_taught) == ["gtn-real-3", "gtn-real-5", "gtn-real-9"]
    lengths = parts("real", replace(settings, read_at=(5,)))
    assert list(lengths) == ["real-3", "real-5", "real-9"]
    for name, (config, curve) in lengths.items():
        annealed = make("real", config, SPACE, DIGITS, 0, SETTINGS, curve=curve)
        assert annealed.anneal
        assert f"real-{annealed.steps}" == name
        assert annealed.columns[0] == f"{name}-loss"
    assert parts("flops", settings) == {"flops": (settings, True)}


@pytest.mark.parametrize("name", ["gtn", "real-constant"])
def test_a_reading_on_the_way_is_that_of_a_training_that_ends_there(name):
    """And reading changes nothing of what comes after."""
    config = replace(CONFIG, real_steps=4)
    whole = make(name, config, SPACE, DIGITS, 0, SETTINGS, curve=True).score(network())
    for k in (1, 2, 4):
        alone = make(name, replace(config, steps=k, real_steps=k), SPACE, DIGITS, 0, SETTINGS).score(
            network()
        )
        for column, score in alone.items():
            assert score.value == pytest.approx(whole[column].value, rel=1e-6), column
    assert len({score.value for column, score in whole.items() if "accuracy" not in column}) == 6


def test_the_seconds_of_a_reading_leave_the_other_readings_out(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr("minigtn.nas.trainings.stopwatch", lambda device: lambda: float(next(ticks)))
    scores = RealTraining(3, 10, 0.1, 0.5, read_at=(1, 2, 3)).score(network())
    assert [scores[f"real-constant-{k}-tse"].seconds for k in (1, 2, 3)] == [0, 1, 2]  # one tick a step
    assert [scores[f"real-constant-{k}-loss"].seconds for k in (1, 2, 3)] == [1, 2, 3]


def test_gtn_is_teach_and_validation_data():
    curriculum = minigtn.load_curriculum("digits-10")
    estimator = make("gtn", replace(CONFIG, steps=0), SPACE, DIGITS, 0)
    scores = estimator.score(network("2222"))
    with network("2222").built() as module:
        taught = minigtn.teach(module, curriculum, lr="learned")
        module.eval()
        logits = torch.cat([module(DIGITS.valid.x[i : i + 50]) for i in (0, 50)])
    labels = DIGITS.valid.y[:100]
    assert scores["gtn-10-accuracy"].value == (logits.argmax(1) == labels).sum().item() / 100
    loss = nn.functional.cross_entropy(logits, labels).item()
    assert scores["gtn-10-loss"].value == pytest.approx(-loss, rel=1e-5)
    assert scores["gtn-10-tse"].value == pytest.approx(-sum(taught.losses))


def test_taught_weights_are_where_real_training_begins():
    """By hand: what teach leaves, annealed heavy-ball SGD on the batches that every network gets."""
    settings = replace(CONFIG, real_steps=3, batch_size=20)
    estimator = make("gtn-real", settings, SPACE, DIGITS, 0, tuning=SETTINGS)
    scores = estimator.score(network("2222"))
    assert list(scores) == [f"gtn-real-3-{score}" for score in ("loss", "accuracy", "tse")]
    taught = estimator.curriculum
    assert len(taught.x) == CONFIG.steps
    with network("2222").built() as module:
        minigtn.teach(module, taught, lr="learned")
        module.train()
        optimizer = torch.optim.SGD(module.parameters(), SETTINGS["lr"], SETTINGS["momentum"])
        for t in range(3):
            optimizer.param_groups[0]["lr"] = SETTINGS["lr"] * (1, 0.75, 0.25)[t]
            x, y = network().batch(t, 20)
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        loss, accuracy = network().judge(module)
    assert scores["gtn-real-3-loss"].value == pytest.approx(-loss, rel=1e-5)
    assert scores["gtn-real-3-accuracy"].value == accuracy
    fresh = make("real", settings, SPACE, DIGITS, 0, tuning=SETTINGS).score(network("2222"))
    assert abs(fresh["real-3-loss"].value + loss) > 1e-3
    with pytest.raises(ValueError, match="taught weights are annealed"):
        replace(estimator, anneal=False)


def test_test_data_are_never_read():
    nothing = replace(DIGITS, test=data.Split(torch.empty(0, 1, 8, 8), torch.empty(0, dtype=torch.long)))
    for name in ("gtn", "real"):
        estimator = make(name, CONFIG, SPACE, nothing, 0, tuning=SETTINGS)
        assert estimator.score(network(data=nothing))[estimator.columns[1]].value > 0


@pytest.mark.parametrize("anneal", [False, True])
def test_real_data_by_hand(anneal):
    """Three steps of heavy-ball SGD on a linear softmax, with gradients written out; all scores agree."""
    real = RealTraining(3, 20, 0.2, 0.5, anneal)
    arm = "real" if anneal else "real-constant"
    scores = real.score(network(space=_Softmax()))
    with network(space=_Softmax()).built() as module:
        W, b = (p.detach().double().clone() for p in module.parameters())
    vW = torch.zeros_like(W)
    vb = torch.zeros_like(b)
    total = 0.0
    for step in range(3):
        lr = 0.2 * (1, 0.75, 0.25)[step] if anneal else 0.2
        x, y = network().batch(step, 20)
        x = x.flatten(1).double()
        p = torch.softmax(x @ W.T + b, 1)
        total += -p[torch.arange(20), y].log().mean().item()
        error = (p - nn.functional.one_hot(y, 10)) / 20
        vW = 0.5 * vW + error.T @ x
        vb = 0.5 * vb + error.sum(0)
        W = W - lr * vW
        b = b - lr * vb
    log_p = torch.log_softmax(DIGITS.valid.x[:100].flatten(1).double() @ W.T + b, 1)
    y = DIGITS.valid.y[:100]
    assert scores[f"{arm}-3-tse"].value == pytest.approx(-total, rel=1e-5)
    assert scores[f"{arm}-3-accuracy"].value == (log_p.argmax(1) == y).double().mean().item()
    assert scores[f"{arm}-3-loss"].value == pytest.approx(log_p[torch.arange(100), y].mean().item(), rel=1e-5)
    assert scores[f"{arm}-3-tse"].seconds <= scores[f"{arm}-3-loss"].seconds


class _Softmax(TinySpace):
    def build(self, arch, n_classes=10, in_channels=3, running_stats=False):
        return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, n_classes))


def test_training_that_diverges_is_not_finite():
    scores = RealTraining(30, 20, 1e30, 0.9).score(network())
    assert not any(math.isfinite(score.value) for score in scores.values())


def test_a_curriculum_that_ruins_a_network_is_not_finite_from_there_on():
    taught = make("gtn", CONFIG, SPACE, DIGITS, 0, curve=True)
    lr = taught.curriculum.lr.clone()
    lr[2] = 1e30
    scores = replace(taught, curriculum=replace(taught.curriculum, lr=lr)).score(network())
    finite = {column for column, score in scores.items() if math.isfinite(score.value)}
    assert finite == {f"gtn-{k}-{score}" for k in (1, 2) for score in ("loss", "accuracy", "tse")}


def test_another_repeat_has_other_weights_and_the_same_batches():
    first, second, again = (network(repeat=repeat) for repeat in (0, 1, 1))
    assert first.batch(3, 8)[0].equal(second.batch(3, 8)[0])
    weights = []
    for candidate in (first, second, again):
        with candidate.built() as module:
            weights.append(torch.cat([p.flatten() for p in module.parameters()]))
    assert weights[1].equal(weights[2])
    assert not weights[0].equal(weights[1])


def test_networks_normalize_with_their_batch_in_evaluation():
    whole, halves = (
        make("real", CONFIG, SPACE, DIGITS, 0, tuning=SETTINGS).score(network(valid_batch=n))
        for n in (100, 10)
    )
    assert whole["real-4-loss"].value != halves["real-4-loss"].value


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


def test_several_curricula_give_the_mean_of_their_trainings_from_weights_of_their_own():
    first, second = (replace(CONFIG, curriculum=name) for name in ("digits-10", "digits-any"))
    both = make("gtn", replace(first, more_curricula=("digits-any",)), SPACE, DIGITS, 0, curve=True)
    assert both.columns == make("gtn", first, SPACE, DIGITS, 0, curve=True).columns
    for repeat in (0, 3):
        alone = [
            make("gtn", config, SPACE, DIGITS, 0, curve=True).score(network(repeat=2 * repeat + i))
            for i, config in enumerate((first, second))
        ]
        for name, found in both.score(network(repeat=repeat)).items():
            assert found.value == pytest.approx((alone[0][name].value + alone[1][name].value) / 2)
            assert found.seconds > max(scores[name].seconds for scores in alone) / 2
    scaled = replace(first, more_curricula=("digits-any",), lr_scales=(0.1, 1e4))
    tuned = make("gtn", scaled, SPACE, DIGITS, 0)
    assert tuned.tuning["lr_scale"] == 0.1
    for part, config in zip(tuned.parts, (first, second), strict=True):
        learned = make("gtn", config, SPACE, DIGITS, 0).curriculum.lr
        assert part.curriculum.lr.equal(0.1 * learned)
    with pytest.raises(ValueError, match="given beside a first one"):
        EstimatorConfig(more_curricula=("digits-10",))
    with pytest.raises(
        ValueError, match=r"the curriculum mnist-16 teaches 10 classes of \(1, 28, 28\) images"
    ):
        make("gtn", replace(CONFIG, more_curricula=("mnist-16",)), SPACE, DIGITS, 0)
    with pytest.raises(ValueError, match="mnist-16 was made for image-size 28, and 8 was given"):
        at_fidelity(replace(CONFIG, more_curricula=("mnist-16",)), "", DIGITS, SPACE)


def test_tuning_takes_the_best_by_validation_and_says_what_it_cost():
    config = replace(CONFIG, real_lrs=(1e-6, 0.3, 1e30), tuning_networks=2)
    real = make("real", config, SPACE, DIGITS, 0)
    tuning = real.tuning
    assert real.lr == tuning["lr"] == 0.3
    assert len(tuning["tried"]) == 6
    assert len(tuning["networks"]) == 2
    by_setting = {(t["lr"], t["momentum"]): t["score"] for t in tuning["tried"]}
    assert by_setting[1e30, 0.9] is None  # it ruins networks
    assert max(score for score in by_setting.values() if score is not None) == tuning["score"]
    assert not tuning["at_edge_of_grid"] or tuning["momentum"] == 0.9
    assert tuning["seconds"] > 0
    best = [real.score(network(arch))["real-4-loss"].value for arch in tuning["networks"]]
    assert sum(best) / 2 == tuning["score"]
    again = make("real", CONFIG, SPACE, DIGITS, 0, tuning=tuning)
    assert (again.lr, again.momentum) == (real.lr, real.momentum)
    by_accuracy = make("real-constant", replace(config, score="accuracy"), SPACE, DIGITS, 0, curve=True)
    best = [by_accuracy.score(network(arch))["real-constant-4-accuracy"].value for arch in tuning["networks"]]
    assert sum(best) / 2 == by_accuracy.tuning["score"]


def test_tuning_reads_validation_images_where_nobody_says_how_many():
    config = replace(CONFIG, valid_images=0, real_lrs=(0.1, 0.3), real_momenta=(0.5,), tuning_networks=1)
    tuning = make("real", config, SPACE, DIGITS, 0).tuning
    assert len({tried["score"] for tried in tuning["tried"]} - {None}) == 2


def test_the_curriculums_learning_rates_are_scaled_as_validation_says():
    plain = make("gtn", CONFIG, SPACE, DIGITS, 0)
    assert plain.tuning == {}
    scaled = make("gtn", replace(CONFIG, lr_scales=(1e-4, 1.0, 0.5), tuning_networks=2), SPACE, DIGITS, 0)
    tried = {setting["lr_scale"]: setting["score"] for setting in scaled.tuning["tried"]}
    assert sorted(tried) == [1e-4, 0.5, 1.0]
    assert tried[1e-4] < max(tried.values()) == scaled.tuning["score"]
    assert scaled.curriculum.lr.equal(scaled.tuning["lr_scale"] * plain.curriculum.lr)
    # not tuned again
    again = make("gtn", replace(CONFIG, lr_scales=(7.0, 8.0)), SPACE, DIGITS, 0, tuning=scaled.tuning)
    assert again.curriculum.lr.equal(scaled.curriculum.lr)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("magic", {}, "there is no estimator 'magic'"),
        ("real-9x", {}, "there is no estimator 'real-9x'"),
        (
            "gtn",
            {"score": "loss-16"},
            "score is one of auto, loss, accuracy, tse, and was given as 'loss-16'",
        ),
        ("gtn", {"read_at": (0,)}, "read_at holds numbers of steps, from 1"),
        ("vote", {}, "there is no estimator 'vote'"),
        ("gtn", {"curriculum": ""}, "gtn and gtn-real need a curriculum"),
        ("gtn-real", {"curriculum": "", "batch_size": 2}, "gtn and gtn-real need a curriculum"),
        ("gtn", {"steps": 11}, "the curriculum digits-10 has 10 steps, so gtn cannot take 11"),
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
