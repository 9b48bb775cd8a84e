"""One face: what README, guides, lessons and book name as ``minigtn.name`` is in ``minigtn`` itself."""

from __future__ import annotations

import json
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import minigtn

ROOT = Path(__file__).parent.parent
HISTORY = ROOT / "docs/log.md"  # tells what was, under the names of its day
OPTIONAL = {"autograd", "cupy", "gymnasium", "jax", "optuna", "psycopg", "scipy", "sqlalchemy"}
SLOW = {"matplotlib", "sklearn", "tensorboard", "tyro"}

BOOK = sorted(ROOT.glob("book/*.md"))
READ_BY_USERS = [
    ROOT / "README.md",
    *sorted(set(ROOT.glob("docs/*.md")) - {HISTORY}),
    *sorted(ROOT.glob("lessons/*.md")),
    *sorted(ROOT.glob("lessons/*.ipynb")),
    *sorted(ROOT.glob("lessons/**/*.py")),
]


def text_of(path: Path) -> str:
    """The file's text; of a notebook, the sources of all cells without what they printed."""
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def names_in(text: str) -> set[str]:
    """``minigtn.name`` and ``from minigtn import name``, as dotted names."""
    written = re.findall(r"(?<![\w/.-])minigtn(?:\.\w+)+", text)
    imports = re.findall(r"\bfrom (minigtn[\w.]*) import (\([^)]*\)|[^\n]*)", text)
    imported = []
    for module, names in imports:
        names = re.sub(r"#.*| as \w+", "", names)
        imported += [f"{module}.{name}" for name in re.findall(r"\w+", names)]
    return {*written, *imported}


def in_the_face(dotted: str) -> bool:
    """Whether each part is public in the one before; a module makes public what its ``__all__`` lists."""
    owner = minigtn
    for name in dotted.split(".")[1:]:
        public = owner.__all__ if isinstance(owner, ModuleType) else dir(owner)
        if name not in public:
            return False
        owner = getattr(owner, name)
    return True


@pytest.mark.parametrize("path", READ_BY_USERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_are_in_the_face(path: Path) -> None:
    wrong = sorted(name for name in names_in(text_of(path)) if not in_the_face(name))
    assert not wrong, f"not in minigtn itself (see minigtn/__init__.py): {wrong}"


@pytest.mark.parametrize("path", BOOK, ids=lambda path: path.name)
def test_names_in_the_book_exist(path: Path) -> None:
    """Its pages on the parts may look behind the face."""
    wrong = sorted(name for name in names_in(text_of(path)) if pydoc.locate(name) is None)
    assert not wrong


@pytest.mark.parametrize("path", [*READ_BY_USERS, *BOOK], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_of_the_package_that_are_named_exist(path: Path) -> None:
    files = re.findall(r"\bminigtn/[\w/]+\.py\b", text_of(path))
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_every_name_of_the_face_exists() -> None:
    assert len(set(minigtn.__all__)) == len(minigtn.__all__)
    assert [name for name in minigtn.__all__ if not hasattr(minigtn, name)] == []


def test_the_lessons_and_the_readme_do_use_the_face() -> None:
    found = set().union(*(names_in(text_of(path)) for path in READ_BY_USERS))
    assert {"minigtn.sgd", "minigtn.Teacher", "minigtn.spaces", "minigtn.load_curriculum"} <= found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Use `minigtn.sdg(...)`.", "minigtn.sdg"),
        ("from minigtn import sgd, Zoo as Z  # so it was called", "minigtn.Zoo"),
        ("from minigtn import (\n    sgd,\n    optimise,\n)", "minigtn.optimise"),
        ("from minigtn.networks.learners import Learner", "minigtn.networks.learners.Learner"),
        ("import minigtn.inner.memory", "minigtn.inner.memory"),
        ("minigtn.data.datasets.load('digits')", "minigtn.data.datasets.load"),
        ("minigtn.Curriculum.shave", "minigtn.Curriculum.shave"),
    ],
)
def test_a_wrong_name_would_be_seen(text: str, name: str) -> None:
    assert name in names_in(text)
    assert not in_the_face(name)


def test_right_names_are_not_refused() -> None:
    text = """
    from minigtn import Checkpointed, data as d, sgd  # three
    minigtn.data.load("digits"), minigtn.spaces.get("cells"), minigtn.Curriculum.save, book/api-minigtn.md
    """
    assert all(in_the_face(name) for name in names_in(text))
    assert len(names_in(text)) == 6


def loaded_by(code: str) -> set[str]:
    """The optional and the slow packages that are there after ``code``."""
    code += f"\nimport sys\nprint(*(name for name in {OPTIONAL | SLOW} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_brings_no_optional_and_no_slow_package() -> None:
    assert loaded_by("import minigtn") == set()


def test_a_package_that_came_along_would_be_seen() -> None:
    assert "matplotlib" in loaded_by("import minigtn, matplotlib")
