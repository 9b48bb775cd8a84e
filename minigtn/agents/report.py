"""The page of a run that teaches agents: one file, no script, no request to anywhere.

    page = report.write(Path("runs/cartpole"))

Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from minigtn.agents import config as purpose
from minigtn.agents.animation import animate
from minigtn.agents.config import AgentConfig
from minigtn.agents.judging import taught
from minigtn.agents.maps import PLANES, decision_map
from minigtn.agents.runs import read_config
from minigtn.pages import page
from minigtn.pages.figures import PALETTES, Line, Panel, smooth, svg
from minigtn.runs.files import read_json, read_metrics, write_atomically
from minigtn.runs.seeds import seed_for
from minigtn.runs.settings import to_dict
from minigtn.teaching.curriculum import Curriculum, load_curriculum

WINDOW = 11  # outer steps that a smoothed curve averages over


def write(folder: Path) -> Path:
    """Draw ``report.html`` from what the folder holds so far, atomically; return its path.

    Cost: seconds. The same files give the same bytes. Raises FileNotFoundError without a config.json,
    ValueError for an unreadable file.
    """
    config = read_config(folder)
    records = read_metrics(folder / "metrics.jsonl")
    result = read_json(folder / "result.json") if (folder / "result.json").exists() else None
    curriculum = load_curriculum(folder) if (folder / "curriculum.safetensors").exists() else None
    body = _header(config, records, result) + _headline(config, result)
    figures = ""
    if curriculum is not None:
        policy = taught_policy(config, curriculum)
        body += _animation(config, policy)
        figures += _map(config, policy, curriculum)
    figures += _inner(result) + _outer(records) + _schedules(curriculum)
    body += f'<div class="grid">{figures}</div>{_settings(config, result)}'
    target = folder / "report.html"
    write_atomically(target, page.document(f"{config.env}, {folder.resolve().name}", body))
    return target


def taught_policy(config: AgentConfig, curriculum: Curriculum) -> nn.Module:
    """The first of the judged policies, taught."""
    env = config.make_env()
    module = config.policy.module(len(env.features), env.n_actions, seed_for(config.seed, purpose.JUDGED, 0))
    return taught(module, curriculum).eval()


def _header(config: AgentConfig, records: list[dict[str, Any]], result: dict[str, Any] | None) -> str:
    last = records[-1] if records else {"step": 0, "env_steps": 0, "skipped": 0}
    teacher = config.teacher
    intro = (
        f"{teacher.inner_steps} inner steps of {teacher.batch_size} synthetic states, by a teacher that was "
    )
    intro += (
        f"meta-trained for {last['step']:,} outer steps, in which policies played {last['env_steps']:,} real "
    )
    intro += "environment steps."
    missing = "" if result else "This run is not finished. The same command with --resume goes on."
    skipped = f"{last['skipped']} meta-gradients were not finite and were skipped." if last["skipped"] else ""
    notes = page.note(missing) + page.note(skipped)
    return f"<header><h1>Teaching agents: {escape(config.env)}</h1><p>{intro}</p>{notes}</header>"


def _headline(config: AgentConfig, result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    taught = result["taught"]
    untaught = result["untaught"]
    numbers = "".join(
        f'<div class="{colour}">{name}<b>{arm["mean"]:.1f} <small>± {arm["std"]:.1f}</small></b></div>'
        for name, colour, arm in (("taught", "taught", taught), ("not taught", "real", untaught))
    )
    milliseconds = 1000 * taught["seconds_per_policy"]
    numbers += f"<div>worst taught policy<b>{taught['worst_policy']:.1f}</b></div>"
    numbers += f"<div>teaching one policy<b>{milliseconds:.1f} <small>ms</small></b></div>"
    caption = (
        f"Return in gymnasium's {config.env}: mean ± 1 standard deviation over n = {taught['policies']} "
    )
    caption += f"fresh policies, {taught['episodes']} greedy episodes of each ({result['device']})."
    return page.card("", f'<div class="numbers">{numbers}</div>', caption)


def _animation(config: AgentConfig, policy: nn.Module) -> str:
    light, dark = (
        page.uri("svg+xml", animate(policy, config.make_env(), PALETTES[theme]))
        for theme in ("light", "dark")
    )
    picture = f"""<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">
