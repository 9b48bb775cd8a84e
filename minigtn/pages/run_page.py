"""A run on one page, and a curriculum as a file for other programs.

    page = report.write(Path("runs/demo"))          # report.html: one file, no script, no request to anywhere
    report.export(curriculum, Path("digits.png"), "float32")

The drawing is in :mod:`minigtn.pages.figures`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigtn.pages import page
from minigtn.pages.figures import Line, Panel, png, smooth, spans_decades, svg
from minigtn.runs.files import read_json, read_metrics, write_atomically
from minigtn.teaching.curriculum import Curriculum, load_curriculum
from minigtn.teaching.pictures import contact_sheet, enlarged_sheet

ALL_STEPS = 32
SOME_STEPS = 16
MOST_CLASSES = 16  # columns (all of them, or of more) and rows of the sheet on the page

# ---- what the two commands call ----


def write(folder: Path) -> Path:
    """Draw the run in ``folder`` into its ``report.html``, written atomically, and return that path.

    Works from ``config.json`` alone; what a run has not made yet is left out, and the page says so. The same
    files give the same bytes.
    Cost: seconds; the page stays below 3 MB. Raises FileNotFoundError without a config.json, ValueError for
    an unreadable file.
    """
    target = folder / "report.html"
    write_atomically(target, _page(_Run.read(folder)))
    return target


def export(curriculum: Curriculum, target: Path, pixels: str) -> None:
    """Write ``curriculum`` to one file, atomically; the ending of ``target`` chooses the format.

    ``.safetensors``: for :func:`minigtn.load_curriculum`, with ``pixels`` "float32" or "uint8" · ``.npz``:
    NumPy arrays x (T, B, C, H, W), y (T, B, K), lr (T,), momentum (T,), class_names (K,), mean (C,), std (C,)
    · ``.png``: the picture that ``curriculum.show()`` gives. Raises ValueError for any other ending.
    """
    target = target.expanduser()
    ending = target.suffix.lower()
    if ending == ".safetensors":
        curriculum.save(target, pixels=pixels)
    elif ending == ".npz":
        arrays: Any = {
            name: getattr(curriculum, name).detach().cpu().numpy() for name in ("x", "y", "lr", "momentum")
        }
        arrays |= {name: np.array(getattr(curriculum, name)) for name in ("class_names", "mean", "std")}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(target, buffer.getvalue())
    elif ending == ".png":
        write_atomically(target, png(enlarged_sheet(curriculum)))
    else:
        raise ValueError(
            "a curriculum is exported to a file that ends in .safetensors, .npz or .png, not to "
            f"{target.name!r}"
        )


# ---- the run ----


@dataclass(frozen=True)
class _Run:
    """What a run's folder holds so far."""

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    curriculum: Curriculum | None
    result: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> _Run:
        saved = read_json(folder / "config.json")
        result = read_json(folder / "result.json") if (folder / "result.json").exists() else None
        curriculum = load_curriculum(folder) if (folder / "curriculum.safetensors").exists() else None
        if result is not None:  # those of minigtn 0.1 were read after every step, and the time was not taken
            curve = result["gtn_curve"]["mean"]
            steps = result.get("steps", [*range(1, len(curve) + 1)])
            reached = [
                step for step, mean in zip(steps, curve, strict=True) if mean >= result["real_accuracy"]
            ]
            older = {"steps": steps, "seconds_per_learner": None, "longer": None}
            result = {**older, "steps_to_match_real": min(reached, default=None), **result}
        config = (result or saved)["config"]
        records = read_metrics(folder / "metrics.jsonl")
        return cls(folder.resolve().name, config, saved, records, curriculum, result)

    @property
    def outer_steps(self) -> int:
        """Outer steps taken so far."""
        return int(self.records[-1]["step"]) if self.records else 0

    def column(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Outer steps, and the metric ``name`` at them, where it was recorded; null (not finite) becomes
        NaN."""
        pairs = [(r["step"], r[name]) for r in self.records if name in r]
        steps, values = np.array(pairs, float).reshape(-1, 2).T
        return steps, values


# ---- the page ----


def _page(run: _Run) -> str:
    figures = "".join((_accuracy(run), _schedules(run), _outer_loop(run), _tuning(run)))
    parts = (_header(run), _headline(run), _sheet(run), f'<div class="grid">{figures}</div>')
    body = "".join((*parts, _transfer(run), _settings(run)))
    return page.document(f"{run.config['dataset']}, {run.name}", body)


def _header(run: _Run) -> str:
    teacher = run.config["teacher"]
    total = run.config["meta"]["outer_steps"]
    T, B = run.curriculum.x.shape[:2] if run.curriculum else (teacher["inner_steps"], teacher["batch_size"])
    intro = (
        f"{T} inner steps of {B} synthetic images, by a teacher that was meta-trained for "
        f"{run.outer_steps:,} outer steps."
    )
    missing = ""
    skipped = ""
    if run.result is None:
        has = {"no metrics": run.records, "no curriculum": run.curriculum, "no test accuracy yet": None}
        missing = f"This run is not finished: {run.outer_steps:,} of {total:,} outer steps are done; it has "
        missing += (
            ", ".join(lack for lack, there in has.items() if not there)
            + ". The same command with --resume goes on."
        )
    if run.records and run.records[-1]["skipped"]:
        skipped = (
            f"{run.records[-1]['skipped']:,} of {run.outer_steps:,} meta-gradients were not finite "
            "and were skipped."
        )
    title = f"A curriculum for {escape(run.config['dataset'])}"
    return f"<header><h1>{title}</h1><p>{intro}</p>{page.note(missing)}{page.note(skipped)}</header>"


def _headline(run: _Run) -> str:
    if run.result is None:
        return ""
    r = run.result
    numbers = "".join(
        f'<div class="{colour}">{label}<b>{_percent(r[f"{arm}_accuracy"])} '
        f"<small>± {_percent(r[f'{arm}_accuracy_std'])}</small></b></div>"
        for arm, colour, label in (
            ("gtn", "taught", "taught by the curriculum"),
            ("real", "real", "real data, tuned"),
        )
    )
    points = f"{100 * (r['gtn_accuracy'] - r['real_accuracy']):+.1f}".replace("-", "\N{MINUS SIGN}")
    numbers += f"<div>difference<b>{points} <small>points</small></b></div>"
    caption = f"Test accuracy after {r['inner_steps']} inner steps of {r['batch_size']} images: "
    caption += f"mean ± 1 standard deviation over n = {r['n_learners']} fresh learners."
    if r["seconds_per_learner"] is None:
        lack = (
            "This result is older than the measurement of how long the training of one learner takes; "
            "minigtn evaluate takes it."
        )
        return page.card("", f'<div class="numbers">{numbers}</div>', caption, lack)
    seconds = {arm: _short(r["seconds_per_learner"][arm]) for arm in ("gtn", "real")}
    numbers += f"<div>training one learner<b>{seconds['gtn']} <small>s</small></b></div>"
    caption += (
        f" Time of one learner for its {r['inner_steps']} steps: {seconds['gtn']} s on the curriculum, "
    )
    caption += (
        f"{seconds['real']} s on real data, medians of {r['seconds_per_learner'].get('runs', 5)} "
        f"runs ({r['device']})."
    )
    return page.card("", f'<div class="numbers">{numbers}</div>', caption)


def _sheet(run: _Run) -> str:
    c = run.curriculum
    if c is None:
        return ""
    T = len(c.x)
    K = len(c.class_names)
    W = c.x.shape[-1]
    steps = _evenly(T, ALL_STEPS if T <= ALL_STEPS else SOME_STEPS)
    classes = _evenly(K, MOST_CLASSES)
    sheet = contact_sheet(c, steps, classes)
    high = len(sheet) // len(classes)
    wide = sheet.shape[1] // len(steps)  # one cell
    crisp = W < 24  # few pixels are shown as squares, enlarged by a whole number
    large, small = (
        max(wide, size - size % wide if crisp else size) for size in (min(72, 940 // len(steps)), 40)
    )
    numbers = "".join(f"<span>{t + 1}</span>" for t in steps)
    rows = f'<tr><th>step</th><td><div class="steps">{numbers}</div></td></tr>'
    for i, k in enumerate(classes):
        name = escape(c.class_names[k])
        uri = page.uri("png", png(sheet[i * high : (i + 1) * high]))
        image = f'<img src="{uri}" alt="Synthetic images of class {name}">'
        rows += f'<tr><th scope="row">{name}</th><td>{image}</td></tr>'
    caption = (
        "Read from left to right, this is what a fresh learner is taught: an image of each class "
        "(rows) for each inner step (columns)"
    )
    caption += f", {len(steps)} of {T} steps shown" if len(steps) < T else ""
    caption += f", {len(classes)} of {K} classes shown" if len(classes) < K else ""
    caption += (
        "; where a cell is empty, the batch holds no such image"
        if sheet[::high, ::wide, 3].min() == 0
        else ""
    )
    style = f"--n:{len(steps)};--wide:{large};--phone:{min(large, small)}"
    table = f'<table class="sheet{" crisp" if crisp else ""}" style="{style}">{rows}</table>'
    return page.card("The curriculum", f'<div class="scroll" tabindex="0">{table}</div>', caption + ".")


def _accuracy(run: _Run) -> str:
    if run.result is None:
        return ""
    r = run.result
    longer = run.result["longer"]
    steps = r["steps"]
    T = r["inner_steps"]
    B = r["batch_size"]
    seconds = r["seconds_per_learner"]

    def line(
        steps: list[int], curve: dict[str, list[float]], colour: str, label: str, dashed: bool = False
    ) -> Line:
        mean, std = (100 * np.array(curve[part]) for part in ("mean", "std"))
        return Line(np.array(steps), mean, colour, label, spread=std, dashed=dashed)

    lines = [
        line(steps, r["real_curve"], "real", "real data, tuned"),
        line(steps, r["gtn_curve"], "taught", "taught by the curriculum"),
    ]
    reached = r["steps_to_match_real"]
    caption = (
        f"Taught learners {'reach' if reached else 'do not reach'} the {_percent(r['real_accuracy'])} "
        "at which real data end"
    )
    caption += f" within {reached} of {T} steps" if reached else ""
    apart = 1.4
    if longer:
        last = longer["steps"][-1]
        needed = longer["steps_to_match"]
        lines.insert(0, line(longer["steps"], longer["curve"], "real", f"real, {last:,} steps", dashed=True))
        steps = longer["steps"][:: -1 - len(longer["steps"]) // 10][::-1]
        apart = 2
        caption += (
            f". Tuned for {last:,} steps (learning rate {longer['lr']:g}, momentum "
            f"{longer['momentum']:g}), real data "
        )
        caption += f"need at most {needed:,} steps for" if needed else "do not reach"
        caption += f" the {_percent(r['gtn_accuracy'])} that the curriculum gives in {T}"
    caption += f"; bands are ± 1 standard deviation over {r['n_learners']} learners."
    caption += (
        " Seconds are those of training one taught learner, in proportion to its steps." if seconds else ""
    )
    # or the numbers would overlap
    shown = [t for t, later in zip(steps, [*steps[1:], np.inf], strict=True) if later >= apart * t]
    ticks = {
        t: f"{t:,}\n{_short(t * B)}" + (f"\n{_short(seconds['gtn'] * t / T)}" if seconds else "")
        for t in shown
    }
    scales = "inner step / images" + (" / seconds" if seconds else "")
    return _figure("Accuracy of a fresh learner", [Panel("test accuracy (%)", lines)], scales, caption, ticks)


def _schedules(run: _Run) -> str:
    c = run.curriculum
    if c is None:
        return ""
    t = np.arange(1, len(c.lr) + 1)
    panels = []
    ranges = []
    for name, label, values in (("lr", "learning rate", c.lr), ("momentum", "momentum", c.momentum)):
        y = values.detach().cpu().numpy()
        legend = name == "lr"
        lines = [Line(t, y, "taught", "learned by the teacher" if legend else "")]
        if run.result:
            constant = np.full(len(t), run.result["real_arm"][name])
            lines.insert(0, Line(t, constant, "real", "real data, tuned" if legend else "", dashed=True))
        panels.append(Panel(label, lines, log=name == "lr" and spans_decades(y), from_zero=True))
        ranges.append(f"a {label} from {y.min():.2g} to {y.max():.2g}")
    return _figure(
        "Step sizes",
        panels,
        "inner step",
        f"The teacher gives every inner step its own: {' and '.join(ranges)}.",
    )


def _outer_loop(run: _Run) -> str:
    if not run.records:
        return ""
    steps, losses = run.column("meta_loss")
    window = 1 + 2 * (len(losses) // 60)
    average = smooth(losses, window)
    raw = [Line(steps, losses, "soft", "each outer step", thin=True)] if window > 1 else []
    mean = Line(steps, average, "taught", f"mean of {window} steps" if window > 1 else "each outer step")
    panels = [Panel("meta-loss (nats)", [*raw, mean], log=spans_decades(losses))]
    finite = average[np.isfinite(average)]
    caption = (
        f"The meta-loss went from {finite[0]:.2f} to {finite[-1]:.2f}"
        if len(finite)
        else "No meta-loss was finite"
    )
    valid_steps, valid = run.column("valid_accuracy")
    if len(valid):
        best = int(valid.argmax())
        panels.append(Panel("validation acc. (%)", [Line(valid_steps, 100 * valid, "taught")]))
        caption += (
            f"; validation accuracy was best at outer step {valid_steps[best]:,.0f} ({_percent(valid[best])})"
        )
        caption += (
            ", and that teacher is the result" if run.config["meta"]["valid_every"] and run.curriculum else ""
        )
    return _figure("Meta-training", panels, "outer step", caption + ".")


def _tuning(run: _Run) -> str:
    if run.result is None:
        return ""
    arm = run.result["real_arm"]
    scores = {(s["lr"], s["momentum"]): s["valid_accuracy"] for s in arm["tuning"]}
    lrs, momenta = (sorted({key[i] for key in scores}) for i in (0, 1))
    rows = (
        "<tr><th>lr \\ momentum</th>"
        + "".join(f'<th scope="col">{momentum:g}</th>' for momentum in momenta)
        + "</tr>"
    )
    for lr in lrs:
        rows += f'<tr><th scope="row">{lr:g}</th>'
        for momentum in momenta:
            score = scores[lr, momentum]
            best = (lr, momentum) == (arm["lr"], arm["momentum"])
            rows += f'<td style="--heat:{score:.3f}"{" class=best" if best else ""}>{_percent(score)}</td>'
        rows += "</tr>"
    caption = (
        f"Real data do best with learning rate {arm['lr']:g} and momentum {arm['momentum']:g}, by "
        f"{arm['tuned_on']} accuracy"
    )
    caption += f" ({arm['tuning_images']:,} images)." if "tuning_images" in arm else "."
    sizes = f"learning rate {arm['lr']:g}, momentum {arm['momentum']:g}"
    note = (
        f"The tuned {sizes} is at the edge of the grid: a wider --evaluation.real-lrs or "
        "--evaluation.real-momenta may do better."
    )
    table = f'<div class="scroll" tabindex="0"><table class="heat">{rows}</table></div>'
    return page.card("Tuning of the real-data arm", table, caption, note if arm["at_edge_of_grid"] else "")


def _transfer(run: _Run) -> str:
    """Ordinary networks that the teacher never met, where the result has them."""
    if run.result is None or not run.result.get("transfer"):
        return ""
    matrix = run.result["transfer"]
    networks = matrix["rows"]
    few, many = (f"{matrix[name]:,}" for name in ("inner_steps", "more_steps"))
    arms = {
        "taught": {name: row["taught"]["curriculum"] for name, row in networks.items()},
        f"real, {few} steps": {name: row["real"] for name, row in networks.items()},
        f"real, {many} steps": {name: row["real_more"] for name, row in networks.items()},
    }
    taught, real, _ = arms.values()
    better = [name for name in networks if taught[name]["mean"] > real[name]["mean"]]
    rows = "<tr><th>network</th>" + "".join(f'<th scope="col">{arm}</th>' for arm in arms) + "</tr>"
    for name, row in networks.items():
        rows += f'<tr><th scope="row">{escape(name)}: {escape(row["about"])}</th>'
        for arm, cells in arms.items():
            cell = cells[name]
            best = ' class="best"' if arm == "taught" and name in better else ""
            sizes = f" ({cell['optimizer']}, {cell['lr']:g})" if "optimizer" in cell else ""
            shown = f"{_percent(cell['mean'])} ± {_percent(cell['std'])}{sizes}"
            rows += f'<td style="--heat:{cell["mean"]:.3f}"{best}>{shown}</td>'
        rows += "</tr>"
    means = [_percent(float(np.mean([cell["mean"] for cell in cells.values()]))) for cells in arms.values()]
    caption = (
        f"Test accuracy of torch modules that the teacher never met, after {few} steps: {means[0]} in the "
        f"mean, {means[1]} on real data with as many steps and {means[2]} with {many}. {len(better)} of "
        f"{len(networks)} (outlined) learn more from the curriculum than from as many real steps. Mean ± 1 "
        f"standard deviation over n = {matrix['n_learners']} fresh networks each; on real data SGD or Adam "
        "and its rate as they did best for that network on validation data."
    )
    table = f'<div class="scroll" tabindex="0"><table class="heat">{rows}</table></div>'
    return page.card("Networks never met", table, caption)


def _settings(run: _Run) -> str:
    result = run.result or {}
    saved = run.environment
    made = {name: saved.get(name, "unknown") for name in ("device", "commit")}
    made |= {
        f"{name}, evaluation": result[name] for name in made if result.get(name, made[name]) != made[name]
    }
    spent = {
        "meta-training": run.records[-1].get("seconds") if run.records else None,
        "evaluation": result.get("evaluation_seconds"),
    }
    made |= {name: f"{seconds:,.0f} s" for name, seconds in spent.items() if seconds is not None} | saved.get(
        "versions", {}
    )
    single = {name: value for name, value in run.config.items() if not isinstance(value, dict)}
    groups = [
        {f"{group}.{k}": v for k, v in values.items()}
        for group, values in run.config.items()
        if isinstance(values, dict)
    ]
    tables = "".join(
        page.table(flags)
        for flags in ({k.replace("_", "-"): v for k, v in group.items()} for group in (single, *groups))
    )
    caption = "Settings by the names of their flags, and what the figures were made with."
    return page.card("Settings", f'<div class="columns">{tables}{page.table(made)}</div>', caption)


def _figure(
    title: str, panels: list[Panel], xlabel: str, caption: str, ticks: dict[int, str] | None = None
) -> str:
    alt = " and ".join(panel.ylabel for panel in panels) + f" against {xlabel}"
    return page.figure(title, lambda palette: svg(panels, xlabel, palette, ticks), alt, caption)


def _evenly(n: int, most: int) -> list[int]:
    """All of 0..n-1, or ``most`` of them, evenly spaced from the first to the last."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()


def _short(number: float) -> str:
    """Two digits that count, thousands as k: 0.012, 1.3, 640, 16k."""
    if number >= 10_000:
        return f"{number / 1000:.0f}k"
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"
