"""Curricula judged as users meet them: ordinary torch modules that no teacher met, taught by
:func:`minigtn.teach`, read in evaluation mode; beside real data with step sizes tuned for each network.

    rows = judged(config, data, curriculum)

The networks are those of :mod:`minigtn.networks.unmet`. The real-data arm is torch's SGD or Adam, whichever
is better on validation data, with as many steps and with ``MORE`` times as many.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from minigtn.config import RunConfig
from minigtn.data import Dataset, Split
from minigtn.networks.layers import cross_entropy
from minigtn.networks.unmet import UNMET, Network
from minigtn.outer.evaluate import EVALUATION_BATCH, TUNING_IMAGES, CurriculumSource, real_batches
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.teaching.pupil import recompute_batch_norm
from minigtn.teaching.teach import teach

MORE = 10  # times the steps of the curriculum that real data are given, too
RATES = {"sgd": (0.003, 0.01, 0.03, 0.1, 0.3), "adam": (0.0003, 0.001, 0.003, 0.01, 0.03)}
MOMENTUM = 0.9  # of SGD, and Adam's beta1
FINALISTS = 3  # settings, best with as many steps, that are tried again with more
TUNING_SEEDS = 2
LAST_BATCHES = 32  # that running statistics are taken from


@dataclass(frozen=True)
class RealArm:
    """Real training data with step sizes that stay."""

    optimizer: str
    lr: float

    def train(self, module: nn.Module, data: Dataset, steps: int, batch_size: int, seed: int) -> None:
        """In place, on ``steps`` batches drawn from ``seed``."""
        parameters = list(module.parameters())
        optimizer = (
            torch.optim.Adam(parameters, self.lr, (MOMENTUM, 0.999))
            if self.optimizer == "adam"
            else torch.optim.SGD(parameters, self.lr, MOMENTUM)
        )
        module.train()
        images, labels = real_batches(data.train, steps, batch_size, seed)
        for x, y in zip(images, labels, strict=True):
            optimizer.zero_grad()
            cross_entropy(module(x), y).backward()
            optimizer.step()
        recompute_batch_norm(module, images[-LAST_BATCHES:])


def judged(
    config: RunConfig, data: Dataset, taught: CurriculumSource, more: int = MORE, show: bool = True
) -> dict[str, Any]:
    """The transfer matrix of a run: a row for each network of :data:`~minigtn.networks.unmet.UNMET`, over
    ``config.evaluation.transfer`` fresh ones of each. Test data, read once."""
    seed = seed_for(config.seed, Purpose.TEST, 0)
    first = taught(seed) if callable(taught) else taught
    steps, batch_size = first.x.shape[:2]
    rows = {}
    for name, network in tqdm(UNMET.items(), desc="transfer", unit="network", disable=not show):
        rows[name] = row(
            network, config, data, {"curriculum": taught}, steps, batch_size, more, config.evaluation.transfer
        )
    return {
        "inner_steps": steps,
        "batch_size": batch_size,
        "more_steps": more * steps,
        "n_learners": config.evaluation.transfer,
        "rows": rows,
    }


def row(
    network: Network,
    config: RunConfig,
    data: Dataset,
    curricula: Mapping[str, CurriculumSource],
    steps: int,
    batch_size: int,
    more: int,
    n: int,
) -> dict[str, Any]:
    """One network's figures on test data: mean and standard deviation (n - 1) over n fresh ones.

    Time: ``TUNING_SEEDS`` trainings of T real steps for each of ten rates, ``FINALISTS`` of ``more * T``, and
    for each of the n fresh ones what ``teach`` takes and two real trainings.
    """
    shape = data.image_shape
    seeds = [seed_for(config.seed, Purpose.TEST, i) for i in range(n)]

    def fresh(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return network.make(shape, data.n_classes).to(data.train.x.device)

    def taught(source: CurriculumSource) -> list[float]:
        found = []
        for seed in seeds:
            module = fresh(seed)
            with contextlib.suppress(FloatingPointError):  # then it is as it was: not taught
                teach(module, source(seed) if callable(source) else source)
            found.append(accuracy_of(module, data.test))
        return found

    arms = [RealArm(optimizer, lr) for optimizer, rates in RATES.items() for lr in rates]
    ranked = _ranked(fresh, arms, data, config.seed, TUNING_SEEDS, steps, batch_size)
    longer = _ranked(fresh, ranked[:FINALISTS], data, config.seed, 1, more * steps, batch_size)

    def real(arm: RealArm, length: int) -> dict[str, Any]:
        found = []
        for seed in seeds:
            module = fresh(seed)
            arm.train(module, data, length, batch_size, seed)
            found.append(accuracy_of(module, data.test))
        return {**_figures(found), "optimizer": arm.optimizer, "lr": arm.lr, "momentum": MOMENTUM}

    return {
        "about": network.about,
        "sampled": network.sampled,
        "weights": sum(p.numel() for p in fresh(0).parameters()),
        "taught": {name: _figures(taught(source)) for name, source in curricula.items()},
        "real": real(ranked[0], steps),
        "real_more": real(longer[0], more * steps),
    }


@torch.inference_mode()
def accuracy_of(module: nn.Module, split: Split) -> float:
    """Fraction of ``split`` that the module classifies correctly in evaluation mode."""
    module.eval()
    chunks = zip(split.x.split(EVALUATION_BATCH), split.y.split(EVALUATION_BATCH), strict=True)
    hits = torch.stack([(module(x).argmax(1) == y).sum() for x, y in chunks])
    return hits.sum().item() / len(split.y)


def _ranked(
    fresh: Callable[[int], nn.Module],
    arms: Sequence[RealArm],
    data: Dataset,
    seed: int,
    n: int,
    steps: int,
    batch_size: int,
) -> list[RealArm]:
    """The arms by their mean accuracy on validation images over n fresh networks, best first."""
    some = Split(data.valid.x[:TUNING_IMAGES], data.valid.y[:TUNING_IMAGES])
    scores = dict.fromkeys(arms, 0.0)
    for arm, i in itertools.product(arms, range(n)):
        of_run = seed_for(seed, Purpose.TUNING, i)
        module = fresh(of_run)
        arm.train(module, data, steps, batch_size, of_run)
        scores[arm] += accuracy_of(module, some) / n
    return sorted(arms, key=lambda arm: -scores[arm])


def _figures(found: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.mean(found), "std": statistics.stdev(found)}
