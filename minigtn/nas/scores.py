"""Cheap guesses at how good a network will be once it is trained: each estimator fills columns of one table,
higher is better.

    network = Candidate("01201201", spaces.get("nas-bench-macro"), data, seed=0)
    make("gtn", EstimatorConfig(curriculum="runs/cifar"), network.space, data, seed=0).score(network)

| name | what it is | source |
| --- | --- | --- |
| gtn | a training on the curriculum, its step sizes scaled as tuned; of several, the mean | 1912.07768 |
| real | a training on real data: tuned steps that fall to nothing along a cosine | |
| real-constant | the same with constant steps, tuned for its end | |
| gtn-real | the curriculum as it is, then real as above, tuned for that start | |
| params, flops | parameters, multiply-adds | |
| synflow | flow of a network of absolute weights | Tanaka et al. 2020 (arXiv 2006.05467) |
| naswot | how differently images switch a fresh network's ReLUs | Mellor et al. 2021 (arXiv 2006.04647) |

What a training is read for, and when: :mod:`minigtn.nas.trainings`. A vote (mean rank) is taken over a
finished table: :mod:`minigtn.nas.ranking`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minigtn.data.datasets import Dataset, averaged
from minigtn.nas.candidate import Candidate, Estimator, stopwatch
from minigtn.nas.parallel import score_all
from minigtn.nas.trainings import MeanOf, RealTraining, TaughtTraining
from minigtn.nas.zero_cost import ZeroCost
from minigtn.networks.spaces import SPACES, Space
from minigtn.runs.progress import progress_bar
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import at_least
from minigtn.runs.tuning import at_edge
from minigtn.teaching.curriculum import Curriculum, load_curriculum
from minigtn.teaching.fidelity import UNSET, Fidelity, ScoreName, agreed, made_for, spelled_out

UNTUNED: dict[str, Any] = {"lr": 0.0, "momentum": 0.0, "lr_scale": 1.0}
"""Stands in for a tuning where :func:`make` is only asked whether the settings fit."""
VALID_IMAGES = 1000
"""Of a reading, where nothing else is said."""
FREE = ("params", "flops", "synflow", "naswot")
REAL = ("real", "real-constant", "gtn-real")
ESTIMATORS = ("gtn", *REAL, *FREE)


@dataclass(frozen=True)
class EstimatorConfig(Fidelity):
    """How networks are estimated, and at what fidelity; the curriculum's, where it has one."""

    curriculum: str = ""
    """For gtn and gtn-real: a run's folder, a curriculum file, or the name of one that comes with the
    package."""
    more_curricula: tuple[str, ...] = ()
    """For gtn: further ones, with as many steps. A network is trained by each of them, from other initial
    weights, and its score is the mean: less noise, at the cost of a training each."""
    real_steps: int = 0
    """Steps of real data; 0: as many as gtn."""
    batch_size: int = 0
    """Real training images per step; 0: as many as the curriculum has."""
    read_at: tuple[int, ...] = ()
    """Steps after which a ranking reads a training, beside its last one; by default the powers of two. A
    search reads the last step alone."""
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
    """Networks whose mean score chooses among all those; they are drawn for this alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.more_curricula and not self.curriculum:
            raise ValueError("more_curricula are given beside a first one: name it as curriculum")
        at_least(self, real_steps=0, batch_size=0, valid_batch=1, probe_images=2, tuning_networks=1)
        if not all(k >= 1 for k in self.read_at):
            raise ValueError(f"read_at holds numbers of steps, from 1, but they are {self.read_at}")
        for name in ("real_lrs", "lr_scales"):
            if not getattr(self, name) or not all(0 < value < math.inf for value in getattr(self, name)):
                raise ValueError(
                    f"{name} must be positive numbers, at least one, but they are {getattr(self, name)}"
                )
        if not self.real_momenta or not all(0 <= momentum < 1 for momentum in self.real_momenta):
            raise ValueError(
                f"real_momenta must be numbers in [0, 1), at least one, but they are {self.real_momenta}"
            )

    @property
    def curricula(self) -> tuple[str, ...]:
        """The names of all of them."""
        return (self.curriculum, *self.more_curricula) if self.curriculum else ()

    @property
    def read_for(self) -> ScoreName:
        """The score, spelled out."""
        return "loss" if self.score == "auto" else self.score

    def readings(self, steps: int) -> tuple[int, ...]:
        """After which of its steps a training of so many is read; that of real data where gtn ends, too."""
        wanted = (*(self.read_at or (2**i for i in range(steps.bit_length()))), self.steps)
        return tuple(sorted({k for k in wanted if 0 < k < steps} | {steps}))


def at_fidelity(
    config: EstimatorConfig, space_name: str, data: Dataset, space: Space | None = None
) -> tuple[EstimatorConfig, Space, Dataset]:
    """The settings with none of their fidelity left open, the space ("" for that of the curriculum) and the
    data at that fidelity. ``space`` stands in for the one that is named.

    ValueError, in one sentence, where the curriculum was made for something else.
    """
    settled = config
    for name in config.curricula:
        met = ""
        theirs = UNSET
        with suppress(FileNotFoundError):  # real data can be scored before there is a curriculum
            met, theirs = made_for(load_curriculum(name))
        if met and space_name not in ("", met):
            raise ValueError(
                f"the curriculum {name} was made for networks of {met}, and the space is {space_name}; leave "
                "the space out, or give a curriculum made for it"
            )
        space_name = space_name or met
        settled = replace(settled, **agreed(settled, theirs, name))
    settled = replace(settled, **agreed(settled, UNSET, ""))
    if space is None:
        space = settled.space(space_name or next(iter(SPACES)))
    data = averaged(data, settled.image_size)
    settled = replace(
        spelled_out(settled, space),
        image_size=data.image_shape[-1],
        valid_images=min(settled.valid_images or VALID_IMAGES, len(data.valid)),
        score=settled.read_for,
    )
    return settled, space, data


def parts(name: str, config: EstimatorConfig) -> dict[str, tuple[EstimatorConfig, bool]]:
    """What a ranking makes of the estimator ``name``: the settings of each training, and whether that is read
    along its way, by a name of its own.

    Annealed steps are at their best at the end alone, so each reading is a training of its own, tuned for its
    length; the others are read along the way.
    """
    if name not in REAL:
        return {name: (config, True)}
    longest, batch_size = real_size(name, config)
    if config.curriculum and not config.steps:
        config = replace(config, steps=len(load_curriculum(config.curriculum).x))
    config = replace(config, real_steps=longest, batch_size=batch_size)
    if name == "real-constant":
        return {name: (config, True)}
    return {f"{name}-{k}": (replace(config, real_steps=k), False) for k in config.readings(longest)}


def make(
    name: str,
    config: EstimatorConfig,
    space: Space,
    data: Dataset,
    seed: int,
    tuning: dict[str, Any] | None = None,
    workers: int = 1,
    curve: bool = False,
) -> Estimator:
    """The estimator called ``name``; see the table above. A training is read at its last step, or with
    ``curve`` at all of ``config.readings``.

    ``tuning``: what that of an earlier estimator held, so that step sizes are not tuned again (minutes to
    hours: settings * networks * steps, shared by the ``workers``).
    Raises ValueError in one sentence for an unknown name, a missing curriculum, or one that does not fit the
    data.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"there is no estimator {name!r}; there are {', '.join(ESTIMATORS)}")
    if name in FREE:
        return ZeroCost(name, config.probe_images)  # type: ignore[arg-type]
    if name == "gtn":
        taught = tuple(
            TaughtTraining(c, config.readings(len(c.x)) if curve else (), config.read_for)
            for c in _curricula_for(config, data)
        )
        if config.lr_scales == (1.0,):
            return _scaled(taught, 1.0)
        scales = [({"lr_scale": scale}, _scaled(taught, scale)) for scale in config.lr_scales]
        tuning = tune(scales, config, space, data, seed, workers) if tuning is None else tuning
        return replace(_scaled(taught, tuning["lr_scale"]), tuning=tuning)
    steps, batch_size = real_size(name, config)
    at = config.readings(steps) if curve else ()
    real = RealTraining(steps, batch_size, 0.0, 0.0, name != "real-constant", at, config.read_for)
    if name == "gtn-real":
        real = replace(real, curriculum=_curricula_for(config, data)[0])
    grid = itertools.product(config.real_lrs, config.real_momenta)
    candidates = [
        ({"lr": lr, "momentum": momentum}, replace(real, lr=lr, momentum=momentum)) for lr, momentum in grid
    ]
    tuning = tune(candidates, config, space, data, seed, workers) if tuning is None else tuning
    return replace(real, lr=tuning["lr"], momentum=tuning["momentum"], tuning=tuning)


