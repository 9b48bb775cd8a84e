"""Later cells take the reader's function once it passes its check, and the authors' until then."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import checks
import nbformat
import pytest
from answers.lesson1 import hessian_times as authors_hessian_times
from nbclient import NotebookClient

LESSONS = Path(__file__).parents[2] / "lessons"
NOTEBOOKS = sorted(LESSONS.glob("0[1-5]*.ipynb"))


def yours(loss: Any, w: Any, batch: Any, nu: Any) -> Any:
    return authors_hessian_times(loss, w, batch, nu)


def stub(loss: Any, w: Any, batch: Any, nu: Any) -> Any: ...


def wrong(loss: Any, w: Any, batch: Any, nu: Any) -> Any:
    return w


def stops(loss: Any, w: Any, batch: Any, nu: Any) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("function", "taken", "said"),
    [
        (yours, yours, "yours."),
        (stub, authors_hessian_times, "the authors', until you have written yours."),
        (wrong, authors_hessian_times, "the authors', for yours is not yet right."),
        (stops, authors_hessian_times, "the authors', for yours stopped with ZeroDivisionError."),
        (authors_hessian_times, authors_hessian_times, "the authors', until you have written yours."),
    ],
)
def test_what_is_used(function: Any, taken: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.use(checks.check_1_hessian_times, function, authors_hessian_times) is taken
    assert capsys.readouterr().out == f"hessian_times: {said}\n"


def solved(notebook: nbformat.NotebookNode) -> int:
    """Put the solutions into the exercises, as a reader would; returns how many."""
    exercises = [c for c in notebook.cells if "exercise" in c.metadata.get("tags", [])]
    solutions = [c for c in notebook.cells if "solution" in c.metadata.get("tags", [])]
    for exercise, solution in zip(exercises, solutions, strict=True):
        exercise.source = solution.source.replace("authors_", "")
    return len(exercises)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_later_cells_call_what_was_chosen(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    tags = [c.metadata.get("tags", []) for c in cells]
    names = {n for c in cells for n in re.findall(r"def authors_(\w+)\(", c.source)}
    assert len(names) == sum("exercise" in t for t in tags)
    for name in names:
        chosen = rf"^{name} = checks\.use\(\s*checks\.check_\d_{name}, {name}, authors_{name}\s*\)"
        (at,) = [i for i, c in enumerate(cells) if re.search(chosen, c.source, re.MULTILINE)]
        solution = next(i for i, c in enumerate(cells) if f"def authors_{name}(" in c.source)
        assert solution < at
        named = [i for i, c in enumerate(cells) if re.search(rf"\bauthors_{name}\b", c.source)]
        assert named == [solution, at]
        own = [i for i, c in enumerate(cells) if re.search(rf"(?<!_)\b{name}\(", c.source)]
        assert all(i >= at or "exercise" in tags[i] or "solution" in tags[i] for i in own), name


def test_a_solved_lesson_runs_on_the_readers_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIGTN_LESSON_SHORT", "1")
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    n = solved(notebook)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(LESSONS)}}).execute()
    said = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert said.count(": yours.\n") == n >= 4
    assert "the authors'" not in said
    assert "Not done yet" not in said
