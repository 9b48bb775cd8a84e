"""Right and wrong answers to the exercises of lesson 10."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def hessian_times(loss, parameters, u):
    g = torch.autograd.grad(loss, parameters, create_graph=True)
    return torch.autograd.grad(g, parameters, u)


def by_a_sum(loss, parameters, u):
    g = torch.autograd.grad(loss, parameters, create_graph=True)
    along = sum((part * v).sum() for part, v in zip(g, u, strict=True))
    return list(torch.autograd.grad(along, parameters))


def one_number(loss, parameters, u):
    g = torch.autograd.grad(loss, parameters)
    return sum((part * v).sum() for part, v in zip(g, u, strict=True))


def entry_by_entry(loss, parameters, u):
    g = torch.autograd.grad(loss, parameters)
    return [part * v for part, v in zip(g, u, strict=True)]


def along_the_gradient(loss, parameters, u):
    g = torch.autograd.grad(loss, parameters, create_graph=True)
    return torch.autograd.grad(g, parameters, [part.detach() for part in g])


def flattened(loss, parameters, u):
    return [part.flatten() for part in hessian_times(loss, parameters, u)]


def by(score: Callable[[list[float]], float]) -> Callable[..., Any]:
    return lambda tried: min(tried, key=lambda name: score(tried[name]))


def mean(losses: list[float]) -> float:
    return sum(losses) / len(losses) if all(map(math.isfinite, losses)) else math.inf


def last_third(losses: list[float]) -> list[float]:
    return losses[-max(1, len(losses) // 3) :]


def late_mean(losses: list[float]) -> float:
    return mean(last_third(losses))


def without_what_is_not_finite(losses: list[float]) -> float:
    return late_mean([loss for loss in losses if math.isfinite(loss)])


def unguarded(losses: list[float]) -> float:
    return sum(last_third(losses)) / len(last_third(losses))


def first_of(order: str) -> Callable[..., Any]:
    return lambda tried: order


def rate(fan_in: Callable[[Any], float], rule=lambda lr, base, n: lr * base / n, biases: bool = False):
    def answer(shape, lr, base):
        if len(shape) == 1 and not biases:
            return lr
        return rule(lr, base, fan_in(shape))

    return answer


def inputs(shape) -> float:
    return math.prod(shape[1:])


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("10_hessian_times", lambda loss, p, u: torch.autograd.grad(loss, p), "that is the gradient"),
    ("10_hessian_times", one_number, "that is one number"),
    ("10_hessian_times", entry_by_entry, "entry by entry"),
    ("10_hessian_times", along_the_gradient, "the direction is u"),
    ("10_hessian_times", flattened, "shaped as its parameter"),
    ("10_hessian_times", lambda *a: hessian_times(*a)[:1], "one tensor for each"),
    ("10_hessian_times", lambda *a: [2 * part for part in hessian_times(*a)], "should be"),
    ("10_choose", by(mean), "begins fast"),
    ("10_choose", by(lambda losses: mean(losses[: len(losses) // 3])), "begins fast"),
    ("10_choose", by(lambda losses: mean(losses[len(losses) // 3 :])), "begins fast"),
    ("10_choose", by(lambda losses: mean(losses[-3:])), "begins fast"),
    ("10_choose", by(lambda losses: mean(losses[-1:])), "*last* loss"),
    ("10_choose", by(min), "lowest single loss"),
    ("10_choose", by(without_what_is_not_finite), "infinity"),
    ("10_choose", by(unguarded), "NaN is neither"),
    ("10_choose", lambda tried: min(tried.values(), key=late_mean), "return the name"),
    ("10_choose", first_of("adam"), "return one of the names"),
    ("10_choose", by(lambda losses: mean(losses[-(len(losses) // 3) :])), "one at least"),
    ("10_rate_for", rate(inputs, lambda lr, base, n: lr * n / base), "*smaller* the steps"),
    ("10_rate_for", rate(lambda shape: shape[0]), "number of outputs"),
    ("10_rate_for", rate(lambda shape: shape[1]), "over the kernel, too"),
    ("10_rate_for", rate(inputs, lambda lr, base, n: lr / n), "at fan_in = base"),
    ("10_rate_for", rate(inputs, lambda lr, base, n: lr * math.sqrt(base / n)), "square root"),
    ("10_rate_for", rate(lambda s: inputs(s) if len(s) > 1 else s[0], biases=True), "it keeps lr"),
    ("10_rate_for", lambda shape, lr, base: lr, "another rate than lr"),
    ("10_rate_for", lambda shape, lr, base: 7.0, "should be"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("10_hessian_times", hessian_times),
    ("10_hessian_times", by_a_sum),
    ("10_choose", by(late_mean)),
    ("10_rate_for", rate(inputs)),
]
