"""What is measured: sizes, and the teacher, learner and real data of one outer step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minigtn.networks.layers import SLOPE
from minigtn.networks.learners import Learner, LearnerConfig
from minigtn.teaching.teacher import MOMENTUM_MAX, Teacher, TeacherConfig


@dataclass(frozen=True)
class Config:
    """One outer step."""

    channels: tuple[int, ...]
    hidden: int
    """Width of the dense layer before the head; 0: the average over all positions instead."""
    batch: int
    steps: int
    image: tuple[int, int, int] = (1, 28, 28)
    pool_after: tuple[int, ...] = (1, 2)
    real: int = 256
    z: int = 128
    dense: int = 1024
    generator: tuple[int, int] = (128, 64)
    lr: float = 0.02
    momentum: float = 0.5
    pixels: bool = False
    """No generator: the pixels themselves are learned, so that only the inner loop is left."""
    threads: int = 0
    device: str = "cpu"
    precision: str = "float32"
    """Of float32 products on CUDA: float32 or tf32."""


SIZES = {
    "tiny": Config((3, 4), 8, batch=10, steps=4, real=16, z=4, dense=8, generator=(4, 3)),
    "S": Config((8, 16), 32, batch=32, steps=8),
    "M": Config((16, 32), 64, batch=64, steps=16),
    "L": Config((64, 128), 256, batch=128, steps=32, lr=0.005),  # at .02 it diverges within 8 steps
    "X": Config(
        (64, 64, 128, 128, 256), 0, batch=128, steps=128, image=(3, 32, 32), pool_after=(2, 4)
    ),  # for a GPU
}


class Problem:
    """Teacher, learner and real data of one outer step."""

    def __init__(self, config: Config, dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        teacher = TeacherConfig(
            inner_steps=config.steps,
            batch_size=config.batch,
            images="pixels" if config.pixels else "generator",
            z_size=config.z,
            dense=config.dense,
            channels=config.generator,
            lr=config.lr,
            momentum=config.momentum,
        )
        self.teacher = Teacher(teacher, config.image, 10, seed=0, dtype=dtype).to(config.device)
        hidden = (config.hidden,) if config.hidden else ()
        learner = LearnerConfig(
            config.channels, config.pool_after, hidden, global_pool=not hidden, norm="none", weight_norm=False
        )
        self.learner = Learner(learner, config.image, 10)
        self.params = self.learner.init(0, dtype=dtype, device=config.device)
        rng = torch.Generator().manual_seed(0)
        self.real_x = torch.randn(config.real, *config.image, generator=rng, dtype=dtype).to(config.device)
        self.real_y = torch.randint(10, (config.real,), generator=rng).to(config.device)
        self.module = self._module()

    def _module(self) -> nn.Module:
        """The learner as a user of the peers would write it, with the same weights."""
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(
            itertools.pairwise((self.config.image[0], *self.config.channels)), 1
        ):
            pooling = [nn.MaxPool2d(3, 2, 1)] if i in self.config.pool_after else []
            layers += [nn.Conv2d(before, after, 3, padding=1), *pooling, nn.LeakyReLU(SLOPE)]
        layers += [nn.Flatten()] if self.config.hidden else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        for name, p in self.params.items():
            if name.startswith("dense") and p.dim() == 2:
                layers += [nn.Linear(p.shape[1], p.shape[0]), nn.LeakyReLU(SLOPE)]
        layers += [nn.Linear(self.params["head.weight"].shape[1], 10)]
        module = nn.Sequential(*layers).to(self.real_x)
        with torch.no_grad():
            for mine, theirs in zip(self.params.values(), module.parameters(), strict=True):
                theirs.copy_(mine)
        return module

    def vary(self) -> None:
        """Another lr and momentum in every step, so that a step out of order is noticed.

        The momenta are such that Reversible can represent.
        """
        steps = self.config.steps
        raw = self.teacher.momentum_raw
        with torch.no_grad():
            self.teacher.lr_raw += torch.linspace(-0.5, 0.5, steps).to(self.teacher.lr_raw)
            fraction = torch.arange(1, steps + 1).remainder(7).add(1).to(raw) / 8 / MOMENTUM_MAX
            raw.copy_(torch.logit(fraction))

    def gradient(self, method: Callable[[Problem], None]) -> dict[str, Tensor]:
        """The meta-gradient of one outer step."""
        self.teacher.zero_grad(set_to_none=True)
        method(self)
        return {name: p.grad for name, p in self.teacher.named_parameters() if p.grad is not None}
