"""Lesson 6: the generator's forward pass, the meta-loss, the outer loop, and a choice that leaves the test
data alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from checks.common import Function, Hint, exercise, judge, tensor
from checks.generator import check_6_generate
from checks.predict import choice, number, prediction
from minigtn import (
    SGD,
    Checkpointed,
    Learner,
    LearnerConfig,
    Readout,
    TrainingData,
    cross_entropy,
    sgd,
)

__all__ = ["check_6_choose_then_judge", "check_6_generate", "check_6_meta_loss", "check_6_outer_loop"]

T = 3


class _Lesson(torch.nn.Module):
    """A teacher whose images, learning rates and momenta are its parameters."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(2)
        self.x = torch.nn.Parameter(torch.randn(T, 6, 1, 2, 2, generator=rng, dtype=torch.float64))
        self.y = torch.eye(3, dtype=torch.float64)[torch.arange(6).remainder(3)].expand(T, 6, 3)
        self.lr = torch.nn.Parameter(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
        self.momentum = torch.nn.Parameter(torch.tensor([0.1, 0.4, 0.6], dtype=torch.float64))

    def forward(self, seed: int = 0) -> TrainingData:
        return TrainingData(self.x, self.y, self.lr, self.momentum, SGD())


@exercise
def check_6_meta_loss(meta_loss: Function) -> None:
    """``meta_loss(teacher, learner, start, exams)``: its value, and its gradient by all the teacher gave."""
    learner = Learner(LearnerConfig(channels=(), pool_after=(), hidden=(4,), norm="none"), (1, 2, 2), 3)
    rng = torch.Generator().manual_seed(3)
    exams = (
        torch.randn(T, 5, 1, 2, 2, generator=rng, dtype=torch.float64),
        torch.randint(3, (T, 5), generator=rng),
    )
    start = learner.init(4, dtype=torch.float64)
    teacher = _Lesson()
    answer = meta_loss(teacher, learner, start, exams)
    if isinstance(answer, float):
        raise Hint("that is a plain number, and has no gradient: return the tensor")
    if isinstance(answer, Tensor) and answer.shape == (T,):
        raise Hint(f"these are the {T} readings: return their mean")
    answer = tensor("meta_loss(...)", answer, ())

    def loss(params: Any, batch: Any) -> Tensor:
        return cross_entropy(learner(params, batch[0]), batch[1])

    def readings(start: Any = start, exams: Any = exams, momentum: Any = None) -> Tensor:
        x, y, lr, m, _ = teacher()
        m = m if momentum is None else momentum
        return sgd(loss, start, (x, y), lr, m, Checkpointed(), Readout(loss, exams, 1))[1]

    right = readings().mean()
    usual = {
        "that is the last reading alone; the mean of all of them is asked for": readings()[-1],
        "that is the sum of the readings; take their mean": readings().sum(),
        "examined on the teacher's own images: read the loss on the real ones, exams": readings(
            exams=(teacher.x, teacher.y)
        ).mean(),
        "the learner did not begin from start": readings(learner.init(0, dtype=torch.float64)).mean(),
        "the momenta that the teacher gave are not used": readings(momentum=0.0).mean(),
        "one batch of exams was read after every step: each reading wants its own": readings(
            exams=tuple(part[:1].expand(part.shape) for part in exams)
        ).mean(),
    }
    judge("the meta-loss", answer.detach(), right.detach(), {hint: w.detach() for hint, w in usual.items()})
    parts = {"images": teacher.x, "learning rates": teacher.lr, "momenta": teacher.momentum}
    wanted = torch.autograd.grad(right, list(parts.values()))
    if not answer.requires_grad:
        raise Hint("the value is right, but no gradient reaches the teacher: something cuts the road")
    got = torch.autograd.grad(answer, list(parts.values()), allow_unused=True)
    for name, ours, theirs in zip(parts, got, wanted, strict=True):
        if ours is None:
            raise Hint(
                f"the value is right, but no gradient reaches the teacher's {name}: hand them on as they are"
            )
        judge(f"the gradient by the teacher's {name}", ours, theirs)


class _Toy(torch.nn.Module):
    """Two numbers to learn; the meta-loss below is least at the target that is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))


_TARGETS = torch.tensor([[3.0, 5.0], [1.0, 4.0], [-2.0, 3.0], [4.0, -1.0]], dtype=torch.float64)


@exercise
def check_6_outer_loop(outer_loop: Function) -> None:
    """``outer_loop(teacher, optimizer, meta_loss, draw, steps)``: the updates of the teacher, the history."""

    def meta_loss(teacher: Any, weight: float, target: Tensor) -> Tensor:
        # not round, so that the gradient turns from step to step
        return weight * (teacher.theta[0] - target[0]).square() + (teacher.theta[1] - target[1]).square()

    asked: list[int] = []

    def draw(i: int) -> tuple[float, Tensor]:
        asked.append(i)
        return 4.0, _TARGETS[i]

    steps = range(1, 4)

    def run(loop: Function) -> tuple[Tensor, Any]:
        teacher = _Toy()
        optimizer = torch.optim.SGD(teacher.parameters(), lr=0.1)
        history = loop(teacher, optimizer, meta_loss, draw, steps)
        return teacher.theta.detach().clone(), history

    def usual(
        *, zero: bool = True, clip: bool = True, fixed: bool = False, from_zero: bool = False
    ) -> tuple[Tensor, list[float]]:
        def loop(teacher: Any, optimizer: Any, meta_loss: Function, draw: Function, steps: Any) -> Any:
            history = []
            for k, i in enumerate(steps):
                if zero:
                    optimizer.zero_grad()
                value = meta_loss(teacher, *draw(k if from_zero else steps[0] if fixed else i))
                value.backward()
                if clip:
                    torch.nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
                optimizer.step()
                history.append(value.item())
            return history

        return run(loop)

    theta, history = run(outer_loop)
    drawn = list(asked)
    if torch.equal(theta, _Toy().theta.detach()):
        raise Hint("the teacher has not moved: backward, and then optimizer.step()")
    if not drawn:
        raise Hint("nothing was drawn: draw(i) gives the learner, its fresh weights and the real images")
    if len(drawn) == 1 or len(set(drawn)) == 1:
        raise Hint(
            "every outer step met the same fresh weights and the same real images: draw(i) in each of them, "
            "or the teacher learns a key for one lock"
        )
    if not isinstance(history, list) or len(history) != len(steps):
        raise Hint(f"return a list with one meta-loss for each of the {len(steps)} outer steps")
    if any(isinstance(value, Tensor) and value.requires_grad for value in history):
        raise Hint("keep plain numbers (.item()): a tensor keeps the whole graph of its step alive")
    right, right_history = usual()
    judge(
        "theta after three outer steps of length 0.1 at most",
        theta,
        right,
        {
            "the gradient should be cut to length 1 where it is longer": usual(clip=False)[0],
            "the first gradient is still in the second step: zero_grad comes before backward": usual(
                zero=False
            )[0],
            "draw(i) with the numbers i in steps, which do not begin at 0 here": usual(from_zero=True)[0],
            "the teacher climbs: it should go down": 2 * _Toy().theta.detach() - right,
        },
    )
    if len(drawn) != len(steps):
        raise Hint(f"draw once in each outer step: {len(steps)} times, not {len(drawn)}")
    judge("the history (each meta-loss from before its update)", history, right_history)


@exercise
def check_6_choose_then_judge(choose_then_judge: Function) -> None:
    valid = {"a": 0.71, "b": 0.84, "c": 0.80}
    test = {"a": 0.70, "b": 0.79, "c": 0.83}
    asked: list[str] = []

    def ask_test(setting: str) -> float:
        asked.append(setting)
        return test[setting]

    answer = choose_then_judge(list(valid), valid.__getitem__, ask_test)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
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


@prediction
def predict_6_fresh_loss(guess: Any, answer: float) -> str:
    """The cross entropy of fresh weights."""
    return number(
        guess,
        answer,
        near="Above 2.30: fresh weights are not undecided, they are sure of something at random.",
        low="Fresh weights know nothing, and the best that ignorance can do is 2.30, for all classes alike. "
        "These are sure of something at random, mostly of a wrong class, and that costs more.",
        high="They are sure of something wrong, but not of much: their logits are about 1 in size.",
        factor=1.12,
    )


@prediction
def predict_6_real_accuracy(guess: Any, answer: float) -> str:
    """Test accuracy of learners on real batches, in percent."""
    return number(
        guess,
        answer,
        near="Well tuned, 200 real images teach a good deal, and the curriculum is still ahead.",
        low="A tuned rival is no straw man: look at the learning rate that won.",
        high="Real batches are drawn at random: none is made to follow the one before.",
        apart=3,
        percent=True,
        factor=1.0,
    )


@prediction
def predict_6_worst_taught(guess: Any, answer: str) -> str:
    """Which other network the curriculum teaches worst."""
    return choice(
        guess,
        answer,
        {
            "w": "Wider is the same kind of learner: its batch norm makes the learned step sizes fit.",
            "d": "Depth costs a little; the learned step sizes still fit, because every layer is normalized.",
            "n": "Without normalization the learned learning rates are far too large.",
            "c": "The images do not fit the convolution well, but the step sizes do it no harm.",
        },
    )
