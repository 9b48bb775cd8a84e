"""A search space of 81 small convolutional networks, with the interface of minigtn.networks.spaces, and
estimators for tests of the search.

In a module of its own, so that the processes that a search starts can import it.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from minigtn.nas.candidate import Candidate, Score
from minigtn.networks.spaces import Space
from minigtn.networks.spaces.base import GlobalAverage


class TinySpace(Space):
    """Four layers, each 0 (identity), 1 or 2 (as many convolutions): strings such as "0121"."""

    name = "tiny"
    choices = {f"layer{i}": ("0", "1", "2") for i in range(4)}  # noqa: RUF012

    def parse(self, arch: str) -> tuple[str, ...]:
        if len(arch) != 4 or not set(arch) <= set("012"):
            raise ValueError(f"not an architecture: {arch!r}")
        return tuple(arch)

    def format(self, values: Any) -> str:
        return "".join(values)

    def build(
        self, arch: str, n_classes: int = 10, in_channels: int = 3, running_stats: bool = False
    ) -> nn.Module:
        layers = self._conv(in_channels, running_stats)
        for value in self.parse(arch):
            for _ in range(int(value)):
                layers += self._conv(4, running_stats)
        return nn.Sequential(*layers, GlobalAverage(), nn.Linear(4, n_classes))

    def flops(self, arch: str) -> int:
        return 1024 * self.params(arch)

    def _conv(self, channels: int, running_stats: bool) -> list[nn.Module]:
        return [
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.BatchNorm2d(4, track_running_stats=running_stats),
            nn.ReLU(),
        ]


class WideSpace(TinySpace):
    """Eight layers, 6,561 architectures, with sizes that cost nothing."""

    name = "wide"
    choices = {f"layer{i}": ("0", "1", "2") for i in range(8)}  # noqa: RUF012

    def parse(self, arch: str) -> tuple[str, ...]:
        return tuple(arch)

    def params(self, arch: str) -> int:
        return int(arch, 3)

    def flops(self, arch: str) -> int:
        return int(arch, 3)


@dataclass(frozen=True)
class Slow:
    """The number that the architecture writes, after a sleep."""

    seconds: float = 0.0
    columns: tuple[str, ...] = ("number",)

    def score(self, network: Candidate) -> dict[str, Score]:
        time.sleep(self.seconds)
        return {"number": Score(float(int(network.arch, 3)), self.seconds)}


@dataclass(frozen=True)
class Mortal(Slow):
    """As Slow, but the first process to begin a score after ``after`` others, in whatever process, kills
    itself, once."""

    log: str = ""
    killed: str = ""
    after: int = 0

    def score(self, network: Candidate) -> dict[str, Score]:
        with open(self.log, "a+") as file:
            file.write(f"{network.arch}\n")
            file.seek(0)
            begun = len(file.readlines())
        if begun > self.after:
            with suppress(FileExistsError), open(self.killed, "x") as file:
                file.write(network.arch)
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().score(network)


@dataclass(frozen=True)
class Failing:
    """Raises for architectures that begin with 2; runs out of memory for batches above 100 of those that
    begin with 1; else 0."""

    log: str
    columns: tuple[str, ...] = ("nothing",)

    def score(self, network: Candidate) -> dict[str, Score]:
        with open(self.log, "a") as file:
            file.write(f"{network.arch} {network.valid_batch}\n")
        if network.arch[0] == "2":
            raise ArithmeticError("not today")
        if network.arch[0] == "1" and network.valid_batch > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"nothing": Score(0.0, 0.0)}
