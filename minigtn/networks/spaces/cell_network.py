"""The network that the space ``cells`` builds; its source and its departures stand in
:mod:`minigtn.networks.spaces.cells`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigtn.networks.spaces.base import GlobalAverage, batch_norm, convolution, relu_conv_bn

Edge = tuple[int, str]
"""The state it starts from, and its operation."""
CellPlan = tuple[tuple[Edge, Edge], ...]
"""For each node its two edges."""

STEM_MULTIPLIER = 3
AUXILIARY = (128, 768)  # widths of the auxiliary head


class CellNetwork(nn.Module):
    """Images (B, C, H, W) -> logits (B, K); cells as in ``stack``, each a plan and whether it is a reduction
    cell.

    ``drop_path`` is the probability with which an edge of the last cell is dropped for an image, in training;
    earlier cells drop in proportion to their depth. It is 0 unless somebody sets it; random numbers come from
    torch's global generator.
    """

    def __init__(
        self, stack: Sequence[tuple[CellPlan, bool]], channels: int, n_classes: int, in_channels: int,
        running_stats: bool, auxiliary: bool, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.drop_path = 0.0
        wide = STEM_MULTIPLIER * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, wide, 3, padding=1, bias=False), batch_norm(wide, running_stats)
        )
        self.cells = nn.ModuleList()
        inputs = (wide, wide)
        halve = False
        width = wide
        for i, (plan, reduction) in enumerate(stack):
            channels *= 2 if reduction else 1
            cell = Cell(plan, inputs, halve, channels, reduction, running_stats)
            self.cells.append(cell)
            inputs = (inputs[1], cell.width)
            halve = reduction
            width = cell.width
            if reduction:
                self.auxiliary_after = i
                auxiliary_width = width  # the last reduction cell
        self.auxiliary = AuxiliaryHead(auxiliary_width, n_classes, running_stats) if auxiliary else None
        self.head = nn.Sequential(
            nn.ReLU(), GlobalAverage(), nn.Dropout(dropout), nn.Linear(width, n_classes)
        )
        for weight in self.parameters():
            if weight.ndim > 1 and not weight.is_meta:
                nn.init.kaiming_normal_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The logits, and in training those of the auxiliary head, if there is one."""
        before, now = (self.stem(x),) * 2
        auxiliary = None
        for i, cell in enumerate(self.cells):
            drop = self.drop_path * (i + 1) / len(self.cells) if self.training else 0.0
            before, now = now, cell(before, now, drop)
            if self.auxiliary is not None and self.training and i == self.auxiliary_after:
                auxiliary = self.auxiliary(now)
        return self.head(now), auxiliary


class Cell(nn.Module):
    """Two states -> the concatenation of the states that no node uses, ``width`` channels, half as high and
    wide if ``reduction``."""

    def __init__(
        self, plan: CellPlan, inputs: tuple[int, int], halve: bool, channels: int, reduction: bool,
        running_stats: bool,
    ) -> None:  # fmt: skip
        """``halve``: the first input is twice as high and wide as the second."""
        super().__init__()
        first: nn.Module = _same_width(inputs[0], channels, running_stats)
        if halve:
            first = nn.Sequential(nn.ReLU(), FactorizedReduction(inputs[0], channels, running_stats))
        self.adapt = nn.ModuleList([first, _same_width(inputs[1], channels, running_stats)])
        self.plan = plan
        self.edges = nn.ModuleList(
            operation(op, channels, 2 if reduction and state < 2 else 1, running_stats)
            for node in plan
            for state, op in node
        )
        used = {state for node in plan for state, _ in node}
        self.loose = [state for state in range(len(plan) + 2) if state not in used]
        self.halve_loose = nn.ModuleDict(
            {
                str(state): FactorizedReduction(channels, channels, running_stats)
                for state in self.loose
                if reduction and state < 2
            }
        )
        self.width = channels * len(self.loose)

    def forward(self, before: Tensor, now: Tensor, drop: float) -> Tensor:
        states = [self.adapt[0](before), self.adapt[1](now)]
        for k, (a, b) in enumerate(self.plan):
            left = self.edges[2 * k](states[a[0]])
            right = self.edges[2 * k + 1](states[b[0]])
            states.append(dropped(left, drop) + dropped(right, drop))
        return torch.cat(
            [
                self.halve_loose[str(s)](states[s]) if str(s) in self.halve_loose else states[s]
                for s in self.loose
            ],
            1,
        )


