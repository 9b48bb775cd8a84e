"""Damaged copies of a file: what disks, editors, spreadsheets and downloads do to one, at random."""

from __future__ import annotations

import re

import numpy as np

NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"null", b'"x"', b"true", b"9" * 30, b"0.5", b"[1]", b"", b"3")


def mutant(good: bytes, rng: np.random.Generator) -> bytes:
    """``good`` after one to three changes; never the same bytes."""
    while True:
        changed = good
        for _ in range(int(rng.choice((1, 1, 2, 3)))):
            changed = CHANGES[int(rng.integers(len(CHANGES)))](changed, rng)
        if changed != good:
            return changed


def _flip(b: bytes, rng: np.random.Generator) -> bytes:
    """A few bits, half of the time near the beginning, where headers are."""
    if not b:
        return b
    array = bytearray(b)
    end = len(b) if rng.random() < 0.5 else min(len(b), 64)
    for _ in range(int(rng.integers(1, 5))):
        array[int(rng.integers(end))] ^= 1 << int(rng.integers(8))
    return bytes(array)


def _cut(b: bytes, rng: np.random.Generator) -> bytes:
    return b[: int(rng.integers(len(b) + 1))]


def _block(b: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(b) + 1))
    return start, start + int(rng.integers(1, 65))


def _repeat(b: bytes, rng: np.random.Generator) -> bytes:
    start, end = _block(b, rng)
    return b[:end] + b[start:end] * int(rng.integers(1, 4)) + b[end:]


def _drop(b: bytes, rng: np.random.Generator) -> bytes:
    start, end = _block(b, rng)
    return b[:start] + b[end:]


def _move(b: bytes, rng: np.random.Generator) -> bytes:
    start, end = _block(b, rng)
    rest = b[:start] + b[end:]
    at = int(rng.integers(len(rest) + 1))
    return rest[:at] + b[start:end] + rest[at:]


def _noise(b: bytes, rng: np.random.Generator) -> bytes:
    start, end = _block(b, rng)
    return b[:start] + rng.bytes(len(b[start:end])) + b[end:]


def _append(b: bytes, rng: np.random.Generator) -> bytes:
    return b + rng.bytes(int(rng.integers(1, 65)))


def _number(b: bytes, rng: np.random.Generator) -> bytes:
    """A number in digits by another, or four bytes by a big or a small one."""
    found = list(re.finditer(rb"\d+(?:\.\d+)?", b[:4096]))
    if found and rng.random() < 0.7:
        match = found[int(rng.integers(len(found)))]
        return b[: match.start()] + NUMBERS[int(rng.integers(len(NUMBERS)))] + b[match.end() :]
    at = int(rng.integers(max(1, min(len(b), 32))))
    value = (0, 1, 2**31 - 1, 2**32 - 1)[int(rng.integers(4))]
    return b[:at] + value.to_bytes(4, ("big", "little")[int(rng.integers(2))]) + b[at + 4 :]


def _encode(b: bytes, rng: np.random.Generator) -> bytes:
    """As editors save text."""
    ways = (
        lambda: b"\xef\xbb\xbf" + b,
        lambda: b.replace(b"\n", b"\r\n"),
        lambda: b.decode("latin-1").encode("utf-16"),
        lambda: b.replace(b",", b";"),
        lambda: b.replace(b".", b","),
        lambda: b"[" * 2000 + b,
    )
    return ways[int(rng.integers(len(ways)))]()


CHANGES = (_flip, _flip, _cut, _repeat, _drop, _move, _noise, _append, _number, _number, _encode)
