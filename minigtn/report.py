"""A run on one page, and a curriculum as a file for other programs.

    page = report.write(Path("runs/demo"))          # report.html: one file, no script, no request to anywhere
    report.export(curriculum, Path("digits.png"), "float32")

The drawing is in :mod:`minigtn.figures`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigtn.curriculum import Curriculum, load_curriculum
from minigtn.evaluate import TIMED_RUNS, steps_to_reach
from minigtn.figures import FIGURE, PALETTES, Line, Panel, png, smooth, spans_decades, svg
from minigtn.files import read_json, read_metrics, write_atomically

ALL_STEPS, SOME_STEPS, MOST_CLASSES = 32, 16, 16  # columns (all of them, or of more) and rows of the sheet on the page

CSS = """
* { box-sizing: border-box } body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 1080px; margin: auto; padding: 32px 16px } h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 }
h2 { font-size: 1.1rem; margin: 0 0 8px } p { margin: 8px 0 0; color: var(--soft) } header { margin-bottom: 16px }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; min-width: 0; margin-bottom: 16px }
.grid { display: grid; gap: 0 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)) }
.numbers { display: flex; flex-wrap: wrap; gap: 8px 48px } .numbers small { font-size: 1.1rem; font-weight: 400; color: var(--soft) }
.numbers b { display: block; font-size: 2.6rem; line-height: 1.15; white-space: nowrap }
.taught b { color: var(--taught) } .real b { color: var(--real) }
.note { border-left: 4px solid var(--real); padding-left: 12px; color: var(--ink) } .scroll { overflow-x: auto }
picture img { display: block; width: 100%; max-width: 560px; height: auto; margin: auto }
table { border-collapse: collapse; font-size: .86rem; width: 100% } th { text-align: left; font-weight: 500; color: var(--soft) }
.columns { columns: 300px; column-gap: 32px } .columns table { break-inside: avoid; margin-bottom: 20px }
.columns td, .columns th { padding: 3px 0; vertical-align: top } .columns th { padding-right: 12px; white-space: nowrap }
.columns td { text-align: right; overflow-wrap: anywhere } .columns tr { border-bottom: 1px solid var(--line) }
.sheet { --cell: var(--wide); width: auto; margin: auto } .sheet td { padding: 0 } .crisp img { image-rendering: pixelated }
@media (max-width: 600px) { .sheet { --cell: var(--phone) } }
.sheet img { background: var(--line); box-shadow: -3px -3px 0 var(--line) }
.sheet img, .steps { display: block; width: calc(var(--n) * var(--cell) * 1px); height: auto }
.sheet th { position: sticky; left: 0; background: var(--card); padding: 0 10px 0 0; text-align: right; white-space: nowrap }
.steps { display: flex; text-align: center; color: var(--soft); font-size: .72rem } .steps span { flex: 1 }
.heat td, .heat th { padding: 5px 8px; text-align: right; font-variant-numeric: tabular-nums }
.heat td { background: color-mix(in srgb, var(--real) calc(var(--heat) * 55%), transparent) }
.heat .best { outline: 2px solid var(--real); outline-offset: -2px; font-weight: 700 }
"""


# ---- what the two commands call ----


def write(folder: Path) -> Path:
    """Draw the run in ``folder`` into its ``report.html``, written atomically, and return that path.

    Works from ``config.json`` alone; what a run has not made yet is left out, and the page says so. The same files give the same bytes.
    Cost: seconds; the page stays below 3 MB. Raises FileNotFoundError without a config.json, ValueError for an unreadable file.
    """
    page = folder / "report.html"
    write_atomically(page, _page(_Run.read(folder)))
    return page


def export(curriculum: Curriculum, target: Path, pixels: str) -> None:
    """Write ``curriculum`` to one file, atomically; the ending of ``target`` chooses the format.

    ``.safetensors``: for :func:`minigtn.load_curriculum`, with ``pixels`` "float32" or "uint8" · ``.npz``: NumPy arrays x (T, B, C, H, W),
    y (T, B, K), lr (T,), momentum (T,), class_names (K,), mean (C,), std (C,) · ``.png``: :func:`contact_sheet` of all steps and classes,
    enlarged to cells of 40 pixels or more. Raises ValueError for any other ending.
    """
    ending = target.suffix.lower()
    if ending == ".safetensors":
        curriculum.save(target, pixels=pixels)
    elif ending == ".npz":
        arrays: Any = {name: getattr(curriculum, name).detach().cpu().numpy() for name in ("x", "y", "lr", "momentum")}
        arrays |= {name: np.array(getattr(curriculum, name)) for name in ("class_names", "mean", "std")}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(target, buffer.getvalue())
    elif ending == ".png":
        T, K = len(curriculum.x), len(curriculum.class_names)
        scale = -(-40 // curriculum.x.shape[-1])
        write_atomically(target, png(contact_sheet(curriculum, range(T), range(K)).repeat(scale, 0).repeat(scale, 1)))
    else:
        raise ValueError(f"a curriculum is exported to a file that ends in .safetensors, .npz or .png, not to {target.name!r}")


def contact_sheet(curriculum: Curriculum, steps: Sequence[int], classes: Sequence[int]) -> NDArray[np.uint8]:
    """The first image of each class (rows) in the batch of each step (columns), as RGBA.

    Returns uint8 (len(classes) * (H + gap), len(steps) * (W + gap), 4): a gap of max(1, W // 14) pixels follows every image. Pixels are
    taken out of standardised units and clipped to what a real one can be; other than 3 channels are shown as their mean. Gaps, and the
    cells of classes that a batch does not hold, are transparent.
    """
    C, H, W = curriculum.x.shape[2:]
    gap = max(1, W // 14)
    labels = curriculum.y.argmax(-1).cpu().numpy()
    sheet = np.zeros((len(classes), H + gap, len(steps), W + gap, 4), np.uint8)
    for column, t in enumerate(steps):
        for row, k in enumerate(classes):
            found = np.flatnonzero(labels[t] == k)
            if len(found):
                image = curriculum.x[t, int(found[0])].detach().cpu().double().numpy()
                image = image * np.reshape(curriculum.std, (-1, 1, 1)) + np.reshape(curriculum.mean, (-1, 1, 1))
                rgb = image if C == 3 else image.mean(0, keepdims=True)
                sheet[row, :H, column, :W, :3] = (rgb.clip(0, 1) * 255).round().transpose(1, 2, 0)
                sheet[row, :H, column, :W, 3] = 255
    return sheet.reshape(len(classes) * (H + gap), len(steps) * (W + gap), 4)


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
            every_step = [*range(1, len(result["gtn_curve"]["mean"]) + 1)]
            result = {"steps": every_step, "seconds_per_learner": None, "longer": None, **result}
        config, records = (result or saved)["config"], read_metrics(folder / "metrics.jsonl")
        return cls(folder.resolve().name, config, saved, records, curriculum, result)

    @property
    def outer_steps(self) -> int:
        """Outer steps taken so far."""
        return int(self.records[-1]["step"]) if self.records else 0

    def column(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Outer steps, and the metric ``name`` at them, where it was recorded; null (not finite) becomes NaN."""
        pairs = [(r["step"], r[name]) for r in self.records if name in r]
        steps, values = np.array(pairs, float).reshape(-1, 2).T
        return steps, values


# ---- the page ----


def _page(run: _Run) -> str:
    light, dark = ("".join(f"--{name}: {colour}; " for name, colour in PALETTES[theme].items()) for theme in ("light", "dark"))
    themes = f":root {{ color-scheme: light dark; {light}}} @media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}"
    figures = "".join((_accuracy(run), _schedules(run), _outer_loop(run), _tuning(run)))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(run.config["dataset"])}, {escape(run.name)} | minigtn</title><link rel="icon" href="data:,">
