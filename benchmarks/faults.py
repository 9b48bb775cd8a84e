"""Does work survive? Kills, full disks, two runs in one folder, a database that goes away, damaged files.

    python benchmarks/faults.py --size tiny --out FOLDER      # under a minute, in CI
    python benchmarks/faults.py --size full --out FOLDER

Writes FOLDER/faults.json after each part, goes on where it was stopped, and prints a table; exit code 1 where
anything was lost, wrong, or a traceback. What is promised on the strength of it, and what is not:
docs/reliability.md. The record of a full campaign is in benchmarks/records/.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults_database import database
from faults_disks import full_disk
from faults_inputs import damaged_inputs
from faults_kills import KINDS, kills, two_at_once

from minigtn.runs.files import environment, read_json, write_json
from minigtn.runs.settings import require_same

SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(mutants=60, kills=2, batches=1, pairs=1, disks=2, trials=6, database_kills=1, away=2.0),
    "full": dict(mutants=1000, kills=6, batches=6, pairs=2, disks=6, trials=20, database_kills=4, away=20.0),
}
"""Mutants of each kind of file; kills in each of so many batches, pairs and disks for each kind of job."""
FAULTS = ("tracebacks", "wrong_loads", "hangs", "steps_lost", "wrong_scores", "unfinished", "changed")
"""What must be 0, or not be there, in every count."""
SAME = ("size", "seed", "settings")


def faults_in(counts: Any, name: str = "") -> list[str]:
    """What went wrong, by dotted names."""
    if not isinstance(counts, dict):
        return []
    wrong = [f"{name}.{key}: {counts[key]}" for key in FAULTS if counts.get(key)]
    for whole, part in (
        ("jobs", "same_bits"),
        ("sizes", "same_bits"),
        ("pairs", "same_bits"),
        ("trials", "complete"),
    ):
        if whole in counts and part in counts and counts[whole] != counts[part]:
            wrong.append(f"{name}: {counts[part]} {part} of {counts[whole]} {whole}")
    for key, value in counts.items():
        wrong += faults_in(value, f"{name}.{key}" if name else key)
    return wrong


def campaign(size: str, seed: int, place: Path, out: Path) -> dict[str, Any]:
    """All of it, part by part; the counts. Parts that ``out`` holds already are not done again."""
    settings = SIZES[size]
    path = out / "faults.json"
    result: dict[str, Any] = {"size": size, "seed": seed, "settings": settings, "counts": {}, "seconds": {}}
    if path.exists():
        result |= read_json(path)
        require_same(
            {name: result[name] for name in SAME}, {"size": size, "seed": seed, "settings": settings}, path
        )
    parts: dict[str, Callable[[np.random.Generator], Any]] = {
        "damaged inputs": partial(damaged_inputs, settings["mutants"], place / "inputs", out / "examples"),
        **{
            f"kills, {kind}, {batch}": partial(kills, kind, settings["kills"], place / f"batch{batch}")
            for batch in range(settings["batches"])
            for kind in KINDS
        },
        **{f"two at once, {kind}": partial(two_at_once, kind, settings["pairs"], place) for kind in KINDS},
        **{f"full disk, {kind}": partial(full_disk, kind, settings["disks"], place) for kind in KINDS},
        "database": partial(
            database, settings["trials"], settings["database_kills"], settings["away"], place
        ),
    }
    for number, (name, do) in enumerate(parts.items()):
        if name in result["counts"]:
            continue
        started = time.monotonic()
        result["counts"][name] = do(np.random.default_rng((seed, number)))
        result["seconds"][name] = round(time.monotonic() - started, 1)
        result |= environment(torch.device("cpu")) | {"faults": faults_in(result["counts"])}
        write_json(path, result)
        print(f"{name}: {result['seconds'][name]:.1f} s", flush=True)
    return result


def table(counts: dict[str, Any]) -> str:
    """A line per kind of fault."""
    lines = []
    for name, part in counts.items():
        rows = part.items() if all(isinstance(value, dict) for value in part.values()) else [("", part)]
        for kind, row in rows:
            shown = {key: value for key, value in row.items() if not isinstance(value, dict | list)}
            lines.append(
                f"{name:<12}{kind:<32}" + "  ".join(f"{key} {value}" for key, value in shown.items())
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for faults.json, and files that were faults"
    )
    words = parser.parse_args()
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"at work in {place}, which is deleted unless something fails", flush=True)
    result = campaign(words.size, words.seed, place, words.out)
    wrong = result["faults"]
    print(table(result["counts"]))
    print("\n".join(wrong) or "nothing was lost, nothing was wrong")
    if wrong:
        sys.exit(1)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
