"""Lesson 7: batches in another order, weight normalization of a whole network, and paired differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from checks.common import Function, Hint, exercise, judge, parts, tensor
from checks.predict import choice, number, prediction

T = 6
B = 4
K = 3


@exercise
def check_7_reorder(reorder: Function) -> None:
    """``reorder(x, y, kind, seed)``: the four kinds, labels with their images, seeds."""
    x = torch.arange(T * B, dtype=torch.float64).view(T, B, 1, 1, 1)
    y = torch.eye(K, dtype=torch.float64)[torch.arange(T * B).remainder(K)].view(T, B, K)

    def images(kind: str, seed: int) -> Tensor:
        got_x, got_y = parts(reorder(x, y, kind, seed), ["x", "y"])
        got_x = tensor(f"x ({kind})", got_x, (T, B, 1, 1, 1))
        got_y = tensor(f"y ({kind})", got_y, (T, B, K))
        order = got_x.flatten().long()
        if order.sort().values.tolist() != list(range(T * B)):
            raise Hint(
                f"{kind}: some images are missing and others are there twice: use a permutation "
                "(torch.randperm), not random numbers"
            )
        if not torch.equal(got_y, y.flatten(0, 1)[order].view(T, B, K)):
            raise Hint(
                f"{kind}: images and labels no longer belong together: draw one order, and index x and y "
                "with the same"
            )
        return order.view(T, B)

    as_learned = torch.arange(T * B).view(T, B)
    if not torch.equal(images("in order", 0), as_learned):
        raise Hint("'in order' should change nothing")
    backwards = images("reversed", 0)
    if torch.equal(backwards, as_learned.flip(0, 1)):
        raise Hint(
            "reversed: the images inside a batch were turned round, too; only the order of the batches"
        )
    if not torch.equal(backwards, as_learned.flip(0)):
        raise Hint("reversed: the last batch comes first, and so on: flip(0)")
    for kind in ("batches", "images"):
        orders = [images(kind, seed) for seed in range(4)]
        apart = [_apart(order) for order in orders]
        if kind == "batches" and any(apart):
            raise Hint("batches: they did not stay together; only the order of the T batches should change")
        if kind == "images" and not all(apart):
            raise Hint("images: they should move over the borders of batches, all T*B of them")
        if all(torch.equal(order, as_learned) for order in orders):
            raise Hint(f"{kind}: nothing was shuffled")
        if all(torch.equal(order, orders[0]) for order in orders):
            raise Hint(f"{kind}: the order is the same for every seed: give the seed to the generator")
        if not torch.equal(images(kind, 3), orders[3]):
            raise Hint(f"{kind}: the same seed gave two orders: give randperm its generator=")


def _apart(order: Tensor) -> bool:
    """Whether some images of a batch are no longer together."""
    return bool((order // B != order[:, :1] // B).any())


@exercise
def check_7_weight_normalized(weight_normalized: Function) -> None:
    """``weight_normalized(params)``: directions and gains, and the way back to weights."""
    rng = torch.Generator().manual_seed(3)
    shapes = {
        "conv1.weight": (4, 2, 3, 3),
        "conv1.bias": (4,),
        "dense1.weight": (3, 5),
        "dense1.bias": (3,),
        "dense1.norm_scale": (3,),
    }
    params = {name: torch.randn(s, generator=rng, dtype=torch.float64) for name, s in shapes.items()}
    split, join = parts(weight_normalized(dict(params)), ["the new dict", "the way back, a function"])
    names = {"conv1.direction", "conv1.gain", "dense1.direction", "dense1.gain"}
    names |= {name for name in shapes if not name.endswith(".weight")}
    if not isinstance(split, dict) or not callable(join):
        raise Hint("return a dict, and a function that makes params of such a dict")
    if split.keys() != names:
        raise Hint(f"the new dict should have the names {sorted(names)}, but has {sorted(split)}")
    for layer in ("dense1", "conv1"):
        weight = params[f"{layer}.weight"]
        rows = weight.flatten(1)
        gain = tensor(f"{layer}.gain", split[f"{layer}.gain"], (len(weight),))
        usual = {
            "this is the length of the whole weight: one length for each row": rows.norm().expand(len(rows)),
            "gains that begin at 1 change the network: begin with the length of each row": torch.ones(
                len(rows)
            ).double(),
            "a square root is missing: the length, not its square": rows.square().sum(1),
        }
        judge(f"{layer}.gain", gain, rows.norm(dim=1), usual)
        direction = tensor(f"{layer}.direction", split[f"{layer}.direction"], tuple(weight.shape))
        judge(f"{layer}.direction (the weight itself, to begin with)", direction, weight)
    _check_way_back(params, split, join)


def _check_way_back(params: dict[str, Tensor], split: dict[str, Tensor], join: Function) -> None:
    back = join(dict(split))
    if not isinstance(back, dict) or back.keys() != params.keys():
        got = sorted(back) if isinstance(back, dict) else type(back).__name__
        raise Hint(f"the way back should give the names {sorted(params)}, but gives {got}")
    for name, p in params.items():
        gain = split[name.replace("weight", "gain")] if name.endswith(".weight") else None
        usual = {}
        if gain is not None:
            rows = gain.view(-1, *[1] * (p.dim() - 1))
            usual["divide each row by its length first: then gain alone says how long it is"] = rows * p
            usual["each row has length 1; multiply it by its gain"] = p / rows
        judge(f"after there and back, {name}", tensor(name, back[name], tuple(p.shape)), p, usual)
    moved = {
        name: (3 * p if name.endswith("direction") else p + 1).requires_grad_() for name, p in split.items()
    }
    back = join(moved)
    for layer in ("dense1", "conv1"):
        weight = params[f"{layer}.weight"]
        rows = weight.flatten(1)
        right = (rows / rows.norm(dim=1, keepdim=True) * (rows.norm(dim=1, keepdim=True) + 1)).view_as(weight)
        usual = {
            "the way back must read its argument, which training changes: it gave the first weights": weight
        }
        got = back[f"{layer}.weight"].detach()
        judge(f"directions three times as long, gains 1 larger: {layer}", got, right, usual)
    leaves = list(moved.values())
    total = sum((p * (i + 1)).square().sum() for i, p in enumerate(back.values()))
    gradients = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None]
    if any(g is None for g in gradients):
        raise Hint("no gradient goes through the way back to some of the new parameters")


@exercise
def check_7_paired(paired: Function) -> None:
    """``paired(one, other)``: the mean difference learner by learner, and the half width of its interval."""
    one = torch.tensor([0.90, 0.84, 0.95, 0.88, 0.92], dtype=torch.float64)
    other = torch.tensor([0.87, 0.83, 0.91, 0.82, 0.91], dtype=torch.float64)
    got = parts(paired(one, other), ["the mean difference", "the half width of its 95 % interval"])
    n = len(one)
    difference = (one - other).numpy()
    t = stats.t.ppf(0.975, n - 1)
    error = difference.std(ddof=1) / np.sqrt(n)
    mean = difference.mean()
    unpaired = ((one.var() + other.var()) / n).sqrt().item()
    right = np.array([mean, t * error])
    usual: dict[str, Any] = {
        "one minus other, not the other way round": np.array([-mean, t * error]),
        "both were taught from the same starts: take the differences first, learner by learner, and then "
        "their spread": np.array([mean, t * unpaired]),
        "divide the spread by the root of n: the mean of n is surer than one": np.array(
            [mean, t * error * n**0.5]
        ),
        "divide by the root of n, not by n": np.array([mean, t * error / n**0.5]),
        "this is one standard error: times t for 95 %": np.array([mean, error]),
        "1.96 is for many learners; with n of them it is stats.t.ppf(0.975, n - 1)": np.array(
            [mean, 1.96 * error]
        ),
        "the tails have 2.5 % each: stats.t.ppf(0.975, n - 1)": np.array(
            [mean, stats.t.ppf(0.95, n - 1) * error]
        ),
        "n - 1 degrees of freedom, not n": np.array([mean, stats.t.ppf(0.975, n) * error]),
        "this is the whole width, from end to end: half of it": np.array([mean, 2 * t * error]),
        "the spread of a sample divides by n - 1 (unbiased), not by n": np.array(
            [mean, t * difference.std() / np.sqrt(n)]
        ),
    }
    judge("(mean difference, half width)", [float(part) for part in got], right, usual)


@prediction
def predict_7_shuffled(guess: Any, answer: float) -> str:
    """Accuracy in percent where all images are shuffled."""
    return number(
        guess,
        answer,
        near="The order is worth something, and the images alone already teach most of it.",
        low="Shuffled images are still images that teach: look how much they keep.",
        high="Each step's learning rate was learned for the images that the step showed.",
        factor=1.0,
        apart=2.5,
        percent=True,
    )


@prediction
def predict_7_weight_norm(guess: Any, answer: float) -> str:
    """Points that weight normalization is ahead at the large outer learning rate."""
    return number(
        guess,
        answer,
        near="A few points decide here, so look at the interval, too.",
        low="It does better than you thought; look at the interval before you believe it.",
        high="It does less than you thought; look at the interval before you believe it.",
        factor=1.0,
        apart=2.0,
    )


@prediction
def predict_7_last_only(guess: Any, answer: str) -> str:
    """Whether a teacher that is read once, at the end, ends lower (l), higher (h) or at the same (s)."""
    return choice(
        guess,
        answer,
        {
            "l": "Early readings help where the way back is long; ten steps are short.",
            "h": "It optimizes just what is judged, the end; but the others ended well, too.",
            "s": "They differ in how they get there: look at the first steps.",
        },
    )
