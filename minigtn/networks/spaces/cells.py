"""Cells: the space of the paper's search, after NAO (Luo et al. 2018, arXiv 1808.07233) and ENAS (Pham et al.
2018, arXiv 1802.03268).

A cell has two inputs (the outputs of the two cells before it: states 0 and 1) and five nodes (states 2 to 6).
A node adds up two edges: each takes an earlier state through an operation. The states that no node uses are
concatenated into the output. N normal cells, a reduction cell, N normal cells, a reduction cell, N normal
cells; a reduction cell has stride 2 on its inputs and doubles the channels F.

Operations: the eleven of NAO's CIFAR-10 search (its PyTorch code, the table of the "large" space), which are
also the ones that the sampler of the GTN authors' search code draws from. NAO's weight-sharing search and
ENAS draw from five: ``Cells(operations=WEIGHT_SHARING)``.

As in NAO's code: inputs are adapted (1x1 convolution, or a factorised reduction after a reduction cell) only
where their shape differs; 2x2 pooling pads right and below; drop-path acts on every edge and grows with depth
and time; Kaiming initialization. As in the GTN authors' code: ReLU before the global average. Departures: the
auxiliary head pools to 2x2 from any size (from 8x8 with the published 5x5 windows), and the search uses plain
weights, not weight normalization.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from minigtn.networks.spaces.base import Space, check_sizes
from minigtn.networks.spaces.cell_network import CellNetwork, CellPlan, Edge

NAO = (
    "identity", "conv1x1", "conv3x3", "conv1x3-3x1", "conv1x7-7x1",
    "max2x2", "max3x3", "max5x5", "avg2x2", "avg3x3", "avg5x5",
)  # fmt: skip
WEIGHT_SHARING = ("identity", "sep3x3", "sep5x5", "avg3x3", "max3x3")
NODES = range(2, 7)


@dataclass(frozen=True)
class Cells(Space):
    """An architecture reads ``NORMAL/REDUCTION``; a cell is five nodes with commas between, a node two edges
    with a plus between, an edge ``state:operation``, so that ``0:conv3x3+1:max5x5`` adds up a convolution of
    state 0 and a pooling of state 1.

    The canonical string is the first in order among those of the same network: edges within a node and nodes
    within a cell can be written in several orders.
    """

    cells_per_stage: int = 3
    """N: 3 in the GTN authors' search code, 6 in NAO's final networks."""
    channels: int = 32
    """F, the channels of the first stage; even, because a factorised reduction has two halves."""
    operations: tuple[str, ...] = NAO
    """What an edge can be."""

    name = "cells"
    sizes = ("cells_per_stage", "channels")

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.channels % 2:
            raise ValueError(f"{self.name}: channels must be even, not {self.channels}")

    @cached_property
    def choices(self) -> dict[str, tuple[str, ...]]:  # type: ignore[override]
        found: dict[str, tuple[str, ...]] = {}
        for cell, node, edge in itertools.product(("normal", "reduction"), NODES, "ab"):
            found[f"{cell}{node}{edge}_input"] = tuple(str(state) for state in range(node))
            found[f"{cell}{node}{edge}_op"] = self.operations
        return found

    def parse(self, arch: str) -> tuple[str, ...]:
        values = tuple(re.split("[/,+:]", arch))
        sound = len(values) == len(self.choices) and all(
            v in allowed for v, allowed in zip(values, self.choices.values(), strict=True)
        )
        if not sound or _text(_plans(values)) != arch:
            raise ValueError(
                f"an architecture of {self.name} reads NORMAL/REDUCTION, each five nodes state:op+state:op "
                "with commas between, states from 0 to the one before the node, operations "
                f"{', '.join(self.operations)}; not {arch!r}"
            )
        return tuple(re.split("[/,+:]", self.format(values)))

    def format(self, values: Sequence[str]) -> str:
        return _text([_canonical(plan) for plan in _plans(values)])

    def build(
        self,
        arch: str,
        n_classes: int = 10,
        in_channels: int = 3,
        running_stats: bool = False,
        *,
        auxiliary: bool = False,
        dropout: float = 0.0,
    ) -> CellNetwork:
        """As :meth:`Space.build`; for the final training also with the auxiliary head, and with dropout
        before the last layer."""
        normal, reduction = _plans(self.parse(arch))
        stage = [(normal, False)] * self.cells_per_stage
        stack = [*stage, (reduction, True), *stage, (reduction, True), *stage]
        return CellNetwork(stack, self.channels, n_classes, in_channels, running_stats, auxiliary, dropout)


def _plans(values: Sequence[str]) -> list[CellPlan]:
    """The two cells, from the values of all choices."""
    edges: list[Edge] = [(int(state), op) for state, op in zip(values[::2], values[1::2], strict=True)]
    nodes = list(zip(edges[::2], edges[1::2], strict=True))
    return [tuple(nodes[: len(NODES)]), tuple(nodes[len(NODES) :])]


def _text(plans: Sequence[CellPlan]) -> str:
    return "/".join(
        ",".join("+".join(f"{state}:{op}" for state, op in node) for node in plan) for plan in plans
    )


def _canonical(plan: CellPlan) -> CellPlan:
    """The first, in order, of the ways to write this cell: edges sorted, nodes in any order that has each
    after its inputs."""
    ways = []
    for order in itertools.permutations(NODES):
        new = {0: 0, 1: 1} | {old: i for i, old in enumerate(order, NODES[0])}
        if all(new[state] < new[old] for old, edges in zip(NODES, plan, strict=True) for state, _ in edges):
            ways.append(
                tuple(_pair(*((new[state], op) for state, op in plan[old - NODES[0]])) for old in order)
            )
    return min(ways)


def _pair(a: Edge, b: Edge) -> tuple[Edge, Edge]:
    return (a, b) if a <= b else (b, a)
