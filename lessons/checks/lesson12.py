"""Lesson 12, the capstone, first half: data, loss, one step, T steps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from checks.capstone import check_12_gradient_error, check_12_meta_loss
from checks.capstone_learner import check_12_learner
from checks.capstone_outer import check_12_judge, check_12_meta_train, check_12_teacher
from checks.common import Function, Hint, close, exercise, judge, parts, tensor

__all__ = [
    "check_12_gradient_error",
    "check_12_judge",
    "check_12_learner",
    "check_12_loss",
    "check_12_make_data",
    "check_12_meta_loss",
    "check_12_meta_train",
    "check_12_step",
    "check_12_teacher",
    "check_12_train",
]

SIZES = {"train": 1000, "valid": 297, "test": 500}


@exercise
def check_12_make_data(make_data: Function) -> None:
    """``make_data(seed)``: three parts that share no image, in units of the training images."""
    from sklearn.datasets import load_digits

    data = make_data(0)
    if not isinstance(data, dict) or data.keys() != SIZES.keys():
        raise Hint('return a dict with the three parts "train", "valid" and "test"')
    for name, n in SIZES.items():
        x, y = parts(data[name], ["x", "y"])
        tensor(f"x of {name}", x, (n, 64))
        tensor(f"y of {name}", y, (n,))
        if x.dtype != torch.float32 or y.dtype != torch.int64:
            raise Hint(f"x is float32 and y int64, not {x.dtype} and {y.dtype}")
    x = torch.cat([data[name][0] for name in SIZES]).double()
    y = torch.cat([data[name][1] for name in SIZES])
    units = 16 * (x - x.min()) / (x.max() - x.min())
    if (units - units.round()).abs().max() > 1e-3:
        raise Hint("one mean and one standard deviation for all pixels of all images: two plain numbers")
    digits = load_digits()
    label = {image.astype(int).tobytes(): int(k) for image, k in zip(digits.data, digits.target, strict=True)}
    images = [row.numpy().astype(int).tobytes() for row in units.round()]
    if Counter(images) != Counter(image.astype(int).tobytes() for image in digits.data):
        raise Hint(
            "each of the 1797 images belongs to one part, and to no second one; some are in two, or in none"
        )
    if any(label[image] != k for image, k in zip(images, y.tolist(), strict=True)):
        raise Hint("images and labels no longer belong together: draw one order for both")
    train = data["train"][0].double()
    if not (abs(train.mean()) < 1e-4 and abs(train.std() - 1) < 1e-3):
        if abs(x.mean()) < 1e-4 and abs(x.std() - 1) < 1e-3:
            raise Hint(
                "mean and standard deviation are those of all images: the test images must not have a say"
            )
        raise Hint("the training images should have mean 0 and standard deviation 1")
    if not torch.equal(make_data(0)["test"][0], data["test"][0]):
        raise Hint("the same seed gave two splits: draw the order from torch.Generator().manual_seed(seed)")
    if torch.equal(make_data(1)["test"][0], data["test"][0]):
        raise Hint("another seed gave the same test images: shuffle before you cut")


@exercise
def check_12_loss(loss: Function) -> None:
    """``loss(logits, y)``: mean cross entropy, for large logits, too."""
    rng = torch.Generator().manual_seed(3)
    logits = (2 * torch.randn(6, 10, generator=rng, dtype=torch.float64)).requires_grad_()
    y = torch.tensor([3, 0, 9, 3, 5, 1])
    each = logits.logsumexp(1) - logits.gather(1, y[:, None])[:, 0]
    right = each.mean()
    got = loss(logits, y)
    if isinstance(got, Tensor) and got.shape == (6,):
        raise Hint("that is one loss per image: return the mean")
    got = tensor("loss(logits, y)", got, ())
    usual = {
        "that is the sum over the images; take the mean": each.sum(),
        "divide by the number of images, not by that of all logits": each.sum() / logits.numel(),
        "this takes logarithms of base 2": right / torch.log(torch.tensor(2.0).double()),
        "softmax was applied twice": torch.nn.functional.cross_entropy(logits.softmax(1), y),
        "this is minus the logit of the class: the logarithm of the sum of exp is missing": -logits.gather(
            1, y[:, None]
        ).mean(),
    }
    judge("the loss", got.detach(), right.detach(), {hint: wrong.detach() for hint, wrong in usual.items()})
    wanted = torch.autograd.grad(right, logits)[0]
    if not got.requires_grad:
        raise Hint("the value is right, but cut off from the logits: no gradient")
    judge("its gradient by the logits", torch.autograd.grad(got, logits)[0], wanted)
    large = 1000 * torch.eye(10, dtype=torch.float64)[:2]
    answer = loss(large, torch.tensor([0, 0]))
    if not torch.isfinite(answer):
        raise Hint("for logits of 1000, exp overflows: use logsumexp or log_softmax")
    judge("the loss for logits of 1000", answer, 500.0)


def _curved(w: list[Tensor]) -> Tensor:
    """A function of two tensors, (2, 3) and (3,), whose Hessian is not constant."""
    a, b = w
    return (a * a * a).sum() / 3 + (a @ b).square().sum() + b.sin().sum()


def _start() -> tuple[list[Tensor], list[Tensor]]:
    rng = torch.Generator().manual_seed(4)
    shapes = ((2, 3), (3,))
    w = [torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes]
    return w, [torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes]


def _flat(parts: Any) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def _tensors(what: str, answer: Any, like: list[Tensor]) -> Tensor:
    if not isinstance(answer, list | tuple) or len(answer) != len(like):
        raise Hint(f"{what} should be a list of {len(like)} tensors, as it was")
    return _flat(
        [
            tensor(f"part {i} of {what}", p, tuple(l.shape))
            for i, (p, l) in enumerate(zip(answer, like, strict=True))
        ]
    )


@exercise
def check_12_step(step: Function) -> None:
    """``step(objective, w, v, lr, m)``: new w and v, with the way back through the gradient open."""
    w, v = _start()
    v = [1 * p.requires_grad_() for p in v]
    lr = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    m = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    kept = _flat([*w, *v]).detach().clone()
    answer = step(_curved, w, v, lr, m)
    if isinstance(answer, list) and all(isinstance(part, Tensor) for part in answer):
        raise Hint("that is one list of tensors; return 2 things, in this order: the new w, the new v")
    new_w, new_v = parts(answer, ["the new w", "the new v"])
    if not torch.equal(kept, _flat([*w, *v])):
        raise Hint("the caller's w or v has changed: make new tensors, w - lr * v, and not w -= ...")
    got_w = _tensors("the new w", new_w, w)
    got_v = _tensors("the new v", new_v, v)
    old = _flat(w)
    g = _flat(torch.autograd.grad(_curved(w), w, create_graph=True))
    velocity = _flat(v)
    right_v = m * velocity + g
    right_w = old - lr * right_v
    usual = {
        "the velocity is m times the old one plus the gradient, without a factor 1 - m": m * velocity
        + (1 - m) * g,
        "the old velocity is missing": g,
        "the old velocity should be scaled by m": velocity + g,
        "the learning rate belongs to the weights' line, not to the velocity's": m * velocity + lr * g,
    }
    judge("the new v", got_v.detach(), right_v.detach(), {h: x.detach() for h, x in usual.items()})
    usual = {
        "the new velocity moves the weights, not the old one": old - lr * velocity,
        "the velocity moves the weights, not the gradient alone": old - lr * g,
        "down, not up: w - lr * v": old + lr * right_v,
        "the learning rate is missing": old - right_v,
    }
    judge("the new w", got_w.detach(), right_w.detach(), {h: x.detach() for h, x in usual.items()})
    _check_roads("the new w", got_w, right_w, {"w": w, "v": v, "lr": [lr], "m": [m]})
    _check_roads("the new v", got_v, right_v, {"w": w, "v": v, "m": [m]})


def _check_roads(what: str, got: Tensor, right: Tensor, leaves: dict[str, list[Tensor]]) -> None:
    """The gradients of ``got``, of which the numbers are right, by the old w and v, and by lr and m."""
    probe = torch.linspace(-1, 2, len(right), dtype=torch.float64)
    cut = "without create_graph=True it is lost how the gradient changes with w"
    for name, of in leaves.items():
        wanted = _flat(torch.autograd.grad(right @ probe, of, retain_graph=True))
        found: Any = [None]
        if got.requires_grad:
            found = torch.autograd.grad(got @ probe, of, retain_graph=True, allow_unused=True)
        if any(part is None for part in found):
            why = cut if what == "the new v" and name == "w" else "something cuts the road"
            raise Hint(f"the numbers are right, but {what} cannot be differentiated by {name}: {why}")
        judge(
            f"the gradient of {what} by {name}",
            _flat(found),
            wanted,
            {f"the numbers are right, but {cut}": probe},
        )


@exercise
def check_12_train(train: Function) -> None:
    """``train(batch_loss, w, lesson)``: T steps, each on its own batch and with its own step size."""
    T = 3
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(T, 4, generator=rng, dtype=torch.float64).requires_grad_()
    y = torch.arange(3 * T).view(T, 3)
    lr = torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
    m = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64, requires_grad=True)

    def batch_loss(w: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        return _curved(w) / 4 + (w[1] * x[:3]).sum() + (w[0].sum() * x[3] - 0.1 * y.sum()).square() / 10

    def run(
        order: Any = range(T),
        reset: bool = False,
        first: bool = False,
        still: bool = False,
        constant: bool = False,
    ) -> Tensor:
        w, _ = start, None
        v = [torch.zeros_like(p) for p in w]
        for t in order:
            g = torch.autograd.grad(
                batch_loss(w, x[0 if still else t], y[0 if still else t]), w, create_graph=True
            )
            v = [(0 if reset else m[0 if constant else t]) * b + a for a, b in zip(g, v, strict=True)]
            w = [p - lr[0 if first else t] * b for p, b in zip(w, v, strict=True)]
        return _flat(w)

    start, _ = _start()
    got = _tensors("the trained weights", train(batch_loss, start, (x, y, lr, m)), start)
    right = run()
    usual = {
        "every step saw the first batch: step t takes x[t], y[t]": run(still=True),
        "the velocity was forgotten between the steps: it is handed on": run(reset=True),
        "every step took the first learning rate: step t takes lr[t]": run(first=True),
        "every step took the first momentum: step t takes m[t]": run(constant=True),
        "the last step is missing": run(range(T - 1)),
        "the first step is missing": run(range(1, T)),
        "the steps went backwards": run(range(T)[::-1]),
    }
    judge(
        "the trained weights", got.detach(), right.detach(), {h: wrong.detach() for h, wrong in usual.items()}
    )
    probe = torch.linspace(-1, 2, len(right), dtype=torch.float64)
    leaves = {"images": x, "learning rates": lr, "momenta": m, "first weights": start[0]}
    wanted = torch.autograd.grad(right @ probe, list(leaves.values()))
    if not got.requires_grad:
        raise Hint("the weights are right, but cut off from all that made them")
    found = torch.autograd.grad(got @ probe, list(leaves.values()), allow_unused=True)
    for name, ours, theirs in zip(leaves, found, wanted, strict=True):
        if ours is None or not close(ours, theirs):
            raise Hint(
                f"the weights are right, but their gradient by the {name} is not: nothing may be "
                "cut (detach, item) between the steps"
            )
