"""Lesson 5: class means, the meta-loss of ten images, its gradient by them, and the outer loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import minigtn
from checks.common import Function, Hint, close, exercise, judge, tensor
from checks.predict import choice, number, prediction


@exercise
def check_5_class_means(class_means: Function) -> None:
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))  # float32, like the digits
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
    judge("class_means(x, y)", got, right, usual, 1e-5)


@exercise
def check_5_meta_loss(meta_loss: Function) -> None:
    """``meta_loss(loss, params, images, classes, real, lr, T, adjoint)``: the loss on real, a scalar."""
    loss, params, images, classes, real = _problem()
    T = 4

    def variant(
        steps: int = T,
        momentum: float = 0.5,
        on: Any = real,
        trained: bool = True,
        reordered: bool = False,
        rate: float = 0.3,
    ) -> Tensor:
        x = images.expand(steps, *images.shape)
        y = classes.expand(steps, *classes.shape)
        if reordered:
            x = images.repeat_interleave(steps, 0).view(steps, *images.shape)
        return loss(minigtn.sgd(loss, params, (x, y), rate, momentum) if trained else params, on)

    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    got = meta_loss(loss, params, images, classes, real, lr, T, minigtn.Checkpointed())
    if not isinstance(got, Tensor):
        raise Hint("return the tensor itself: float() or .item() cuts it off from the run that made it")
    usual = {
        "that is one step: repeat images and classes T times": variant(steps=1),
        "the momentum is missing: give MOMENTUM to sgd": variant(momentum=0.0),
        "that is the loss on the ten images; they are judged on real": variant(on=(images, classes)),
        "that is the loss of the untrained learner: sgd returns the trained params": variant(trained=False),
        "the images are mixed up: batch t should be images[0], ..., images[9], for every t": variant(
            reordered=True
        ),
    }
    right = variant()
    judge("the meta-loss", got.detach(), right.detach(), {hint: w.detach() for hint, w in usual.items()})
    d_x, d_lr = (
        torch.autograd.grad(got, (images, lr), allow_unused=True) if got.requires_grad else (None, None)
    )
    if d_x is None:
        raise Hint("the number is right, but cut off from images: no .detach(), no torch.tensor(images)")
    if d_lr is None:
        raise Hint("the number is right, but cut off from lr: hand the tensor lr to sgd as it is")
    if not close(d_x, torch.autograd.grad(right, images)[0]):
        raise Hint(
            "the number is right, but some batches are cut off from images: the gradients of "
            "all T batches should add up"
        )


@exercise
def check_5_image_gradient(image_gradient: Function) -> None:
    """``image_gradient(loss, w0, images, classes, real, lr, T, momentum)``: the gradient by images."""
    params_loss, params, images, classes, real = _problem()
    w0 = params["w"].flatten()
    images = images.detach()
    T = 4
    lr = 0.3
    momentum = 0.7

    def loss(w: Tensor, batch: Any) -> Tensor:
        return params_loss({"w": w.view(64, 10)}, batch)

    def gradient(w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        w = w.detach().requires_grad_()
        x = x.detach().requires_grad_()
        return w, x, torch.autograd.grad(loss(w, (x, y)), w, create_graph=True)[0]

    def variant(
        hessian: bool = True,
        only: int | None = None,
        late: bool = False,
        carry: bool = True,
        scaled: bool = True,
        at: int = 0,
        judged_on: Any = real,
        plain: bool = False,
    ) -> Tensor:
        states = [(w0, torch.zeros_like(w0))]
        for _ in range(T):
            w, v = states[-1]
            v = momentum * v + gradient(w, images, classes)[2].detach()
            states.append((w - lr * v, v))
        lam = gradient(states[-1][0], *judged_on)[2].detach()
        nu = torch.zeros_like(w0)
        d_x = torch.zeros_like(images)
        for t in reversed(range(T)):
            before = nu
            nu = nu - lr * lam
            w, x, g = gradient(states[t + at][0], images, classes)
            h_nu, mixed = torch.autograd.grad(g @ (before if late else nu), (w, x))
            if plain:
                mixed = torch.autograd.grad(loss(w, (x, classes)), x)[0]
            if only is None or t == only:
                d_x = d_x + mixed
            lam = lam + h_nu * hessian
            nu = (momentum if scaled else 1.0) * nu * carry
        return d_x

    right = variant()
    usual = {
        "that is the gradient of one step: the T steps' gradients add up": variant(only=0),
        "that is the gradient of the last step: the T steps' gradients add up": variant(only=T - 1),
        "that is the mean over the steps: add the steps' gradients": right / T,
        "the Hessian is missing: lam gets H nu on top": variant(hessian=False),
        "update nu before the second derivatives: nu = nu - lr * lam": variant(late=True),
        "nu is not carried on to the step before, with the factor momentum": variant(carry=False),
        "nu is not scaled by momentum on its way to the step before": variant(scaled=False),
        "the second derivatives belong to the weights before the step, states[t]": variant(at=1),
        "lam starts with the gradient on real, not on the ten images": variant(judged_on=(images, classes)),
        "that is how the training loss depends on the images; wanted is the mixed term, "
        "the gradient of <g, nu>": variant(plain=True),
    }
    got = image_gradient(loss, w0, images, classes, real, lr, T, momentum)
    got = tensor("the gradient", got, tuple(images.shape)).detach()
    judge("the gradient by images", got, right, usual)


@exercise
def check_5_learn_images(learn_images: Function) -> None:
    """``learn_images(meta_loss_of, images, log_lr, seeds, outer_lr)``: improves both in place."""
    seeds = [[3], [7, 9], [4, 4, 1], [2], [5, 1]]
    asked: list[int] = []

    def start() -> tuple[Tensor, Tensor]:
        images = torch.linspace(-1.0, 1.0, 640).view(10, 1, 8, 8).requires_grad_()
        return images, torch.tensor(-2.0, requires_grad=True)

    def meta_loss_of(images: Tensor, lr: Tensor, seed: int) -> Tensor:
        asked.append(seed)
        scale = 0.1 if seed % 2 else 1.0  # gradients shorter and longer than 1
        return scale * (40 * (images - 0.1 * seed).square().mean() + 30 * (lr - 0.5).square())

    def variant(
        zero: bool = True,
        clip: str = "after backward",
        mean: bool = True,
        exp: bool = True,
        optimizer: Any = torch.optim.Adam,
    ) -> tuple[Tensor, Tensor, list[float]]:
        images, log_lr = start()
        moved = optimizer([images, log_lr], lr=0.05)
        history = []
        for starts in seeds:
            losses = [meta_loss_of(images, log_lr.exp() if exp else log_lr, seed) for seed in starts]
            value = torch.stack(losses).mean() if mean else torch.stack(losses).sum()
            if zero:
                moved.zero_grad()
            value.backward()
            if clip == "after backward":
                torch.nn.utils.clip_grad_norm_([images, log_lr], 1.0)
            if clip == "each":
                torch.nn.utils.clip_grad_norm_([images], 1.0)
                torch.nn.utils.clip_grad_norm_([log_lr], 1.0)
            moved.step()
            history.append(value.item())
        return images.detach(), log_lr.detach(), history

    images, log_lr = start()
    history = learn_images(meta_loss_of, images, log_lr, seeds, 0.05)
    flat = [seed for starts in seeds for seed in starts]
    if asked != flat:
        raise Hint(f"outer step i asks for each seed in seeds[i], {flat} in all; here it asked for {asked}")
    right = variant()
    wrong = {
        "that is the sum over the starts: divide by their number": variant(mean=False),
        "zero_grad is missing: the gradients of all outer steps so far are added": variant(zero=False),
        "the clipping is missing, or comes after the step or before backward": variant(clip="none"),
        "clip images and log_lr together, in one list: it is the length of both": variant(clip="each"),
        "hand on log_lr.exp(): the learning rate, not its logarithm": variant(exp=False),
        "that is plain gradient descent: take torch.optim.Adam": variant(optimizer=torch.optim.SGD),
    }
    if torch.equal(images.detach(), start()[0]) and torch.equal(log_lr.detach(), start()[1]):
        raise Hint("nothing has moved: images and log_lr should be improved in place, with .step()")
    if torch.equal(log_lr.detach(), start()[1]):
        raise Hint("only the images have moved: give log_lr to Adam, too")
    for what, i, got in (("log_lr", 1, log_lr), ("images", 0, images)):
        judge(
            f"{what} after {len(seeds)} outer steps",
            got.detach(),
            right[i],
            {h: w[i] for h, w in wrong.items()},
        )
    if not isinstance(history, list) or not all(isinstance(value, float) for value in history):
        raise Hint("both are right; return the list of the meta-losses as numbers, value.item()")
    judge("the list of meta-losses", history, right[2])


@prediction
def predict_5_means(guess: Any, answer: float) -> str:
    """What the class means teach, in per cent."""
    return number(
        guess,
        answer,
        near="An average carries what the images of a class have in common.",
        low="Averages look blurred to us. But what does one odd image teach that the average does not?",
        high="Ten images, and a linear learner: what can they not say about a digit written otherwise?",
        factor=1.0,
        apart=5.0,
        percent=True,
    )


@prediction
def predict_5_starts(guess: Any, answer: float) -> str:
    """What images made for one start teach on others, in per cent."""
    return number(
        guess,
        answer,
        near="Something carries over, but the rest was a key for one lock.",
        low="Something does carry over: the images still hold what the classes have in common.",
        high="The meta-loss asked for one start only. Who would have told the images of the others?",
        factor=1.0,
        apart=5.0,
        percent=True,
    )


@prediction
def predict_5_convolution(guess: Any, answer: str) -> str:
    """Images learned for a linear learner, shown to a convolution."""
    return choice(
        guess,
        answer,
        {
            "a": "They are contrasts for a sum over pixels; a convolution looks for something else.",
            "b": "They are contrasts for a sum over pixels: they fit learners like their own.",
            "c": "They still say which pixels belong to which class: far more than ten random images do.",
        },
    )


def _problem() -> tuple[Any, ...]:
    """loss, params, ten images (10, 1, 8, 8) that require gradients, their classes, and real = (x, y)."""
    rng = torch.Generator().manual_seed(1)
    params = {"w": torch.randn(64, 10, generator=rng, dtype=torch.float64) / 8}
    images = torch.randn(10, 1, 8, 8, generator=rng, dtype=torch.float64)
    real = torch.randn(30, 1, 8, 8, generator=rng, dtype=torch.float64), torch.arange(30).remainder(10)

    def loss(params: Any, batch: Any) -> Tensor:
        x, y = batch
        logits = torch.tanh(x.flatten(1) @ params["w"])
        return torch.nn.functional.cross_entropy(logits, y)

    return loss, params, images.requires_grad_(), torch.arange(10).flip(0), real
