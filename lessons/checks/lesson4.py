"""Lesson 4: learning rates as exponentials, the meta-loss, and one learning rate for each layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import minigtn
from checks.common import Function, Hint, close, exercise, judge


@exercise
def check_4_through_the_logarithm(through_the_logarithm: Function) -> None:
    """``through_the_logarithm(lr, d_lr)``: the gradient by log lr (T,)."""
    lr = np.array([0.1, 0.5, 2.0])
    d_lr = np.array([-3.0, 0.4, 0.25])
    usual = {
        "lr = exp(log lr), and d lr / d log lr is lr itself: multiply, do not divide": d_lr / lr,
        "that is the gradient by lr: one factor is missing": d_lr,
        "the derivative of exp is exp: the factor is lr, not log lr": d_lr * np.log(lr),
    }
    judge("the gradient by log lr", through_the_logarithm(lr, d_lr), lr * d_lr, usual)


@exercise
def check_4_meta_loss(meta_loss: Function) -> None:
    """``meta_loss(loss, params, batches, log_lr, momentum, real)``: the loss on real data, a scalar."""
    loss, params, batches, real = _torch_problem()
    log_lr = torch.linspace(-2.0, -1.0, 4, dtype=torch.float64, requires_grad=True)
    got = meta_loss(loss, params, batches, log_lr, 0.7, real)
    if not isinstance(got, torch.Tensor):
        raise Hint("return the tensor itself: float() or .item() cuts it off from the run that made it")

    def variant(lr: Any, batch: Any, momentum: float = 0.7) -> float:
        with torch.no_grad():
            return float(loss(minigtn.sgd(loss, params, batches, lr, momentum), batch))

    last = [part[-1] for part in batches]
    with torch.no_grad():
        untrained = float(loss(params, real))
    usual = {
        "lr is the exponential of log_lr: give sgd log_lr.exp()": variant(log_lr.detach().clone(), real),
        "that is the loss on the last training batch: a schedule must be judged on data it "
        "was not trained on, here `real`": variant(log_lr.exp(), last),
        "that is the loss of the untrained learner: sgd returns the trained params": untrained,
        "the momentum is missing: give it to sgd": variant(log_lr.exp(), real, 0.0),
    }
    judge("the meta-loss", got.detach(), variant(log_lr.exp(), real), usual)
    if not got.requires_grad or torch.autograd.grad(got, log_lr, allow_unused=True)[0] is None:
        raise Hint(
            "the number is right, but it is cut off from log_lr: no .detach(), no "
            "torch.no_grad(), no torch.tensor(log_lr)"
        )


@exercise
def check_4_train_per_layer(train_per_layer: Function) -> None:
    """``train_per_layer(loss, params, batches, lr, momentum)``, lr a dict of (T,): the trained params."""
    loss, params, batches, real = _torch_problem()
    lr = {name: torch.linspace(0.1, 0.4, 4, dtype=torch.float64) * k for k, name in enumerate(params, 1)}

    def variant(lr_of: Function, momentum: float = 0.7, old: bool = False) -> dict[str, Any]:
        w = {name: p.clone().requires_grad_() for name, p in params.items()}
        v = {name: torch.zeros_like(p) for name, p in params.items()}
        for t in range(4):
            g = torch.autograd.grad(loss(w, [part[t] for part in batches]), list(w.values()))
            new = {name: momentum * v[name] + g_name for (name, g_name) in zip(w, g, strict=True)}
            w = {
                name: (w[name] - lr_of(name, t) * (v if old else new)[name]).detach().requires_grad_()
                for name in w
            }
            v = new
        return {name: p.detach() for name, p in w.items()}

    got = train_per_layer(loss, params, batches, lr, 0.7)
    if not isinstance(got, dict) or set(got) != set(params):
        raise Hint(f"return the trained params as a dict with the names {', '.join(params)}")
    first = next(iter(lr))
    usual = {
        "all layers moved with one layer's learning rate: use lr[name][t]": variant(
            lambda name, t: lr[first][t]
        ),
        "every step used the first learning rate: use lr[name][t]": variant(lambda name, t: lr[name][0]),
        "the velocity is forgotten between the steps: v <- momentum * v + g": variant(
            lambda name, t: lr[name][t], momentum=0.0
        ),
        "the weights move by the old velocity: update v first": variant(
            lambda name, t: lr[name][t], old=True
        ),
    }
    right = variant(lambda name, t: lr[name][t])
    for name in params:
        judge(
            f"params[{name!r}]",
            got[name].detach(),
            right[name],
            {hint: wrong[name] for hint, wrong in usual.items()},
        )

    common = torch.linspace(0.1, 0.4, 4, dtype=torch.float64, requires_grad=True)
    value = loss(train_per_layer(loss, params, batches, dict.fromkeys(params, common), 0.7), real)
    d_common = torch.autograd.grad(value, common, allow_unused=True)[0] if value.requires_grad else None
    if d_common is None:
        raise Hint(
            "the weights are right, but cut off from lr: no .detach() and no torch.no_grad() on the way"
        )
    (d_right,) = torch.autograd.grad(loss(minigtn.sgd(loss, params, batches, common, 0.7), real), common)
    if not close(d_common, d_right):
        raise Hint(
            "the weights are right and their gradient by lr is not: torch.autograd.grad needs "
            "create_graph=True, or g counts as a constant"
        )


def _torch_problem() -> tuple[Any, ...]:

    rng = torch.Generator().manual_seed(5)
    params = {
        "hidden": torch.randn(3, 4, generator=rng, dtype=torch.float64),
        "head": torch.randn(4, 1, generator=rng, dtype=torch.float64),
    }
    x, y = (
        torch.randn(5, 6, 3, generator=rng, dtype=torch.float64),
        torch.randn(5, 6, 1, generator=rng, dtype=torch.float64),
    )

    def loss(params: Any, batch: Any) -> Any:
        x, y = batch
        return (torch.tanh(x @ params["hidden"]) @ params["head"] - y).square().mean()

    return loss, params, (x[:4], y[:4]), (x[4], y[4])
