"""Right and wrong answers to the exercises of lesson 5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import minigtn


def means(x, y):
    return torch.stack([x[y == k].mean(0) for k in range(10)])


def vectorised(x, y):
    """Stops with a dtype error where x is float64."""
    share = torch.nn.functional.one_hot(y, 10).float()
    return (share.T @ x.flatten(1) / share.sum(0)[:, None]).view(10, *x.shape[1:])


def meta_loss(
    steps=None,
    momentum=0.5,
    on="real",
    trained=True,
    repeat=lambda x, T: x.expand(T, *x.shape),
    rate=lambda lr: lr,
):
    def answer(loss, params, images, classes, real, lr, T, adjoint):
        T = steps or T
        batches = repeat(images, T), classes.expand(T, *classes.shape)
        if trained:
            params = minigtn.sgd(loss, params, batches, rate(lr), momentum, adjoint)
        return loss(params, real if on == "real" else (images, classes))

    return answer


def image_gradient(
    hessian=True, only=None, mean=False, late=False, carry=True, at=0, on="real", plain=False, scaled=True
):
    """Lesson 5's walk with one thing wrong."""

    def answer(loss, w0, images, classes, real, lr, T, momentum):
        def gradient(w, x, y):
            w = w.detach().requires_grad_()
            x = x.detach().requires_grad_()
            return w, x, torch.autograd.grad(loss(w, (x, y)), w, create_graph=True)[0]

        states = [(w0, torch.zeros_like(w0))]
        for _ in range(T):
            w, v = states[-1]
            v = momentum * v + gradient(w, images, classes)[2].detach()
            states.append((w - lr * v, v))
        judged_on = real if on == "real" else (images, classes)
        lam = gradient(states[-1][0], *judged_on)[2].detach()
        nu = torch.zeros_like(w0)
        mixed = [None] * T
        for t in reversed(range(T)):
            before = nu
            nu = nu - lr * lam
            w, x, g = gradient(states[t + at][0], images, classes)
            h_nu, mixed[t] = torch.autograd.grad(g @ (before if late else nu), (w, x))
            if plain:
                mixed[t] = torch.autograd.grad(loss(w, (x, classes)), x)[0]
            lam = lam + h_nu if hessian else lam
            nu = (momentum if scaled else 1) * nu if carry else torch.zeros_like(nu)
        if only is not None:
            return mixed[only]
        return torch.stack(mixed).mean(0) if mean else torch.stack(mixed).sum(0)

    return answer


def together(images, log_lr):
    torch.nn.utils.clip_grad_norm_([images, log_lr], 1.0)


def one_by_one(parameter):
    torch.nn.utils.clip_grad_norm_([parameter], 1.0)


