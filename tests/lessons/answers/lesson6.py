"""Right and wrong answers to the exercises of lesson 6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from minigtn import Checkpointed, Readout, cross_entropy, sgd


def generate(
    class_first=False,
    turn=False,
    activated=("dense1", "dense2", "conv1"),
    last=lambda h: 2 * h.tanh(),
    cut=(),
    bias=1,
) -> Callable[..., Any]:
    """Lesson 6's function with one thing wrong."""

    def answer(w, z, classes):
        w = {name: p.detach() if name in cut else p for name, p in w.items()}
        z = z.detach() if "z" in cut else z

        def enlarge(h):
            return F.pad(F.interpolate(h, scale_factor=2), (1, 1, 1, 1), mode="replicate")

        def act(name, h):
            if name not in activated:
                return h
            h = F.batch_norm(h, None, None, w[f"{name}-norm_scale"], w[f"{name}-bias"], training=True)
            return F.leaky_relu(h, 0.1)

        h = torch.cat([classes, z] if class_first else [z, classes], -1)
        h = (h.transpose(0, 1) if turn else h).reshape(-1, h.shape[-1])
        h = act("dense2", act("dense1", h @ w["dense1-weight"].T) @ w["dense2-weight"].T)
        h = act("conv1", F.conv2d(enlarge(h.reshape(-1, 32, 2, 2)), w["conv1-weight"]))
        h = F.conv2d(enlarge(h), w["conv2-weight"], bias * w["conv2-bias"])
        return last(h).view(*z.shape[:2], 1, 8, 8)

    return answer


def step_by_step(w, z, classes):
    return torch.cat([generate()(w, z[t : t + 1], classes[t : t + 1]) for t in range(len(z))])


