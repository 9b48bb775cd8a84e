"""The capstone: whether all checks accept; the meta-loss, and the check of its gradient."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from checks.common import Function, Hint, close, exercise, judge, tensor

Answer = tuple[Callable[..., None], tuple[Function, ...]]


def all_correct(answers: Sequence[Answer]) -> bool:
    """Whether every check accepts its functions; prints how many do, and the first that does not."""
    passed = [_accepts(check, functions) for check, functions in answers]
    if all(passed):
        return True
    missing = answers[passed.index(False)][1]
    names = " and ".join(function.__name__ for function in missing)
    come = "comes" if len(missing) == 1 else "come"
    print(f"Not done yet: {sum(passed)} of {len(passed)} checks accept your functions; {names} {come} next.")
    return False


def _accepts(check: Callable[..., None], functions: tuple[Function, ...]) -> bool:
    verdict = io.StringIO()
    try:
        with contextlib.redirect_stdout(verdict):
            check(*functions)
    except Exception:  # whatever an unfinished function may raise
        return False
    return verdict.getvalue() == "Correct.\n"


@exercise
def check_12_meta_loss(meta_loss: Function) -> None:
    """``meta_loss(batch_loss, w, lesson, exam)``: the loss on real data after the lesson."""
    rng = torch.Generator().manual_seed(6)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    start = [numbers(3).requires_grad_()]
    x = numbers(2, 3).requires_grad_()
    y = torch.tensor([[1], [2]])
    lr = torch.tensor([0.3, 0.2], dtype=torch.float64, requires_grad=True)
    m = torch.tensor([0.5, 0.7], dtype=torch.float64, requires_grad=True)
    exam = numbers(3), torch.tensor([4])

    def batch_loss(w: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        return ((w[0] * x).sin().sum() - y.sum()).square() / 4 + w[0].square().sum() / 5

    w = start
    v = torch.zeros(3, dtype=torch.float64)
    for t in range(2):
        (g,) = torch.autograd.grad(batch_loss(w, x[t], y[t]), w, create_graph=True)
        v = m[t] * v + g
        w = [w[0] - lr[t] * v]
    right = batch_loss(w, *exam)
    answer = meta_loss(batch_loss, start, (x, y, lr, m), exam)
    if isinstance(answer, float):
        raise Hint("that is a plain number, and has no gradient: return the tensor")
    answer = tensor("the meta-loss", answer, ())
    usual = {
        "the learner was examined before its training": batch_loss(start, *exam),
        "the learner was examined on the teacher's own images: read its loss on exam": batch_loss(
            w, x[-1], y[-1]
        ),
    }
    judge("the meta-loss", answer.detach(), right.detach(), {h: wrong.detach() for h, wrong in usual.items()})
    leaves = {"images": x, "learning rates": lr, "momenta": m}
    wanted = torch.autograd.grad(right, list(leaves.values()))
    if not answer.requires_grad:
        raise Hint("the value is right, but no gradient reaches the lesson: something cuts the road")
    found = torch.autograd.grad(answer, list(leaves.values()), allow_unused=True)
    for name, ours, theirs in zip(leaves, found, wanted, strict=True):
        if ours is None:
            raise Hint(f"the value is right, but no gradient reaches the {name}: hand them on as they are")
        judge(f"the gradient by the {name}", ours, theirs)


class _Slope(torch.autograd.Function):
    """``sum(sin(x))``, whose gradient has something added to it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, error: Tensor) -> Tensor:
        ctx.save_for_backward(x, error)
        return (x.sin() + 2 * x).sum()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        x, error = ctx.saved_tensors
        return d * (x.cos() + 2 + error), None


@exercise
def check_12_gradient_error(gradient_error: Function) -> None:
    """``gradient_error(f, theta, seed)``: small for a right gradient, and not for wrong ones."""
    shapes = ((2, 2), (4,))
    rng = torch.Generator().manual_seed(7)
    theta = [torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes]
    before = [p.detach().clone() for p in theta]

    def with_error(first: list[float] | Tensor, second: list[float] | Tensor) -> Function:
        errors = torch.as_tensor(first).double().view(2, 2), torch.as_tensor(second).double()

        def f(theta: list[Tensor]) -> Any:
            if not torch.is_grad_enabled():  # a meta-loss takes gradients inside, for each of its steps
                raise Hint("f itself needs gradients: no no_grad around it")
            return sum(_Slope.apply(p, e) for p, e in zip(theta, errors, strict=True))

        return f

    def ask(f: Function, seed: int = 0) -> float:
        answer = gradient_error(f, theta, seed)
        moved = max(float((p.detach() - old).abs().max()) for p, old in zip(theta, before, strict=True))
        if 0 < moved < 1e-12:
            raise Hint(
                f"theta has changed by {moved:.0e}: adding and subtracting rounds, so restore a saved copy"
            )
        if moved != 0:
            raise Hint("theta has changed: put it back, or move a copy")
        try:
            return float(answer)
        except (TypeError, ValueError):
            raise Hint(f"return one number, not a {type(answer).__name__}") from None

    none = [0.0] * 4
    found = [ask(with_error(none, none), seed) for seed in range(3)]
    if max(found) > 1e-3:
        raise Hint(
            f"a right gradient has the error {max(found):.0e}: is h small, and is u the same on both sides?"
        )
    if max(found) > 1e-7:
        raise Hint(
            f"a right gradient has the error {max(found):.0e}; with (f(theta + h u) - f(theta - h u)) / 2h, "
            "h = 1e-5 and float64 it is below 1e-8"
        )
    if min(found) < 0:
        raise Hint("an error is not negative: take the absolute value")
    if max(ask(with_error([0.05] * 4, [0.05] * 4), seed) for seed in range(5)) < 1e-4:
        raise Hint(
            "a gradient that is wrong everywhere was passed as right: the slope must be that of autograd"
        )
    for share in (0.5, -0.5):  # an error in proportion to the gradient: the answer is known whatever u is
        wrong = with_error(*[share * (p.detach().cos() + 2) for p in theta])
        for seed in range(5):
            _known(ask(wrong, seed), share)
    if max(ask(with_error([0.05, -0.05, 0, 0], none), seed) for seed in range(5)) < 1e-5:
        raise Hint("two errors that cancel were not seen: draw the direction at random, not all ones")
    if max(ask(with_error(none, [0, 0, 0, 0.05]), seed) for seed in range(5)) < 1e-5:
        raise Hint(
            "an error in the last entry of the last part was not seen: the direction has a number for each"
        )


def _known(answer: float, share: float) -> None:
    """Judge the answer where autograd's slope is 1 + ``share`` times the true one."""
    right = abs(share) / (1 + share)
    if close(answer, right, 1e-5):
        return
    if answer < 0:
        raise Hint("an error is not negative: take the absolute value of the difference, and of the slope")
    if close(answer, abs(share), 1e-5):
        raise Hint("divide by the size of the first slope, autograd's; this divides by the other one's")
    raise Hint(
        f"divide by the size of the first slope: where autograd's slope is {1 + share} times the true one, "
        f"the answer is {right:.4f} for every u, not {answer:.4f}"
    )
