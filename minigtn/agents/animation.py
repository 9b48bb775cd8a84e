"""A policy at work, as a drawing that moves by itself: SVG with SMIL animation, no script, a few ten kB.

picture = animate(policy, CartPole(), PALETTES["light"])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minigtn.agents.environments import Acrobot, CartPole, Environment, Pendulum
from minigtn.agents.rollout import Simulation, greedy, of_modules

WIDTH = 400
HEIGHT = 240
METRE = 75  # pixels
DRAWN_EVERY = 2  # environment steps between two key frames


@torch.no_grad()
def states_of(policy: nn.Module, env: Environment, steps: int, seed: int = 0) -> Tensor:
    """One greedy episode from its start: states (L + 1, S); shorter than ``steps`` where it ends for good
    before."""
    running = Simulation(env, 1, torch.Generator().manual_seed(seed))
    act = greedy(of_modules([policy]))
    states = [running.state[0]]
    for _ in range(min(steps, env.limit)):
        _, over = running.step(act(running.observation))
        states.append(running.state[0])
        if over:
            break
    return torch.stack(states)


def animate(
    policy: nn.Module, env: Environment, palette: dict[str, str], steps: int = 500, seed: int = 0
) -> bytes:
    """The SVG of one greedy episode, in the colours of ``palette`` (minigtn.pages.figures), played in real
    time and over again.

    Raises ValueError for an environment that nobody has drawn.
    """
    states = states_of(policy, env, steps, seed)[::DRAWN_EVERY].tolist()
    if isinstance(env, CartPole):
        body = _cartpole(states, env, palette)
    elif isinstance(env, Pendulum):
        body = _arm([(_degrees(angle + torch.pi),) for angle, _ in states], env, palette)
    elif isinstance(env, Acrobot):
        body = _arm([(-_degrees(first), -_degrees(second)) for first, second, _, _ in states], env, palette)
    else:
        raise ValueError(f"there is no drawing of {type(env).__name__}")
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>'.encode()


def _cartpole(states: Sequence[Sequence[float]], env: CartPole, palette: dict[str, str]) -> str:
    ground = HEIGHT - 50
    centre = WIDTH / 2
    bound = env.MOST_POSITION * METRE
    reach = 2 * env.length * METRE * 1.6
    moving = _moves("translate", [f"{centre + METRE * x:.1f} {ground}" for x, *_ in states], env)
    turning = _moves("rotate", [f"{_degrees(theta):.2f}" for _, _, theta, _ in states], env)
    marks = "".join(
        f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{ground - 12}" y2="{ground + 12}"/>'
        for x in (centre - bound, centre + bound)
    )
    return (
        f'<g stroke="{palette["line"]}" stroke-width="2">'
        f'<line x1="0" x2="{WIDTH}" y1="{ground}" y2="{ground}"/>{marks}</g>'
        f'<g>{moving}<rect x="-28" y="-14" width="56" height="28" rx="5" fill="{palette["ink"]}"/>'
        f'<g>{turning}<line y2="{-reach:.0f}" stroke="{palette["taught"]}" stroke-width="9" '
        f'stroke-linecap="round"/></g>'
        f'<circle r="4" fill="{palette["card"]}"/></g>'
    )


def _arm(angles: Sequence[Sequence[float]], env: Environment, palette: dict[str, str]) -> str:
    """Links hanging from a point; the angle of each in degrees against the one before, 0 for straight
    down."""
    links = len(angles[0])
    length = 100 / links
    inner = ""
    for i in reversed(range(links)):
        turning = _moves("rotate", [f"{row[i]:.2f}" for row in _unwrapped(angles)], env)
        link = (
            f'<line y2="{length:.0f}" stroke="{palette["taught"]}" stroke-width="9" stroke-linecap="round"/>'
        )
        further = f'<g transform="translate(0 {length:.0f})">{inner}</g>' if inner else ""
        inner = f"<g>{turning}{link}{further}</g>"
    goal = ""
    if links == 2:  # the height that the tip has to reach
        y = HEIGHT / 2 - length
        stroke = f'stroke="{palette["line"]}" stroke-width="2"'
        goal = f'<line x1="0" x2="{WIDTH}" y1="{y:.0f}" y2="{y:.0f}" {stroke}/>'
    hinge = f'<circle r="5" fill="{palette["ink"]}"/>'
    return f'{goal}<g transform="translate({WIDTH // 2} {HEIGHT // 2})">{inner}{hinge}</g>'


def _unwrapped(angles: Sequence[Sequence[float]]) -> list[list[float]]:
    """Angles in degrees without jumps by a whole turn, which would be drawn as a whirl."""
    rows = [list(angles[0])]
    for row in angles[1:]:
        rows.append(
            [before + (now - before + 180) % 360 - 180 for before, now in zip(rows[-1], row, strict=True)]
        )
    return rows


def _moves(kind: str, values: list[str], env: Environment) -> str:
    """A SMIL transformation through ``values``, in real time."""
    seconds = DRAWN_EVERY * (len(values) - 1) * env.TAU
    what = f'attributeName="transform" type="{kind}" dur="{seconds:.2f}s" repeatCount="indefinite"'
    return f'<animateTransform {what} values="{";".join(values)}"/>'


def _degrees(radians: float) -> float:
    return 180 / torch.pi * radians
