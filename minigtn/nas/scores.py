"""Cheap guesses at how good a network will be once it is trained: each estimator is a column of one table,
higher is better.

    network = Candidate("012012012"[:8], spaces.get("nas-bench-macro"), data, seed=0)
    make("gtn", EstimatorConfig(curriculum="runs/cifar"), network.space, data, seed=0).score(network)

| name | what it measures | source |
| --- | --- | --- |
| gtn | validation accuracy after the curriculum's steps, scaled as tuned | Such et al. 2019 (1912.07768) |
| real, real-Nx | the same after as many (N times as many) tuned real steps, tse beside it | the same |
| tse, tse-Nx | minus the sum of those steps' training losses | Ru et al. 2021 (arXiv 2006.04492) |
| params, flops | parameters, multiply-adds | |
| synflow | flow of a network of absolute weights | Tanaka et al. 2020 (arXiv 2006.05467) |
| naswot | how differently images switch a fresh network's ReLUs | Mellor et al. 2021 (arXiv 2006.04647) |

A vote (mean rank) is taken over a finished table: :mod:`minigtn.nas.ranking`. Every network starts from the
same seed, sees the same real batches, and normalizes with the statistics of its batch, in training and in
evaluation: few steps are too few for running averages.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minigtn.data.datasets import Dataset
from minigtn.nas.parallel import score_all
from minigtn.nas.zero_cost import naswot, synflow
from minigtn.networks.spaces import Space
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import at_least
from minigtn.runs.tuning import at_edge
from minigtn.teaching.curriculum import Curriculum, load_curriculum
from minigtn.teaching.teach import teach

ESTIMATORS = ("gtn", "real", "tse", "params", "flops", "synflow", "naswot")


@dataclass(frozen=True)
class EstimatorConfig:
    """How networks are estimated."""

    curriculum: str = ""
    """For gtn: a run's folder, a curriculum file, or the name of one that comes with the package."""
    steps: int = 0
    """Steps of gtn (the curriculum's first ones) and of real data; 0: all that the curriculum has."""
    batch_size: int = 0
    """RealTraining images per step; 0: as many as the curriculum has."""
    valid_images: int = 1000
    """Validation images, the first ones, whose accuracy is the score."""
    valid_batch: int = 500
    """Images that are evaluated at once and share their batch statistics; halved where memory runs out."""
    probe_images: int = 64
    """Training images that naswot looks at."""
    real_lrs: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Learning rates tried for real data."""
    real_momenta: tuple[float, ...] = (0.5, 0.9)
    """Momenta tried with each of them."""
    lr_scales: tuple[float, ...] = (1.0,)
    """Factors of the curriculum's learning rates tried for gtn: wider networks than its teacher knew want
    smaller ones."""
    tuning_networks: int = 3
    """Networks whose mean validation accuracy chooses among all those; they are drawn for this alone."""

    def __post_init__(self) -> None:
        at_least(
            self, steps=0, batch_size=0, valid_images=1, valid_batch=1, probe_images=2, tuning_networks=1
        )
        for name in ("real_lrs", "lr_scales"):
            if not getattr(self, name) or not all(0 < value < math.inf for value in getattr(self, name)):
                raise ValueError(
                    f"{name} must be positive numbers, at least one, but they are {getattr(self, name)}"
                )
        if not self.real_momenta or not all(0 <= momentum < 1 for momentum in self.real_momenta):
            raise ValueError(
                f"real_momenta must be numbers in [0, 1), at least one, but they are {self.real_momenta}"
            )


class Score(NamedTuple):
    """What an estimator says of a network, higher is better (NaN or infinite where it failed), and the
    seconds it took."""

    value: float
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """An architecture with all that it can be judged by; the same fields give the same scores, on the same
    device and threads."""

    arch: str
    space: Space
    data: Dataset
    seed: int
    valid_images: int = 1000
    valid_batch: int = 500

    @property
    def device(self) -> torch.device:
        """Where the data are, and where the network is trained."""
        return self.data.train.x.device

    @contextmanager
    def built(self) -> Iterator[nn.Module]:
        """The freshly initialized module on :attr:`device`, in training mode; randomness inside follows from
        the seed alone."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed_for(self.seed, Purpose.SCORING, 0))
            channels = self.data.image_shape[0]
            module = self.space.build(
                self.arch, n_classes=self.data.n_classes, in_channels=channels, running_stats=False
            )
            yield module.to(self.device).train()

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """RealTraining training images (size, C, H, W) and labels (size,), drawn at random; the same for
        every network."""
        rng = torch.Generator().manual_seed(seed_for(self.seed, Purpose.SCORING, step + 1))
        index = torch.randint(len(self.data.train), (size,), generator=rng).to(self.device)
        return self.data.train.x[index], self.data.train.y[index]

    @torch.no_grad()
    def accuracy(self, module: nn.Module) -> float:
        """Fraction of the validation images that is classified correctly; NaN where a logit is not finite.
        Test data are never read."""
        images, labels = (part[: self.valid_images] for part in (self.data.valid.x, self.data.valid.y))
        module.eval()
        hits = torch.zeros((), device=self.device)
        for x, y in zip(images.split(self.valid_batch), labels.split(self.valid_batch), strict=True):
            logits = module(x)
            hits += torch.where(torch.isfinite(logits).all(), (logits.argmax(1) == y).sum(), torch.nan)
        return hits.item() / len(labels)


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


