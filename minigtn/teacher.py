"""The teacher: a conditional generator, a learned curriculum for it, and learned inner-loop hyper-parameters.

Source: Such et al. 2019 (arXiv 1912.07768), the "full curriculum" variant in the set-up of the authors' code. Departures: one generator
call makes all T*B images (so its batch normalisation sees the whole curriculum, not one inner batch); lr and momentum are bounded
(theirs are plain exponentials: a learned momentum could pass 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minigtn.layers import Params, init_layer, leaky_relu, linear, normalise, upsample_conv3x3

LR_RANGE = (1e-4, 10.0)
MOMENTUM_MAX = 0.99


@dataclass(frozen=True)
class TeacherConfig:
    """Generator and curriculum. Memory grows with T*B and the image size; ``minigtn train`` measures and prints it before the first step
    (7 MiB for the preset ``digits``, 58 MiB for ``mnist-small``)."""

    inner_steps: int = 32
    """T: batches in the curriculum, one per inner step."""
    batch_size: int = 128
    """B: synthetic images in one batch; class labels are fixed and balanced (image i has class i mod K)."""
    z_size: int = 128
    """Length of the learned input vector of each image."""
    dense: int = 1024
    """Width of the generator's first layer."""
    channels: tuple[int, int] = (128, 64)
    """Channels of the generator at a quarter and at half of the image size."""
    lr: float = 0.02
    """Initial inner learning rate, learned per step within (1e-4, 10) on a logarithmic scale."""
    momentum: float = 0.5
    """Initial inner momentum, learned per step within (0, 0.99)."""

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("inner_steps", "batch_size", "z_size", "dense")} | {"channels": min(self.channels)}
        small = [name for name, size in sizes.items() if size < 1]
        if small:
            raise ValueError(f"{small[0]} must be at least 1, not {getattr(self, small[0])}")
        if not LR_RANGE[0] < self.lr < LR_RANGE[1]:
            raise ValueError(f"the initial inner lr must lie inside {LR_RANGE}, not {self.lr}")
        if not 0.0 < self.momentum < MOMENTUM_MAX:
            raise ValueError(f"the initial inner momentum must lie inside (0, {MOMENTUM_MAX}), not {self.momentum}")


class Teacher(nn.Module):
    """``x, y, lr, momentum = teacher()``: x (T, B, C, H, W), y (T, B, K) one-hot, lr and momentum (T,).

    H and W must be multiples of 4 (two doublings). Its parameters are the outer loop's ``theta``: the generator's weights, ``z``,
    ``lr_raw`` and ``momentum_raw``.
    """

    z: Tensor
    lr_raw: Tensor
    momentum_raw: Tensor
    y: Tensor

    def __init__(
        self, config: TeacherConfig, image_shape: tuple[int, int, int], n_classes: int, seed: int, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % 4 or width % 4:
            raise ValueError(f"the generator doubles the image twice, so height and width must be multiples of 4, not {height}x{width}")
        self.config, self.image_shape, self.n_classes = config, image_shape, n_classes
        rng = torch.Generator().manual_seed(seed)
        c1, c2 = config.channels
        shapes = {
            "dense1": (config.dense, config.z_size + n_classes),
            "dense2": (c1 * (height // 4) * (width // 4), config.dense),
            "conv1": (c2, c1, 3, 3),
            "conv2": (channels, c2, 3, 3),
        }
        weights: Params = {}
        for name, shape in shapes.items():
            weights |= init_layer(name, shape, rng, weight_norm=True, norm="none" if name == "conv2" else "batch", dtype=dtype)
        # nn.ParameterDict forbids dots in names, so layer.role is kept as layer-role
        self.generator = nn.ParameterDict({name.replace(".", "-"): w for name, w in weights.items()})
        T, B = config.inner_steps, config.batch_size
        self.z = nn.Parameter(torch.randn(T, B, config.z_size, generator=rng, dtype=dtype))
        lo, hi = LR_RANGE
        fraction = (math.log(config.lr) - math.log(lo)) / (math.log(hi) - math.log(lo))
        self.lr_raw = nn.Parameter(torch.full((T,), math.log(fraction / (1 - fraction)), dtype=dtype))
        fraction = config.momentum / MOMENTUM_MAX
        self.momentum_raw = nn.Parameter(torch.full((T,), math.log(fraction / (1 - fraction)), dtype=dtype))
        labels = torch.arange(B).remainder(n_classes).expand(T, B)
        self.register_buffer("y", nn.functional.one_hot(labels, n_classes).to(dtype), persistent=False)

    def images(self) -> Tensor:
        """All synthetic images in one generator call: (T, B, C, H, W), standardised units within (-2, 2)."""
        params = {name.replace("-", "."): w for name, w in self.generator.items()}
        T, B = self.y.shape[:2]
        _, height, width = self.image_shape
        h = torch.cat([self.z, self.y], -1).view(T * B, -1)
        h = leaky_relu(normalise(params, "dense1", linear(params, "dense1", h), "batch"))
        h = leaky_relu(normalise(params, "dense2", linear(params, "dense2", h), "batch"))
        h = h.view(T * B, -1, height // 4, width // 4)
        h = upsample_conv3x3(params, "conv1", h)
        h = leaky_relu(normalise(params, "conv1", h, "batch"))
        h = upsample_conv3x3(params, "conv2", h)
        h = 2 * torch.tanh(normalise(params, "conv2", h, "none"))
        return h.view(T, B, *self.image_shape)

    def lr(self) -> Tensor:
        """Learning rate of each inner step, (T,), inside LR_RANGE: a sigmoid on the logarithmic scale."""
        lo, hi = LR_RANGE
        return lo * (hi / lo) ** torch.sigmoid(self.lr_raw)

    def momentum(self) -> Tensor:
        """Momentum of each inner step, (T,), inside (0, MOMENTUM_MAX)."""
        return MOMENTUM_MAX * torch.sigmoid(self.momentum_raw)

    def forward(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.images(), self.y, self.lr(), self.momentum()
