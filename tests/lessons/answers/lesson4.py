"""Right and wrong answers to the exercises of lesson 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import minigtn


def meta_loss(exp=True, on="real", cut=False, momentum_given=True):
    def answer(loss, params, batches, log_lr, momentum, real):
        if cut:
            log_lr = log_lr.detach()
        trained = minigtn.sgd(
            loss, params, batches, log_lr.exp() if exp else log_lr.abs(), momentum if momentum_given else 0.0
        )
        return loss(trained, real if on == "real" else [part[-1] for part in batches])

    return answer


def train_per_layer(create_graph=True, name_of=lambda name: name, step_of=lambda t: t):
    def answer(loss, params, batches, lr, momentum):
        w = {name: p.clone().requires_grad_() for name, p in params.items()}
        v = {name: torch.zeros_like(p) for name, p in params.items()}
        for t in range(len(batches[0])):
            g = torch.autograd.grad(
                loss(w, [part[t] for part in batches]), list(w.values()), create_graph=create_graph
            )
            v = {name: momentum * v[name] + g_name for name, g_name in zip(w, g, strict=True)}
            w = {name: w[name] - lr[name_of(name)][step_of(t)] * v[name] for name in w}
        return w

    return answer


def log_lr_gradient(
    through=lambda lr, d_lr: lr * d_lr, of=1, hessian=0, late=False, on="real", carry=True, exp=True
):
    """Lesson 4's walk with one thing wrong."""

    def answer(loss, w0, batches, log_lr, momentum, real):
        def gradient(w, batch):
            w = w.detach().requires_grad_()
            return w, torch.autograd.grad(loss(w, batch), w, create_graph=True)[0]

        lr = log_lr.exp() if exp else log_lr.abs()
        states = [(w0, torch.zeros_like(w0))]
        for t, batch in enumerate(batches):
            w, v = states[-1]
            v = momentum * v + gradient(w, batch)[1].detach()
            states.append((w - lr[t] * v, v))
        lam = gradient(states[-1][0], real if on == "real" else batches[-1])[1].detach()
        nu = torch.zeros_like(w0)
        d_lr = torch.zeros_like(lr)
        for t in reversed(range(len(batches))):
            d_lr[t] = -lam @ states[t + of][1]
            before = nu
            nu = nu - lr[t] * lam
            if hessian is not None:
                w, g = gradient(states[t + hessian][0], batches[t])
                lam = lam + torch.autograd.grad(g @ (before if late else nu), w)[0]
            nu = momentum * nu if carry else torch.zeros_like(nu)
        return through(lr, d_lr)

    return answer


def learn(zero=True, step=True, optimizer=torch.optim.Adam, first=0, number=True, lr=0.04):
    def answer(log_lr, meta_loss_of, outer_steps):
        moved = optimizer(log_lr, lr=lr)
        history = []
        for seed in range(first, first + outer_steps):
            if zero:
                moved.zero_grad()
            value = meta_loss_of(seed)
            value.backward()
            if step:
                moved.step()
            history.append(value.item() if number else value)
        return history

    return answer


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("4_log_lr_gradient", log_lr_gradient(through=lambda lr, d_lr: d_lr / lr), "multiply, do not divide"),
    ("4_log_lr_gradient", log_lr_gradient(through=lambda lr, d_lr: d_lr), "is missing"),
    ("4_log_lr_gradient", log_lr_gradient(through=lambda lr, d_lr: d_lr * lr.log()), "not log lr"),
    ("4_log_lr_gradient", log_lr_gradient(hessian=None), "the Hessian is missing"),
    ("4_log_lr_gradient", log_lr_gradient(hessian=1), "before the step"),
    ("4_log_lr_gradient", log_lr_gradient(late=True), "before its update"),
    ("4_log_lr_gradient", log_lr_gradient(of=0), "by the new velocity"),
    ("4_log_lr_gradient", log_lr_gradient(carry=False), "nu is not carried on"),
    ("4_log_lr_gradient", log_lr_gradient(on="train"), "not on the last batch"),
    ("4_log_lr_gradient", log_lr_gradient(exp=False), "the gradient by log lr should be"),
    ("4_log_lr_gradient", log_lr_gradient(through=lambda lr, d_lr: d_lr.numpy()), "a torch tensor"),
    ("4_learn", learn(zero=False), "zero_grad is missing"),
    ("4_learn", learn(step=False), "nothing has moved"),
    ("4_learn", learn(optimizer=torch.optim.SGD), "plain gradient descent"),
    ("4_learn", learn(first=1), "should ask for"),
    ("4_learn", learn(lr=0.4), "after six outer steps should be"),
    ("4_learn", learn(number=False), "as numbers"),
    ("4_meta_loss", meta_loss(on="train"), "last training batch"),
    ("4_meta_loss", meta_loss(exp=False), "the meta-loss should be"),
    ("4_meta_loss", meta_loss(cut=True), "cut off from log_lr"),
    ("4_meta_loss", meta_loss(momentum_given=False), "momentum is missing"),
    ("4_meta_loss", lambda *args: meta_loss()(*args).item(), "the tensor itself"),
    ("4_train_per_layer", train_per_layer(create_graph=False), "create_graph=True"),
    ("4_train_per_layer", train_per_layer(name_of=lambda name: "hidden"), "one layer's learning rate"),
    ("4_train_per_layer", train_per_layer(step_of=lambda t: 0), "first learning rate"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("4_log_lr_gradient", log_lr_gradient()),
    ("4_learn", learn()),
    ("4_meta_loss", meta_loss()),
    ("4_train_per_layer", train_per_layer()),
]
GUESSES: list[tuple[str, Any, str, str]] = [
    ("4_wish", "a", "b", "Most of them"),
    ("4_wish", "b", "b", "settle"),
    ("4_wish", "c", "b", "other way round"),
    ("4_wish", "d", "b", "too small for most"),
    ("4_best", "a", "c", "too large for the end"),
    ("4_best", "b", "c", "comes close"),
    ("4_best", "c", "c", "look at the spreads"),
    ("4_best", "d", "c", "not more gain"),
]