def tune(
    candidates: Sequence[tuple[dict[str, float], Any]],
    config: EstimatorConfig,
    space: Space,
    data: Dataset,
    seed: int,
    workers: int = 1,
) -> dict[str, Any]:
    """Mean score of a few networks, at the end of their training, by every candidate (its setting, and the
    estimator with it), the best chosen; one that ruins a network is never better than one that does not."""
    clock = stopwatch(data.train.x.device)
    column = candidates[0][1].columns[0]
    archs = [space.sample(seed_for(seed, Purpose.TUNED_NETWORKS, i)) for i in range(config.tuning_networks)]
    images = config.valid_images or VALID_IMAGES
    networks = [Candidate(arch, space, data, seed, images, config.valid_batch) for arch in archs]
    tasks = [(network, _at_the_end(estimator)) for _, estimator in candidates for network in networks]
    values = np.zeros(len(tasks))
    for i, scores in progress_bar(
        score_all(tasks, workers), desc=f"tune {column}", unit="network", total=len(tasks), leave=False
    ):
        values[i] = scores[column].value
    means = values.reshape(len(candidates), -1).mean(1)
    best = int(np.where(np.isfinite(means), means, -np.inf).argmax())
    tried = [
        {**setting, "score": mean if math.isfinite(mean) else None}
        for (setting, _), mean in zip(candidates, means.tolist(), strict=True)
    ]
    grid = {name: [setting[name] for setting, _ in candidates] for name in candidates[0][0]}
    return {
        **tried[best],
        "at_edge_of_grid": at_edge(tried[best], grid),
        "networks": archs,
        "tried": tried,
        "seconds": round(clock(), 3),
    }


