"""The rank report: one page, no script, no request to anywhere, drawn from a folder that
:func:`minigtn.nas.ranking.rank` filled.

    page = report.write(Path("runs/rank"))

Matplotlib is imported when something is drawn, not with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from minigtn.nas.rank_figures import PARTS, curves, number, scatter, seconds, shown
from minigtn.nas.tables import read_scores
from minigtn.nas.trainings import column_of
from minigtn.pages import page
from minigtn.runs.files import read_json, write_atomically

# that are tuned
SETTINGS = {
    "lr": "learning rate",
    "momentum": "momentum",
    "lr_scale": "the curriculum's learning rates times",
}
MEASURES = {
    "spearman": ("Spearman", "{:.3f}"),
    "kendall": ("Kendall", "{:.3f}"),
    "precision": ("precision@10 %", "{:.0%}"),
    "regret": ("regret, points", "{:.2f}"),
}
PAIRED = ("kendall", "precision", "regret")  # beside Spearman
READ_FOR = {
    "loss": "minus their validation loss",
    "accuracy": "their validation accuracy",
    "tse": "minus the sum of their training losses",
}
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
    rows = read_scores(folder, result["archs"], result["config"]["repeats"])
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
    names = shown(result)
    trained = any(map(column_of, names))
    places = ("steps", "seconds") if trained else ("seconds",)
    figures = (curves(result, part, against) for part in PARTS for against in places)
    body = f'{_header(result, saved)}<div class="grid">{"".join(figures)}</div>'
    body += "".join(_ranks(result, part, names) for part in PARTS) + _differences(result, names)
    body += _replay(result)
    last = {c.arm: c.steps for c in sorted(filter(None, map(column_of, names)))}
    ends = [name for name in names if (c := column_of(name)) is None or last[c.arm] == c.steps]
    body += f'<div class="grid">{"".join(scatter(name, result, rows) for name in ends)}</div>'
    return page.document(
        f"{result['config']['space']}, {name}", body + _settings(result, saved, tuning), OWN_CSS
    )


def _header(result: dict[str, Any], saved: dict[str, Any]) -> str:
    repeats = result["config"]["repeats"]
    intro = (
        f"{result['networks']:,} networks drawn from the published table, whose column "
        f"{result['truth']} is the truth; estimates made with {saved['dataset']} on {saved['device']}, "
        f"n = {repeats} initial weights of each network. The better half: the {result['better_half']:,} "
        f"networks with the highest truth. Trainings are read for {READ_FOR[result['score']]}; rank.json has "
        "the others."
    )
    curricula = 1 + len(saved["config"].get("more_curricula", ()))
    if curricula > 1:
        intro += f" A taught reading is the mean of a training by each of {curricula} curricula."
    counted = {name: result["columns"][name]["not_finite"] for name in shown(result)}
    lost = ", ".join(f"{n} of {name}" for name, n in counted.items() if n)
    note = f"Scores that were not finite rank last: {lost}." if lost else ""
    title = f"Ranking {escape(result['config']['space'])}"
    return f"<header><h1>{title}</h1><p>{escape(intro)}</p>{page.note(note)}</header>"


def _ranks(result: dict[str, Any], part: str, names: list[str]) -> str:
    rows = []
    for name in names:
        column = result["columns"][name]
        cells = [_cell(column[part][measure], form) for measure, (_, form) in MEASURES.items()]
        rows.append([name, f"<td>{seconds(column['seconds']['mean'])}</td>", *cells])
    caption = (
        f"95 % intervals: bootstrap over networks, {result['bootstrap']:,} resamples. Regret: the best "
        "network's truth minus that of the network with the best estimate."
    )
    caption += "".join(
        f" {name}: mean rank of {', '.join(parts)}." for name, parts in result["votes"].items()
    )
    caption += _repaid(result.get("meta_training", {})) + _predictor(result.get("predictor", {}))
    n = result["networks"] if part == "all" else result["better_half"]
    heads = ("estimator", "s per network", *(head for head, _ in MEASURES.values()))
    return page.card(f"On {PARTS[part]}, n = {n:,}", _table(heads, rows), caption)


def _repaid(about: dict[str, Any]) -> str:
    if not about:
        return ""
    when = ", ".join(
        f"{name} {'never' if networks is None else f'after {networks:,} networks'}"
        for name, networks in about["repaid"].items()
    )
    return f" Meta-training took {about['seconds']:,.0f} s; beside {when} that is repaid." if when else ""


def _predictor(about: dict[str, Any]) -> str:
    """What the predictors are, in the words of a caption."""
    if "target" not in about:
        return f" There is {about['missing']}." if "missing" in about else ""
    parts = " and ".join(
        f"{name} of {', '.join(f'{part} ({weight:+.2f})' for part, weight in weights.items())}"
        for name, weights in about["weights"].items()
    )
    return (
        f" {parts} (mean weights of ranks): ridge regression on {about['target']} of {about['networks']} "
        f"networks, its strength by leave-one-out; judged on the others, mean of {about['choices']} choices "
        "of the fitted ones, of which each resample has one. Its seconds hold those real trainings, shared "
        "by all networks."
    )


def _replay(result: dict[str, Any]) -> str:
    """What searches within budgets of seconds find."""
    if "replay" not in result:
        return ""
    about = result["replay"]
    heads = ["search"]
    for budget in about["budgets"]:
        trainings = budget["seconds"] / about["real_seconds"]
        heads.append(f"{budget['seconds']:,.0f} s, {trainings:.1f} real")
    rows = []
    for name in about["budgets"][0]["strategies"]:
        cells = []
        for budget in about["budgets"]:
            found = budget["strategies"][name]
            if not found["searches"]:
                cells.append("<td>none<small>too few seconds or networks</small></td>")
                continue
            spread = found["found"]["std"]
            form = f"{found['found']['mean']:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
            few = "" if found["searches"] == about["searches"] else f", n = {found['searches']}"
            cells.append(f"<td>{form}<small>regret {found['regret']['mean']:.2f}{few}</small></td>")
        rows.append([name, *cells])
    best = f"{about['best']['mean']:.2f}"
    caption = (
        f"Truth of what a search finds within so many seconds (of so many {about['real']}), replayed on the "
        f"scores above: n = {about['searches']} searches, each among another half of the networks "
        f"({about['candidates']}; they overlap), mean ± standard deviation; the best there is {best}. "
        "Truth is read at the end alone. Meta-training and tuning, spent once for a space, are not counted. "
        "X, then real, or halving: half of the seconds for X, then real trainings that begin with its best; "
        "halving: short ones, and longer ones of their better third."
    )
    return page.card("Searches within a budget", _table(heads, rows), caption)


def _differences(result: dict[str, Any], names: list[str]) -> str:
    """Each column against its rivals, on all networks."""
    rows = []
    for name in names:
        for rival, found in result["columns"][name]["against"].items():
            cells = [_cell(found[part]["spearman"], "{:+.3f}") for part in PARTS] + [
                _cell(found["all"][measure], MEASURES[measure][1].replace(":", ":+")) for measure in PAIRED
            ]
            rows.append([f"{name} \N{MINUS SIGN} {rival}", *cells])
    if not rows:
        return ""
    heads = (
        "difference",
        *(f"Spearman, {part}" for part in PARTS.values()),
        *(MEASURES[m][0] for m in PAIRED),
    )
    caption = (
        "95 % intervals of differences on the same resamples of networks: one that excludes zero is better, "
        "or worse (a regret: the other way round), than its rival by more than the draw of networks explains."
    )
    return page.card("Paired differences", _table(heads, rows), caption)


def _table(heads: Sequence[str], rows: list[list[str]]) -> str:
    """Rows of a name, as plain text, and cells."""
    table = "<tr>" + "".join(f'<th scope="col">{escape(head)}</th>' for head in heads) + "</tr>"
    for name, *cells in rows:
        table += f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'
    return f'<div class="scroll" tabindex="0"><table class="ranks">{table}</table></div>'


def _cell(measure: dict[str, float | None], form: str) -> str:
    value, low, high = (measure[name] for name in ("value", "low", "high"))
    if value is None:
        return "<td>not defined<small>all alike</small></td>"
    spread = (
        f"<small>{number(low, form)} to {number(high, form)}</small>"
        if low is not None and high is not None
        else ""
    )
    return f"<td>{number(value, form)}{spread}</td>"


def _settings(result: dict[str, Any], saved: dict[str, Any], tuning: dict[str, Any]) -> str:
    config = {**saved["config"], **result["config"]}
    made = {name: saved.get(name, "unknown") for name in ("dataset", "device", "commit")} | saved.get(
        "versions", {}
    )
    made |= {
        f"{name}, all networks": f"{result['columns'][name]['seconds']['total']:,.1f} s"
        for name in shown(result)
        if name not in result["votes"]
    }
    tables = page.table({name.replace("_", "-"): value for name, value in config.items()}) + page.table(made)
    tables += page.table({f"{name} was tuned": _tuned(about) for name, about in tuning.items()})
    at_edge = [name for name, about in tuning.items() if about["at_edge_of_grid"]]
    note = (
        f"At the edge of its grid, so that a wider one may do better: {', '.join(at_edge)}."
        if at_edge
        else ""
    )
    caption = (
        "Settings, what the figures were made with, what each column cost, and what was chosen on validation "
        f"data by other networks: {sum(about['seconds'] for about in tuning.values()):,.1f} s of tuning."
    )
    return page.card("Settings", f'<div class="columns">{tables}</div>', caption, note)


def _tuned(about: dict[str, Any]) -> str:
    chosen = " and ".join(f"{SETTINGS[key]} {about[key]:g}" for key in SETTINGS if key in about)
    return (
        f"{chosen}, the best of {len(about['tried'])} settings with {len(about['networks'])} networks each; "
        f"{about['seconds']:,.1f} s"
    )
