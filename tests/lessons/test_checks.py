"""The checks accept right answers, recognise the usual mistakes and know a stub."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import checks
import numpy as np
import pytest

LESSONS = range(1, 13)
ANSWERS = [import_module(f"answers.lesson{k}") for k in LESSONS]
WRONG = [wrong for answers in ANSWERS for wrong in answers.WRONG]
RIGHT = [right for answers in ANSWERS for right in answers.RIGHT]


def functions_of(answer: Any) -> tuple[Callable[..., Any], ...]:
    """An exercise asks for one function, or for several: a tuple."""
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize(("name", "wrong", "hint"), WRONG, ids=[f"{name}-{hint}" for name, _, hint in WRONG])
def test_check_names_the_mistake(
    name: str, wrong: Callable[..., Any], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    getattr(checks, f"check_{name}")(*functions_of(wrong))
    said = capsys.readouterr().out
    assert said.startswith("Not yet right: ")
    assert hint in said


@pytest.mark.parametrize(("name", "right"), RIGHT, ids=[f"{name}-{i}" for i, (name, _) in enumerate(RIGHT)])
def test_check_accepts_a_right_answer(
    name: str, right: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    getattr(checks, f"check_{name}")(*functions_of(right))
    assert capsys.readouterr().out == "Correct.\n"


def test_every_check_is_tried_and_knows_a_stub(capsys: pytest.CaptureFixture[str]) -> None:
    names = {name.removeprefix("check_") for name in vars(checks) if name.startswith("check_")}
    assert names == {name for name, _, _ in WRONG} == {name for name, _ in RIGHT}
    for name in names:
        check = getattr(checks, f"check_{name}")
        check(*[lambda *_: ... for _ in inspect.signature(check).parameters])
        assert capsys.readouterr().out.startswith("Not done yet")


@pytest.mark.parametrize("k", LESSONS)
def test_every_check_of_a_lesson_is_handed_on(k: int) -> None:
    lesson = vars(import_module(f"checks.lesson{k}"))
    names = {name for name in lesson if name.startswith("check_")}
    assert len(names) >= 3
    assert all(name.startswith(f"check_{k}_") and getattr(checks, name) is lesson[name] for name in names)


def test_close_is_not_fooled() -> None:
    assert checks.close([1.0, 2.0], [1.0, 2.0 + 1e-9])
    assert not checks.close([1.0, 2.0], [1.0, 2.001])
    assert not checks.close([1.0, np.nan], [1.0, np.nan])
    assert not checks.close(np.inf, 65.0)
