"""A picture with a slider where there is one to move, and a row of its settings everywhere else."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes


def can_move() -> bool:
    """Whether Jupyter's server started this kernel (not nbconvert, not a test) and ipywidgets is there."""
    return "JPY_SESSION_NAME" in os.environ and importlib.util.find_spec("ipywidgets") is not None


def slider(
    draw: Callable[[Axes, float], None],
    name: str,
    settings: Sequence[float],
    shown: Sequence[float],
    live: bool | None = None,
) -> None:
    """Draw ``draw(ax, setting)`` under a slider over the settings, or once for each of ``shown``, in a row.

    ``live=None`` takes the slider where it can be moved. In VS Code, say ``live=True``: it has sliders
    and no Jupyter server.
    """
    if not (can_move() if live is None else live):
        _, axes = plt.subplots(1, len(shown), figsize=(2.6 * len(shown), 2.8), sharey=True)
        for ax, setting in zip(axes, shown, strict=True):
            draw(ax, setting)
            ax.set_title(f"{name} = {setting:g}")
        for ax in axes[1:]:
            ax.set_ylabel("")
        plt.show()
        return

    import ipywidgets

    def redraw(setting: float) -> None:
        _, ax = plt.subplots(figsize=(6, 3.6))
        draw(ax, setting)
        ax.set_title(f"{name} = {setting:g}")
        plt.show()

    options = [(f"{setting:g}", setting) for setting in settings]
    ipywidgets.interact(
        redraw,
        setting=ipywidgets.SelectionSlider(
            options=options, value=shown[0], description=name, continuous_update=False
        ),
    )
