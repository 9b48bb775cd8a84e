"""Published tables of architectures with their accuracies: CSV files."""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from minigtn.networks.spaces.base import Space

TRUTHS = ("mean_acc", "cifar10_test", "accuracy")  # known names of a table's accuracy column
SOURCES = (
    "write one as CSV with the columns arch and accuracy from a published benchmark, such as NAS-Bench-Macro "
    "(github.com/xiusu/NAS-Bench-Macro) or NAS-Bench-201 (github.com/D-X-Y/NAS-Bench-201)"
)
"""Where tables come from."""
LONGEST = 80
"""Letters of a name in a sentence."""


def truth_column(table: Path, name: str = "") -> str:
    """The name of the table's accuracy column; ValueError where there is none of that name (by default, of
    the known ones)."""
    return _column(table, next(_rows(table), []), name)


def read_table(table: Path, column: str = "", space: Space | None = None) -> dict[str, float]:
    """Accuracy of each architecture; CSV in UTF-8 or, with a byte-order mark, UTF-16.

    ValueError, with the line, for a number that cannot be read, an architecture met twice or, with a
    ``space``, one that is none of that space; FileNotFoundError says where tables come from.
    """
    rows = _rows(table)
    header = next(rows, [])
    column = _column(table, header, column)
    truth: dict[str, float] = {}
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(
                f"{table}, line {number}: {len(row)} values for {len(header)} columns; write each number "
                "with a decimal point, not a comma"
            )
        arch = row[header.index("arch")]
        text = row[header.index(column)]
        value = _number(text)
        if not math.isfinite(value):
            raise ValueError(f"{table}, line {number}: {column} {text[:LONGEST]!r} is no number")
        if arch in truth:
            raise ValueError(f"{table}, line {number}: {_shown(arch)} stands there twice")
        if space is not None:
            _check(arch, space, f"{table}, line {number}")
        truth[arch] = value
    if not truth:
        raise ValueError(f"{table} has a header and no rows: there is nothing to rank; give the whole table")
    return truth


def _rows(table: Path) -> Iterator[list[str]]:
    """The rows of a CSV file, the header first; empty lines are left out."""
    try:
        content = table.read_bytes()
    except OSError as error:
        if table.exists():
            raise OSError(f"{table} cannot be read ({error.strerror}); give a CSV file") from error
        raise FileNotFoundError(f"there is no table {table}; {SOURCES}") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
        for row in csv.reader(io.StringIO(text, newline=""), strict=True):
            if row:
                yield [value.strip() for value in row]
    except (UnicodeError, csv.Error) as error:
        raise ValueError(
            f"{table} is no CSV text in UTF-8 or UTF-16 ({error}); save it as CSV again"
        ) from error


def _column(table: Path, header: list[str], name: str) -> str:
    found = [column for column in ([name] if name else TRUTHS) if column in header]
    if "arch" not in header or not found or len(set(header)) < len(header):
        wanted = name or f"one of {', '.join(TRUTHS)}"
        raise ValueError(
            f"{table} needs a column arch and a column {wanted}, each once and separated by commas, but it "
            f"has {', '.join(map(_shown, header)) or 'none'}; name one as truth"
        )
    return found[0]


def _shown(text: str) -> str:
    """A name in a sentence, whatever is in it."""
    return text if text.isprintable() and len(text) <= LONGEST else repr(text[:LONGEST])


def _number(text: str) -> float:
    try:
        return math.nan if "_" in text else float(text)  # Python's 9_1 is 91; in a table it is a slip
    except ValueError:
        return math.nan


def _check(arch: str, space: Space, where: str) -> None:
    """ValueError for a string that is no architecture, and a word on what a spreadsheet does to one of
    digits."""
    try:
        space.parse(arch)
    except ValueError as error:
        lost = "; a spreadsheet took it for a number and dropped its leading zeros: import the column as text"
        raise ValueError(f"{where}: {error}{lost if arch.isdigit() else ''}") from error
