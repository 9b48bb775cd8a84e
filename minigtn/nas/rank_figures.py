"""The figures of the rank report: correlation against steps and seconds, truth against scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigtn.nas.trainings import column_of
from minigtn.pages import page
from minigtn.pages.figures import as_svg, canvas

RASTER = 1000  # points from which a scatter plot is pixels inside the SVG
PARTS = {"all": "all networks", "better_half": "the better half"}
ARMS = {
    "gtn": ("taught", "taught", "-"),
    "real": ("real, annealed", "real", "-"),
    "real-constant": ("real, constant", "real", "--"),
    "gtn-real": ("taught, then real", "taught", "--"),
}
"""Label, colour and line of each."""


def shown(result: dict[str, Any]) -> list[str]:
    """The columns that are read for the ranking's score, and those of no training, the best first; those
    without a correlation last."""
    names = [
        name for name in result["columns"] if (c := column_of(name)) is None or c.score == result["score"]
    ]
    return sorted(names, key=lambda name: -or_(result["columns"][name]["all"]["spearman"]["value"], -2.0))


def curves(result: dict[str, Any], part: str, against: str) -> str:
    """Spearman of every arm against its steps, or the seconds that these take, and of the free scores."""
    columns = result["columns"]
    arms: dict[str, list[str]] = {}
    free = []
    for name in shown(result):
        if columns[name][part]["spearman"]["value"] is None:
            continue
        if (column := column_of(name)) is None:
            free.append(name)
        else:
            arms.setdefault(column.arm, []).append(name)

    def place(name: str) -> float:
        column = column_of(name)
        return float(column.steps) if against == "steps" and column else columns[name]["seconds"]["mean"]

    def draw(axes: Any, palette: dict[str, str]) -> None:
        for arm, names in arms.items():
            label, colour, line = ARMS[arm]
            names.sort(key=place)
            x = [max(place(name), 1e-6) for name in names]
            y = [columns[name][part]["spearman"] for name in names]
            low, high = ([or_(reading[side], reading["value"]) for reading in y] for side in ("low", "high"))
            values = [reading["value"] for reading in y]
            axes.plot(x, values, line, marker="o", markersize=4, color=palette[colour], label=label)
            axes.fill_between(x, low, high, color=palette[colour], alpha=0.12, linewidth=0)
        known = {name: columns[name][part]["spearman"]["value"] for name in free}
        known = dict(sorted(known.items(), key=lambda item: -item[1]))
        for name, height in known.items():
            if against == "seconds":
                axes.plot(max(place(name), 1e-6), height, "x", color=palette["soft"])
            else:
                axes.axhline(height, color=palette["soft"], linestyle=":", linewidth=1)
        # names in a column of their own, each as near to its height as the others let it be
        low, high = axes.get_ylim()
        for name, height in zip(known, apart(list(known.values()), (high - low) / 20), strict=True):
            axes.annotate(name, (1.01, height), fontsize=8, color=palette["soft"], va="center",
                          xycoords=("axes fraction", "data"), annotation_clip=False)  # fmt: skip
        axes.set_xscale("log", base=2 if against == "steps" else 10)
        if against == "steps":
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("training steps" if against == "steps" else "seconds per network")
        axes.set_ylabel(f"Spearman, {PARTS[part]}")
        if arms:
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), borderpad=0, ncols=3, columnspacing=0.9, fontsize=8
            )

    caption = (
        "Bands are 95 % intervals over networks. Annealed: each point is a training of its own, tuned for it."
    )
    if against == "seconds":
        caption += " The seconds hold neither tuning nor the meta-training of a teacher."
    alt = f"Spearman on {PARTS[part]} against {against}"
    return _figure(f"Spearman and {against}, {PARTS[part]}", draw, alt, caption)


def apart(heights: list[float], least: float) -> list[float]:
    """Heights that fall, moved as little as it takes (least squares) to be ``least`` apart."""
    groups: list[list[float]] = []  # of neighbours that touch, as if stacked: their heights above the lowest
    for i, height in enumerate(heights):
        groups.append([height + i * least])
        while len(groups) > 1 and np.mean(groups[-1]) > np.mean(groups[-2]):
            groups[-2:] = [groups[-2] + groups[-1]]
    stacked = [float(np.mean(group)) for group in groups for _ in group]
    return [height - i * least for i, height in enumerate(stacked)]


def scatter(column: str, result: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    if column in result["votes"]:
        return ""
    pairs = [(row["scores"][column], row["truth"]) for row in rows if row["scores"].get(column) is not None]
    if not pairs:
        return ""
    x, y = np.array(pairs).T
    better = y >= sorted(row["truth"] for row in rows)[-result["better_half"]]

    def draw(axes: Any, palette: dict[str, str]) -> None:
        for mask, colour in ((~better, "soft"), (better, "taught")):
            axes.scatter(
                x[mask],
                y[mask],
                s=12,
                alpha=0.6,
                linewidths=0,
                color=palette[colour],
                rasterized=len(x) > RASTER,
            )
        axes.set_xlabel(f"score, {column}")
        axes.set_ylabel(result["truth"])
        axes.locator_params(axis="x", nbins=5)

    all_, half = (result["columns"][column][part]["spearman"]["value"] for part in PARTS)
    caption = (
        f"Spearman {number(all_, '{:.3f}')} on all networks, {number(half, '{:.3f}')} on the better "
        "half (coloured)."
    )
    return _figure(column, draw, f"{result['truth']} against the score of {column}", caption)


def _figure(title: str, draw: Callable[[Any, dict[str, str]], None], alt: str, caption: str) -> str:
    """A card with one picture, drawn by ``draw(axes, palette)``."""

    def drawn(palette: dict[str, str]) -> bytes:
        with canvas(palette) as sheet:
            draw(sheet.subplots(), palette)
            return as_svg(sheet)

    return page.figure(title, drawn, alt, caption)


def number(value: float | None, form: str) -> str:
    return "not defined" if value is None else form.format(value).replace("-", "\N{MINUS SIGN}")


def seconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2g}" if value >= 0.001 else "under 0.001"


def or_(value: float | None, default: float) -> float:
    return default if value is None else value
