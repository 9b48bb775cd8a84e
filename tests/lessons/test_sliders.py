"""A slider where it can be moved; a row of its settings in the book, in tests and without ipywidgets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import sliders

LESSONS = Path(__file__).parents[2] / "lessons"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    monkeypatch.setattr(plt, "show", lambda: None)
    settings: list[float] = []
    yield settings
    plt.close("all")


def test_a_row_of_settings(drawn: list[float]) -> None:
    sliders.slider(lambda ax, x: drawn.append(x), "lr", [0.1, 0.2, 0.3, 0.4], shown=(0.1, 0.3, 0.4))
    assert drawn == [0.1, 0.3, 0.4]
    assert [ax.get_title() for ax in plt.gcf().axes] == ["lr = 0.1", "lr = 0.3", "lr = 0.4"]


def test_a_slider_that_moves(drawn: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipywidgets")
    import ipywidgets

    made: list[Any] = []
    interact = ipywidgets.interact
    monkeypatch.setattr(
        ipywidgets, "interact", lambda f, **k: (made.append(k["setting"]), interact(f, **k))[1]
    )
    sliders.slider(lambda ax, x: drawn.append(x), "lr", [0.1, 0.2, 0.3], shown=(0.2, 0.3), live=True)
    made[0].value = 0.3
    assert drawn == [0.2, 0.3]
    assert made[0].options == (("0.1", 0.1), ("0.2", 0.2), ("0.3", 0.3))


def test_where_it_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not sliders.can_move()
    monkeypatch.setenv("JPY_SESSION_NAME", "01_one_step.ipynb")
    pytest.importorskip("ipywidgets")
    assert sliders.can_move()
    monkeypatch.setattr(sliders.importlib.util, "find_spec", lambda name: None)
    assert not sliders.can_move()


def test_the_row_needs_no_ipywidgets(drawn: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    sliders.slider(lambda ax, x: drawn.append(x), "lr", [1.0, 2.0], shown=(1.0, 2.0))
    assert drawn == [1.0, 2.0]


@pytest.mark.parametrize("path", sorted(LESSONS.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_no_widget_is_kept(path: Path) -> None:
    """A kept widget would ask the network for its script when the book is opened."""
    assert "widget" not in json.loads(path.read_text())["metadata"]
    assert "jupyter.widget" not in path.read_text()
