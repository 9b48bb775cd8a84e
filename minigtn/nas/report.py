"""The rank report: one page, no script, no request to anywhere, drawn from a folder that
:func:`minigtn.nas.ranking.rank` filled.

    page = report.write(Path("runs/rank"))

Matplotlib is imported when something is drawn, not with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from minigtn.nas.tables import read_scores
from minigtn.pages import page
from minigtn.pages.figures import as_svg, canvas
from minigtn.runs.files import read_json, write_atomically

RASTER = 1000  # points from which a scatter plot is pixels inside the SVG
# that are tuned
SETTINGS = {
    "lr": "learning rate",
    "momentum": "momentum",
    "lr_scale": "the curriculum's learning rates times",
}
PARTS = {"all": "all networks", "better_half": "the better half"}
OWN_CSS = """
.ranks td, .ranks th { padding: 5px 10px; text-align: right; white-space: nowrap }
.ranks td, .ranks th { font-variant-numeric: tabular-nums }
.ranks th:first-child { text-align: left; position: sticky; left: 0; background: var(--card) }
.ranks td { vertical-align: top }
.ranks tr { border-bottom: 1px solid var(--line) } .ranks small { display: block; color: var(--soft) }
"""


def write(folder: Path) -> Path:
    """Draw ``report.html`` from the folder's ``rank.json``, ``scores.jsonl`` and ``config.json``, atomically;
    return its path.

    Cost: seconds. The same files give the same bytes. Raises FileNotFoundError without a rank.json,
    ValueError for an unreadable file.
    """
    result = read_json(folder / "rank.json")
    saved = read_json(folder / "config.json")
    tuning = read_json(folder / "tuning.json") if (folder / "tuning.json").exists() else {}
    rows = read_scores(folder, result["archs"])
    target = folder / "report.html"
    write_atomically(target, _page(folder.resolve().name, result, saved, tuning, rows))
    return target


def _page(
    name: str,
    result: dict[str, Any],
    saved: dict[str, Any],
    tuning: dict[str, Any],
    rows: list[dict[str, Any]],
) -> str:
    body = _header(result, saved) + "".join(_ranks(result, part) for part in PARTS)
    scatters = "".join(_scatter(column, result, rows) for column in _by_spearman(result))
    body += f'<div class="grid">{_cost(result)}{scatters}</div>'
    return page.document(
        f"{result['config']['space']}, {name}", body + _settings(result, saved, tuning), OWN_CSS
    )


def _header(result: dict[str, Any], saved: dict[str, Any]) -> str:
    intro = (
        f"{result['networks']:,} networks drawn from the published table, whose column "
        f"{result['truth']} is the truth; estimates made "
    )
    intro += (
        f"with {saved['dataset']} on {saved['device']}. The better half: the {result['better_half']:,} "
        "networks with the highest truth."
    )
    lost = {name: column["not_finite"] for name, column in result["columns"].items() if column["not_finite"]}
    note = (
        "Scores that were not finite rank last: "
        + ", ".join(f"{n} of {name}" for name, n in lost.items())
        + "."
        if lost
        else ""
    )
    title = f"Ranking {escape(result['config']['space'])}"
    return f"<header><h1>{title}</h1><p>{escape(intro)}</p>{page.note(note)}</header>"


def _by_spearman(result: dict[str, Any]) -> list[str]:
    """Columns, the best first; those without a correlation last."""
    return sorted(
        result["columns"], key=lambda name: -_or(result["columns"][name]["all"]["spearman"]["value"], -2.0)
    )


def _ranks(result: dict[str, Any], part: str) -> str:
    heads = ("estimator", "s per network", "Spearman", "Kendall", "precision@10 %", "regret, points")
    table = "<tr>" + "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr>"
    for name in _by_spearman(result):
        column = result["columns"][name]
        table += f'<tr><th scope="row">{escape(name)}</th><td>{_seconds(column["seconds"]["mean"])}</td>'
        for measure, form in (
            ("spearman", "{:.3f}"),
            ("kendall", "{:.3f}"),
            ("precision", "{:.0%}"),
            ("regret", "{:.2f}"),
        ):
            table += _cell(column[part][measure], form)
        table += "</tr>"
    caption = (
        f"95 % intervals: bootstrap over networks, {result['bootstrap']:,} resamples. Regret: the "
        "best network's truth minus that of the "
    )
    caption += "network with the best estimate."
    caption += f" vote: mean rank of {', '.join(result['vote'])}." if "vote" in result["columns"] else ""
    n = result["networks"] if part == "all" else result["better_half"]
    body = f'<div class="scroll" tabindex="0"><table class="ranks">{table}</table></div>'
    return page.card(f"On {PARTS[part]}, n = {n:,}", body, caption)


def _cell(measure: dict[str, float | None], form: str) -> str:
    value, low, high = (measure[name] for name in ("value", "low", "high"))
    if value is None:
        return "<td>not defined<small>all alike</small></td>"
    spread = (
        f"<small>{_number(low, form)} to {_number(high, form)}</small>"
        if low is not None and high is not None
        else ""
    )
    return f"<td>{_number(value, form)}{spread}</td>"


def _cost(result: dict[str, Any]) -> str:
    drawn = [
        name
        for name in _by_spearman(result)
        if result["columns"][name]["all"]["spearman"]["value"] is not None
    ]

    def draw(axes: Any, palette: dict[str, str]) -> None:
        for name in drawn:
            column = result["columns"][name]
            x = max(column["seconds"]["mean"], 1e-6)
            y = column["all"]["spearman"]
            taught = name.startswith("gtn")
            colour = palette["taught" if taught else "real" if name.startswith(("real", "tse")) else "soft"]
            # real data of as many steps is near
            at = {"xytext": (-6, -12), "ha": "right"} if taught else {"xytext": (6, 4)}
            low, high = (_or(y[side], y["value"]) for side in ("low", "high"))
            axes.plot([x, x], [low, high], color=colour, linewidth=1.5)
            axes.plot(x, y["value"], "o", color=colour, zorder=4 if taught else 3)
            axes.annotate(
                name, (x, y["value"]), textcoords="offset points", color=palette["ink"], fontsize=9, **at
            )
        axes.set_xscale("log")
        axes.margins(x=0.18)
        axes.set_xlabel("seconds per network")
        axes.set_ylabel("Spearman, all networks")

    caption = (
        "What an estimate costs against how well it ranks; bars are 95 % intervals. Up and to the "
        "left is better. The seconds hold "
    )
    caption += "neither tuning nor the meta-training of a teacher."
    return _figure("Cost and correlation", draw, "Spearman against seconds per network", caption)


def _scatter(column: str, result: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    if column == "vote":
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
        f"Spearman {_number(all_, '{:.3f}')} on all networks, {_number(half, '{:.3f}')} on the better "
        "half (coloured)."
    )
    return _figure(column, draw, f"{result['truth']} against the score of {column}", caption)


def _settings(result: dict[str, Any], saved: dict[str, Any], tuning: dict[str, Any]) -> str:
    config = {**saved["config"], **result["config"]}
    made = {name: saved.get(name, "unknown") for name in ("dataset", "device", "commit")} | saved.get(
        "versions", {}
    )
    made |= {
        f"{name}, all networks": f"{column['seconds']['total']:,.1f} s"
        for name, column in result["columns"].items()
        if name != "vote"
    }
    tables = page.table({name.replace("_", "-"): value for name, value in config.items()}) + page.table(made)
    notes = ""
    for name, tuned in tuning.items():
        chosen = " and ".join(f"{SETTINGS[key]} {tuned[key]:g}" for key in SETTINGS if key in tuned)
        text = (
            f"{name}: {chosen} {'were' if 'and' in chosen else 'was'} the best of {len(tuned['tried'])} "
            "settings on "
        )
        text += (
            f"validation data, with {len(tuned['networks'])} networks each; tuning took "
            f"{tuned['seconds']:,.1f} s."
        )
        text += (
            " It is at the edge of the grid: a wider one may do better." if tuned["at_edge_of_grid"] else ""
        )
        notes += page.note(text)
    body = f'{notes}<div class="columns">{tables}</div>'
    return page.card(
        "Settings", body, "Settings, what the figures were made with, and what each column cost."
    )


# ---- figures and numbers ----


def _figure(title: str, draw: Callable[[Any, dict[str, str]], None], alt: str, caption: str) -> str:
    """A card with one picture, drawn by ``draw(axes, palette)``."""

    def drawn(palette: dict[str, str]) -> bytes:
        with canvas(palette) as sheet:
            draw(sheet.subplots(), palette)
            return as_svg(sheet)

    return page.figure(title, drawn, alt, caption)


def _number(value: float | None, form: str) -> str:
    return "not defined" if value is None else form.format(value).replace("-", "\N{MINUS SIGN}")


def _seconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2g}" if value >= 0.001 else "under 0.001"


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
