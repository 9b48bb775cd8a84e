"""The curriculum, played: a slider over inner steps that moves images, numbers and a line over the curves.

The script (player.js) builds it from the sheet of all steps; where scripts do not run, there is the sheet.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from minigtn.pages import page
from minigtn.pages.run_folder import Run
from minigtn.pages.wording import percent
from minigtn.teaching.pictures import gap_of

SCRIPT = Path(__file__).with_suffix(".js").read_text()
TILE = 64  # CSS pixels that an image is enlarged to, about, by a whole number
PHONE = 56  # and on a phone, where five stand side by side


def controls(run: Run) -> str:
    """Play, slider and the numbers of the step; hidden until the script is there."""
    c = run.curriculum
    if c is None:
        return ""
    H, W = c.x.shape[3:]
    steps = [_step(run, t + 1) for t in run.shown_steps]
    data = {
        "cell": (W, H),
        "gap": gap_of(W),
        "scale": max(1, round(TILE / W)),
        "phone": PHONE / W,
        "says": [says for says, _ in steps],
        "values": [[*values.values()] for _, values in steps],
    }
    names = "".join(f"<div>{name}<b data-value></b></div>" for name in steps[-1][1])
    return (
        f'<div id="player" class="needs-script" hidden data-steps="{escape(json.dumps(data))}">'
        '<button id="player-play" type="button">Play</button>'
        '<label for="player-step">inner step</label>'
        f'<input id="player-step" type="range" min="0" max="{len(steps) - 1}" step="1" '
        f'value="{len(steps) - 1}"><div class="readings">{names}</div></div>'
    )


def stage(run: Run) -> str:
    """Where the images of the step stand; hidden until the script is there."""
    c = run.curriculum
    if c is None:
        return ""
    caption = "What a fresh learner is shown at this step, one image of each class"
    caption += ", beside a real image of that class (orange frame)" if run.real is not None else ""
    card = page.card(
        "Step by step",
        '<div id="player-stage" role="img" aria-label="Images of the step"></div>',
        caption + ".",
    )
    return f'<div class="needs-script" hidden>{card}</div>'


def _step(run: Run, step: int) -> tuple[str, dict[str, str]]:
    """An inner step (from 1) as a sentence and as numbers by their names."""
    c = run.curriculum
    assert c is not None
    T, B = c.x.shape[:2]
    lr = float(c.lr[step - 1])
    momentum = float(c.momentum[step - 1])
    values = {
        "step": f"{step} of {T}",
        "images so far": f"{step * B:,}",
        "learning rate": f"{lr:.2g}",
        "momentum": f"{momentum:.2f}",
    }
    says = f"step {step} of {T}, learning rate {lr:.2g}, momentum {momentum:.2f}"
    if run.result is not None:
        read = [i for i, reading in enumerate(run.result["steps"]) if reading <= step]
        if read:
            at = run.result["steps"][read[-1]]
            taught = percent(run.result["gtn_curve"]["mean"][read[-1]])
            real = percent(run.result["real_curve"]["mean"][read[-1]])
            after = "" if at == step else f" (at {at})"
            values |= {"taught": taught + after, "real data": real + after}
            says += f"; test accuracy after step {at}: taught {taught}, real data {real}"
    return says, values
