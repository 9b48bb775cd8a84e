"""A network that is to be judged, and the shape of every judgement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigtn.data.datasets import Dataset
from minigtn.networks.spaces import Space
from minigtn.runs.seeds import Purpose, seed_for


class Score(NamedTuple):
    """What an estimator says of a network, higher is better (NaN or infinite where it failed), and the
    seconds it took."""

    value: float
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """An architecture with all that it can be judged by; the same fields give the same scores, on the same
    device and threads.

    Every candidate with the same ``seed`` starts from the same random numbers and sees the same real batches;
    another ``repeat`` is the same network with other initial weights. Networks normalize with the statistics
    of their batch, in training and in evaluation: few steps are too few for running averages.
    """

    arch: str
    space: Space
    data: Dataset
    seed: int
    valid_images: int = 1000
    valid_batch: int = 500
    repeat: int = 0

    @property
    def device(self) -> torch.device:
        """Where the data are, and where the network is trained."""
        return self.data.train.x.device

    @contextmanager
    def built(self) -> Iterator[nn.Module]:
        """The freshly initialized module on :attr:`device`, in training mode; randomness inside follows from
        seed and repeat alone."""
        weights = seed_for(self.seed, Purpose.SCORING, 0)
        if self.repeat:
            weights = seed_for(self.seed, Purpose.REPEATED, self.repeat)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(weights)
            channels = self.data.image_shape[0]
            module = self.space.build(
                self.arch, n_classes=self.data.n_classes, in_channels=channels, running_stats=False
            )
            if self.device.type == "cpu":  # convolutions are up to 2.5 times as fast there
                module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            yield module.to(self.device).train()

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Real training images (size, C, H, W) and labels (size,), drawn at random; the same for every
        network and repeat."""
        rng = torch.Generator().manual_seed(seed_for(self.seed, Purpose.SCORING, step + 1))
        index = torch.randint(len(self.data.train), (size,), generator=rng).to(self.device)
        return self.data.train.x[index], self.data.train.y[index]

    @torch.no_grad()
    def judge(self, module: nn.Module) -> tuple[float, float]:
        """Mean cross entropy on the validation images, and the fraction of them that is classified correctly;
        both NaN where a logit is not finite. Test data are never read. Leaves the module in training mode."""
        images = self.data.valid.x[: self.valid_images]
        labels = self.data.valid.y[: self.valid_images]
        module.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for x, y in zip(images.split(self.valid_batch), labels.split(self.valid_batch), strict=True):
            logits = module(x)
            losses = F.cross_entropy(logits, y, reduction="sum").double()
            both = torch.stack([losses, (logits.argmax(1) == y).sum().double()])
            sums += torch.where(torch.isfinite(logits).all(), both, torch.nan)
        module.train()
        loss, accuracy = (sums / len(labels)).tolist()
        return loss, accuracy


class Estimator(Protocol):
    """One way to guess; it may fill several columns of the table from one training run."""

    @property
    def tuning(self) -> dict[str, Any]:
        """How its settings were chosen, and what that cost; empty where there was nothing to choose."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what :meth:`score` returns; a search maximizes the first."""
        ...

    def score(self, network: Candidate) -> dict[str, Score]:
        """A score for each column. Deterministic: the same network gives the same values."""
        ...


def stopwatch(device: torch.device) -> Callable[[], float]:
    """A function that returns the seconds since now, all work on the device done."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    return lambda: now() - start
