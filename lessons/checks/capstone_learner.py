"""The capstone: the learner, whose weights come in from outside."""

from __future__ import annotations

import torch
from torch import Tensor

from checks.common import Function, Hint, close, exercise, tensor


@exercise
def check_12_learner(fresh: Function, forward: Function) -> None:
    """``fresh(seed)``, ``forward(w, x)``: weights from outside, a hidden layer, two derivatives."""
    w = fresh(0)
    if not isinstance(w, list) or not all(isinstance(p, Tensor) for p in w):
        raise Hint("fresh(seed) returns a list of tensors")
    if not all(p.requires_grad and p.is_leaf for p in w):
        raise Hint("the weights must be leaves that require grad: .requires_grad_(), after all arithmetic")
    if not all(map(torch.equal, w, fresh(0))):
        raise Hint("the same seed gave two networks: draw from torch.Generator().manual_seed(seed)")
    if all(map(torch.equal, w, fresh(1))):
        raise Hint("another seed gave the same network")
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(2))
    logits = tensor("forward(w, x)", forward(w, x), (7, 10))
    if close(logits.softmax(1).sum(1).detach(), logits.sum(1).detach(), 1e-4):
        raise Hint("these are probabilities: return logits, the loss does the rest")
    double = [p.detach().double().requires_grad_() for p in w]
    x = x.double()
    value = torch.nn.functional.cross_entropy(forward(double, x), torch.arange(7))
    if not value.requires_grad:
        raise Hint("forward must compute with the w it is given: no gradient reaches it")
    if logits.std() < 1e-6:  # a last layer of zeros is a fair beginning, if a step takes the images apart
        double = _one_step_on(value, double)
        logits = forward(double, x)
        if (logits - logits.mean(0)).abs().max() < 1e-6:
            raise Hint(
                "all logits are equal, and all images stay alike when a step has moved the weights: "
                "draw the first layer's weights at random, and not too small"
            )
    if _is_linear(forward, double):
        raise Hint("the logits are linear in the images: put a nonlinear function between two layers")
    value = torch.nn.functional.cross_entropy(forward(double, x), torch.arange(7))
    first = torch.autograd.grad(value, double, create_graph=True, allow_unused=True)
    if any(g is None for g in first):
        raise Hint("some weights have no part in the logits: forward must use all of the w it is given")
    length = sum(g.square().sum() for g in first)
    if not length.requires_grad:
        raise Hint("the gradient cannot be differentiated again, and the meta-gradient needs just that")


def _one_step_on(value: Tensor, w: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, w, allow_unused=True)
    return [(p if g is None else p - g).detach().requires_grad_() for p, g in zip(w, found, strict=True)]


def _is_linear(forward: Function, w: list[Tensor]) -> bool:
    """Whether f(a + b) - f(a) - f(b) + f(0) is zero; with b = -a it would be for every odd function."""
    rng = torch.Generator().manual_seed(10)
    for size in (0.5, 1.0, 3.0):
        a = size * torch.randn(7, 64, generator=rng, dtype=torch.float64)
        b = size * torch.randn(7, 64, generator=rng, dtype=torch.float64)
        bend = forward(w, a + b) - forward(w, a) - forward(w, b) + forward(w, 0 * a)
        if bend.abs().max() > 1e-9:
            return False
    return True
