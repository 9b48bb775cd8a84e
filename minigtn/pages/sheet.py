"""The curriculum's images on a run's page: all steps at once, real images beside them, what greys mean."""

from __future__ import annotations

from html import escape

from minigtn.pages import page
from minigtn.pages.figures import png
from minigtn.pages.run_folder import Run
from minigtn.pages.wording import percent
from minigtn.teaching.curriculum import Curriculum
from minigtn.teaching.pictures import contact_sheet

WIDEST = 900  # CSS pixels of all steps together, where images allow
ROUNDING = 0.5 / 255


def sheet(run: Run) -> str:
    """The card, or nothing where there is no curriculum yet."""
    c = run.curriculum
    if c is None:
        return ""
    T = len(c.x)
    K = len(c.class_names)
    W = c.x.shape[-1]
    steps = run.shown_steps
    classes = run.shown_classes
    cells = contact_sheet(c, steps, classes)
    high = len(cells) // len(classes)
    wide = cells.shape[1] // len(steps)  # one cell
    crisp = W < 24  # few pixels are shown as squares, enlarged by a whole number
    columns = len(steps) + (run.real is not None)
    large, small = (
        max(wide, size - size % wide if crisp else size) for size in (min(72, WIDEST // columns), 40)
    )
    numbers = "".join(f"<span>{t + 1}</span>" for t in steps)
    real = '<td class="example">real</td>' if run.real is not None else ""
    rows = f'<tr><th>step</th>{real}<td><div class="steps">{numbers}</div></td></tr>'
    for i, k in enumerate(classes):
        name = escape(c.class_names[k])
        row = slice(i * high, (i + 1) * high)
        rows += f'<tr data-class="{name}"><th scope="row">{name}</th>'
        if run.real is not None:
            uri = page.uri("png", png(run.real[row]))
            rows += f'<td class="example"><img src="{uri}" alt="A real image of class {name}"></td>'
        uri = page.uri("png", png(cells[row]))
        rows += f'<td class="shown"><img src="{uri}" alt="Synthetic images of class {name}"></td></tr>'
    caption = (
        "Read from left to right, this is what a fresh learner is taught: an image of each class "
        "(rows) for each inner step (columns)"
    )
    caption += f", {len(steps)} of {T} steps shown" if len(steps) < T else ""
    caption += f", {len(classes)} of {K} classes shown" if len(classes) < K else ""
    caption += (
        "; where a cell is empty, the batch holds no such image"
        if cells[::high, ::wide, 3].min() == 0
        else ""
    )
    caption += ". The first column is a real training image of the class" if run.real is not None else ""
    note = (
        "This teacher shows every learner something else: these are the images of one that it might teach."
        if run.varies
        else ""
    )
    style = f"--n:{len(steps)};--wide:{large};--phone:{min(large, small)}"
    table = f'<table class="sheet{" crisp" if crisp else ""}" style="{style}">{rows}</table>'
    body = f'<div class="scroll" tabindex="0">{table}</div>{_scale(c)}'
    return page.card("The curriculum", body, caption + ".", note)


def _scale(c: Curriculum) -> str:
    """What the greys, or the colours, stand for."""
    colours = c.x.shape[2] == 3
    pixels = c.x.detach().cpu().double()
    shape = (1, 1, -1, 1, 1)
    mean = pixels.new_tensor(c.mean).view(shape)
    std = pixels.new_tensor(c.std).view(shape)
    pixels = pixels * std + mean
    outside = ((pixels < -ROUNDING) | (pixels > 1 + ROUNDING)).double().mean().item()
    clipped = f"{percent(outside)} of all synthetic values lie outside and are clipped."
    if colours:
        return f"<p>Red, green and blue are pixel values from 0 to 1, as in a real image. {clipped}</p>"
    values = [0, 0.25, 0.5, 0.75, 1]
    ticks = "".join(
        f"<span>{value:g}<br>{(value - c.mean[0]) / c.std[0]:+.1f}</span>".replace("-", "\N{MINUS SIGN}")
        for value in values
    )
    return (
        '<div class="greys" role="img" aria-label="Grey scale: black is the pixel value 0, white is 1">'
        f"<i></i><div>{ticks}</div></div>"
        '<p class="centre">Above: pixel values of a real image. Below: the same in standardized units, as a '
        f"learner gets them. {clipped}</p>"
    )