@dataclass(frozen=True)
class TaughtTraining:
    """Validation accuracy after the steps of a curriculum. Cost: those T training steps, and the validation
    images once.

    ``tuning`` says how the factor of its learning rates was found, if there was a choice, and what that cost.
    """

    curriculum: Curriculum
    tuning: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"gtn-{len(self.curriculum.x)}",)

    def score(self, network: Candidate) -> dict[str, Score]:
        clock = _clock(network.device)
        with network.built() as module:
            with suppress(FloatingPointError):  # a network that the steps ruin scores as it was before
                teach(module, self.curriculum.to(network.device), "learned")
            return {self.columns[0]: Score(network.accuracy(module), clock())}


@dataclass(frozen=True)
class RealTraining:
    """T steps of SGD on real batches, without augmentation, at one learning rate and momentum for all
    networks.

    Columns: validation accuracy, and minus the sum of the training losses; only the latter without
    ``validate``. ``tuning`` says how lr and momentum were found and what that cost. Cost: T training steps,
    and the validation images once.
    """

    steps: int
    batch_size: int
    lr: float
    momentum: float
    validate: bool = True
    tuning: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"real-{self.steps}", f"tse-{self.steps}") if self.validate else (f"tse-{self.steps}",)

    def score(self, network: Candidate) -> dict[str, Score]:
        clock = _clock(network.device)
        with network.built() as module:
            optimizer = torch.optim.SGD(module.parameters(), lr=self.lr, momentum=self.momentum)
            total = torch.zeros((), device=network.device)
            for step in range(self.steps):
                x, y = network.batch(step, self.batch_size)
                loss = F.cross_entropy(module(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
            losses = Score(-total.item(), clock())
            if not self.validate:
                return {self.columns[0]: losses}
            return dict(zip(self.columns, (Score(network.accuracy(module), clock()), losses), strict=True))


@dataclass(frozen=True)
class ZeroCost:
    """A score without training, by a function of the network. Cost: for params and flops, a count; otherwise
    a pass or two."""

    name: Literal["params", "flops", "synflow", "naswot"]
    probe_images: int = 64
    tuning: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.name,)

    def score(self, network: Candidate) -> dict[str, Score]:
        clock = _clock(network.device)
        if self.name in ("params", "flops"):
            value = float(getattr(network.space, self.name)(network.arch))
        else:
            images, _ = network.batch(0, self.probe_images)
            with network.built() as module:
                value = synflow(module, images[:1]) if self.name == "synflow" else naswot(module, images)
        return {self.name: Score(value, clock())}


def make(
    name: str,
    config: EstimatorConfig,
    space: Space,
    data: Dataset,
    seed: int,
    tuning: dict[str, Any] | None = None,
    workers: int = 1,
) -> Estimator:
    """The estimator called ``name``; see the table above.

    ``tuning``: what that of an earlier estimator held, so that step sizes are not tuned again (minutes to
    hours: settings * networks * steps, shared by the ``workers``).
    Raises ValueError in one sentence for an unknown name, a missing curriculum, or one that does not fit the
    data.
    """
    match = re.fullmatch(r"(\w+?)(?:-(\d+)x)?", name)
    kind, times = (match[1], int(match[2] or 1)) if match else ("", 0)
    if kind not in ESTIMATORS or times < 1 or (match and match[2] and kind not in ("real", "tse")):
        raise ValueError(
            f"there is no estimator {name!r}; there are {', '.join(ESTIMATORS)}, and real-Nx and tse-Nx for "
            "N times the steps"
        )
    if kind in ("params", "flops", "synflow", "naswot"):
        return ZeroCost(kind, config.probe_images)  # type: ignore[arg-type]
    steps = config.steps
    batch_size = config.batch_size
    # real data can be scored before there is a curriculum
    needed = kind == "gtn" or not (steps and batch_size)
    curriculum = load_curriculum(config.curriculum) if config.curriculum and needed else None
    if kind == "gtn":
        if curriculum is None:
            raise ValueError(
                "gtn needs a curriculum: a run's folder, a curriculum file, or the name of one that comes "
                "with the package"
            )
        taught = TaughtTraining(_first_steps(curriculum, config.steps, data))
        if config.lr_scales == (1.0,):
            return taught
        scales = [({"lr_scale": scale}, _scaled(taught, scale)) for scale in config.lr_scales]
        tuning = tune(scales, config, space, data, seed, workers) if tuning is None else tuning
        return replace(_scaled(taught, tuning["lr_scale"]), tuning=tuning)
    if curriculum is not None:
        steps = steps or len(curriculum.x)
        batch_size = batch_size or curriculum.x.shape[1]
    if not steps or not batch_size:
        raise ValueError(
            f"{name} needs a number of steps and a batch size, or a curriculum to take them from"
        )
    real = RealTraining(times * steps, batch_size, 0.0, 0.0)
    grid = itertools.product(config.real_lrs, config.real_momenta)
    candidates = [
        ({"lr": lr, "momentum": momentum}, replace(real, lr=lr, momentum=momentum)) for lr, momentum in grid
    ]
    tuning = tune(candidates, config, space, data, seed, workers) if tuning is None else tuning
    return replace(real, lr=tuning["lr"], momentum=tuning["momentum"], validate=kind == "real", tuning=tuning)


def tune(
    candidates: Sequence[tuple[dict[str, float], Estimator]],
    config: EstimatorConfig,
    space: Space,
    data: Dataset,
    seed: int,
    workers: int = 1,
) -> dict[str, Any]:
    """Mean validation accuracy of a few networks by every candidate (its setting, and the estimator with it),
    the best chosen; what diverges counts as 0."""
    clock = _clock(data.train.x.device)
    column = candidates[0][1].columns[0]
    archs = [space.sample(seed_for(seed, Purpose.TUNED_NETWORKS, i)) for i in range(config.tuning_networks)]
    networks = [Candidate(arch, space, data, seed, config.valid_images, config.valid_batch) for arch in archs]
    tasks = [(network, estimator) for _, estimator in candidates for network in networks]
    values = np.zeros(len(tasks))
    for i, scores in tqdm(
        score_all(tasks, workers), desc=f"tune {column}", unit="network", total=len(tasks), leave=False
    ):
        values[i] = np.nan_to_num(scores[column].value)
    means = values.reshape(len(candidates), -1).mean(1).tolist()
    tried = [
        {**setting, "valid_accuracy": mean} for (setting, _), mean in zip(candidates, means, strict=True)
    ]
    best: dict[str, Any] = max(tried, key=lambda setting: setting["valid_accuracy"])
    grid = {name: [setting[name] for setting, _ in candidates] for name in candidates[0][0]}
    return {
        **best,
        "at_edge_of_grid": at_edge(best, grid),
        "networks": archs,
        "tried": tried,
        "seconds": round(clock(), 3),
    }


def _scaled(taught: TaughtTraining, scale: float) -> TaughtTraining:
    return replace(taught, curriculum=replace(taught.curriculum, lr=scale * taught.curriculum.lr))


def _first_steps(curriculum: Curriculum, steps: int, data: Dataset) -> Curriculum:
    T = len(curriculum.x)
    shape = tuple(curriculum.x.shape[2:])
    classes = len(curriculum.class_names)
    if (shape, classes) != (data.image_shape, data.n_classes):
        raise ValueError(
            f"the curriculum teaches {classes} classes of {shape} images, but {data.name} has "
            f"{data.n_classes} of {data.image_shape}; give a curriculum made for these data"
        )
    if steps > T:
        raise ValueError(
            f"the curriculum has {T} steps, so gtn cannot take {steps}; give at most {T}, or 0 for all"
        )
    k = steps or T
    first = {name: getattr(curriculum, name)[:k].clone() for name in ("x", "y", "lr", "momentum")}
    return replace(curriculum, **first)


def _clock(device: torch.device) -> Callable[[], float]:
    """A function that returns the seconds since now, all work on the device done."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    return lambda: now() - start
