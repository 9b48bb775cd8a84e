"""Settings that are compared: every difference is named, nested ones by their dotted name."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from minigtn.config import RunConfig
from minigtn.runs.settings import at_least, differences, from_dict, require_same, to_dict
from tiny import TINY, tiny


def test_differences_are_named() -> None:
    other = dataclasses.replace(tiny(lr=0.5), seed=3)
    assert differences(TINY, TINY) == []
    assert differences(TINY, other) == ["seed: 0 -> 3", "meta.lr: 0.01 -> 0.5"]
    require_same(TINY, dataclasses.replace(TINY), "runs/x")
    sentence = (
        r"^runs/x was made with other settings \(seed: 0 -> 3; meta.lr: 0.01 -> 0.5\); "
        "go on with the same ones, or use another place for the new ones$"
    )
    with pytest.raises(ValueError, match=sentence):
        require_same(TINY, other, "runs/x")


def test_differences_of_nested_dicts() -> None:
    a = {"seed": 0, "search": {"trials": 3, "size": {"cells": 1, "channels": 4}}, "gone": 1}
    b = {"seed": 0, "search": {"trials": 9, "size": {"cells": 2, "channels": 4}}, "new": 2}
    assert differences(a, b) == [
        "search.trials: 3 -> 9",
        "search.size.cells: 1 -> 2",
        "gone: 1 -> None",
        "new: None -> 2",
    ]
    assert differences(a, a) == []
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a: {'b': 1} -> 1"]


def test_what_comes_back_from_json_is_no_difference() -> None:
    assert differences({"lrs": [0.1, 0.5], "all": [[1, 2]]}, {"lrs": (0.1, 0.5), "all": ((1, 2),)}) == []
    assert differences({"lrs": [0.1, 0.5]}, {"lrs": (0.1, 0.4)}) == ["lrs: [0.1, 0.5] -> [0.1, 0.4]"]


def test_what_may_change_is_no_difference() -> None:
    a = {"trials": 3, "seed": 0}
    b = {"trials": 9, "seed": 1}
    assert differences(a, b, may_change=("trials",)) == ["seed: 0 -> 1"]
    require_same(a, {**b, "seed": 0}, "study", may_change=("trials",))
    with pytest.raises(ValueError, match=r"\(seed: 0 -> 1\)"):
        require_same(a, b, "study", may_change=("trials",))


def test_what_may_change_is_of_the_outermost_settings() -> None:
    """A name inside is another setting."""
    assert differences({"of": {"trials": 3}}, {"of": {"trials": 9}}, may_change=("trials",)) == [
        "of.trials: 3 -> 9"
    ]


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_the_least_value_is_held(value: float) -> None:
    at_least(SimpleNamespace(steps=1), steps=1)
    with pytest.raises(ValueError, match=f"^meta.steps must be at least 1, not {value}$"):
        at_least(SimpleNamespace(steps=value), "meta.", steps=1)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("seed", "0", "RunConfig.seed must be int, not '0'"),
        ("seed", True, "RunConfig.seed must be int, not True"),
        ("seed", 1.5, "RunConfig.seed must be int, not 1.5"),
        ("seed", None, "RunConfig.seed must be int, not None"),
        (
            "dataset",
            "svhn",
            "RunConfig.dataset must be one of digits, mnist, fashion-mnist, cifar10, not 'svhn'",
        ),
        ("learner", 5, "LearnerConfig has the settings"),
        ("meta.lr", [1], r"MetaConfig.lr must be float, not \[1\]"),
        ("meta.betas", [0.9], r"MetaConfig.betas must be tuple\[float, float\], not \[0.9\]"),
        ("learner.channels", 5, r"LearnerConfig.channels must be tuple\[int, ...\], not 5"),
        ("learner.channels", [5, "x"], "LearnerConfig.channels must be int, not 'x'"),
    ],
)
def test_a_setting_of_another_type_is_named(name: str, value: object, sentence: str) -> None:
    values = to_dict(TINY)
    first, _, rest = name.partition(".")
    (values[first] if rest else values)[rest or first] = value
    with pytest.raises(ValueError, match=sentence):
        from_dict(RunConfig, values)


def test_a_whole_number_is_a_number() -> None:
    values = to_dict(TINY)
    values["meta"]["lr"] = 1
    assert from_dict(RunConfig, values).meta.lr == 1
    assert from_dict(RunConfig, to_dict(TINY)) == TINY
