"""Lesson 6: the generator's inputs, an outer step, and a choice that leaves the test data alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from checks.common import Function, Hint, exercise, judge, tensor


@exercise
def check_6_generator_inputs(generator_inputs: Function) -> None:
    T = 3
    B = 4
    Z = 5
    K = 2
    z = torch.randn(T, B, Z, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    classes = torch.eye(K, dtype=torch.float64)[torch.arange(B).remainder(K)].expand(T, B, K)
    answer = generator_inputs(z, classes)
    if isinstance(answer, Tensor) and answer.shape == (T, B, Z + K):
        raise Hint(
            f"z and class are side by side; now join steps and images to one axis of T*B = {T * B} rows"
        )
    got = tensor("generator_inputs(z, classes)", answer, (T * B, Z + K)).detach()
    both = torch.cat([z, classes], -1)
    usual = {
        "the class comes after z, not before it": torch.cat([classes, z], -1).flatten(0, 1),
        "row t*B + i should be image i of step t: here the steps run fastest": both.transpose(0, 1).flatten(
            0, 1
        ),
    }
    judge("generator_inputs(z, classes)", got, both.flatten(0, 1), usual)


class _Toy(torch.nn.Module):
    """Two numbers to learn; the meta-loss below is least at (3, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))


@exercise
def check_6_outer_step(outer_step: Function) -> None:
    def loss_at(theta: Tensor) -> Tensor:
        return (
            4 * (theta[0] - 3).square() + (theta[1] - 5).square()
        )  # not round, so that the gradient turns from step to step

    def meta_loss(teacher: Any) -> Tensor:
        return loss_at(teacher.theta)

    def two_steps(step: Function) -> tuple[Tensor, Tensor, Any]:
        teacher = _Toy()
        optimizer = torch.optim.SGD(teacher.parameters(), lr=0.1)
        value = step(teacher, optimizer, meta_loss)
        once = teacher.theta.detach().clone()
        step(teacher, optimizer, meta_loss)
        return once, teacher.theta.detach().clone(), value

    def usual(*, zero: bool = True, clip: bool = True) -> tuple[Tensor, Tensor, Any]:
        def step(teacher: Any, optimizer: Any, meta_loss: Function) -> float:
            if zero:
                optimizer.zero_grad()
            value = meta_loss(teacher)
            value.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
            optimizer.step()
            return value.item()

        return two_steps(step)

    once, twice, value = two_steps(outer_step)
    right_once, right_twice, right_value = usual()
    start = _Toy().theta.detach()
    if torch.equal(once, start):
        raise Hint("the teacher has not moved: backward, and then optimizer.step()")
    if isinstance(value, Tensor):
        raise Hint(
            "return the value as a plain number (.item()): a tensor keeps the whole graph of the step alive"
        )
    up = "the teacher should move a step of length 0.1 (lr 0.1, the gradient cut to length 1)"
    judge(
        up + "; after one step theta",
        once,
        right_once,
        {"the gradient should be cut to length 1 where it is longer": usual(clip=False)[0]},
    )
    hint = "the second step is wrong: the first gradient is still in it; zero_grad comes before backward"
    judge("theta after two steps", twice, right_twice, {hint: usual(zero=False)[1]})
    judge(
        "the value returned",
        value,
        right_value,
        {"return the meta-loss from before the step, not after it": loss_at(once)},
    )


@exercise
def check_6_choose_then_judge(choose_then_judge: Function) -> None:
    valid = {"a": 0.71, "b": 0.84, "c": 0.80}
    test = {"a": 0.70, "b": 0.79, "c": 0.83}
    asked: list[str] = []

    def ask_test(setting: str) -> float:
        asked.append(setting)
        return test[setting]

    answer = choose_then_judge(list(valid), valid.__getitem__, ask_test)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise Hint("return two things: the best setting and its test accuracy")
    best, score = answer
    if best == "c":
        raise Hint(
            "this setting is the best on *test* data: that is choosing with the "
            "examination's answers; choose by valid"
        )
    if best != "b":
        raise Hint(f"the best setting on validation data is 'b' (0.84), not {best!r}")
    if score == valid["b"]:
        raise Hint("this is the validation accuracy; it has chosen, so it flatters: return test(best)")
    judge("the test accuracy", score, test["b"])
    if len(asked) != 1:
        raise Hint(
            f"the test data were read {len(asked)} times, for {asked}; once, for the best "
            "setting, is all that is needed"
        )
