"""Lesson 10: products with a Hessian in torch, the choice of step sizes, rates that know the width."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from checks.common import Function, Hint, exercise, judge


@exercise
def check_10_hessian_times(hessian_times: Function) -> None:
    """``hessian_times(loss, parameters, u)``: a list of tensors, shaped as the parameters."""
    rng = torch.Generator().manual_seed(0)
    parameters = [
        torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True) for shape in ((3,), (2, 2))
    ]
    u = [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in parameters]

    def loss() -> Tensor:
        a, b = parameters
        return (a * a * a).sum() + (a[:2] @ b).square().sum() + b.sum().sin()

    g = torch.autograd.grad(loss(), parameters, create_graph=True)
    right = _flat(torch.autograd.grad(g, parameters, u, retain_graph=True))
    along_g = _flat(torch.autograd.grad(g, parameters, [part.detach() for part in g], retain_graph=True))
    got = hessian_times(loss(), parameters, u)
    if isinstance(got, Tensor):
        if not got.dim():
            raise Hint("that is one number, such as <g, u>: its gradient by the parameters is what is wanted")
        got = [got]
    if len(got) != len(parameters):
        raise Hint(f"one tensor for each of the {len(parameters)} parameters, not {len(got)}")
    for part, p in zip(got, parameters, strict=True):
        if part.shape != p.shape:
            raise Hint(f"each part is shaped as its parameter, {tuple(p.shape)}, not {tuple(part.shape)}")
    usual = {
        "that is the gradient: multiply it by u, and differentiate once more": _flat(g),
        "that is gradient times u, entry by entry: sum it up, and differentiate once more": _flat(
            [part * v for part, v in zip(g, u, strict=True)]
        ),
        "that is the Hessian times the gradient: the direction is u": along_g,
    }
    found = _flat([part.detach() for part in got])
    judge(
        "hessian_times(loss, parameters, u)", found, right.detach(), {k: v.detach() for k, v in usual.items()}
    )


def _flat(parts: Any) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


# name -> losses before each step; a run is broken off at the first loss that is not finite
_TRIED = {
    "late": [2.3, 2.2, 2.1, 2.0, 0.5, 0.7],
    "early": [2.3, 0.6, 0.5, 0.5, 1.0, 1.0],
    "lucky last": [2.3, 2.2, 2.1, 2.0, 1.9, 0.2],
    "lucky once": [2.3, 2.8, 0.1, 2.9, 2.8, 2.9],
    "broken off": [2.3, 1.1, 0.5, math.inf],
    "lost": [2.3, 1.1, 0.7, math.nan],
}


@exercise
def check_10_choose(choose: Function) -> None:
    """``choose(tried)``: a name."""
    usual = {
        "early": "that one begins fast and ends worse than another: take the last third alone",
        "lucky last": "that one has the lowest *last* loss. It is of one batch, which may be easy or odd: "
        "take the mean over the last third",
        "lucky once": "that one has the lowest single loss: take the mean over the last third",
        "broken off": "that one ran into infinity. It is the worst of all, whatever its losses were before",
        "lost": "that one ran into NaN. NaN is neither smaller nor larger than any number, so min() can "
        "be led astray: count what is not finite as infinity",
    }
    for tried in (_TRIED, dict(reversed(_TRIED.items()))):
        got = choose(tried)
        if isinstance(got, float | list | tuple):
            raise Hint("return the name, not its losses")
        if got not in tried:
            raise Hint(f"return one of the names {', '.join(tried)}, not {got!r}")
        if got != "late":
            raise Hint(usual[got])
    if choose({"up": [0.9, 2.4], "down": [2.9, 2.1]}) != "down":
        raise Hint("a third of two losses is none, and losses[-0:] are all of them: take one at least")


@exercise
def check_10_rate_for(rate_for: Function) -> None:
    """``rate_for(shape, lr, base)``: a number."""
    cases = (
        ((10, 512), 512, "weights of a dense layer"),
        ((128, 32), 32, "weights of a dense layer"),
        ((16, 8, 3, 3), 72, "a 3x3 kernel"),
        ((128,), 0, "a bias"),
    )
    lr = 0.02
    base = 64
    for shape, fan_in, what in cases:
        got = rate_for(shape, lr, base)
        if not fan_in:
            usual = {"a bias has no inputs to sum over: it keeps lr": lr * base / shape[0]}
            judge(f"rate_for({shape}, lr, base), {what},", got, lr, usual)
            continue
        usual = {
            "the wider, the *smaller* the steps: divide by fan_in": lr * fan_in / base,
            "fan_in counts the inputs, all axes but the first; that was the number of outputs": lr
            * base
            / shape[0],
            "a unit of a convolution sums over the kernel, too: fan_in is the product of all axes but the "
            "first": lr * base / shape[1],
            "at fan_in = base the rate should be lr itself: lr * base / fan_in": lr / fan_in,
            "that falls with the square root of fan_in, the rule for the size of *initial* weights": lr
            * math.sqrt(base / fan_in),
            "weights with inputs get another rate than lr": lr,
        }
        judge(f"rate_for({shape}, lr, base), {what},", got, lr * base / fan_in, usual)
