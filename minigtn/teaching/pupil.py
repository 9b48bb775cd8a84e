"""A torch module on a curriculum: what :func:`minigtn.teach` does to it, and how it is undone."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # of batch norms, and of instance norms
from torch.nn.parameter import is_lazy

from minigtn.inner.optimizers import OPTIMIZERS
from minigtn.teaching.curriculum import Curriculum


@dataclass(frozen=True)
class StepSizes:
    """The sizes of T steps: lr and momentum (T,), for the optimizer of that name."""

    name: str
    optimizer: str
    lr: Tensor
    momentum: Tensor


class Pupil:
    """A module that can be trained on a curriculum from the same start again and again.

    The module is in training mode from now on, as far as it was not already. Memory: a copy of the weights
    that are trained and of the buffers, and the curriculum on the module's device.
    """

    def __init__(self, module: nn.Module, curriculum: Curriculum) -> None:
        tensors = (*module.parameters(), *module.buffers())
        first = next((p for p in module.parameters() if p.is_floating_point()), None)
        if first is None or not any(p.requires_grad for p in module.parameters()):
            raise ValueError("the module has no parameters that require grad: there is nothing to teach")
        if any(not is_lazy(t) and t.is_inference() for t in tensors):
            raise ValueError(
                "the module was made under torch.inference_mode, so its weights can never be trained; make "
                "it outside"
            )
        self.module = module
        self.about = curriculum
        if not module.training:
            module.train()
        self.modes = [(part, part.training) for part in module.modules()]
        self.wide = torch.promote_types(first.dtype, torch.float32)
        self.x = curriculum.x.detach().to(first.device, first.dtype).clone()
        self.y = curriculum.y.detach().to(first.device, self.wide).clone()
        if any(map(is_lazy, tensors)):
            self._make_lazy_parameters()
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.values = [p.detach().clone() for p in self.parameters]
        self.buffers = [
            (part, name, buffer, buffer.detach().clone())
            for part in module.modules()
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]
        # a mask may hold minus infinity from the start
        self.watched = [(part, name) for part, name, _, value in self.buffers if value.isfinite().all()]

    @torch.no_grad()
    def restore(self) -> None:
        """Weights and buffers as they were at the start."""
        self._write(self.values)
        for part, name, buffer, value in self.buffers:
            if not buffer.equal(value):
                buffer.copy_(value)
            if part._buffers[name] is not buffer:  # it was replaced rather than changed
                part._buffers[name] = buffer

    def train(self, steps: StepSizes, after_step: Callable[[int], None] | None = None) -> list[float]:
        """Once through the curriculum, from the start: the loss before each step, up to the first that is not
        finite.

        The state is kept in float32 at least, so that weights of half precision gather small steps.
        """
        self.restore()
        optimizer = OPTIMIZERS[steps.optimizer].fitted(p.shape for p in self.parameters)
        state = optimizer.start(torch.cat([p.detach().flatten().to(self.wide) for p in self.parameters]))
        lr = steps.lr.to(state[0])
        momentum = steps.momentum.to(state[0])
        sizes = [p.numel() for p in self.parameters]
        losses: list[float] = []
        for t in range(len(self.x)):
            loss = F.cross_entropy(self._logits(t), self.y[t])
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
            g = torch.cat([part.flatten().to(self.wide) for part in gradients])
            state = optimizer.step(state, g, lr[t], momentum[t])
            self._write(state[0].split(sizes))
            if after_step is not None:
                after_step(t + 1)
                self._set_modes()
        if not math.isfinite(losses[0]):
            raise ValueError(
                f"the module's loss on the first batch is {losses[0]} before any step: are its weights "
                "finite, and does it return logits?"
            )
        return losses

    def late_loss(self, steps: StepSizes) -> float:
        """What :meth:`judge` says of a training with those steps; torch's random numbers afterwards are those
        of before."""
        device = self.x.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return self.judge(self.train(steps))

    def judge(self, losses: list[float]) -> float:
        """The mean of the losses before the last third of the steps that the last training gave; infinity
        where one is not finite, or the weights that it left, or buffers that were.

        Each is of a batch that was not yet trained on, so it says how far the module has come. The first
        losses say little of that: steps that begin fast need not end well (docs/log.md).
        """
        tensors = (*self.parameters, *(part._buffers[name] for part, name in self.watched))
        finite = all(map(math.isfinite, losses)) and all(t is None or t.isfinite().all() for t in tensors)
        late = losses[-max(1, len(losses) // 3) :]
        return sum(late) / len(late) if finite else math.inf

    def like_real_images(self) -> Tensor:
        """The curriculum's images (T, B, C, H, W) with the mean and the standard deviation that each pixel
        has in the real images. Synthetic images have their own, and statistics taken from them as they are
        mislead a batch norm (docs/log.md). Where the curriculum does not know its real images: with mean 0
        and standard deviation 1 in each channel; vectors as they are."""
        if not self.about.of_images:
            return self.x
        moments = self.about.moments
        over = (0, 1, 3, 4) if moments is None else (0, 1)
        mean = self.x.mean(over, keepdim=True)
        std = self.x.std(over, keepdim=True)
        alike = (self.x - mean) / std.where(std > 0, 1)
        if moments is None:
            return alike
        real_mean, real_std = moments.to(alike)
        return alike * real_std + real_mean

    @torch.no_grad()
    def _write(self, values: Iterable[Tensor]) -> None:
        for p, value in zip(self.parameters, values, strict=True):
            p.copy_(value.view_as(p))
        torch.clear_autocast_cache()  # inside our own autocast context it would keep casts of older weights

    def _set_modes(self) -> None:
        for part, training in self.modes:
            part.training = training

    @torch.no_grad()
    def _make_lazy_parameters(self) -> None:
        self.module.eval()  # or batch norms would begin to keep statistics
        self._call(self.x[0])
        self.modes = [(part, True) for part in self.module.modules()]
        self._set_modes()

    def _call(self, x: Tensor) -> Any:
        try:
            return self.module(x)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"the module does not take this curriculum's batches, {tuple(x.shape)} of {x.dtype}: "
                f"{reason}; give a module for inputs of that size"
            ) from error

    def _logits(self, t: int) -> Tensor:
        """Of batch t, (B, K), in float32 at least; ValueError for anything else."""
        logits = self._call(self.x[t])
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"the module returned a {type(logits).__name__} instead of one tensor of logits; wrap it in "
                "a module whose forward returns the logits alone"
            )
        B, K = self.y[t].shape
        if logits.shape != (B, K):
            raise ValueError(
                f"the module returned {tuple(logits.shape)} for a batch whose labels are {(B, K)} (batch, "
                f"classes): its last layer needs {K} outputs for this curriculum"
            )
        if not logits.requires_grad:
            raise ValueError(
                "the module's logits do not depend on a parameter that requires grad; does its forward use "
                "detach, argmax or torch.no_grad?"
            )
        return logits.to(self.wide)


@torch.no_grad()
def recompute_batch_norm(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Running statistics of the norms that are in training mode, from these batches alone: the plain mean of
    what each batch gives. All other layers are in evaluation mode meanwhile, since that is how the statistics
    will be used; then all modes are as before. Cost: one pass over the batches, if there are such norms.
    """
    norms = [
        part
        for part in module.modules()
        if isinstance(part, _NormBase) and part.training and part.running_mean is not None
    ]
    if not norms:
        return
    modes = [(part, part.training) for part in module.modules()]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    compiled = "torch._dynamo" in sys.modules
    with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
        for x in batches:
            module(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for part, training in modes:
        part.training = training
