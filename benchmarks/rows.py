"""What is made of the samples: rows, the verdict, the table and the plot."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from common import MIB, min_max
from jax_peer import JAX
from methods import COMPILED, TEACHERS
from peers import PEERS


def summary(
    method: str, samples: list[float], base: list[float], peak_bytes: int, flops: int, machine: float
) -> dict:
    """Of the ``samples`` the first was taken to warm up; ``machine``: FLOP/s of its matrix product."""
    first, *samples = samples
    ratios = [s / b for s, b in zip(samples, base[1:], strict=True)]
    row = {
        "method": method,
        "n": len(samples),
        "seconds": statistics.median(samples),
        "seconds_min_max": min_max(samples),
        "relative_to_plain": statistics.median(ratios),
        "relative_to_plain_min_max": min_max(ratios),
        "peak_mib": peak_bytes / MIB,
    }
    if method == COMPILED:
        row["compile_seconds"] = first - row["seconds"]
    if method in TEACHERS:
        return row
    rate = flops / row["seconds"]
    return {**row, "flops_per_second": rate, "fraction_of_floor": rate / machine}


def verdict(rows: list[dict]) -> dict[str, float | str]:
    """The fastest peer, and what minigtn takes relative to it."""
    peer = min((row for row in rows if row["method"] in (*PEERS, JAX)), key=lambda row: row["seconds"])
    ours = min((row for row in rows if row["method"].startswith("minigtn")), key=lambda row: row["seconds"])
    kept = next(row for row in rows if row["method"] == "minigtn Checkpointed(1)")
    return {
        "fastest_peer": peer["method"],
        "fastest_adjoint": ours["method"],
        "fastest_adjoint_time": ours["seconds"] / peer["seconds"],
        "checkpointed_time": kept["seconds"] / peer["seconds"],
        "checkpointed_memory": kept["peak_mib"] / max(peer["peak_mib"], 0.1),
    }


def plot(rows: list[dict], title: str, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5))
    for row in rows:
        low, high = row["seconds_min_max"]
        x = row["seconds"]
        y = max(row["peak_mib"], 0.1)
        colour = "grey" if row["method"] in TEACHERS else "tab:blue"
        if row["method"].startswith("minigtn"):
            colour = "tab:orange"
        axes.errorbar(x, y, xerr=[[x - low], [high - x]], fmt="o", color=colour, capsize=3)
        name = row["method"].removeprefix("minigtn ")
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8, color=colour)
    axes.set(
        yscale="log",
        xlabel="seconds per outer step (median, min-max)",
        ylabel="peak memory over the start [MiB]",
    )
    axes.set_xlim(left=0)
    axes.set_title(f"One meta-gradient: {title} (orange: minigtn)", fontsize=10)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def table(rows: list[dict]) -> str:
    lines = [
        f"{'method':<32}{'seconds (min-max)':>24}{'/ plain (min-max)':>22}"
        f"{'peak MiB':>10}{'GFLOP/s':>9}{'of floor':>10}{'compile s':>11}"
    ]
    for row in rows:
        spread = "{:.3f} ({:.3f}-{:.3f})".format(row["seconds"], *row["seconds_min_max"])
        ratio = "{:.2f} ({:.2f}-{:.2f})".format(row["relative_to_plain"], *row["relative_to_plain_min_max"])
        line = f"{row['method']:<32}{spread:>24}{ratio:>22}{row['peak_mib']:>10.1f}"
        if "flops_per_second" in row:
            line += f"{row['flops_per_second'] / 1e9:>9.1f}{row['fraction_of_floor']:>10.1%}"
        if "compile_seconds" in row:
            line += f"{row['compile_seconds']:>11.1f}"
        lines.append(line)
    return "\n".join(lines)
