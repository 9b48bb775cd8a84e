"""Right and wrong answers to the exercises of lesson 6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def outer_step(
    zero: bool = True, clip: bool = True, move: bool = True, after: bool = False, plain: bool = True
) -> Callable[..., Any]:
    """Lesson 6's function with one thing wrong."""

    def answer(teacher, optimizer, meta_loss):
        if zero:
            optimizer.zero_grad()
        value = meta_loss(teacher)
        value.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
        if move:
            optimizer.step()
        value = meta_loss(teacher) if after else value
        return value.item() if plain else value

    return answer


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("6_generator_inputs", lambda z, c: torch.cat([z, c], -1), "join steps and images"),
    ("6_generator_inputs", lambda z, c: torch.cat([c, z], -1).flatten(0, 1), "after z"),
    (
        "6_generator_inputs",
        lambda z, c: torch.cat([z, c], -1).transpose(0, 1).flatten(0, 1),
        "steps run fastest",
    ),
    ("6_outer_step", outer_step(move=False), "has not moved"),
    ("6_outer_step", outer_step(zero=False), "the first gradient is still in it"),
    ("6_outer_step", outer_step(clip=False), "cut to length 1"),
    ("6_outer_step", outer_step(plain=False), "plain number"),
    ("6_outer_step", outer_step(after=True), "before the step"),
    (
        "6_choose_then_judge",
        lambda s, valid, test: (max(s, key=test), max(map(test, s))),
        "examination's answers",
    ),
    (
        "6_choose_then_judge",
        lambda s, valid, test: (max(s, key=valid), max(map(valid, s))),
        "validation accuracy",
    ),
    (
        "6_choose_then_judge",
        lambda s, valid, test: (max(s, key=valid), {k: test(k) for k in s}[max(s, key=valid)]),
        "read 3 times",
    ),
    ("6_choose_then_judge", lambda s, valid, test: (min(s, key=valid), 0.0), "best setting on validation"),
    ("6_choose_then_judge", lambda s, valid, test: max(s, key=valid), "two things"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("6_generator_inputs", lambda z, c: torch.cat([z, c], 2).reshape(-1, z.shape[2] + c.shape[2])),
    ("6_outer_step", outer_step()),
    ("6_choose_then_judge", lambda s, valid, test: (max(s, key=valid), test(max(s, key=valid)))),
]
