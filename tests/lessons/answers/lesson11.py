"""Right and wrong answers to the exercises of lesson 11."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def to_go(start: str = "t", gamma_power: bool = True, own: bool = True) -> Callable[..., Any]:
    """Lesson 11's function with one thing wrong."""

    def answer(rewards, gamma):
        g = gamma if gamma_power else 1.0
        answer = torch.zeros_like(rewards)
        for t in range(len(rewards)):
            for s in range(t + (not own), len(rewards)):
                answer[t] += g ** (s - t if start == "t" else s) * rewards[s]
        return answer

    return answer


def in_place(rewards, gamma):
    for t in reversed(range(len(rewards) - 1)):
        rewards[t] += gamma * rewards[t + 1]
    return rewards


def surrogate(sign=-1, reduce="mean", of="log_p", cut=False) -> Callable[..., Any]:
    def answer(logits, actions, advantages):
        logits = logits.detach() if cut else logits
        values = {"log_p": logits.log_softmax(-1), "p": logits.softmax(-1), "logits": logits}[of]
        chosen = values.gather(1, actions[:, None])[:, 0]
        return (
            sign * getattr(advantages * chosen, reduce)() if reduce != "none" else sign * advantages * chosen
        )

    return answer


def half_cut(logits, actions, advantages):
    """The right number with another gradient."""
    chosen = logits.gather(1, actions[:, None])[:, 0] - logits.detach().logsumexp(-1)
    return -(advantages * chosen).mean()


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    (
        "11_returns_to_go",
        lambda rewards, gamma: to_go()(rewards.flip(0), gamma).flip(0),
        "what came before step t",
    ),
    ("11_returns_to_go", to_go(gamma_power=False), "discounted by gamma"),
    ("11_returns_to_go", to_go(own=False), "belongs to it, too"),
    ("11_returns_to_go", to_go(start="0"), "not from the start of the episode"),
    ("11_returns_to_go", in_place, "changed in place"),
    ("11_returns_to_go", lambda rewards, gamma: rewards.sum(0), "of the shape of rewards"),
    ("11_surrogate", surrogate(sign=1), "the sign"),
    ("11_surrogate", surrogate(reduce="sum"), "this is a sum"),
    ("11_surrogate", surrogate(of="p"), "take the logarithm"),
    ("11_surrogate", surrogate(of="logits"), "log_softmax first"),
    ("11_surrogate", surrogate(cut=True), "cut off from logits"),
    ("11_surrogate", surrogate(reduce="none"), "one number"),
    ("11_surrogate", half_cut, "not its gradient"),
    ("11_repaid_after", lambda a, b: a / b, "whole number"),
    ("11_repaid_after", lambda a, b: a // b, "round up"),
    ("11_repaid_after", lambda a, b: 7 * a, "should be"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("11_returns_to_go", to_go()),
    ("11_surrogate", surrogate()),
    ("11_repaid_after", lambda a, b: math.ceil(a / b)),
]
