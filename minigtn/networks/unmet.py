"""Ordinary torch networks that curricula are judged on, :data:`UNMET`: as their users write them, with
torch's own initialization, buffers and running statistics included. No teacher meets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Network:
    """A network that curricula are judged on."""

    about: str
    sampled: bool
    """Whether :mod:`minigtn.networks.ordinary` makes networks of this kind (not this one)."""
    make: Callable[[Shape, int], nn.Module]
    """(image shape, classes) -> a fresh module."""


class ResidualBlock(nn.Module):
    """He et al. 2016: two 3x3 convolutions with batch norm, and a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride > 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2020, tiny: two layers of torch's own encoder, four heads, a class token."""

    def __init__(self, image_shape: Shape, classes: int, patch: int, width: int = 64) -> None:
        super().__init__()
        channels, height, in_width = image_shape
        tokens = (height // patch) * (in_width // patch)
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens + 1, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.position
        return self.head(self.norm(self.encoder(tokens))[:, 0])


def tutorial_cnn(shape: Shape, classes: int) -> nn.Module:
    """Two convolutions, max pooling, two dense layers: that of PyTorch's MNIST example, without dropout."""
    channels, height, width = shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * (height // 2) * (width // 2), 128), nn.ReLU()),
        nn.Linear(128, classes),
    )


def relu_mlp(shape: Shape, classes: int) -> nn.Module:
    """Two hidden layers, 256 and 128."""
    channels, height, width = shape
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(channels * height * width, 256), nn.ReLU()),
        *(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes)),
    )


def lenet5(shape: Shape, classes: int) -> nn.Module:
    """LeCun et al. 1998: tanh, average pooling, two hidden dense layers; padded convolutions."""
    channels, height, width = shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * (height // 4) * (width // 4), 120), nn.Tanh()),
        *(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, classes)),
    )


def resnet(shape: Shape, classes: int) -> nn.Module:
    """Three residual blocks, 16-32-64 channels, with running statistics."""
    channels, height, _ = shape
    stem = nn.Conv2d(channels, 16, 3, 1 if height < 16 else 2, 1, bias=False)
    return nn.Sequential(
        *(stem, nn.BatchNorm2d(16), nn.ReLU()),
        *(ResidualBlock(16, 16, 1), ResidualBlock(16, 32, 2), ResidualBlock(32, 64, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)),
    )


def wide_cnn(shape: Shape, classes: int) -> nn.Module:
    """64 and 128 channels, 256 hidden units."""
    channels, height, width = shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128 * (height // 4) * (width // 4), 256), nn.ReLU()),
        nn.Linear(256, classes),
    )


def tiny_vit(shape: Shape, classes: int) -> nn.Module:
    """Patches of 2 pixels a side below 16, of 4 above."""
    return VisionTransformer(shape, classes, 2 if shape[1] < 16 else 4)


UNMET: dict[str, Network] = {
    "tutorial-cnn": Network("two convolutions, max pooling", True, tutorial_cnn),
    "relu-mlp": Network("256 and 128 hidden units", True, relu_mlp),
    "lenet-5": Network("tanh, average pooling", False, lenet5),
    "resnet": Network("residual, batch norm", False, resnet),
    "wide-cnn": Network("64 and 128 channels", True, wide_cnn),
    "tiny-vit": Network("attention, layer norm", False, tiny_vit),
}
