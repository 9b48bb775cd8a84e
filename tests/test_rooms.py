"""Imports go one way: the table in CONTRIBUTING.md is what the files do."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minigtn"
FREE = {"cli", "__init__", "__main__"}


def table() -> dict[str, set[str]]:
    """What each room may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([\w ]*)\|$", text, re.MULTILINE)
    return {room: set(allowed.split()) for room, allowed in rows}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source: str) -> set[str]:
    """The rooms that a file imports, also inside its functions and by ``from minigtn import room``."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "absolute imports only: a reader sees the room"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("minigtn.")}
    return rooms


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_a_file_imports_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    if room in FREE:
        return
    assert imported(path.read_text()) - {room} <= table()[room]


def test_the_table_has_no_circle_and_names_every_room() -> None:
    rooms = table()
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} - FREE <= rooms.keys()
    done: set[str] = set()
    while ready := {room for room, allowed in rooms.items() if allowed <= done and room not in done}:
        done |= ready
    assert done == rooms.keys() - {"cli"}  # which imports "everything"


def test_inner_and_the_reference_stand_alone() -> None:
    assert table()["inner"] == set()
    for path in (ROOT / "reference").glob("*.py"):
        assert not re.search(r"^\s*(from|import) minigtn", path.read_text(), re.MULTILINE)
    for path in PACKAGE.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) reference", path.read_text(), re.MULTILINE)


def test_a_wrong_import_would_be_seen() -> None:
    source = "def f():\n    from minigtn.outer.loop import MetaTraining\n    from minigtn import data\n"
    assert imported(source) == {"outer", "data"}
    assert not imported(source) <= table()["networks"]
