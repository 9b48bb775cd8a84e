"""Curves as SVG and pictures as PNG, for pages that are light or dark. Matplotlib is imported when something
is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Okabe and Ito's colours, told apart by everybody, lighter on dark ground; the page and its figures share
# them.
COLORS = ("taught", "real", "ink", "soft", "line", "card", "page")
PALETTES = {
    "light": dict(
        zip(
            COLORS, ("#0072b2", "#d55e00", "#1f2328", "#5b6470", "#d8dee6", "#ffffff", "#f4f6f8"), strict=True
        )
    ),
    "dark": dict(
        zip(
            COLORS, ("#56b4e9", "#f0964a", "#e8ebef", "#a3adba", "#353c46", "#1b1f25", "#121519"), strict=True
        )
    ),
}
FIGURE = (4.4, 3.6)  # inches: 422 CSS pixels wide, so that 10 pt letters are still legible on a telephone
POINTS = 1000  # drawn of a longer curve


@dataclass(frozen=True)
class Line:
    """One curve: x (n,), y (n,), a colour's name in PALETTES, and how it is drawn."""

    x: NDArray[Any]
    y: NDArray[Any]
    colour: str
    label: str = ""
    spread: NDArray[Any] | None = None
    dashed: bool = False
    thin: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes with its curves; panels of a figure share their x-axis."""

    ylabel: str
    lines: list[Line]
    log: bool = False
    from_zero: bool = False


def svg(
    panels: list[Panel], xlabel: str, palette: dict[str, str], ticks: dict[int, str] | None = None
) -> bytes:
    """The panels, one above the other, on a transparent ground; no dates or random names inside: same panels,
    same bytes.

    ``ticks``: the x-axis is logarithmic, with these labels at these places; those of several lines are
    readings of several scales.
    """
    with canvas(palette) as figure:
        _fill(figure, panels, xlabel, palette, ticks)
        return as_svg(figure)


def cursors(
    panels: list[Panel], xlabel: str, ticks: dict[int, str] | None, at: Sequence[float]
) -> list[dict[str, Any]]:
    """Where a line that moves over the drawing of :func:`svg` stands at each x of ``at``, and dots on the
    curves that are not dashed: fractions of the picture from its left and its top, for each panel."""
    found = []
    with canvas(PALETTES["light"]) as figure:
        filled = _fill(figure, panels, xlabel, PALETTES["light"], ticks)
        as_svg(figure)  # the layout is known once it is drawn
        for axes, panel in zip(filled, panels, strict=True):
            box = axes.get_position()

            def place(x: Any, y: Any, axes: Any = axes, box: Any = box) -> NDArray[np.float64]:
                within = axes.transLimits.transform(axes.transScale.transform(np.column_stack([x, y])))
                return np.stack([box.x0 + within[:, 0] * box.width, 1 - box.y0 - within[:, 1] * box.height])

            x = place(at, np.full(len(at), axes.get_ylim()[0]))[0]
            dots = []
            for curve in panel.lines:
                if not curve.dashed:
                    y = np.interp(x, *place(curve.x, curve.y))
                    dots.append({"colour": curve.colour, "y": y.round(4).tolist()})
            frame = {"top": round(1 - box.y1, 4), "bottom": round(1 - box.y0, 4)}
            found.append({**frame, "x": x.round(4).tolist(), "dots": dots})
    return found


def _fill(
    figure: Any, panels: list[Panel], xlabel: str, palette: dict[str, str], ticks: dict[int, str] | None
) -> list[Any]:
    """Draw the panels into an empty figure; their axes."""
    from matplotlib.ticker import MaxNLocator

    filled = list(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0])
    for axes, panel in zip(filled, panels, strict=True):
        for curve in panel.lines:
            _draw(axes, curve, palette[curve.colour])
        axes.set_ylabel(panel.ylabel)
        if ticks:
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(ticks), list(ticks.values()))
            axes.minorticks_off()
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        if panel.log:
            axes.set_yscale("log")
        elif panel.from_zero:
            axes.set_ylim(0, 1.08 * max(curve.y.max() for curve in panel.lines))
        if any(curve.label for curve in panel.lines):
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderpad=0, ncols=2, reverse=True)
    filled[-1].set_xlabel(xlabel)
    return filled


@contextmanager
def canvas(palette: dict[str, str]) -> Iterator[Any]:
    """An empty matplotlib figure in a page's colours, to be filled and saved inside."""
    import matplotlib.style
    from matplotlib.figure import Figure

    ink = dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), palette["ink"]
    )
    line = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), palette["line"])
    ground = dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none")
    off = dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
    look = {
        **ink,
        **line,
        **ground,
        **off,
        "axes.grid": True,
        "font.size": 10,
        "legend.fontsize": 9,
        "svg.hashsalt": "minigtn",
    }
    with matplotlib.style.context(["default", look]):
        yield Figure(figsize=FIGURE, layout="constrained")


def as_svg(figure: Any) -> bytes:
    """The figure; no dates or random names inside: same figure, same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _draw(axes: Any, curve: Line, colour: str) -> None:
    some = slice(None, None, -(-len(curve.x) // POINTS) or 1)
    x = curve.x[some]
    y = curve.y[some]
    marker = "o" if len(x) <= 40 and not curve.dashed else None
    weight = {"linewidth": 0.8, "alpha": 0.6} if curve.thin else {"linewidth": 2}
    axes.plot(
        x,
        y,
        "--" if curve.dashed else "-",
        color=colour,
        label=curve.label or None,
        marker=marker,
        markersize=4,
        **weight,
    )
    if curve.spread is not None:
        axes.fill_between(
            x, y - curve.spread[some], y + curve.spread[some], color=colour, alpha=0.2, linewidth=0
        )


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Moving average over ``window`` (odd) values around each, fewer at the ends; values that are not finite
    do not count."""
    finite = np.isfinite(values)
    ones = np.ones(window)
    total, count = (
        np.convolve(part, ones)[window // 2 :][: len(values)]
        for part in (np.where(finite, values, 0), finite.astype(float))
    )
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def spans_decades(values: ArrayLike) -> bool:
    """Whether positive values span so much that a logarithmic axis shows them better."""
    finite = np.asarray(values)[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() > 30 * finite.min())


def png(rgba: NDArray[np.uint8]) -> bytes:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    metadata: Any = {"Software": None}  # or it names matplotlib's version
    imsave(buffer, rgba, format="png", metadata=metadata, pil_kwargs={"optimize": True})
    return buffer.getvalue()