<img src="{light}" width="400" height="240" alt="A taught policy at work"></picture>"""
    return page.card(
        "A taught policy at work",
        picture,
        "The first of the judged policies, one greedy episode in real time, over and over.",
    )


def _map(config: AgentConfig, policy: nn.Module, curriculum: Curriculum) -> str:
    env = config.make_env()
    plane = PLANES[config.env]
    caption = f"Colour: the probability of {env.actions[-1]} over {plane.title}{plane.rest}. Rings: the "
    caption += (
        "synthetic states, where they fall into the picture, filled with the probability that the teacher "
    )
    caption += "asks for there. They were not made "
    caption += "to be met in play, but to teach."
    if plane.bound is not None:
        caption += " Between the dotted lines the pole has not fallen."
    return page.figure(
        "What it decides, and what it was shown",
        lambda p: decision_map(policy, curriculum, plane, p),
        "decision map",
        caption,
    )


def _inner(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    curve = result["curve"]
    mean = np.array(curve["mean"])
    line = Line(np.arange(len(mean)), mean, "taught", "taught policies", np.array(curve["std"]))
    caption = (
        f"Mean ± 1 standard deviation over {curve['policies']} fresh policies, {curve['episodes']} greedy "
    )
    caption += "episodes each, in torch."
    draw = [Panel("return", [line])]
    return page.figure(
        "Return against inner step",
        lambda p: svg(draw, "inner steps", p),
        "return against inner step",
        caption,
    )


def _outer(records: list[dict[str, Any]]) -> str:
    if len(records) < 2:
        return ""
    most = records[-1]["env_steps"]
    size = "million" if most >= 4e6 else "thousand"
    unit = {"million": 1e6, "thousand": 1e3}[size]
    steps = np.array([r["env_steps"] for r in records]) / unit
    returns = np.array([r["return"] for r in records], float)
    lines = [Line(steps, smooth(returns, WINDOW), "real", "sampled, last reading")]
    checked = [r for r in records if "valid_return" in r]
    if checked:
        at = np.array([r["env_steps"] for r in checked]) / unit
        lines.append(Line(at, np.array([r["valid_return"] for r in checked]), "taught", "greedy, validation"))
    caption = (
        f"Sampled actions: moving average over {WINDOW} outer steps. Validation: fresh policies, greedy."
    )
    draw = [Panel("return", lines)]
    return page.figure(
        "Return against environment steps",
        lambda p: svg(draw, f"{size} environment steps of the teacher", p),
        "return against environment steps",
        caption,
    )


def _schedules(curriculum: Curriculum | None) -> str:
    if curriculum is None:
        return ""
    steps = np.arange(1, len(curriculum.lr) + 1)
    panels = [
        Panel("learning rate", [Line(steps, curriculum.lr.numpy(), "taught")], log=True),
        Panel("momentum", [Line(steps, curriculum.momentum.numpy(), "taught")]),
    ]
    return page.figure(
        "Step sizes",
        lambda p: svg(panels, "inner step", p),
        "step sizes",
        "The learned inner learning rate and momentum.",
    )


def _settings(config: AgentConfig, result: dict[str, Any] | None) -> str:
    values = to_dict(config)
    tables = page.table({name: value for name, value in values.items() if not isinstance(value, dict)})
    tables += "".join(
        f"<div><b>{name}</b>{page.table(part)}</div>"
        for name, part in values.items()
        if isinstance(part, dict)
    )
    made = {
        name: value
        for name, value in (result or {}).items()
        if name in ("commit", "device", "evaluation_seconds")
    }
    training = (result or {}).get("training") or {}
    made |= {
        f"training: {name}": round(value, 2) if isinstance(value, float) else value
        for name, value in training.items()
    }
    return page.card(
        "Settings",
        f'<div class="columns">{tables}<div><b>made</b>{page.table(made)}</div></div>',
        "Every setting of the run.",
    )
