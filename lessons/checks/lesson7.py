"""Lesson 7: shuffled batches, normalized weights, and the steps after which a learner is read."""

from __future__ import annotations

import torch

from checks.common import Function, Hint, exercise, judge, tensor


@exercise
def check_7_shuffle_batches(shuffle_batches: Function) -> None:
    T = 6
    B = 4
    K = 3
    x = torch.arange(T * B, dtype=torch.float64).view(T, B, 1, 1, 1)
    y = torch.eye(K, dtype=torch.float64)[torch.arange(T * B).remainder(K)].view(T, B, K)
    orders = []
    for seed in range(4):
        answer = shuffle_batches(x, y, seed)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise Hint("return two things: the shuffled x and the shuffled y")
        got_x = tensor("x", answer[0], (T, B, 1, 1, 1))
        got_y = tensor("y", answer[1], (T, B, K))
        images = got_x.flatten().long()
        if images.sort().values.tolist() != list(range(T * B)):
            raise Hint(
                "some batches are missing and others are there twice: use a permutation "
                "(torch.randperm), not random numbers"
            )
        if not torch.equal(got_y, y.flatten(0, 1)[images].view(T, B, K)):
            raise Hint(
                "images and labels no longer belong together: draw one order, and index x and y with the same"
            )
        first = images.view(T, B)[:, 0]
        if (
            not torch.equal(images.view(T, B), first[:, None] + torch.arange(B))
            or (first.remainder(B) != 0).any()
        ):
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
    direction = torch.randn(3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gain = torch.tensor([0.5, 2.0, -3.0], dtype=torch.float64)
    right = gain[:, None] * direction / direction.norm(dim=1, keepdim=True)
    got = tensor("normalized_weight(direction, gain)", normalized_weight(direction, gain), (3, 5)).detach()
    usual = {
        "divide by the lengths of the rows (dim=1), not by that of the whole matrix": gain[:, None]
        * direction
        / direction.norm(),
        "divide by the lengths of the rows, not of the columns": gain[:, None]
        * direction
        / direction.norm(dim=0),
        "divide each row by its length first: then gain alone says how long it is": gain[:, None] * direction,
        "each row has length 1; multiply it by its gain": right / gain[:, None],
        "a square root is missing: divide by the length, not by its square": right
        / direction.norm(dim=1, keepdim=True),
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