def without_grad(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: torch.no_grad()(function)(*args)


def meta_loss(
    exam="real",
    start_at=None,
    lr=lambda lr: lr,
    momentum=lambda m: m,
    x=lambda x: x,
    reduce="mean",
    once=False,
) -> Callable[..., Any]:
    """Lesson 6's function with one thing wrong."""

    def answer(teacher, learner, start, exams):
        def loss(params, batch):
            return cross_entropy(learner(params, batch[0]), batch[1])

        images, y, rates, momenta, _ = teacher()
        if start_at is not None:
            start = learner.init(start_at, dtype=images.dtype)
        if once:
            exams = tuple(part[:1].expand(part.shape) for part in exams)
        readout = Readout(loss, exams if exam == "real" else (images.detach(), y), every=1)
        steps = lr(rates), momentum(momenta)
        _, readings = sgd(loss, start, (x(images), y), *steps, Checkpointed(), readout)
        return {
            "mean": readings.mean,
            "sum": readings.sum,
            "none": lambda: readings,
            "last": lambda: readings[-1],
            "item": lambda: readings.mean().item(),
        }[reduce]()

    return answer


def outer_loop(
    zero=True, clip=True, move=True, after=False, plain=True, draws="each", sign=1, result="list"
) -> Callable[..., Any]:
    """Lesson 6's function with one thing wrong."""

    def answer(teacher, optimizer, meta_loss, draw, steps):
        history = []
        first = draw(steps[0]) if draws == "once" else None
        for k, i in enumerate(steps):
            if zero:
                optimizer.zero_grad()
            drawn = first or draw({"each": i, "zero": 0, "count": k}[draws])
            value = meta_loss(teacher, *drawn)
            (sign * value).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
            if move:
                optimizer.step()
            value = meta_loss(teacher, *drawn) if after else value
            history.append(value.item() if plain else value)
        return history if result == "list" else history[-1]

    return answer


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("6_generate", generate(class_first=True), "after z"),
    ("6_generate", generate(turn=True), "the steps run fastest"),
    ("6_generate", generate(activated=()), "every layer but the last"),
    ("6_generate", generate(activated=("dense2", "conv1")), "dense1 is not activated"),
    ("6_generate", generate(activated=("dense1", "conv1")), "dense2 is not activated"),
    ("6_generate", generate(activated=("dense1", "dense2")), "conv1 is not activated"),
    ("6_generate", generate(last=torch.tanh), "the factor 2"),
    ("6_generate", generate(last=lambda h: h), "2 tanh of the last layer is missing"),
    ("6_generate", generate(last=lambda h: 2 * h), "tanh is missing"),
    ("6_generate", generate(last=lambda h: 2 * torch.sigmoid(h)), "2 sigmoid where"),
    ("6_generate", generate(last=torch.sigmoid), "a sigmoid where"),
    ("6_generate", generate(last=lambda h: F.leaky_relu(h, 0.1)), "leaky ReLU where"),
    ("6_generate", generate(last=lambda h: 2 * F.leaky_relu(h, 0.1).tanh()), "no leaky ReLU before it"),
    ("6_generate", generate(last=lambda h: (2 * h).tanh()), "2 belongs outside"),
    ("6_generate", generate(last=lambda h: 2 * h.tanh() + h), "wrong numbers: furthest off is ["),
    ("6_generate", step_by_step, "made step by step"),
    ("6_generate", generate(bias=0), "has a bias, too"),
    ("6_generate", generate(cut=("z",)), "cut off from z"),
    ("6_generate", generate(cut=("conv1-weight",)), "cut off from conv1-weight"),
    ("6_generate", without_grad(generate()), "no gradient reaches the teacher"),
    ("6_generate", lambda w, z, c: generate()(w, z, c).flatten(0, 1), "the shape"),
    ("6_meta_loss", meta_loss(exam="own"), "the teacher's own images"),
    ("6_meta_loss", meta_loss(start_at=0), "did not begin from start"),
    ("6_meta_loss", meta_loss(lr=torch.detach), "no gradient reaches the teacher's learning rates"),
    ("6_meta_loss", meta_loss(momentum=torch.detach), "no gradient reaches the teacher's momenta"),
    ("6_meta_loss", meta_loss(x=torch.detach), "no gradient reaches the teacher's images"),
    ("6_meta_loss", meta_loss(momentum=lambda m: 0.0), "momenta that the teacher gave"),
    ("6_meta_loss", meta_loss(lr=lambda lr: lr.mean()), "should be"),
    ("6_meta_loss", meta_loss(once=True), "each reading wants its own"),
    ("6_meta_loss", meta_loss(reduce="sum"), "take their mean"),
    ("6_meta_loss", meta_loss(reduce="last"), "the last reading alone"),
    ("6_meta_loss", meta_loss(reduce="none"), "return their mean"),
    ("6_meta_loss", meta_loss(reduce="item"), "plain number"),
    ("6_meta_loss", without_grad(meta_loss()), "something cuts the road"),
    ("6_outer_loop", outer_loop(move=False), "has not moved"),
    ("6_outer_loop", outer_loop(zero=False), "the first gradient is still in"),
    ("6_outer_loop", outer_loop(clip=False), "cut to length 1"),
    ("6_outer_loop", outer_loop(plain=False), "plain numbers"),
    ("6_outer_loop", outer_loop(after=True), "before its update"),
    ("6_outer_loop", outer_loop(draws="once"), "a key for one lock"),
    ("6_outer_loop", outer_loop(draws="zero"), "a key for one lock"),
    ("6_outer_loop", outer_loop(draws="count"), "do not begin at 0"),
    ("6_outer_loop", outer_loop(sign=-1), "should be"),
    ("6_outer_loop", outer_loop(result="last"), "return a list"),
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
    ("6_generate", generate()),
    ("6_meta_loss", meta_loss()),
    ("6_outer_loop", outer_loop()),
    ("6_choose_then_judge", lambda s, valid, test: (max(s, key=valid), test(max(s, key=valid)))),
    ("6_choose_then_judge", lambda s, valid, test: [max(s, key=valid), test(max(s, key=valid))]),
]
GUESSES: list[tuple[str, Any, Any, str]] = [
    ("6_fresh_loss", 2.7, 2.6, "Near"),
    ("6_fresh_loss", 2.3, 2.7, "sure of something at random"),
    ("6_fresh_loss", 10, 2.7, "not of much"),
    ("6_real_accuracy", 84, 83.6, "Near"),
    ("6_real_accuracy", 50, 83.6, "no straw man"),
    ("6_real_accuracy", 95, 83.6, "at random"),
    ("6_worst_taught", "n", "n", "far too large"),
    ("6_worst_taught", "w", "n", "the same kind"),
    ("6_worst_taught", "d", "n", "costs a little"),
    ("6_worst_taught", "c", "n", "do not fit the convolution"),
]
