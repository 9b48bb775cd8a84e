"""NAS-Bench-Macro: 8 layers, each one of 3 blocks.

Source: Su et al. 2021 (arXiv 2103.11922) and the table's own parameter and FLOP counts, which these networks
reproduce exactly. Stem: 3x3 convolution to C = 32 channels. Stages of 2, 3 and 3 layers; the first of a stage
has stride 2 and doubles the channels. Head: 1x1 convolution to 40 C channels, global average pooling, a
linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from minigtn.networks.spaces.base import GlobalAverage, Space, batch_norm, check_sizes, convolution

STAGES = (2, 3, 3)
HEAD = 40  # times the channels of the stem
# kernel and expansion of the inverted residual; None: identity
BLOCKS = {"0": None, "1": (3, 3), "2": (5, 6)}


@dataclass(frozen=True)
class NasBenchMacro(Space):
    """An architecture is a string of 8 digits: 0 identity (1x1 convolution where the shape changes), 1
    inverted residual with kernel 3 and expansion 3, 2 inverted residual with kernel 5 and expansion 6."""

    channels: int = 32
    """C, those of the stem."""

    name = "nas-bench-macro"
    sizes = ("channels",)
    choices = {f"layer{i}": tuple(BLOCKS) for i in range(1, sum(STAGES) + 1)}  # noqa: RUF012

    def __post_init__(self) -> None:
        check_sizes(self)

    def parse(self, arch: str) -> tuple[str, ...]:
        if len(arch) != len(self.choices) or not set(arch) <= BLOCKS.keys():
            raise ValueError(
                f"an architecture of {self.name} is a string of {len(self.choices)} digits 0, 1 or 2, not "
                f"{arch!r}"
            )
        return tuple(arch)

    def format(self, values: Sequence[str]) -> str:
        return "".join(values)

    def build(
        self, arch: str, n_classes: int = 10, in_channels: int = 3, running_stats: bool = False
    ) -> nn.Sequential:
        blocks = iter(self.parse(arch))
        layers: list[nn.Module] = _conv_bn(in_channels, self.channels, 3, running_stats=running_stats)
        channels = self.channels
        for stage in STAGES:
            for i in range(stage):
                layers.append(_block(next(blocks), channels, halve=i == 0, running_stats=running_stats))
                channels *= 2 if i == 0 else 1
        layers += _conv_bn(channels, HEAD * self.channels, 1, running_stats=running_stats)
        return nn.Sequential(*layers, GlobalAverage(), nn.Linear(HEAD * self.channels, n_classes))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


def _block(kind: str, inputs: int, halve: bool, running_stats: bool) -> nn.Module:
    outputs, stride = (2 * inputs, 2) if halve else (inputs, 1)
    shape = BLOCKS[kind]
    if shape is None:
        return (
            nn.Sequential(*_conv_bn(inputs, outputs, 1, stride, relu=False, running_stats=running_stats))
            if halve
            else nn.Identity()
        )
    kernel, expansion = shape
    hidden = expansion * inputs
    f = nn.Sequential(
        *_conv_bn(inputs, hidden, 1, running_stats=running_stats),
        *_conv_bn(hidden, hidden, kernel, stride, groups=hidden, running_stats=running_stats),
        *_conv_bn(hidden, outputs, 1, relu=False, running_stats=running_stats),
    )
    return f if halve else Residual(f)


def _conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    relu: bool = True,
    running_stats: bool,
) -> list[nn.Module]:
    conv = convolution(inputs, outputs, kernel, stride, groups)
    return [conv, batch_norm(outputs, running_stats), *([nn.ReLU()] if relu else [])]
