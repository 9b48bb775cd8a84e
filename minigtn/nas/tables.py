"""Published tables of architectures with their accuracies, and the rows of a ranking's ``scores.jsonl``."""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minigtn.networks.spaces import Space
from minigtn.runs.files import read_metrics
from minigtn.runs.seeds import Purpose, seed_for

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


def draw(
    truth: dict[str, float], networks: int, seed: int, without: Collection[str] = frozenset()
) -> list[str]:
    """``networks`` architectures at random (0: all), none of them ``without``, such that fewer are the first
    ones of more."""
    shuffled = np.random.default_rng(seed_for(seed, Purpose.RANKED, 0)).permutation(sorted(truth)).tolist()
    left = [arch for arch in shuffled if arch not in without]
    if networks > len(left):
        met = f", {len(truth) - len(left)} of which the teacher met" if len(left) < len(truth) else ""
        raise ValueError(
            f"{networks} networks were asked for, but the table has {len(truth)}{met}; give at most "
            f"{len(left)}, or 0 for all"
        )
    return left[: networks or None]


def read_scores(folder: Path, archs: list[str] | None = None, repeats: int = 1) -> list[dict[str, Any]]:
    """A row per network of a folder's ``scores.jsonl`` (those in ``archs``, in that order): arch, truth, and
    by column the mean score over the first ``repeats`` initial weights (None where one is) and the sum of
    their seconds."""
    rows: dict[str, dict[str, Any]] = {}
    for line in scored(folder):
        if line["repeat"] >= repeats:
            continue
        row = rows.setdefault(
            line["arch"], {"arch": line["arch"], "truth": line["truth"], "scores": {}, "seconds": {}}
        )
        for name in ("scores", "seconds"):
            for column, value in line[name].items():
                row[name].setdefault(column, {})[line["repeat"]] = value
    for row in rows.values():
        row["scores"] = {column: _mean(by_repeat.values()) for column, by_repeat in row["scores"].items()}
        row["seconds"] = {column: sum(by_repeat.values()) for column, by_repeat in row["seconds"].items()}
    return [rows[arch] for arch in (rows if archs is None else archs)]


def _mean(values: Collection[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return sum(finite) / len(finite) if len(finite) == len(values) else None


def scored(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's ``scores.jsonl``; ValueError for one that is no line of scores."""
    lines = read_metrics(folder / "scores.jsonl")
    for number, line in enumerate(lines, 1):
        parts: list[Any] = [line.get(name) for name in ("scores", "seconds")]
        numbers = [
            value for part in parts if isinstance(part, dict) for value in part.values() if value is not None
        ]
        if (
            not isinstance(line.get("arch"), str)
            or type(line.get("repeat")) is not int
            or not all(isinstance(part, dict) for part in parts)
            or not all(type(value) in (int, float) for value in (*numbers, line.get("truth")))
            or parts[0].keys() != parts[1].keys()
        ):
            raise ValueError(
                f"{folder / 'scores.jsonl'}, line {number}, is damaged (no scores of a network); mend it, or "
                "delete the line"
            )
    return lines
