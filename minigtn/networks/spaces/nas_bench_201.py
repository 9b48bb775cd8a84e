"""NAS-Bench-201: one cell of 4 nodes, repeated; each of its 6 edges is one of 5 operations.

Source: Dong & Yang 2020 (arXiv 2001.00326), section 2 and figure 1. Stem: 3x3 convolution to 16 channels.
Three stages of N = 5 cells with 16, 32 and 64 channels, a residual block with stride 2 between them. Head:
batch normalization, ReLU, global average pooling, a linear layer. With the default sizes the counts are the
published ones (0.073306 to 1.531546 M weights, 7.78305 to 220.11969 M FLOPs; the latter hold 10 additions of
the linear bias that :meth:`Space.flops` leaves out). Departure: pooling in the residual block rounds up, so
that odd image sizes work; at even ones nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minigtn.networks.spaces.base import GlobalAverage, Space, batch_norm, check_sizes, relu_conv_bn

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = tuple((target, source) for target in (1, 2, 3) for source in range(target))


@dataclass(frozen=True)
class NasBench201(Space):
    """An architecture is written as in the table, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``: for each node the
    operations on the edges from the nodes before it."""

    cells_per_stage: int = 5
    """N."""
    channels: int = 16
    """Channels of the first stage."""

    name = "nas-bench-201"
    sizes = ("cells_per_stage", "channels")
    choices = {f"{source}to{target}": OPERATIONS for target, source in EDGES}  # noqa: RUF012

    def __post_init__(self) -> None:
        check_sizes(self)

    def parse(self, arch: str) -> tuple[str, ...]:
        words = tuple(part.partition("~")[0] for part in arch.replace("+", "").split("|") if part)
        if len(words) != len(EDGES) or not set(words) <= set(OPERATIONS) or self.format(words) != arch:
            raise ValueError(
                f"an architecture of {self.name} reads |op~0|+|op~0|op~1|+|op~0|op~1|op~2| with operations "
                f"{', '.join(OPERATIONS)}, not {arch!r}"
            )
        return words

    def format(self, values: Sequence[str]) -> str:
        ops = iter(values)
        return "+".join(
            "|" + "".join(f"{next(ops)}~{source}|" for source in range(target)) for target in (1, 2, 3)
        )

    def build(
        self, arch: str, n_classes: int = 10, in_channels: int = 3, running_stats: bool = False
    ) -> nn.Sequential:
        ops = self.parse(arch)
        C = self.channels
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, C, 3, padding=1, bias=False),
            batch_norm(C, running_stats),
        ]
        for stage in range(3):
            if stage:
                layers.append(Reduction(C, running_stats))
                C *= 2
            layers += [Cell(ops, C, running_stats) for _ in range(self.cells_per_stage)]
        return nn.Sequential(
            *layers, batch_norm(C, running_stats), nn.ReLU(), GlobalAverage(), nn.Linear(C, n_classes)
        )


class Cell(nn.Module):
    """Node 0 is the input, node 3 the output; a node is the sum of its edges. (B, C, H, W) -> the same."""

    def __init__(self, ops: Sequence[str], channels: int, running_stats: bool) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                f"{s}to{t}": _edge(op, channels, running_stats)
                for (t, s), op in zip(EDGES, ops, strict=True)
                if op != "none"
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for target in (1, 2, 3):
            parts = [
                self.edges[f"{s}to{target}"](nodes[s])
                for s in range(target)
                if f"{s}to{target}" in self.edges
            ]
            nodes.append(sum(parts[1:], parts[0]) if parts else torch.zeros_like(x))
        return nodes[-1]


class Reduction(nn.Module):
    """Residual block with stride 2: (B, C, H, W) -> (B, 2 C, H/2, W/2)."""

    def __init__(self, channels: int, running_stats: bool) -> None:
        super().__init__()
        outputs = 2 * channels
        self.f = nn.Sequential(
            relu_conv_bn(channels, outputs, 3, 2, running_stats),
            relu_conv_bn(outputs, outputs, 3, 1, running_stats),
        )
        self.short = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(channels, outputs, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.short(x) + self.f(x)


def _edge(op: str, channels: int, running_stats: bool) -> nn.Module:
    if op == "skip_connect":
        return nn.Identity()
    if op == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return relu_conv_bn(channels, channels, 1 if op == "nor_conv_1x1" else 3, 1, running_stats)
