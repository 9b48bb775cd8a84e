"""Pictures of lesson 1 that are drawn and not computed."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

GREY = "#7A7F87"
FORWARD = "C0"
BACK = "C1"

PLACES = {  # name: where it stands, what is written there, and the gradient that arrives there
    "w": (0.9, 4.5, "$w_t$", r"$d_w = \lambda + H\nu$"),
    "batch": (0.9, 3.3, "batch", r"$d_x$ = mixed term"),
    "v": (0.9, 2.1, "$v_t$", r"$d_v = m\,\nu$"),
    "m": (0.9, 0.9, "$m$", r"$d_m = \nu\cdot v_t$"),
    "g": (3.5, 3.7, "$g_t$", r"$\nu$"),
    "new v": (5.3, 2.4, "$v_{t+1}$", r"$\nu$"),
    "lr": (5.3, 0.9, "lr", r"$d_\mathrm{lr} = -\lambda\cdot v_{t+1}$"),
    "new w": (7.4, 3.7, "$w_{t+1}$", r"$\lambda$"),
    "L": (10.0, 3.7, "$L$", ""),
    "real": (10.0, 1.5, "real data", ""),
}
EDGES = [  # from, to, bend
    ("w", "g", 0.0),
    ("batch", "g", 0.0),
    ("g", "new v", 0.0),
    ("v", "new v", 0.0),
    ("m", "new v", 0.0),
    ("new v", "new w", 0.0),
    ("lr", "new w", 0.0),
    ("w", "new w", -0.12),
    ("new w", "L", 0.0),
    ("real", "L", 0.0),
]


def two_stage_graph() -> None:
    """The inner training step and the outer loss: values flow to the right, gradients to the left."""
    _, ax = plt.subplots(figsize=(9, 4.4))
    ax.set(xlim=(-0.4, 11.2), ylim=(0.0, 5.7))
    ax.axis("off")
    _stage(ax, -0.3, 8.5, "inner: one step of training")
    _stage(ax, 8.7, 2.4, "outer: how good is it now?")
    for start, end, bend in EDGES:
        _arrow(ax, start, end, bend, FORWARD, "-")
        if start != "real":
            _arrow(ax, end, start, 0.16 - bend, BACK, "--")
    for x, y, name, gradient in PLACES.values():
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#8A8F9833", "edgecolor": GREY}
        ax.text(x, y, name, ha="center", va="center", bbox=box)
        ax.text(x, y - 0.48, gradient, ha="center", va="center", color=BACK, fontsize=10)
    plt.show()


def _stage(ax: Axes, x: float, width: float, title: str) -> None:
    ax.add_patch(
        FancyBboxPatch(
            (x, 0.1), width, 5.1, boxstyle="round,pad=0.0", facecolor="none", edgecolor=GREY, alpha=0.6
        )
    )
    ax.text(x + width / 2, 5.42, title, ha="center", va="center")


def _arrow(ax: Axes, start: str, end: str, bend: float, colour: str, style: str) -> None:
    ax.annotate(
        "",
        xy=PLACES[end][:2],
        xytext=PLACES[start][:2],
        arrowprops={
            "arrowstyle": "->",
            "color": colour,
            "linestyle": style,
            "shrinkA": 20,
            "shrinkB": 20,
            "connectionstyle": f"arc3,rad={bend}",
        },
    )
