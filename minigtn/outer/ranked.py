"""Teach to rank: an outer loss over all the networks of one outer step.

A curriculum that is to rank networks need not bring them far, it must put them in the right order. So beside
the mean of all readings there is, for each pair of networks of the step, the logistic loss of the difference
of their last readings (as RankNet has it, Burges et al. 2005): network i, which real data bring further than
j, should have the lower reading.

    L = mean r  +  weight * mean over pairs (i better than j) of log(1 + exp((r_i - r_j) / temperature))

L is a function of several networks' readings, and one network at a time is in memory. So the readings are
taken in a first pass, without gradient; dL/dr, a number for each of them, then weighs the readings of an
ordinary second pass, network by network: the chain rule, exact for every adjoint.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minigtn.config import RunConfig
from minigtn.data import Dataset
from minigtn.inner.training import sgd
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import Classifier, LearnerLoss
from minigtn.outer.pool import Pool
from minigtn.runs.seeds import Purpose, seed_for

EVALUATION_BATCH = 500  # validation images whose batch statistics a network shares
MOMENTUM = 0.9  # of the real trainings


class Ranked(NamedTuple):
    """The outer loss of one step, and what it says of each reading."""

    loss: Tensor
    """()."""
    weights: Tensor
    """dL/dr, (n, readings)."""
    in_order: float | None
    """The fraction of the pairs whose last readings are in the order of their targets; None without pairs."""


def ranked_loss(readings: Tensor, targets: Tensor, weight: float, temperature: float) -> Tensor:
    """L for ``readings`` (n, R), lower is better, and ``targets`` (n,), of which only the order counts, lower
    is better; differentiable by the readings, a scalar. Equal targets make no pair, as two draws of one
    network do."""
    pairs = targets[:, None] < targets
    losses = F.softplus((readings[:, -1, None] - readings[:, -1]) / temperature)
    return readings.mean() + weight * losses[pairs].sum() / pairs.sum().clamp(min=1)


def ranked(readings: Tensor, targets: Tensor, weight: float, temperature: float) -> Ranked:
    """The loss with its gradient by the readings of a first pass."""
    leaf = readings.detach().requires_grad_()
    with torch.enable_grad():
        loss = ranked_loss(leaf, targets, weight, temperature)
        (weights,) = torch.autograd.grad(loss, leaf)
    pairs = targets[:, None] < targets
    right = (readings[:, -1, None] < readings[:, -1])[pairs]
    return Ranked(loss.detach(), weights, right.float().mean().item() if len(right) else None)


@dataclass
class Targets:
    """How far real data bring each network of the pool: validation loss after ``meta.rank_steps`` annealed
    SGD steps on real training images, from initial weights of its own.

    Each is trained once, when it is first asked for, and kept by its number in the pool; :meth:`state` goes
    into the checkpoint (the writer's, of several workers). Cost: the training, and the validation images
    once. Memory: its batches of real images.
    """

    config: RunConfig
    data: Dataset
    known: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Loss and seconds by number in the pool; -1 is the run's own learner."""

    def of(self, member: int, learner: Classifier) -> float:
        """The target of that network, infinite where real data ruin it."""
        if member not in self.known:
            started = time.monotonic()
            loss = self._train(member, learner)
            self.known[member] = (loss if math.isfinite(loss) else math.inf, time.monotonic() - started)
        return self.known[member][0]

    @torch.no_grad()
    def _train(self, member: int, learner: Classifier) -> float:
        meta = self.config.meta
        seed = seed_for(self.config.seed, Purpose.TARGET, member + 1)
        train = self.data.train
        rng = torch.Generator().manual_seed(seed)
        x, y = train.draw(meta.rank_steps, self.config.teacher.batch_size, rng)
        at = torch.arange(meta.rank_steps, device=x.device, dtype=x.dtype) / meta.rank_steps
        lr = meta.rank_lr * (1 + torch.cos(math.pi * at)) / 2
        start = learner.init(seed, dtype=x.dtype, device=x.device)
        trained = sgd(LearnerLoss(learner), start, (x, y), lr, MOMENTUM)
        n = self.config.fidelity.valid_images or len(self.data.valid)
        images = self.data.valid.x[:n].split(EVALUATION_BATCH)
        labels = self.data.valid.y[:n].split(EVALUATION_BATCH)
        losses = [len(y) * cross_entropy(learner(trained, x), y) for x, y in zip(images, labels, strict=True)]
        return torch.stack(losses).sum().item() / min(n, len(self.data.valid))

    def cost(self) -> dict[str, Any]:
        """What the real trainings of this worker took so far."""
        return {
            "networks": len(self.known),
            "real_steps": len(self.known) * self.config.meta.rank_steps,
            "seconds": round(sum(seconds for _, seconds in self.known.values()), 3),
        }

    def state(self) -> dict[str, list[float | None]]:
        """As JSON values."""
        return {
            str(member): [loss if math.isfinite(loss) else None, seconds]
            for member, (loss, seconds) in self.known.items()
        }

    def load_state(self, state: dict[str, list[float | None]]) -> None:
        """The inverse of :meth:`state`."""
        self.known = {
            int(member): (math.inf if loss is None else loss, seconds or 0.0)
            for member, (loss, seconds) in state.items()
        }


@dataclass
class TableTargets:
    """How good a published table says that each network of the pool is: minus its accuracy, in place of a
    real training. Costs nothing here; what the table's trainings took is not counted."""

    config: RunConfig
    pool: Pool

    def of(self, member: int, learner: Classifier) -> float:
        """The target of that network of the pool."""
        return -self.pool.accuracies[member]

    def cost(self) -> dict[str, Any]:
        """What they are, in place of the real trainings."""
        table = Path(self.config.meta.rank_table).name
        source = f"column {self.pool.column} of {table}: trainings that others made, not counted here"
        return {"networks": len(self.pool.archs), "real_steps": 0, "seconds": 0.0, "table": source}

    def state(self) -> dict[str, float]:
        """As JSON values: the entries."""
        return dict(zip(self.pool.archs, self.pool.accuracies, strict=True))

    def load_state(self, state: dict[str, float]) -> None:
        """ValueError where the run began with other networks or entries."""
        if state != self.state():
            raise ValueError(
                f"the table {self.config.meta.rank_table} has changed since this run began, and other "
                "networks, or other accuracies, would teach on; give the table as it was"
            )