class FactorizedReduction(nn.Module):
    """Two 1x1 convolutions with stride 2, on the even positions and on the odd ones, then batch
    normalization."""

    def __init__(self, inputs: int, outputs: int, running_stats: bool) -> None:
        super().__init__()
        self.even, self.odd = (convolution(inputs, outputs // 2, 1, 2) for _ in range(2))
        self.norm = batch_norm(outputs, running_stats)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([self.even(x), self.odd(F.pad(x, (-1, 1, -1, 1)))], 1))


class AuxiliaryHead(nn.Module):
    """A second classifier, on the features after the last reduction, that only training uses (Szegedy et al.
    2015)."""

    def __init__(self, inputs: int, n_classes: int, running_stats: bool) -> None:
        super().__init__()
        first, second = AUXILIARY
        self.squeeze = nn.Sequential(
            nn.Conv2d(inputs, first, 1, bias=False), batch_norm(first, running_stats), nn.ReLU()
        )
        self.mix = nn.Sequential(
            nn.Conv2d(first, second, 2, bias=False), batch_norm(second, running_stats), nn.ReLU()
        )
        self.classify = nn.Linear(second, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        side = min(x.shape[2:])
        if side < 2:
            raise ValueError("the auxiliary head needs images of at least 5 x 5 pixels; train without it")
        kernel = min(side // 2 + 1, side - 1)  # 5 at 8 x 8, with stride 3: two windows each way
        x = F.avg_pool2d(F.relu(x), kernel, side - kernel)[:, :, :2, :2]
        return self.classify(self.mix(self.squeeze(x)).flatten(1))


def dropped(x: Tensor, p: float) -> Tensor:
    """``x`` (B, C, H, W) with each image's values zero with probability ``p``, and scaled up otherwise."""
    if p == 0:
        return x
    keep = torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device) >= p
    return x * keep / (1 - p)


def operation(name: str, channels: int, stride: int, running_stats: bool) -> nn.Module:
    """The edge of that name: (B, C, H, W) -> the same, or half as high and wide with stride 2, rounded up."""
    if name == "identity":
        return nn.Identity() if stride == 1 else FactorizedReduction(channels, channels, running_stats)
    kind = re.sub("[0-9].*", "", name)
    k = int(re.findall("[0-9]", name)[1])  # "conv1x7-7x1" -> conv, 7
    if kind in ("max", "avg"):
        around = k // 2 if k % 2 else 0
        pool = (
            nn.MaxPool2d(k, stride, around)
            if kind == "max"
            else nn.AvgPool2d(k, stride, around, count_include_pad=False)
        )
        return pool if k % 2 else nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), pool)
    if kind == "sep":
        return nn.Sequential(
            *_separable(channels, k, stride, running_stats), *_separable(channels, k, 1, running_stats)
        )
    if "-" in name:
        row = nn.Conv2d(channels, channels, (1, k), (1, stride), (0, k // 2), bias=False)
        column = nn.Conv2d(channels, channels, (k, 1), (stride, 1), (k // 2, 0), bias=False)
        return nn.Sequential(
            nn.ReLU(),
            row,
            batch_norm(channels, running_stats),
            nn.ReLU(),
            column,
            batch_norm(channels, running_stats),
        )
    return relu_conv_bn(channels, channels, k, stride, running_stats)


def _separable(channels: int, kernel: int, stride: int, running_stats: bool) -> list[nn.Module]:
    depthwise = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    return [
        nn.ReLU(),
        depthwise,
        nn.Conv2d(channels, channels, 1, bias=False),
        batch_norm(channels, running_stats),
    ]


def _same_width(inputs: int, channels: int, running_stats: bool) -> nn.Module:
    return nn.Identity() if inputs == channels else relu_conv_bn(inputs, channels, 1, 1, running_stats)
