"""The capstone with the reference's answers in its empty cells: ten checks accept, the judgement passes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import checks
import nbformat
import pytest
from answers import capstone
from nbclient import NotebookClient

LESSONS = Path(__file__).parents[2] / "lessons"
NOTEBOOK = LESSONS / "12_your_own_teacher.ipynb"


def answered(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Each exercise's stub replaced by the reference's source; the call of its check stays."""
    for cell in notebook.cells:
        if "exercise" in cell.metadata.get("tags", []):
            call = re.search(r"checks\.check_12_(\w+)\(.*\)$", cell.source)
            assert call is not None
            sources = [inspect.getsource(function) for function in capstone.EXERCISES[call[1]]]
            cell.source = "\n\n".join([*sources, call[0]])
    return notebook


def said(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell printed."""
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_the_reference_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size: the accuracy that the lesson asks for is reached on held-out digits."""
    monkeypatch.delenv("MINIGTN_LESSON_SHORT", raising=False)
    notebook = answered(nbformat.read(NOTEBOOK, as_version=4))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(LESSONS)}}).execute()
    outputs = said(notebook)
    assert outputs.count("Correct.\n") == 10
    accuracy = re.search(
        r"20 fresh learners: ([\d.]+)% ± [\d.]+% of the test digits\nPASSED\.", "".join(outputs)
    )
    assert accuracy is not None, outputs
    assert float(accuracy[1]) >= 82
    error = re.search(r"finite differences differ by (\S+)", "".join(outputs))
    assert error is not None
    assert float(error[1]) < 1e-7


def test_the_cells_are_empty() -> None:
    """A reader gets headings, specifications and checks, and no line of an answer."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stubs = [cell.source for cell in notebook.cells if "exercise" in cell.metadata.get("tags", [])]
    assert len(stubs) == 10
    allowed = re.compile(
        r"(def .*:|\"\"\"-?.*|class Teacher\(torch\.nn\.Module\):|\.\.\.|super\(\).__init__\(\)|checks\..*|)$"
    )
    for stub in stubs:
        assert all(allowed.match(line.strip()) for line in stub.splitlines()), stub


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    done = (checks.check_12_loss, (capstone.loss,))

    def step(*_: object) -> None: ...

    def fresh(*_: object) -> None: ...

    assert checks.all_correct([done])
    assert not checks.all_correct([done, (checks.check_12_step, (step,))])
    assert "1 of 2 checks accept your functions; step comes next" in capsys.readouterr().out
    assert not checks.all_correct([(checks.check_12_learner, (fresh, capstone.forward))])
    assert "fresh and forward come next" in capsys.readouterr().out


def test_what_is_examined_is_what_stands_there_now() -> None:
    """A function that is repaired is the one examined: the cells keep no list of functions from before."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [c.source for c in notebook.cells if c.source.startswith("def seven():")]
    names = {name: f"the first {name}" for name in ("make_data", "fresh", "forward", "loss", "step", "train")}
    names |= {"meta_loss": "", "gradient_error": ""}
    room = {**names, "checks": checks}
    exec(cell.split("\n\n\n")[0], room)
    room["fresh"] = "another"
    assert (checks.check_12_learner, ("another", "the first forward")) in room["seven"]()
