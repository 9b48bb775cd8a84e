"""Checks for the exercises of lessons 5 to 8, in the manner of `checks`, which hands them on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from checks import Hint, close, exercise, judge
from torch import Tensor

Function = Callable[..., Any]


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _tensor(what: str, answer: Any, shape: tuple[int, ...]) -> Tensor:
    """The answer, or a :class:`Hint` unless it is a tensor of that shape."""
    if not isinstance(answer, Tensor):
        raise Hint(f"{what} should be a torch tensor, but is a {type(answer).__name__}")
    if answer.shape != shape:
        raise Hint(f"{what} should have the shape {shape}, but has {tuple(answer.shape)}")
    return answer


# ------------------------------------------------------------------------------------------------------------- 5, the training data


@exercise
def check_5_class_means(class_means: Function) -> None:
    x = torch.randn(40, 1, 8, 8, generator=_rng(0), dtype=torch.float64)
    y = torch.cat([torch.arange(10), torch.arange(30).remainder(7)]).flip(0)
    sums = torch.stack([x[y == k].sum(0) for k in range(10)])
    right = sums / torch.bincount(y)[:, None, None, None]
    got = _tensor("class_means(x, y)", class_means(x, y), (10, 1, 8, 8)).detach()
    usual = {
        "these are sums: divide each by the number of its images": sums,
        "divide by the number of images of the class, not by that of all": sums / len(y),
        "divide by the number of images of the class: classes need not be equally frequent": sums / (len(y) / 10),
        "row k should be class k; here the classes come in another order": right.flip(0),
    }
    judge("class_means(x, y)", got, right, usual)


@exercise
def check_5_repeat(repeat: Function) -> None:
    images = torch.randn(10, 1, 8, 8, generator=_rng(1), dtype=torch.float64, requires_grad=True)
    T = 4
    answer = repeat(images, T)
    if isinstance(answer, Tensor) and answer.shape == (10, T, 1, 8, 8):
        raise Hint("every batch holds one image, T times: the step number is the first axis, (T, 10, 1, 8, 8)")
    answer = _tensor("repeat(images, T)", answer, (T, 10, 1, 8, 8))
    interleaved = images.repeat_interleave(T, 0).view(T, 10, 1, 8, 8).detach()
    usual = {"the images are mixed up: batch t should be images[0], ..., images[9], for every t": interleaved}
    judge("repeat(images, T)", answer.detach(), images.detach().expand(T, 10, 1, 8, 8), usual)
    if not answer.requires_grad:
        raise Hint("the values are right, but cut off from images: autograd must be able to follow from them to every batch")
    weights = torch.arange(1.0, T + 1, dtype=torch.float64)
    (d_images,) = torch.autograd.grad((answer.sum((1, 2, 3, 4)) * weights).sum(), images)
    if not close(d_images, torch.full_like(images, weights.sum().item())):
        raise Hint("the values are right, but some batches are cut off from images: the gradients of all T batches should add up")


@exercise
def check_5_mean_over_starts(mean_over_starts: Function) -> None:
    images = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    asked: list[int] = []

    def meta_loss(images: Tensor, seed: int) -> Tensor:
        asked.append(seed)
        return (images * (seed + 1)).square().sum()

    seeds = [3, 8, 9]
    answer = mean_over_starts(meta_loss, images, seeds)
    if asked != seeds:
        raise Hint(f"meta_loss(images, seed) should be asked once for each seed, {seeds}; here it was asked for {asked}")
    each = [(seed + 1) ** 2 * 21.0 for seed in seeds]
    value = answer.detach() if isinstance(answer, Tensor) else answer
    judge("mean_over_starts(...)", value, sum(each) / 3, {"this is the sum: divide by the number of seeds": sum(each)})
    if not isinstance(answer, Tensor) or not answer.requires_grad:
        raise Hint("the number is right, but cut off from images: no .item(), no float() and no .detach()")
    (d_images,) = torch.autograd.grad(answer, images)
    if not close(d_images, 2 * images.detach() * sum((s + 1) ** 2 for s in seeds) / 3):
        raise Hint("the number is right, but only a part of it can be differentiated: keep every meta-loss a tensor")


# ----------------------------------------------------------------------------------------------------------- 6, a network that teaches


@exercise
def check_6_generator_inputs(generator_inputs: Function) -> None:
    T, B, Z, K = 3, 4, 5, 2
    z = torch.randn(T, B, Z, generator=_rng(2), dtype=torch.float64)
    classes = torch.eye(K, dtype=torch.float64)[torch.arange(B).remainder(K)].expand(T, B, K)
    answer = generator_inputs(z, classes)
    if isinstance(answer, Tensor) and answer.shape == (T, B, Z + K):
        raise Hint(f"z and class are side by side; now join steps and images to one axis of T*B = {T * B} rows")
    got = _tensor("generator_inputs(z, classes)", answer, (T * B, Z + K)).detach()
    both = torch.cat([z, classes], -1)
    usual = {
        "the class comes after z, not before it": torch.cat([classes, z], -1).flatten(0, 1),
        "row t*B + i should be image i of step t: here the steps run fastest": both.transpose(0, 1).flatten(0, 1),
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
        return 4 * (theta[0] - 3).square() + (theta[1] - 5).square()  # not round, so that the gradient turns from step to step

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
        raise Hint("return the value as a plain number (.item()): a tensor keeps the whole graph of the step alive")
    up = "the teacher should move a step of length 0.1 (lr 0.1, the gradient cut to length 1)"
    judge(
        up + "; after one step theta", once, right_once, {"the gradient should be cut to length 1 where it is longer": usual(clip=False)[0]}
    )
    hint = "the second step is wrong: the first gradient is still in it; zero_grad comes before backward"
    judge("theta after two steps", twice, right_twice, {hint: usual(zero=False)[1]})
    judge("the value returned", value, right_value, {"return the meta-loss from before the step, not after it": loss_at(once)})


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
        raise Hint("this setting is the best on *test* data: that is choosing with the examination's answers; choose by valid")
    if best != "b":
        raise Hint(f"the best setting on validation data is 'b' (0.84), not {best!r}")
    if score == valid["b"]:
        raise Hint("this is the validation accuracy; it has chosen, so it flatters: return test(best)")
    judge("the test accuracy", score, test["b"])
    if len(asked) != 1:
        raise Hint(f"the test data were read {len(asked)} times, for {asked}; once, for the best setting, is all that is needed")


# ----------------------------------------------------------------------------------------------------- 7, curriculum and stability


@exercise
def check_7_shuffle_batches(shuffle_batches: Function) -> None:
    T, B, K = 6, 4, 3
    x = torch.arange(T * B, dtype=torch.float64).view(T, B, 1, 1, 1)
    y = torch.eye(K, dtype=torch.float64)[torch.arange(T * B).remainder(K)].view(T, B, K)
    orders = []
    for seed in range(4):
        answer = shuffle_batches(x, y, seed)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise Hint("return two things: the shuffled x and the shuffled y")
        got_x, got_y = _tensor("x", answer[0], (T, B, 1, 1, 1)), _tensor("y", answer[1], (T, B, K))
        images = got_x.flatten().long()
        if images.sort().values.tolist() != list(range(T * B)):
            raise Hint("some batches are missing and others are there twice: use a permutation (torch.randperm), not random numbers")
        if not torch.equal(got_y, y.flatten(0, 1)[images].view(T, B, K)):
            raise Hint("images and labels no longer belong together: draw one order, and index x and y with the same")
        first = images.view(T, B)[:, 0]
        if not torch.equal(images.view(T, B), first[:, None] + torch.arange(B)) or (first.remainder(B) != 0).any():
            raise Hint("the batches did not stay together: only the order of the T batches should change")
        orders.append((first // B).tolist())
    if all(order == list(range(T)) for order in orders):
        raise Hint("nothing was shuffled")
    if all(order == orders[0] for order in orders):
        raise Hint("the order is the same for every seed: give the seed to the generator")
    if not torch.equal(shuffle_batches(x, y, 3)[0], got_x):
        raise Hint("the same seed gave two orders: give randperm its generator=")


@exercise
def check_7_normalized_weight(normalized_weight: Function) -> None:
    direction = torch.randn(3, 5, generator=_rng(3), dtype=torch.float64)
    gain = torch.tensor([0.5, 2.0, -3.0], dtype=torch.float64)
    right = gain[:, None] * direction / direction.norm(dim=1, keepdim=True)
    got = _tensor("normalized_weight(direction, gain)", normalized_weight(direction, gain), (3, 5)).detach()
    usual = {
        "divide by the lengths of the rows (dim=1), not by that of the whole matrix": gain[:, None] * direction / direction.norm(),
        "divide by the lengths of the rows, not of the columns": gain[:, None] * direction / direction.norm(dim=0),
        "divide each row by its length first: then gain alone says how long it is": gain[:, None] * direction,
        "each row has length 1; multiply it by its gain": right / gain[:, None],
        "a square root is missing: divide by the length, not by its square": right / direction.norm(dim=1, keepdim=True),
    }
    judge("normalized_weight(direction, gain)", got, right, usual)


@exercise
def check_7_readout_steps(readout_steps: Function) -> None:
    for T, every in ((10, 3), (10, 5), (10, 10), (4, 1), (3, 7)):
        right = [*range(every, T, every), T]
        got = readout_steps(T, every)
        try:
            got = [int(step) for step in got]
        except TypeError:
            raise Hint(f"return a list of step numbers, not a {type(got).__name__}") from None
        if got == right:
            continue
        asked = f"readout_steps({T}, {every}) should be {right}, but is {got}"
        if got == [step - 1 for step in right] or (got and got[0] == 0):
            raise Hint(f"count the steps from 1, and read after them: {asked}")
        if got == [*right, T]:
            raise Hint(f"T is there twice where every divides it: {asked}")
        if T not in got:
            raise Hint(f"the trained learner itself must be read, after step T: {asked}")
        raise Hint(asked)


# ------------------------------------------------------------------------------------------------------------------- 8, on a GPU


class _Clock:
    """A device on which work is ordered at once and done when somebody waits, seen through a clock that only work moves."""

    def __init__(self, durations: list[float]) -> None:
        self.now, self.ordered, self.calls, self.durations = 0.0, 0.0, 0, durations

    def function(self) -> None:
        self.ordered += self.durations[self.calls % len(self.durations)]
        self.calls += 1

    def wait(self) -> None:
        self.now += self.ordered
        self.ordered = 0.0


@exercise
def check_8_timed(timed: Function) -> None:
    first, samples = 100.0, [5.0, 1.0, 2.0, 30.0, 3.0]
    clock = _Clock([first, *samples])
    real, time.perf_counter = time.perf_counter, lambda: clock.now  # type: ignore[assignment]
    try:
        answer = timed(clock.function, len(samples), clock.wait)
    finally:
        time.perf_counter = real
    if not isinstance(answer, tuple) or len(answer) != 3:
        raise Hint("return three numbers: the median, the smallest and the largest")
    if clock.calls != len(samples) + 1:
        raise Hint(
            f"function() should be called once to warm up and n = {len(samples)} times with the clock, not {clock.calls} times in all"
        )
    right = np.array([3.0, 1.0, 30.0])
    usual = {
        "this is time that the clock did not see: read time.perf_counter() after wait(), and use no other clock": np.zeros(3),
        "the mean follows a single disturbed sample; report the median": np.array([np.mean(samples), 1.0, 30.0]),
    }
    got = np.asarray(answer, np.float64)
    if got[2] >= first:
        raise Hint("the warm-up is among the samples, or still running when the clock starts: call function(), then wait(), then start")
    judge("(median, smallest, largest)", got, right, usual)


@exercise
def check_8_best_block(best_block: Function) -> None:
    def kept(T: int, k: int) -> int:
        return math.ceil(T / k) + min(k, T) - 1

    for T in (1, 2, 7, 10, 50, 100, 1000, 2048):
        k = best_block(T)
        if not isinstance(k, int):
            raise Hint(f"a block is a whole number of steps, but best_block({T}) is the {type(k).__name__} {k}")
        if not 1 <= k <= T:
            raise Hint(f"best_block({T}) should lie between 1 and {T}, but is {k}")
        least = min(kept(T, j) for j in range(1, T + 1))
        if kept(T, k) > least:
            raise Hint(f"best_block({T}) is {k}, which keeps {kept(T, k)} states; it can be done with {least}")


@exercise
def check_8_choose(choose: Function) -> None:
    candidates = [("slow and small", 9.0, 10), ("middle", 4.0, 100), ("fast and large", 1.0, 1000), ("slow and large", 8.0, 900)]
    for budget, right in ((5000, "fast and large"), (1000, "fast and large"), (999, "middle"), (50, "slow and small")):
        got = choose(candidates, budget)
        if got == right:
            continue
        if got in candidates:
            raise Hint("return the name alone, not the whole candidate")
        need = {name: size for name, _, size in candidates}
        if got in need and need[got] > budget:
            raise Hint(f"{got!r} needs {need[got]} bytes, and the budget is {budget}")
        if budget == 1000 and got in ("middle", "slow and large"):
            raise Hint(f"{right!r} needs exactly the budget: at most means <=")
        raise Hint(f"with a budget of {budget} the fastest that fits is {right!r}, not {got!r}")
    try:
        choose(candidates, 5)
    except ValueError:
        return
    raise Hint("where nothing fits, raise a ValueError: a silent answer would run out of memory later")
