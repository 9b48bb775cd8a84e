"""What a policy decides over a plane of observations, with the synthetic states that taught it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from minigtn.agents.environments import CartPole
from minigtn.pages.figures import as_svg, canvas
from minigtn.teaching.curriculum import Curriculum

CELLS = 81


@dataclass(frozen=True)
class Plane:
    """Two numbers of an observation, as axes."""

    title: str
    labels: tuple[str, str]
    limits: tuple[float, float]
    """Both axes run from minus this to this."""
    observation: Callable[[Tensor, Tensor], Tensor]
    """Their values (N,) and (N,) -> observations (N, F), the rest at 0."""
    coordinates: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Observations (N, F) -> their values."""
    rest: str = ""
    """What the other features are, for a caption."""
    bound: float | None = None
    """Where an episode ends, on either side of 0 on the first axis."""


def _angles(first: int) -> Callable[[Tensor, Tensor], Tensor]:
    def observation(angle: Tensor, speed: Tensor) -> Tensor:
        zero = torch.zeros_like(angle)
        around = [angle.cos(), angle.sin()]
        return torch.stack([*around, speed] if first else [*around, zero + 1, zero, speed, zero], -1)

    return observation


PLANES: dict[str, Plane] = {
    "CartPole-v1": Plane(
        "angle and angular velocity",
        ("angle (rad)", "angular velocity (rad/s)"),
        (3.2, 4.2),
        lambda a, b: torch.stack([torch.zeros_like(a), torch.zeros_like(a), a, b], -1),
        lambda x: (x[:, 2], x[:, 3]),
        ", the cart at rest in the middle",
        CartPole.MOST_ANGLE,
    ),
    "Acrobot-v1": Plane(
        "the first link's angle and velocity",
        ("angle of the first link (rad)", "its velocity (rad/s)"),
        (3.2, 6.0),
        _angles(0),
        lambda x: (torch.atan2(x[:, 1], x[:, 0]), x[:, 4]),
        ", the second link straight and at rest",
    ),
    "Pendulum-v1": Plane(
        "angle from upright and angular velocity",
        ("angle from upright (rad)", "angular velocity (rad/s)"),
        (3.2, 8.0),
        _angles(1),
        lambda x: (torch.atan2(x[:, 1], x[:, 0]), x[:, 2]),
    ),
}


@torch.no_grad()
def probabilities(policy: nn.Module, plane: Plane, cells: int = CELLS) -> np.ndarray:
    """The probability of the last action, (cells, cells): rows the second axis upwards, columns the first."""
    across, up = (torch.linspace(-limit, limit, cells) for limit in plane.limits)
    grid = plane.observation(across.repeat(cells), up.repeat_interleave(cells))
    return policy(grid).softmax(-1)[:, -1].view(cells, cells).numpy()


def decision_map(policy: nn.Module, curriculum: Curriculum, plane: Plane, palette: dict[str, str]) -> bytes:
    """The picture, as SVG: same policy and curriculum, same bytes."""
    x, y = plane.coordinates(curriculum.x.flatten(0, 1))
    wanted = curriculum.y.flatten(0, 1)[:, -1]
    inside = (x.abs() <= plane.limits[0]) & (y.abs() <= plane.limits[1])
    a, b = plane.limits
    with canvas(palette) as figure:
        axes = figure.subplots()
        scale = {"cmap": "RdBu_r", "vmin": 0, "vmax": 1}
        axes.imshow(
            probabilities(policy, plane),
            origin="lower",
            extent=(-a, a, -b, b),
            aspect="auto",
            interpolation="nearest",
            **scale,
        )
        axes.scatter(
            x[inside], y[inside], c=wanted[inside], edgecolors="black", linewidths=0.8, s=26, **scale
        )
        if plane.bound is not None:
            for side in (-plane.bound, plane.bound):
                axes.axvline(side, color="black", linewidth=1, linestyle=":")
        axes.set(xlabel=plane.labels[0], ylabel=plane.labels[1])
        axes.grid(False)
        return as_svg(figure)
