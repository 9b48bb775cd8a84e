"""Lesson 6: the generator's forward pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from checks.common import Function, Hint, close, exercise, judge, tensor
from minigtn import Teacher, TeacherConfig

T = 3


@exercise
def check_6_generate(generate: Function) -> None:
    """``generate(w, z, classes)``: the images of minigtn's own generator, and its gradients."""
    sizes = {"inner_steps": T, "batch_size": 10, "z_size": 32, "dense": 64, "channels": (32, 16)}
    teacher = Teacher(TeacherConfig(**sizes, weight_norm=False), (1, 8, 8), 10, 0, torch.float64)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():  # biases and scales are not left at 0 and 1, where a forgotten one is not seen
        for p in teacher.parameters():
            p += 0.2 * torch.randn(p.shape, generator=rng, dtype=p.dtype)
    w = dict(teacher.generator)
    right = teacher.images()
    answer = tensor("generate(w, z, classes)", generate(w, teacher.z, teacher.classes), tuple(right.shape))
    z = teacher.z
    classes = teacher.classes
    last = _generate(w, z, classes, tanh=False)
    usual = {
        "the images were made step by step: batch norm wants all T*B rows in one call": torch.cat(
            [_generate(w, z[t : t + 1], classes[t : t + 1]) for t in range(T)]
        ),
        "the class comes after z, not before it": _generate(w, z, classes, class_first=True),
        "row t*B + i should be image i of step t: here the steps run fastest": _generate(
            w, z, classes, turn=True
        ),
        "every layer but the last is activated": _generate(w, z, classes, activated=()),
        "dense1 is not activated": _generate(w, z, classes, activated=("dense2", "conv1")),
        "dense2 is not activated": _generate(w, z, classes, activated=("dense1", "conv1")),
        "conv1 is not activated": _generate(w, z, classes, activated=("dense1", "dense2")),
        "tanh is missing: 2 tanh of the last layer": 2 * last,
        "the last layer gets its bias and 2 tanh, and no leaky ReLU before it": 2
        * F.leaky_relu(last, 0.1).tanh(),
        "the last layer is activated wrongly: leaky ReLU where 2 tanh should be": F.leaky_relu(last, 0.1),
        "the last layer is activated wrongly: a sigmoid where 2 tanh should be": last.sigmoid(),
        "the last layer is activated wrongly: 2 sigmoid where 2 tanh should be": 2 * last.sigmoid(),
        "the factor 2 belongs outside: 2 tanh(h), not tanh(2 h)": (2 * last).tanh(),
        "2 tanh of the last layer is missing": last,
        "the factor 2 before tanh is missing": right / 2,
        "the last convolution has a bias, too": _generate(w, z, classes, bias=False),
    }
    usual = {hint: wrong.detach() for hint, wrong in usual.items()}
    judge("the images", answer.detach(), right.detach(), usual)
    probe = torch.randn(right.shape, generator=rng, dtype=right.dtype)
    theta = {"z": teacher.z, **w}
    wanted = torch.autograd.grad((right * probe).sum(), list(theta.values()))
    if not answer.requires_grad:
        raise Hint("the images are right, but cut off from the weights: no gradient reaches the teacher")
    got = torch.autograd.grad((answer * probe).sum(), list(theta.values()), allow_unused=True)
    for name, ours, theirs in zip(theta, got, wanted, strict=True):
        if ours is None or not close(ours, theirs):
            raise Hint(f"the images are right, but cut off from {name}: its gradient is lost on the way")


def _generate(
    w: dict[str, Tensor],
    z: Tensor,
    classes: Tensor,
    activated: tuple[str, ...] = ("dense1", "dense2", "conv1"),
    class_first: bool = False,
    turn: bool = False,
    tanh: bool = True,
    bias: bool = True,
) -> Tensor:
    """The generator of the lesson with one thing wrong."""

    def enlarge(h: Tensor) -> Tensor:
        return F.pad(F.interpolate(h, scale_factor=2), (1, 1, 1, 1), mode="replicate")

    def act(name: str, h: Tensor) -> Tensor:
        if name not in activated:
            return h
        scale = w[f"{name}-norm_scale"]
        return F.leaky_relu(F.batch_norm(h, None, None, scale, w[f"{name}-bias"], True), 0.1)

    both = [classes, z] if class_first else [z, classes]
    h = torch.cat(both, -1)
    h = (h.transpose(0, 1) if turn else h).flatten(0, 1)
    h = act("dense1", F.linear(h, w["dense1-weight"]))
    h = act("dense2", F.linear(h, w["dense2-weight"])).view(-1, 32, 2, 2)
    h = act("conv1", F.conv2d(enlarge(h), w["conv1-weight"]))
    h = F.conv2d(enlarge(h), w["conv2-weight"], w["conv2-bias"] if bias else None)
    return (2 * torch.tanh(h) if tanh else h).view(*z.shape[:2], 1, 8, 8)
