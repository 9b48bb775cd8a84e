"""Progress bars on a terminal, and now and then a line elsewhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines where there is no terminal; what takes less says nothing."""
LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def progress_bar(iterable: Any = None, **settings: Any) -> Any:
    """tqdm's bar on standard error. In a pipe, a file or a notebook there are no carriage returns, but plain
    lines, one every half minute."""
    if not on_terminal():
        settings |= {
            "file": _Lines(sys.stderr),
            "mininterval": EVERY,
            "maxinterval": EVERY,
            "delay": EVERY,
            "bar_format": LINE,
        }
    return tqdm(iterable, **settings)


def on_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class _Lines:
    """A stream that makes lines of what a bar draws over itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        text = text.replace("\x1b[A", "").strip("\r\n ")
        if text:
            self._stream.write(f"{text}\n")

    def flush(self) -> None:
        self._stream.flush()