def learn_images(
    mean=True,
    zero=True,
    clip=together,
    exp=True,
    optimizer=torch.optim.Adam,
    step=True,
    of=lambda images, log_lr: [images, log_lr],
    starts=lambda starts: starts,
    number=True,
):
    def answer(meta_loss_of, images, log_lr, seeds, outer_lr):
        moved = optimizer(of(images, log_lr), lr=outer_lr)
        history = []
        for each in seeds:
            losses = [meta_loss_of(images, log_lr.exp() if exp else log_lr, s) for s in starts(each)]
            value = sum(losses) / len(losses) if mean else sum(losses)
            if zero:
                moved.zero_grad()
            value.backward()
            clip(images, log_lr)
            if step:
                moved.step()
            history.append(value.item() if number else value)
        return history

    return answer


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("5_class_means", lambda x, y: torch.stack([x[y == k].sum(0) for k in range(10)]), "these are sums"),
    (
        "5_class_means",
        lambda x, y: torch.stack([x[y == k].sum(0) for k in range(10)]) / len(x),
        "not by that of all",
    ),
    (
        "5_class_means",
        lambda x, y: torch.stack([x[y == k].sum(0) for k in range(10)]) / (len(x) / 10),
        "equally frequent",
    ),
    ("5_class_means", lambda x, y: means(x, y).flip(0), "another order"),
    ("5_class_means", lambda x, y: means(x, y).numpy(), "should be a torch tensor"),
    ("5_class_means", lambda x, y: means(x, y).flatten(1), "should have the shape"),
    ("5_meta_loss", meta_loss(steps=1), "that is one step"),
    ("5_meta_loss", meta_loss(momentum=0.0), "momentum is missing"),
    ("5_meta_loss", meta_loss(on="images"), "judged on real"),
    ("5_meta_loss", meta_loss(trained=False), "untrained"),
    ("5_meta_loss", meta_loss(repeat=lambda x, T: x.repeat_interleave(T, 0).view(T, *x.shape)), "mixed up"),
    ("5_meta_loss", meta_loss(repeat=lambda x, T: x.detach().expand(T, *x.shape)), "cut off from images"),
    (
        "5_meta_loss",
        meta_loss(repeat=lambda x, T: torch.stack([x, *[x.detach()] * (T - 1)])),
        "some batches are cut off",
    ),
    ("5_meta_loss", meta_loss(rate=lambda lr: lr.item()), "cut off from lr"),
    ("5_meta_loss", lambda *args: meta_loss()(*args).item(), "the tensor itself"),
    ("5_image_gradient", image_gradient(only=0), "that is the gradient of one step"),
    ("5_image_gradient", image_gradient(only=3), "of the last step"),
    ("5_image_gradient", image_gradient(mean=True), "the mean over the steps"),
    ("5_image_gradient", image_gradient(hessian=False), "the Hessian is missing"),
    ("5_image_gradient", image_gradient(late=True), "update nu before"),
    ("5_image_gradient", image_gradient(carry=False), "nu is not carried on"),
    ("5_image_gradient", image_gradient(scaled=False), "not scaled by momentum"),
    ("5_image_gradient", lambda *args: image_gradient()(*args) + 3, "wrong numbers: furthest off is ["),
    ("5_image_gradient", image_gradient(at=1), "before the step"),
    ("5_image_gradient", image_gradient(on="images"), "not on the ten images"),
    ("5_image_gradient", image_gradient(plain=True), "the mixed term"),
    ("5_image_gradient", lambda *args: image_gradient()(*args).flatten(1), "should have the shape"),
    ("5_learn_images", learn_images(mean=False), "the sum over the starts"),
    ("5_learn_images", learn_images(zero=False), "zero_grad is missing"),
    ("5_learn_images", learn_images(clip=lambda x, u: None), "clipping is missing"),
    ("5_learn_images", learn_images(clip=lambda x, u: [one_by_one(x), one_by_one(u)]), "together"),
    ("5_learn_images", learn_images(exp=False), "not its logarithm"),
    ("5_learn_images", learn_images(optimizer=torch.optim.SGD), "plain gradient descent"),
    ("5_learn_images", learn_images(step=False), "nothing has moved"),
    ("5_learn_images", learn_images(of=lambda x, u: [x]), "give log_lr to Adam"),
    ("5_learn_images", learn_images(starts=lambda starts: starts[:1]), "for each seed in seeds[i]"),
    ("5_learn_images", learn_images(number=False), "as numbers"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("5_class_means", means),
    ("5_class_means", vectorised),
    ("5_meta_loss", meta_loss()),
    ("5_meta_loss", meta_loss(repeat=lambda x, T: torch.stack([x] * T))),
    ("5_image_gradient", image_gradient()),
    ("5_learn_images", learn_images()),
]
GUESSES: list[tuple[str, Any, Any, str]] = [
    ("5_means", 90, 90.4, "Near"),
    ("5_means", 62, 90.4, "odd image"),
    ("5_means", 99, 90.4, "written otherwise"),
    ("5_starts", 80, 80.1, "Near"),
    ("5_starts", 20, 80.1, "carry over"),
    ("5_starts", 95, 80.1, "one start only"),
    ("5_convolution", "a", "b", "something else"),
    ("5_convolution", "b", "b", "learners like their own"),
    ("5_convolution", "c", "b", "far more than"),
]
