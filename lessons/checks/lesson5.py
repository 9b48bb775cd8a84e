"""Lesson 5: class means, one set of images for all steps, and a mean over starts."""

from __future__ import annotations

import torch
from torch import Tensor

from checks.common import Function, Hint, close, exercise, judge, tensor


@exercise
def check_5_class_means(class_means: Function) -> None:
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.cat([torch.arange(10), torch.arange(30).remainder(7)]).flip(0)
    sums = torch.stack([x[y == k].sum(0) for k in range(10)])
    right = sums / torch.bincount(y)[:, None, None, None]
    got = tensor("class_means(x, y)", class_means(x, y), (10, 1, 8, 8)).detach()
    usual = {
        "these are sums: divide each by the number of its images": sums,
        "divide by the number of images of the class, not by that of all": sums / len(y),
        "divide by the number of images of the class: classes need not be equally frequent": sums
        / (len(y) / 10),
        "row k should be class k; here the classes come in another order": right.flip(0),
    }
    judge("class_means(x, y)", got, right, usual)


@exercise
def check_5_repeat(repeat: Function) -> None:
    images = torch.randn(
        10, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True
    )
    T = 4
    answer = repeat(images, T)
    if isinstance(answer, Tensor) and answer.shape == (10, T, 1, 8, 8):
        raise Hint(
            "every batch holds one image, T times: the step number is the first axis, (T, 10, 1, 8, 8)"
        )
    answer = tensor("repeat(images, T)", answer, (T, 10, 1, 8, 8))
    interleaved = images.repeat_interleave(T, 0).view(T, 10, 1, 8, 8).detach()
    usual = {"the images are mixed up: batch t should be images[0], ..., images[9], for every t": interleaved}
    judge("repeat(images, T)", answer.detach(), images.detach().expand(T, 10, 1, 8, 8), usual)
    if not answer.requires_grad:
        raise Hint(
            "the values are right, but cut off from images: autograd must be able to "
            "follow from them to every batch"
        )
    weights = torch.arange(1.0, T + 1, dtype=torch.float64)
    (d_images,) = torch.autograd.grad((answer.sum((1, 2, 3, 4)) * weights).sum(), images)
    if not close(d_images, torch.full_like(images, weights.sum().item())):
        raise Hint(
            "the values are right, but some batches are cut off from images: the gradients of "
            "all T batches should add up"
        )


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
        raise Hint(
            f"meta_loss(images, seed) should be asked once for each seed, {seeds}; here "
            f"it was asked for {asked}"
        )
    each = [(seed + 1) ** 2 * 21.0 for seed in seeds]
    value = answer.detach() if isinstance(answer, Tensor) else answer
    judge(
        "mean_over_starts(...)",
        value,
        sum(each) / 3,
        {"this is the sum: divide by the number of seeds": sum(each)},
    )
    if not isinstance(answer, Tensor) or not answer.requires_grad:
        raise Hint("the number is right, but cut off from images: no .item(), no float() and no .detach()")
    (d_images,) = torch.autograd.grad(answer, images)
    if not close(d_images, 2 * images.detach() * sum((s + 1) ** 2 for s in seeds) / 3):
        raise Hint(
            "the number is right, but only a part of it can be differentiated: keep every meta-loss a tensor"
        )
