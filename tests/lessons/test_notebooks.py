"""The lessons are kept with their outputs, run from the top, and their solutions pass the checks."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

LESSONS = Path(__file__).parents[2] / "lessons"
NOTEBOOKS = sorted(LESSONS.glob("[0-9]*.ipynb"))
CAPSTONE = "12_your_own_teacher"  # its solutions are not in it (test_capstone.py)
EMBARRASSING = re.compile(
    r"NotImplementedError|Traceback|Warning|site-packages|/home/|/root/|/tmp/|[A-Z]:\\\\"
)


def outputs_of(cell: nbformat.NotebookNode) -> str:
    return "".join(
        output.get("text", "") or str(output.get("data", {}).get("text/plain", "")) for output in cell.outputs
    )


def look_at_outputs(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Nothing failed, nothing is embarrassing, each stub says so, and each solution passes its check."""
    solutions = 0
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type != "code":
            continue
        text = outputs_of(cell)
        tags = cell.metadata.get("tags", [])
        assert cell.execution_count, f"{cell.id} was not executed"
        assert not [o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"], (
            f"{cell.id}: {text}"
        )
        assert not EMBARRASSING.search(text), f"{cell.id}: {text}"
        if "exercise" in tags:
            assert before is not None
            assert before.cell_type == "markdown"
            assert text.startswith("Not done yet"), f"{cell.id}: {text}"
        if "solution" in tags:
            assert text.strip() == "Correct.", f"{cell.id}: {text}"
            solutions += 1
    exercises = sum("exercise" in cell.metadata.get("tags", []) for cell in notebook.cells)
    assert exercises >= 2
    assert solutions == (0 if path.stem == CAPSTONE else exercises)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lesson_is_kept_with_its_outputs(path: Path) -> None:
    assert path.stat().st_size <= 500_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    look_at_outputs(path, notebook)
    assert (
        sum(
            "image/png" in output.get("data", {})
            for cell in notebook.cells
            for output in cell.get("outputs", [])
        )
        >= 2
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lesson_runs_from_the_top(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIGTN_LESSON_SHORT", "1")
    monkeypatch.delenv("MINIGTN_DATA", raising=False)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(LESSONS)}}).execute()
    look_at_outputs(path, notebook)
