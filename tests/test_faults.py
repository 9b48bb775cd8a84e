"""What benchmarks/faults.py decides by: it sees a traceback, a wrong load, a hang and what is lost."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import faults_inputs
from faults import faults_in
from faults_commands import differences
from faults_inputs import Kind, damaged_inputs, judge, kinds, plain
from faults_mutants import CHANGES, mutant

GOOD = b"3\n4\n"


def read(path):
    return [int(line) for line in path.read_text().splitlines()]


def outcome(tmp_path, content, reader, right=None):
    path = tmp_path / "file"
    path.write_bytes(content)
    return judge(Kind("numbers", "file", GOOD, reader, right), path, content, [3, 4])[0]


def test_a_mutant_is_another_file_and_follows_from_the_seed():
    one, again, other = (
        [mutant(GOOD * 50, np.random.default_rng((seed, i))) for i in range(40)] for seed in (0, 0, 1)
    )
    assert one == again != other
    assert GOOD * 50 not in one
    assert len(set(one)) > 30


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_takes_any_file(change):
    for content in (b"", b"x", GOOD * 100):
        for seed in range(30):
            assert isinstance(change(content, np.random.default_rng(seed)), bytes)


def test_every_outcome_is_told_from_the_others(tmp_path):
    def other(content):
        return [int(line) for line in content.split()]

    def refuses(path):
        raise ValueError("two\nlines")

    def fails(path):
        raise KeyError("x")

    assert outcome(tmp_path, b"x\n", read) == "refused"
    assert outcome(tmp_path, b"3\n4", read) == "loaded_equal"
    assert outcome(tmp_path, b"3\n5\n", read) == "wrong_loads"
    assert outcome(tmp_path, b"3\n5\n", read, other) == "loaded_other_content"
    assert outcome(tmp_path, b"3\n5\n", lambda path: [3, 6], other) == "wrong_loads"
    assert outcome(tmp_path, b"3 5 x\n", lambda path: [3, 5], other) == "wrong_loads"
    assert outcome(tmp_path, b"3\n", refuses) == "tracebacks"
    assert outcome(tmp_path, b"3\n", fails) == "tracebacks"


def test_a_hang_is_cut_short(tmp_path, monkeypatch):
    monkeypatch.setattr(faults_inputs, "SLOW", 0.05)
    monkeypatch.setattr(faults_inputs, "kinds", lambda place: [Kind("sleepy", "f", GOOD, sleepy)])
    counts = damaged_inputs(2, tmp_path / "place", tmp_path / "examples", np.random.default_rng(0))
    assert counts["sleepy"]["hangs"] == 2
    assert len(list((tmp_path / "examples").iterdir())) == 4


def sleepy(path):
    if path.read_bytes() != GOOD:
        time.sleep(10)


def test_every_kind_of_file_is_read_alike_by_the_library_and_by_the_other_reader(tmp_path):
    for kind in kinds(tmp_path):
        path = tmp_path / kind.name.replace(" ", "_") / kind.file
        path.parent.mkdir()
        path.write_bytes(kind.good)
        loaded = plain(kind.read(path))
        assert kind.right is None or plain(kind.right(kind.good)) == loaded, kind.name


def test_a_curriculum_loaded_without_its_digest_would_be_seen(tmp_path, monkeypatch):
    """The campaign is no formality: with the digest switched off it finds wrong loads."""
    curriculum = next(kind for kind in kinds(tmp_path) if kind.name == "curriculum")
    monkeypatch.setattr(faults_inputs, "kinds", lambda place: [curriculum])
    monkeypatch.setattr("minigtn.teaching.curriculum.digest", lambda tensors, about: AlwaysRight())
    counts = damaged_inputs(60, tmp_path / "place", tmp_path / "examples", np.random.default_rng(0))
    assert counts["curriculum"]["wrong_loads"] > 0


class AlwaysRight:
    def __ne__(self, other):
        return False

    def __eq__(self, other):
        return True

    __hash__ = None


def test_what_differs_and_what_was_lost_is_named():
    assert differences({"a": [1], "b": b"x"}, {"a": [1], "b": b"x"}) == []
    assert differences({"a": [1], "b": b"x"}, {"a": [2], "b": b"y"}) == ["a", "b"]
    well = {"jobs": 3, "same_bits": 3, "tracebacks": 0, "steps_lost": 0}
    assert faults_in({"kills": {"train": well}}) == []
    assert faults_in({"kills": {"train": {**well, "steps_lost": 2}}}) == ["kills.train.steps_lost: 2"]
    assert faults_in({"kills": {"train": {**well, "same_bits": 2}}}) == ["kills.train: 2 same_bits of 3 jobs"]
    assert faults_in({"database": {"trials": 9, "complete": 8}}) == ["database: 8 complete of 9 trials"]
    assert faults_in({"database": {"skipped": "no server"}}) == []
