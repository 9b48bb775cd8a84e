"""The capstone: teacher, outer loop, judgement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from checks.common import Function, Hint, NotDone, exercise, judge, parts, tensor


@exercise
def check_12_teacher(Teacher: Function) -> None:
    """``Teacher(T, B, seed)``: the lesson it gives, and what the lesson depends on."""
    T = 3
    B = 20
    teacher = Teacher(T, B, 0)
    if not isinstance(teacher, torch.nn.Module):
        raise Hint("Teacher(T, B, seed) should be a torch.nn.Module")
    lesson = teacher()
    if lesson is None or lesson is Ellipsis:
        raise NotDone
    x, y, lr, m = parts(lesson, ["images", "labels", "learning rates", "momenta"])
    x = tensor("the images", x, (T, B, 64))
    y = tensor("the labels", y, (T, B))
    lr = tensor("the learning rates", lr, (T,))
    m = tensor("the momenta", m, (T,))
    if y.dtype != torch.int64 or not torch.equal(y, torch.arange(B).remainder(10).expand(T, B)):
        raise Hint(
            "the labels are class numbers (int64), in each step every class equally often: "
            "i mod 10 for image i"
        )
    parameters = dict(teacher.named_parameters())
    if not parameters:
        raise Hint("the teacher has no parameters: nn.Parameter, or layers of torch.nn, in __init__")
    if lr.min() <= 0 or m.min() < 0 or m.max() >= 1:
        raise Hint("learning rates above 0, momenta from 0 to below 1")
    if lr.min() < 0.03 or lr.max() > 0.3:
        raise Hint(
            f"the learning rates should begin near 0.1; they begin at {lr.min():.2g} to {lr.max():.2g}"
        )
    for name, part in {"images": x, "learning rates": lr, "momenta": m}.items():
        if not part.requires_grad:
            raise Hint(f"the {name} do not depend on the teacher's parameters: they cannot be learned")
    probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(8))
    weights = torch.arange(1.0, T + 1)
    total = (x * probe).sum() + (lr * weights).sum() + (m * weights).sum()
    found = torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
    for name, g in zip(parameters, found, strict=True):
        if g is None:
            raise Hint(f"the parameter {name} has no part in the lesson")
    _check_images(x, parameters)
    _check_step_sizes(lambda: Teacher(T, B, 0))
    longer = dict(Teacher(T + 1, B, 0).named_parameters())
    grown = _check_vectors(x, parameters, longer, B)
    _check_class(Teacher(T, B, 0), grown)
    other = Teacher(T, B, 1)()[0]
    if torch.equal(other, x):
        raise Hint("another seed gave the same teacher")
    if not torch.equal(Teacher(T, B, 0)()[0], x):
        raise Hint("the same seed gave two teachers: torch.manual_seed(seed) in __init__")


def _check_step_sizes(new: Function) -> None:
    """They stay in range wherever their parameters go; far out a sigmoid may round to 0 or 1."""
    for shift in (-1.0, 1.0, -4.0, 4.0):
        teacher = new()
        with torch.no_grad():
            for p in teacher.parameters():
                p += shift
            _, _, lr, m = teacher()
        far = abs(shift) > 1
        if lr.min() < 0 or (lr.min() == 0 and not far):
            raise Hint("a learning rate can become 0 or negative: learn its logarithm, say")
        if m.min() < 0 or m.max() > 1 or (m.max() == 1 and not far):
            raise Hint("a momentum can leave the interval from 0 to below 1: put it through a sigmoid, say")


def _check_vectors(x: Tensor, parameters: dict[str, Tensor], longer: dict[str, Tensor], B: int) -> list[str]:
    """One more step needs one more z for each of its B images; returns which parameters grow with T."""
    leaves = list(parameters.values())
    found = torch.autograd.grad(x.sum(), leaves, retain_graph=True, allow_unused=True)
    step_sizes = [name for name, g in zip(parameters, found, strict=True) if g is None]

    def count(of: dict[str, Tensor]) -> int:
        return sum(p.numel() for name, p in of.items() if name not in step_sizes)

    if count(longer) - count(parameters) < B:
        raise Hint(
            "the vectors z are not learned: one for each image of each step, an nn.Parameter (a buffer or a "
            "plain tensor has no gradient)"
        )
    return [name for name, p in parameters.items() if name in longer and longer[name].shape != p.shape]


def _check_class(teacher: torch.nn.Module, vectors: list[str]) -> None:
    """Where all z are the same, images of two classes still differ."""
    with torch.no_grad():
        for name, p in teacher.named_parameters():
            if name in vectors:
                p.fill_(0.5)
        x = teacher()[0]
    if torch.equal(x[0, 0], x[0, 1]):
        raise Hint("the generator does not see the class: give it z and the class, one-hot say")


def _check_images(x: Tensor, parameters: dict[str, Tensor]) -> None:
    """They differ from step to step and from image to image, and one generator makes them all."""
    if torch.equal(x[0], x[1]):
        raise Hint("every step shows the same images: give each image of each step its own vector z")
    if torch.equal(x[0, 0], x[0, 10]):
        raise Hint("two images of one class are the same: give each image its own vector z")
    leaves = list(parameters.values())
    one = torch.autograd.grad(x[0, 0].sum(), leaves, retain_graph=True, allow_unused=True)
    two = torch.autograd.grad(x[-1, -1].sum(), leaves, retain_graph=True, allow_unused=True)
    shared = [
        a is not None and b is not None and bool(((a != 0) & (b != 0)).any())
        for a, b in zip(one, two, strict=True)
    ]
    if not any(shared):
        raise Hint("each image has numbers of its own alone: a generator's weights are shared by all of them")


class _Toy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor([4.0, -3.0]))
        self.calls = 0

    def forward(self) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.theta * 1, self.theta[0] * 1


@exercise
def check_12_meta_train(meta_train: Function) -> None:
    """``meta_train(teacher, objective, steps)``: a new lesson and a new i in each step, downhill."""
    teacher = _Toy()
    steps = 60
    seen: list[int] = []
    values: list[float] = []
    slopes: list[Tensor] = []

    def objective(lesson: Any, i: int) -> Tensor:
        theta, _ = lesson
        seen.append(i)
        target = torch.tensor([(i % 4) / 4, (i % 5) / 5])
        value = (theta - target).square().sum()
        values.append(value.item())
        slopes.append(2 * (theta - target).detach())
        return value

    try:
        history = meta_train(teacher, objective, steps)
    except RuntimeError as error:
        if "second time" in str(error):
            raise Hint(
                "the lesson must be made anew in every outer step: teacher() inside the loop"
            ) from None
        raise
    if len(seen) == steps and len(set(seen)) < steps:
        raise Hint(
            "every outer step i hands its own i to the objective: other fresh weights, other real images"
        )
    if len(seen) != steps or sorted(seen) != list(range(steps)):
        raise Hint(
            f"objective(lesson, i) for i = 0 to {steps - 1}, once each; it was asked {len(seen)} times"
        )
    if not isinstance(history, list) or len(history) != steps:
        raise Hint(f"return a list of the {steps} meta-losses")
    if any(isinstance(value, Tensor) for value in history):
        raise Hint("keep plain numbers (.item()): a tensor keeps the whole graph of its step alive")
    judge("the meta-losses", history, values)
    if torch.equal(teacher.theta.detach(), torch.tensor([4.0, -3.0])):
        raise Hint("the teacher has not moved: backward, and then optimizer.step()")
    if sum(values[-20:]) > 1.01 * sum(values[:20]):
        raise Hint("the meta-loss rises: go down the gradient, and not so fast that the steps diverge")
    grad = teacher.theta.grad
    if grad is not None and grad.norm() > 0:
        along = (grad @ slopes[-1]) / (grad.norm() * slopes[-1].norm())
        if along < 1 - 1e-4:
            raise Hint(
                "the gradients of earlier steps are still in the last one: zero_grad comes before backward"
            )
    if sum(values[-20:]) > 0.999 * sum(values[:20]):
        raise Hint(
            "the teacher hardly moves in 60 steps: a learning rate of 0.01, with Adam, is a good beginning"
        )


@exercise
def check_12_judge(judge_taught: Function) -> None:
    """``judge(taught, data, seeds)``: the test accuracy of each of the fresh learners."""
    rng = torch.Generator().manual_seed(9)
    data = {}
    for name, n in {"train": 40, "valid": 30, "test": 50}.items():
        y = torch.randint(10, (n,), generator=rng)
        x = torch.zeros(n, 64)
        x[torch.arange(n), y] = 1.0
        x[:, 20] = torch.rand(n, generator=rng) + {"train": 0.2, "valid": 0.1, "test": 0.0}[name]
        data[name] = x, y
    asked: list[int] = []
    scale = torch.ones((), requires_grad=True)

    def taught(seed: int) -> Function:
        asked.append(seed)

        def predict(x: Tensor) -> Tensor:
            """Right where x[:, 20] is large enough, for that learner; elsewhere the next class."""
            wrong = x[:, 20] < 0.3 + 0.07 * (seed % 10)
            logits = x[:, :10].clone()
            logits[wrong] = logits[wrong].roll(1, 1)
            return logits * scale

        return predict

    seeds = [10**6 + k for k in (1, 4, 5)]
    answer = judge_taught(taught, data, seeds)
    drawn = list(asked)

    def accuracies(part: str, of: list[int] = seeds) -> Tensor:
        x, y = data[part]
        return torch.stack([(taught(s)(x).argmax(1) == y).double().mean() for s in of])

    if isinstance(answer, float) or (isinstance(answer, Tensor) and answer.dim() == 0):
        raise Hint("return the accuracies of all learners, (n,): a mean without a spread says little")
    answer = tensor("judge(...)", answer, (len(seeds),)).detach()
    right = accuracies("test")
    usual = {
        "these are the validation images; the judgement is on the test images": accuracies("valid"),
        "these are the training images; the judgement is on the test images": accuracies("train"),
        "fractions from 0 to 1, not percent": 100 * right,
        "this is the fraction of mistakes": 1 - right,
        "every seed gave the same learner: taught(seed) for each of them": accuracies("test", [seeds[0]] * 3),
        "number k of the seeds is not k itself: taught(seed)": accuracies("test", [0, 1, 2]),
    }
    judge("the accuracies", answer, right, usual)
    if drawn != seeds:
        raise Hint(f"each seed is asked for once, in its order: {seeds}, not {drawn}")