def real_size(name: str, config: EstimatorConfig) -> tuple[int, int]:
    """Steps and batch size of a training on real data; the curriculum is read only where the settings leave
    one open, so that real data can be scored before there is one."""
    steps = config.real_steps or config.steps
    batch_size = config.batch_size
    if config.curriculum and not (steps and batch_size):
        T, B = load_curriculum(config.curriculum).x.shape[:2]
        steps = steps or T
        batch_size = batch_size or B
    if not steps or not batch_size:
        raise ValueError(
            f"{name} needs a number of steps and a batch size, or a curriculum to take them from"
        )
    return steps, batch_size


def _curricula_for(config: EstimatorConfig, data: Dataset) -> list[Curriculum]:
    """The first steps of the curricula. ValueError where there is none, or one that does not fit."""
    if not config.curriculum:
        raise ValueError(
            "gtn and gtn-real need a curriculum: a run's folder, a curriculum file, or the name of one that "
            "comes with the package"
        )
    return [_first_steps(name, config, data) for name in config.curricula]


def _first_steps(name: str, config: EstimatorConfig, data: Dataset) -> Curriculum:
    curriculum = load_curriculum(name)
    T = len(curriculum.x)
    shape = tuple(curriculum.x.shape[2:])
    classes = len(curriculum.class_names)
    if (shape, classes) != (data.image_shape, data.n_classes):
        raise ValueError(
            f"the curriculum {name} teaches {classes} classes of {shape} images, but {data.name} has "
            f"{data.n_classes} of {data.image_shape}; give a curriculum made for these data"
        )
    k = config.steps or len(load_curriculum(config.curriculum).x)
    if k > T:
        raise ValueError(
            f"the curriculum {name} has {T} steps, so gtn cannot take {k}; set steps to at most {T}"
        )
    first = {part: getattr(curriculum, part)[:k].clone() for part in ("x", "y", "lr", "momentum")}
    return replace(curriculum, **first)


def _scaled(taught: tuple[TaughtTraining, ...], scale: float) -> TaughtTraining | MeanOf:
    parts = tuple(replace(t, curriculum=replace(t.curriculum, lr=scale * t.curriculum.lr)) for t in taught)
    return parts[0] if len(parts) == 1 else MeanOf(parts)


def _at_the_end(estimator: Any) -> Any:
    """The same, read after its last step alone."""
    if isinstance(estimator, MeanOf):
        return replace(estimator, parts=tuple(replace(part, read_at=()) for part in estimator.parts))
    return replace(estimator, read_at=())
