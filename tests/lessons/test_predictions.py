"""A guess is answered with what came out and a thought; no guess, or a strange one, stops nothing."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import checks
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "lessons"
LESSONS = range(1, 10)
GUESSES = [guess for k in LESSONS for guess in import_module(f"answers.lesson{k}").GUESSES]


@pytest.mark.parametrize(("name", "guess", "answer", "thought"), GUESSES)
def test_a_guess_is_answered(
    name: str, guess: Any, answer: Any, thought: str, capsys: pytest.CaptureFixture[str]
) -> None:
    getattr(checks, f"predict_{name}")(guess, answer)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("You said ")
    assert thought in said
    assert ("so it is" in said or " Near. " in said) == (guess == answer or thought == "Near")


@pytest.mark.parametrize(("name", "answer"), {name: answer for name, _, answer, _ in GUESSES}.items())
def test_no_guess_and_a_strange_one(name: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    predict = getattr(checks, f"predict_{name}")
    predict(None, answer)
    assert capsys.readouterr().out.startswith("No guess yet")
    predict(["?"], answer)
    assert capsys.readouterr().out.startswith("A guess here is one ")


PERCENT = ("5_means", "5_starts", "6_real_accuracy", "7_shuffled", "9_as_it_is")


@pytest.mark.parametrize("name", PERCENT)
def test_a_fraction_is_not_taken_for_a_percentage(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    predict = getattr(checks, f"predict_{name}")
    predict(0.84, 83.6)
    assert capsys.readouterr().out == "A guess here is in percent: 84, and not 0.84.\n"
    predict(84, 83.6)
    assert capsys.readouterr().out.startswith("You said 84;")


@pytest.mark.parametrize("k", LESSONS)
def test_every_prediction_is_tried_at_every_letter(k: int) -> None:
    lesson = vars(import_module(f"checks.lesson{k}"))
    names = {name.removeprefix("predict_") for name in lesson if name.startswith("predict_")}
    tried: dict[str, set[Any]] = {name: set() for name in names}
    for name, guess, _, _ in GUESSES:
        if name in names:
            tried[name].add(guess)
    assert len(names) >= 2
    assert min(len(guesses) for guesses in tried.values()) >= 3
    assert all(getattr(checks, f"predict_{name}") is lesson[f"predict_{name}"] for name in names)


@pytest.mark.parametrize("k", LESSONS)
def test_what_the_lesson_found_is_what_the_thoughts_are_about(k: int) -> None:
    """The answers in the kept outputs are near those for which the thoughts were written."""
    (path,) = NOTEBOOKS.glob(f"0{k}_*.ipynb")
    expected = {name: answer for name, _, answer, _ in GUESSES}
    found = {}
    for cell in nbformat.read(path, as_version=4).cells:
        said = " ".join(" ".join(output.get("text", "").split()) for output in cell.get("outputs", []))
        for name in re.findall(r"checks\.predict_(\w+)\(", cell.source):
            found[name] = re.search(r"No guess yet .* It is (\S+)\. ", said)[1]
    assert {name for name in expected if name.startswith(f"{k}_")} == set(found)
    for name, answer in found.items():
        if isinstance(expected[name], str):
            assert answer == expected[name]
        else:
            assert float(answer) == pytest.approx(expected[name], rel=0.15, abs=1.0), name
