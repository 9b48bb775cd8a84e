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
    usual = {
        "the class comes after z, not before it": _generate(w, teacher, class_first=True),
        "row t*B + i should be image i of step t: here the steps run fastest": _generate(
            w, teacher, turn=True
        ),
        "every layer but the last is activated": _generate(w, teacher, activated=()),
        "dense1 is not activated": _generate(w, teacher, activated=("dense2", "conv1")),
        "dense2 is not activated": _generate(w, teacher, activated=("dense1", "conv1")),
        "conv1 is not activated": _generate(w, teacher, activated=("dense1", "dense2")),
        "tanh is missing: 2 tanh of the last layer": 2 * _generate(w, teacher, tanh=False),
        "2 tanh of the last layer is missing": _generate(w, teacher, tanh=False),
        "the factor 2 before tanh is missing": right / 2,
        "the last convolution has a bias, too": _generate(w, teacher, bias=False),
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
    teacher: Teacher,
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

    both = [teacher.classes, teacher.z] if class_first else [teacher.z, teacher.classes]
    h = torch.cat(both, -1)
    h = (h.transpose(0, 1) if turn else h).flatten(0, 1)
    h = act("dense1", F.linear(h, w["dense1-weight"]))
    h = act("dense2", F.linear(h, w["dense2-weight"])).view(-1, 32, 2, 2)
    h = act("conv1", F.conv2d(enlarge(h), w["conv1-weight"]))
    h = F.conv2d(enlarge(h), w["conv2-weight"], w["conv2-bias"] if bias else None)
    return (2 * torch.tanh(h) if tanh else h).view(*teacher.z.shape[:2], 1, 8, 8)
