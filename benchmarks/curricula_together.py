"""What the mean of several taught readings is worth: of several curricula, of several initial weights.

    python benchmarks/curricula_together.py FOLDER FOLDER ... --beside FOLDER --out FILE.json

The folders are rankings of the same networks (`minigtn nas rank --repeats N`), each by one curriculum of
another outer seed. Put together are one reading alone, the repeats of a curriculum, the curricula of a
repeat, and all: Spearman of the mean reading, and of the vote of the free scores with it (mean ranks),
averaged over the choices, with a 95 % interval (bootstrap over networks) and paired differences from FLOPs,
that vote, and the real trainings, read for the loss, of the folder `--beside`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigtn.nas.statistics import Array, measures, ranks, resamples
from minigtn.nas.tables import read_scores, scored
from minigtn.nas.trainings import column_of

VOTE = ("flops", "synflow", "naswot")
Reading = tuple[int, int]
"""The number of a folder, and of a repeat."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--beside", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bootstrap", type=int, default=1000)
    args = parser.parse_args()
    beside = {row["arch"]: row for row in read_scores(args.beside)}
    archs = list(beside)
    truth = np.array([beside[arch]["truth"] for arch in archs])
    readings = {
        (i, repeat): column
        for i, folder in enumerate(args.folders)
        for repeat, column in _readings(folder, archs).items()
    }
    columns = [c for c in map(column_of, beside[archs[0]]["scores"]) if c is not None]
    names = [*VOTE, *(str(c) for c in columns if (c.arm, c.score) == ("real", "loss"))]
    scores = {name: _column([beside[arch]["scores"][name] for arch in archs]) for name in names}
    free = sum(ranks(scores[name]) for name in VOTE)
    counts = resamples(len(archs), args.bootstrap, 0)
    rivals = {name: _spearman(column, truth, counts) for name, column in {**scores, "vote": free}.items()}
    result: dict[str, Any] = {"networks": len(archs), "alone": {n: _interval(f) for n, f in rivals.items()}}
    for name, choices in _choices(list(readings)).items():
        means = [np.mean([readings[key] for key in choice], axis=0) for choice in choices]
        for kind, joined in (("taught", means), ("vote-taught", [free + ranks(mean) for mean in means])):
            found = [_spearman(column, truth, counts) for column in joined]
            result[f"{kind}, {name}"] = {
                "each": [_compared(f, rivals) for f in found],
                "mean": _compared(np.mean(found, axis=0), rivals),
            }
    args.out.write_text(json.dumps(result, indent=1))
    _print(result)


def _readings(folder: Path, archs: list[str]) -> dict[int, Array]:
    """By repeat, the loss after the last taught step, (n,)."""
    found: dict[int, dict[str, float | None]] = {}
    for line in scored(folder):
        taught = [c for c in map(column_of, line["scores"]) if c and (c.arm, c.score) == ("gtn", "loss")]
        if taught:
            last = str(max(taught, key=lambda c: c.steps))
            found.setdefault(line["repeat"], {})[line["arch"]] = line["scores"][last]
    return {repeat: _column([by_arch[arch] for arch in archs]) for repeat, by_arch in found.items()}


def _choices(readings: list[Reading]) -> dict[str, list[list[Reading]]]:
    folders = sorted({i for i, _ in readings})
    repeats = sorted({r for _, r in readings})
    return {
        "one": [[key] for key in readings],
        "the repeats of a curriculum": [[key for key in readings if key[0] == i] for i in folders],
        "the curricula of a repeat": [[key for key in readings if key[1] == r] for r in repeats],
        "all": [readings],
    }


def _column(values: Sequence[float | None]) -> Array:
    """Scores (n,); one that is not finite is below all."""
    column = np.array(values, float)
    return np.where(np.isfinite(column), column, -1e9)


def _spearman(score: Array, truth: Array, counts: Array) -> Array:
    """On the networks, and on the resamples of them: (1 + B,)."""
    return np.concatenate([measures(score, truth)["spearman"], measures(score, truth, counts)["spearman"]])


def _compared(found: Array, rivals: dict[str, Array]) -> dict[str, Any]:
    return _interval(found) | {"minus": {name: _interval(found - theirs) for name, theirs in rivals.items()}}


def _interval(found: Array) -> dict[str, Any]:
    low, high = np.percentile(found[1:], (2.5, 97.5))
    return {"value": round(float(found[0]), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _print(result: dict[str, Any]) -> None:
    for name, about in result.items():
        if not isinstance(about, dict) or "each" not in about:
            continue
        each = " ".join(f"{found['value']:.2f}" for found in about["each"])
        mean = about["mean"]
        print(f"{name:42s} {mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]   {each}")
        for rival, minus in mean["minus"].items():
            print(f"    - {rival:16s} {minus['value']:+.3f} [{minus['low']:+.3f}, {minus['high']:+.3f}]")


if __name__ == "__main__":
    main()
