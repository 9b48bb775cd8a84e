"""How the teacher came to be, on a run's page: its step sizes, the meta-training, the settings."""

from __future__ import annotations

import numpy as np

from minigtn.pages import page
from minigtn.pages.figures import Line, Panel, smooth, spans_decades
from minigtn.pages.run_folder import Run
from minigtn.pages.wording import percent


def schedules(run: Run) -> str:
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
    return page.curves(
        "Step sizes",
        panels,
        "inner step",
        f"The teacher gives every inner step its own: {' and '.join(ranges)}.",
        follow=[step + 1 for step in run.shown_steps],
    )


def outer_loop(run: Run) -> str:
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
            f"; validation accuracy was best at outer step {valid_steps[best]:,.0f} ({percent(valid[best])})"
        )
        caption += (
            ", and that teacher is the result" if run.config["meta"]["valid_every"] and run.curriculum else ""
        )
    return page.curves("Meta-training", panels, "outer step", caption + ".")


def settings(run: Run) -> str:
    result = run.result or {}
    saved = run.environment
    made = {name: saved.get(name, "unknown") for name in ("device", "commit")}
    made |= {
        f"{name}, evaluation": result[name] for name in made if result.get(name, made[name]) != made[name]
    }
    spent = {
        "meta-training": run.seconds,
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
