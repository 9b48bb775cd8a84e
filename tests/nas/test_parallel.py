"""Several processes score what one does, all of it and nothing twice; a killed one is told of."""

import itertools
from dataclasses import replace

import pytest

from minigtn import data
from minigtn.nas.candidate import Candidate
from minigtn.nas.parallel import score_all
from minigtn.nas.scores import EstimatorConfig, make, tune
from minigtn.runs.distributed import WorkerLost
from tiny_space import Mortal, TinySpace, WideSpace

DIGITS = data.load("digits")
CONFIG = EstimatorConfig(
    curriculum="digits-10", steps=2, batch_size=10, valid_images=50, valid_batch=50,
    tuning_networks=2,
)  # fmt: skip


def network(arch, space):
    return Candidate(arch, space, DIGITS, 0, valid_images=50, valid_batch=50)


def values(scored):
    scored = list(scored)
    assert len({i for i, _ in scored}) == len(scored)
    return {(i, column): score.value for i, scores in scored for column, score in scores.items()}


def test_workers_change_no_score():
    space = TinySpace()
    estimators = [
        make(name, CONFIG, space, DIGITS, 0, {"lr": 0.1, "momentum": 0.5})
        for name in ("gtn", "real", "flops")
    ]
    tasks = list(itertools.product([network(arch, space) for arch in ("0000", "0120", "2222")], estimators))
    one, two = (values(score_all(tasks, workers)) for workers in (1, 2))
    assert one == two
    assert len(one) == 3 * 7  # a training fills three columns
    real = estimators[1]
    candidates = [({"lr": lr}, replace(real, lr=lr)) for lr in (0.01, 0.1)]
    tunings = [tune(candidates, CONFIG, space, DIGITS, 0, workers) for workers in (1, 2)]
    assert [t.pop("seconds") > 0 for t in tunings] == [True, True]
    assert tunings[0] == tunings[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_once_stopped_nothing_new_is_begun(workers):
    scored = []
    space = WideSpace()
    slow = Mortal(0.05, log="/dev/null", killed="/dev/null", after=99)
    tasks = [
        (network(arch, space), slow)
        for arch in ("00000000", "00000001", "00000002", "00000010", "00000011", "00000012", "00000020")
    ]
    for i, _ in score_all(tasks, workers, lambda: len(scored) >= 2):
        scored.append(i)
    assert 2 <= len(scored) <= 3
    assert set(scored) <= {0, 1, 2}


def test_a_killed_worker_is_told_of_and_what_is_scored_was_handed_out(tmp_path):
    space = WideSpace()
    scored = []
    mortal = Mortal(0.01, log=str(tmp_path / "log"), killed=str(tmp_path / "killed"), after=4)
    tasks = [
        (network(f"0000{a}", space), mortal)
        for a in ("0000", "0001", "0002", "0010", "0011", "0012", "0020", "0021")
    ]
    with pytest.raises(WorkerLost, match="a worker was killed"):
        list(map(scored.append, score_all(tasks, 2)))
    assert len(scored) >= 3
    assert (tmp_path / "killed").exists()
    assert len(values(score_all(tasks, 2))) == 8
