"""What the mean of several curricula's readings is worth, for every choice of some of them.

    python benchmarks/curricula_together.py FOLDER FOLDER ... --out FILE.json

The folders are rankings of the same networks (`minigtn nas rank`), each by one curriculum of another outer
seed, from the same initial weights. For each number k of curricula: Spearman of the mean reading, the mean
over all choices of k, their range, a 95 % interval (bootstrap over networks), and paired differences from
FLOPs, the vote of the free scores, and real trainings, which the first folder has. The same for the vote with
that mean.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from minigtn.nas.statistics import Array, joined, measures, resamples
from minigtn.nas.tables import read_scores
from minigtn.nas.trainings import column_of

VOTE = ("flops", "synflow", "naswot")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--score", default="loss")
    parser.add_argument("--bootstrap", type=int, default=1000)
    args = parser.parse_args()
    tables = [{row["arch"]: row for row in read_scores(folder)} for folder in args.folders]
    archs = [arch for arch in tables[0] if all(arch in table for table in tables)]
    truth = np.array([tables[0][arch]["truth"] for arch in archs])
    columns = [c for c in map(column_of, tables[0][archs[0]]["scores"]) if c and c.score == args.score]
    taught = max((c for c in columns if c.arm == "gtn"), key=lambda c: c.steps)
    readings = [_column(table, archs, str(taught)) for table in tables]
    rivals = {name: _column(tables[0], archs, name) for name in VOTE}
    rivals |= {str(c): _column(tables[0], archs, str(c)) for c in columns if c.arm == "real"}
    free = [rivals[name] for name in VOTE]
    counts = resamples(len(archs), args.bootstrap, 0)
    beside = {
        name: _spearman(scores, truth, counts)
        for name, scores in {**rivals, "vote": joined(free, [1] * len(VOTE))}.items()
    }
    result: dict[str, Any] = {"networks": len(archs), "column": str(taught), "alone": {}, "together": {}}
    result["alone"] = {name: _interval(found) for name, found in beside.items()}
    for k in range(1, len(readings) + 1):
        means = [np.mean(chosen, axis=0) for chosen in itertools.combinations(readings, k)]
        both = [joined([*free, mean], [1] * len(VOTE) + [k]) for mean in means]
        for name, scores in (("taught", means), ("vote-taught", both)):
            found = [_spearman(score, truth, counts) for score in scores]
            mean = np.mean(found, axis=0)
            about = {"choices": len(found), "each": [round(float(f[0]), 3) for f in found], **_interval(mean)}
            about["minus"] = {rival: _interval(mean - theirs) for rival, theirs in beside.items()}
            result["together"][f"{name} {k}"] = about
    args.out.write_text(json.dumps(result, indent=1))
    for name, about in {**result["alone"], **result["together"]}.items():
        each = (
            f"  {min(about['each'])} to {max(about['each'])}, n = {about['choices']}"
            if "each" in about
            else ""
        )
        print(f"{name:18s} {about['value']:6.3f} [{about['low']:.3f}, {about['high']:.3f}]{each}")
        for rival, minus in about.get("minus", {}).items():
            print(f"{'':20s} - {rival:14s} {minus['value']:+.3f} [{minus['low']:+.3f}, {minus['high']:+.3f}]")


def _column(table: dict[str, Any], archs: list[str], name: str) -> Array:
    """Scores (n,); one that is not finite is below all."""
    scores = np.array([table[arch]["scores"][name] for arch in archs], float)
    return np.where(np.isfinite(scores), scores, -1e9)


def _spearman(score: Array, truth: Array, counts: Array) -> Array:
    """On the networks, and on the resamples of them: (1 + B,)."""
    return np.concatenate([measures(score, truth)["spearman"], measures(score, truth, counts)["spearman"]])


def _interval(found: Array) -> dict[str, float]:
    low, high = np.percentile(found[1:], (2.5, 97.5))
    return {"value": round(float(found[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


if __name__ == "__main__":
    main()
