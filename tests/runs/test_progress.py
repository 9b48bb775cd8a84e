"""Bars on a terminal; elsewhere plain lines, and none from what is short."""

from __future__ import annotations

import io

import pytest

from minigtn.runs import progress
from minigtn.runs.progress import progress_bar


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def drawn(monkeypatch: pytest.MonkeyPatch, terminal: bool, every: float = 30.0, **settings: object) -> str:
    stream = Stream(terminal)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "EVERY", every)
    for _ in progress_bar(range(5), desc="steps", **settings):
        pass
    return stream.getvalue()


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(monkeypatch, terminal=True, mininterval=0)
    assert text.count("\r") > 5
    assert "5/5" in text


def test_a_pipe_has_no_carriage_return_and_says_nothing_of_what_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert drawn(monkeypatch, terminal=False) == ""


@pytest.mark.parametrize("settings", [{}, {"leave": False}, {"position": 1}])
def test_a_pipe_has_lines_of_what_is_long(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    text = drawn(monkeypatch, terminal=False, every=0.0, **settings)
    lines = text.splitlines()
    assert len(lines) >= 5
    assert all(line.startswith("steps: ") for line in lines)
    assert "\r" not in text
    assert "\x1b" not in text
    assert "steps: 5/5 [" in lines[-1] or settings
