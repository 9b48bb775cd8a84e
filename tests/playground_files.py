"""The playground's files, and what its build script makes of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent.parent / "book/playground"


def build() -> ModuleType:
    """The script book/playground/build.py, as a module."""
    spec = importlib.util.spec_from_file_location("playground_build", FOLDER / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
