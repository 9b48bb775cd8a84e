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


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("4_through_the_logarithm", lambda lr, d_lr: d_lr / lr, "multiply, do not divide"),
    ("4_through_the_logarithm", lambda lr, d_lr: d_lr, "one factor is missing"),
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
    ("4_through_the_logarithm", lambda lr, d_lr: lr * d_lr),
    ("4_meta_loss", meta_loss()),
    ("4_train_per_layer", train_per_layer()),
]