<style>{themes}{CSS}</style></head>
<body><main>{_header(run)}{_headline(run)}{_sheet(run)}<div class="grid">{figures}</div>{_settings(run)}</main></body></html>
"""


def _card(title: str, body: str, caption: str, note: str = "") -> str:
    """A section; title, caption and note are plain text, the body is HTML."""
    heading = f"<h2>{escape(title)}</h2>" if title else ""
    return f'<section class="card">{heading}{body}<p>{escape(caption)}</p>{_note(note)}</section>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _header(run: _Run) -> str:
    teacher, total = run.config["teacher"], run.config["meta"]["outer_steps"]
    T, B = run.curriculum.x.shape[:2] if run.curriculum else (teacher["inner_steps"], teacher["batch_size"])
    intro = f"{T} inner steps of {B} synthetic images, by a teacher that was meta-trained for {run.outer_steps:,} outer steps."
    missing, skipped = "", ""
    if run.result is None:
        has = {"no metrics": run.records, "no curriculum": run.curriculum, "no test accuracy yet": None}
        missing = f"This run is not finished: {run.outer_steps:,} of {total:,} outer steps are done; it has "
        missing += ", ".join(lack for lack, there in has.items() if not there) + ". The same command with --resume goes on."
    if run.records and run.records[-1]["skipped"]:
        skipped = f"{run.records[-1]['skipped']:,} of {run.outer_steps:,} meta-gradients were not finite and were skipped."
    return f"<header><h1>A curriculum for {escape(run.config['dataset'])}</h1><p>{intro}</p>{_note(missing)}{_note(skipped)}</header>"


def _headline(run: _Run) -> str:
    if run.result is None:
        return ""
    r = run.result
    numbers = "".join(
        f'<div class="{colour}">{label}<b>{_percent(r[f"{arm}_accuracy"])} <small>± {_percent(r[f"{arm}_accuracy_std"])}</small></b></div>'
        for arm, colour, label in (("gtn", "taught", "taught by the curriculum"), ("real", "real", "real data, tuned"))
    )
    points = f"{100 * (r['gtn_accuracy'] - r['real_accuracy']):+.1f}".replace("-", "\N{MINUS SIGN}")
    numbers += f"<div>difference<b>{points} <small>points</small></b></div>"
    caption = f"Test accuracy after {r['inner_steps']} inner steps of {r['batch_size']} images: "
    caption += f"mean ± 1 standard deviation over n = {r['n_learners']} fresh learners."
    if r["seconds_per_learner"] is None:
        lack = "This result is older than the measurement of how long the training of one learner takes; minigtn evaluate takes it."
        return _card("", f'<div class="numbers">{numbers}</div>', caption, lack)
    seconds = {arm: _short(s) for arm, s in r["seconds_per_learner"].items()}
    numbers += f"<div>training one learner<b>{seconds['gtn']} <small>s</small></b></div>"
    caption += f" Time of one learner for its {r['inner_steps']} steps: {seconds['gtn']} s on the curriculum, "
    caption += f"{seconds['real']} s on real data, medians of {TIMED_RUNS} runs ({r['device']})."
    return _card("", f'<div class="numbers">{numbers}</div>', caption)


def _sheet(run: _Run) -> str:
    c = run.curriculum
    if c is None:
        return ""
    T, K, W = len(c.x), len(c.class_names), c.x.shape[-1]
    steps, classes = _evenly(T, ALL_STEPS if T <= ALL_STEPS else SOME_STEPS), _evenly(K, MOST_CLASSES)
    sheet = contact_sheet(c, steps, classes)
    high, wide = len(sheet) // len(classes), sheet.shape[1] // len(steps)  # one cell
    crisp = W < 24  # few pixels are shown as squares, enlarged by a whole number
    large, small = (max(wide, size - size % wide if crisp else size) for size in (min(72, 940 // len(steps)), 40))
    numbers = "".join(f"<span>{t + 1}</span>" for t in steps)
    rows = f'<tr><th>step</th><td><div class="steps">{numbers}</div></td></tr>'
    for i, k in enumerate(classes):
        name, uri = escape(c.class_names[k]), _uri("png", png(sheet[i * high : (i + 1) * high]))
        rows += f'<tr><th scope="row">{name}</th><td><img src="{uri}" alt="Synthetic images of class {name}"></td></tr>'
    caption = "Read from left to right, this is what a fresh learner is taught: an image of each class (rows) for each inner step (columns)"
    caption += f", {len(steps)} of {T} steps shown" if len(steps) < T else ""
    caption += f", {len(classes)} of {K} classes shown" if len(classes) < K else ""
    caption += "; where a cell is empty, the batch holds no such image" if sheet[::high, ::wide, 3].min() == 0 else ""
    style = f"--n:{len(steps)};--wide:{large};--phone:{min(large, small)}"
    table = f'<table class="sheet{" crisp" if crisp else ""}" style="{style}">{rows}</table>'
    return _card("The curriculum", f'<div class="scroll" tabindex="0">{table}</div>', caption + ".")


def _accuracy(run: _Run) -> str:
    if run.result is None:
        return ""
    r, longer = run.result, run.result["longer"]
    steps, T, B, seconds = r["steps"], r["inner_steps"], r["batch_size"], r["seconds_per_learner"]

    def line(steps: list[int], curve: dict[str, list[float]], colour: str, label: str, dashed: bool = False) -> Line:
        mean, std = (100 * np.array(curve[part]) for part in ("mean", "std"))
        return Line(np.array(steps), mean, colour, label, spread=std, dashed=dashed)

    lines = [line(steps, r["real_curve"], "real", "real data, tuned"), line(steps, r["gtn_curve"], "taught", "taught by the curriculum")]
    reached = steps_to_reach(r["real_accuracy"], steps, r["gtn_curve"]["mean"])
    caption = f"Taught learners {'reach' if reached else 'do not reach'} the {_percent(r['real_accuracy'])} at which real data end"
    caption += f" within {reached} of {T} steps" if reached else ""
    apart = 1.4
    if longer:
        last, needed = longer["steps"][-1], longer["steps_to_match"]
        lines.insert(0, line(longer["steps"], longer["curve"], "real", f"real, {last:,} steps", dashed=True))
        steps, apart = longer["steps"][:: -1 - len(longer["steps"]) // 10][::-1], 2
        caption += f". Tuned for {last:,} steps (learning rate {longer['lr']:g}, momentum {longer['momentum']:g}), real data "
        caption += f"need at most {needed:,} steps for" if needed else "do not reach"
        caption += f" the {_percent(r['gtn_accuracy'])} that the curriculum gives in {T}"
    caption += f"; bands are ± 1 standard deviation over {r['n_learners']} learners."
    caption += " Seconds are those of training one taught learner, in proportion to its steps." if seconds else ""
    shown = [t for t, later in zip(steps, [*steps[1:], np.inf], strict=True) if later >= apart * t]  # or the numbers would overlap
    ticks = {t: f"{t:,}\n{_short(t * B)}" + (f"\n{_short(seconds['gtn'] * t / T)}" if seconds else "") for t in shown}
    scales = "inner step / images" + (" / seconds" if seconds else "")
    return _figure("Accuracy of a fresh learner", [Panel("test accuracy (%)", lines)], scales, caption, ticks)


def _schedules(run: _Run) -> str:
    c = run.curriculum
    if c is None:
        return ""
    t = np.arange(1, len(c.lr) + 1)
    panels, ranges = [], []
    for name, label, values in (("lr", "learning rate", c.lr), ("momentum", "momentum", c.momentum)):
        y, legend = values.detach().cpu().numpy(), name == "lr"
        lines = [Line(t, y, "taught", "learned by the teacher" if legend else "")]
        if run.result:
            constant = np.full(len(t), run.result["real_arm"][name])
            lines.insert(0, Line(t, constant, "real", "real data, tuned" if legend else "", dashed=True))
        panels.append(Panel(label, lines, log=name == "lr" and spans_decades(y), from_zero=True))
        ranges.append(f"a {label} from {y.min():.2g} to {y.max():.2g}")
    return _figure("Step sizes", panels, "inner step", f"The teacher gives every inner step its own: {' and '.join(ranges)}.")


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
    caption = f"The meta-loss went from {finite[0]:.2f} to {finite[-1]:.2f}" if len(finite) else "No meta-loss was finite"
    valid_steps, valid = run.column("valid_accuracy")
    if len(valid):
        best = int(valid.argmax())
        panels.append(Panel("validation acc. (%)", [Line(valid_steps, 100 * valid, "taught")]))
        caption += f"; validation accuracy was best at outer step {valid_steps[best]:,.0f} ({_percent(valid[best])})"
        caption += ", and that teacher is the result" if run.config["meta"]["valid_every"] and run.curriculum else ""
    return _figure("Meta-training", panels, "outer step", caption + ".")


def _tuning(run: _Run) -> str:
    if run.result is None:
        return ""
    arm = run.result["real_arm"]
    scores = {(s["lr"], s["momentum"]): s["valid_accuracy"] for s in arm["tuning"]}
    lrs, momenta = (sorted({key[i] for key in scores}) for i in (0, 1))
    rows = "<tr><th>lr \\ momentum</th>" + "".join(f'<th scope="col">{momentum:g}</th>' for momentum in momenta) + "</tr>"
    for lr in lrs:
        rows += f'<tr><th scope="row">{lr:g}</th>'
        for momentum in momenta:
            score, best = scores[lr, momentum], (lr, momentum) == (arm["lr"], arm["momentum"])
            rows += f'<td style="--heat:{score:.3f}"{" class=best" if best else ""}>{_percent(score)}</td>'
        rows += "</tr>"
    caption = f"Real data do best with learning rate {arm['lr']:g} and momentum {arm['momentum']:g}, by {arm['tuned_on']} accuracy"
    caption += f" ({arm['tuning_images']:,} images)." if "tuning_images" in arm else "."
    sizes = f"learning rate {arm['lr']:g}, momentum {arm['momentum']:g}"
    note = f"The tuned {sizes} is at the edge of the grid: a wider --evaluation.real-lrs or --evaluation.real-momenta may do better."
    table = f'<div class="scroll" tabindex="0"><table class="heat">{rows}</table></div>'
    return _card("Tuning of the real-data arm", table, caption, note if arm["at_edge_of_grid"] else "")


def _settings(run: _Run) -> str:
    result, saved = run.result or {}, run.environment
    made = {name: saved.get(name, "unknown") for name in ("device", "commit")}
    made |= {f"{name}, evaluation": result[name] for name in made if result.get(name, made[name]) != made[name]}
    spent = {"meta-training": run.records[-1].get("seconds") if run.records else None, "evaluation": result.get("evaluation_seconds")}
    made |= {name: f"{seconds:,.0f} s" for name, seconds in spent.items() if seconds is not None} | saved.get("versions", {})
    single = {name: value for name, value in run.config.items() if not isinstance(value, dict)}
    groups = [{f"{group}.{k}": v for k, v in values.items()} for group, values in run.config.items() if isinstance(values, dict)]
    tables = "".join(_table(flags) for flags in ({k.replace("_", "-"): v for k, v in group.items()} for group in (single, *groups)))
    caption = "Settings by the names of their flags, and what the figures were made with."
    return _card("Settings", f'<div class="columns">{tables}{_table(made)}</div>', caption)


def _table(rows: dict[str, Any]) -> str:
    texts = {name: " ".join(map(str, value)) or "(none)" if isinstance(value, list) else str(value) for name, value in rows.items()}
    cells = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in texts.items())
    return f"<table>{''.join(cells)}</table>"


def _figure(title: str, panels: list[Panel], xlabel: str, caption: str, ticks: dict[int, str] | None = None) -> str:
    """A card with one picture, drawn for light and for dark pages, and the sentence that says what to see."""
    light, dark = (_uri("svg+xml", svg(panels, xlabel, PALETTES[theme], ticks)) for theme in ("light", "dark"))
    alt = escape(" and ".join(panel.ylabel for panel in panels) + f" against {xlabel}")
    picture = f"""<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">
<img src="{light}" width="{96 * FIGURE[0]:.0f}" height="{96 * FIGURE[1]:.0f}" alt="{alt}"></picture>"""
    return _card(title, picture, caption)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


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
