"""Right and wrong answers to the exercises of lesson 7."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scipy import stats


def random_numbers(n: int, generator: torch.Generator | None) -> torch.Tensor:
    return torch.randint(n, (n,), generator=generator)


def reorder(
    other_y=False, draw=torch.randperm, fixed=False, unseeded=False, flips=(0,), inside=False, swap=None
) -> Callable[..., Any]:
    """Lesson 7's function with one thing wrong."""

    def answer(x, y, kind, seed):
        kind = (swap or {}).get(kind, kind)
        if kind == "in order":
            return x, y
        if kind == "reversed":
            return x.flip(flips), y.flip(flips)
        n = len(x) * x.shape[1] if kind == "images" else len(x)

        def order(seed):
            return draw(n, generator=None if unseeded else torch.Generator().manual_seed(seed))

        one = order(0 if fixed else seed)
        other = order(seed + 100) if other_y else one
        if kind == "batches":
            return x[one], y[other]
        if inside:
            return x[:, one[one < x.shape[1]]], y[:, one[one < x.shape[1]]]
        return x.flatten(0, 1)[one].view(x.shape), y.flatten(0, 1)[other].view(y.shape)

    return answer


def weight_normalized(
    gains=lambda rows: rows.norm(dim=1),
    divide=True,
    multiply=True,
    stale=False,
    rest=True,
    cut=False,
    unit=False,
    part="gain",
) -> Callable[..., Any]:
    """Lesson 7's function with one thing wrong."""

    def answer(params):
        split = {name: p for name, p in params.items() if rest and not name.endswith(".weight")}
        for name, p in params.items():
            if name.endswith(".weight"):
                layer = name.removesuffix(".weight")
                length = p.flatten(1).norm(dim=1).view(-1, *[1] * (p.dim() - 1))
                split[f"{layer}.direction"] = p / length if unit else p
                split[f"{layer}.{part}"] = gains(p.flatten(1))

        def join(split):
            if stale:
                return dict(params)
            back = {}
            for name, p in split.items():
                if name.endswith(".direction"):
                    gain = split[name.replace("direction", part)]
                    p = p.detach() if cut else p
                    if divide:
                        p = p / p.flatten(1).norm(dim=1).view(-1, *[1] * (p.dim() - 1))
                    if multiply:
                        p = p * gain.view(-1, *[1] * (p.dim() - 1))
                    back[name.replace("direction", "weight")] = p
                elif not name.endswith(f".{part}"):
                    back[name] = p
            return back

        return split, join

    return answer


def paired(factor=lambda n: stats.t.ppf(0.975, n - 1), root=0.5, sign=1, ddof=1) -> Callable[..., Any]:
    def answer(one, other):
        difference = sign * (one - other)
        n = len(difference)
        return difference.mean().item(), factor(n) * difference.std(correction=ddof).item() / n**root

    return answer


def unpaired(one, other):
    n = len(one)
    half = stats.t.ppf(0.975, n - 1) * ((one.var() + other.var()) / n) ** 0.5
    return (one.mean() - other.mean()).item(), half.item()


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("7_reorder", reorder(other_y=True), "no longer belong together"),
    ("7_reorder", reorder(draw=random_numbers), "use a permutation"),
    ("7_reorder", reorder(fixed=True), "the same for every seed"),
    ("7_reorder", reorder(unseeded=True), "the same seed gave two orders"),
    ("7_reorder", reorder(flips=(0, 1)), "the images inside a batch were turned"),
    ("7_reorder", reorder(flips=(1,)), "the last batch comes first"),
    ("7_reorder", reorder(swap={"images": "batches"}), "over the borders of batches"),
    ("7_reorder", reorder(swap={"batches": "images"}), "did not stay together"),
    ("7_reorder", reorder(swap={"batches": "in order"}), "nothing was shuffled"),
    ("7_reorder", reorder(swap={"in order": "reversed"}), "should change nothing"),
    ("7_reorder", reorder(inside=True), "over the borders of batches"),
    ("7_reorder", lambda x, y, kind, seed: x, "return 2 things"),
    ("7_weight_normalized", weight_normalized(gains=lambda r: r.norm().expand(len(r))), "whole weight"),
    ("7_weight_normalized", weight_normalized(gains=lambda r: r.new_ones(len(r))), "change the network"),
    ("7_weight_normalized", weight_normalized(gains=lambda r: r.square().sum(1)), "a square root is missing"),
    ("7_weight_normalized", weight_normalized(gains=lambda r: r.norm(dim=1, keepdim=True)), "the shape"),
    ("7_weight_normalized", weight_normalized(divide=False), "divide each row by its length first"),
    ("7_weight_normalized", weight_normalized(multiply=False), "multiply it by its gain"),
    ("7_weight_normalized", weight_normalized(stale=True), "must read its argument"),
    ("7_weight_normalized", weight_normalized(rest=False), "should have the names"),
    ("7_weight_normalized", weight_normalized(part="length"), "should have the names"),
    ("7_weight_normalized", weight_normalized(cut=True), "no gradient goes through"),
    ("7_weight_normalized", weight_normalized(unit=True), "the weight itself"),
    ("7_weight_normalized", lambda params: weight_normalized()(params)[0], "return 2 things"),
    ("7_paired", unpaired, "take the differences first"),
    ("7_paired", paired(sign=-1), "one minus other"),
    ("7_paired", paired(root=0), "divide the spread by the root of n"),
    ("7_paired", paired(root=1), "not by n"),
    ("7_paired", paired(factor=lambda n: 1), "times t for 95 %"),
    ("7_paired", paired(factor=lambda n: 1.96), "1.96 is for many"),
    ("7_paired", paired(factor=lambda n: stats.t.ppf(0.95, n - 1)), "2.5 % each"),
    ("7_paired", paired(factor=lambda n: stats.t.ppf(0.975, n)), "degrees of freedom"),
    ("7_paired", paired(factor=lambda n: 2 * stats.t.ppf(0.975, n - 1)), "the whole width"),
    ("7_paired", paired(ddof=0), "divides by n - 1"),
    ("7_paired", lambda one, other: (one - other).mean(), "return 2 things"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("7_reorder", reorder()),
    ("7_weight_normalized", weight_normalized()),
    ("7_paired", paired()),
    ("7_paired", lambda one, other: tuple(torch.tensor(v) for v in paired()(one, other))),
]
GUESSES: list[tuple[str, Any, Any, str]] = [
    ("7_shuffled", 88, 88.0, "Near"),
    ("7_shuffled", 60, 88.0, "still images that teach"),
    ("7_shuffled", 93.6, 88.0, "learned for the images"),
    ("7_weight_norm", 6.5, 7.8, "Near"),
    ("7_weight_norm", -5, 7.8, "better than you thought"),
    ("7_weight_norm", 20, 7.8, "less than you thought"),
    ("7_last_only", "l", "s", "ten steps are short"),
    ("7_last_only", "h", "s", "just what is judged"),
    ("7_last_only", "s", "s", "how they get there"),
]
