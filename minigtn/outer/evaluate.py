"""How good is a curriculum? Fresh learners on it, beside fresh learners on real data with tuned step sizes.

Validation data choose (the teacher, the real arm's learning rate and momentum); test data are read once, by
:func:`final_evaluation` (and by :mod:`minigtn.outer.modules` and :func:`minigtn.outer.transfer.transfer`, the
same judgement with other learners).
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from minigtn.config import EvaluationConfig, RunConfig
from minigtn.data import Dataset, Split
from minigtn.inner.optimizers import SGD
from minigtn.inner.training import Params, sgd
from minigtn.networks.learners import Classifier, Learner, LearnerLoss
from minigtn.outer.batched import Cohort, cohorts
from minigtn.runs.progress import progress_bar
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.tuning import at_edge
from minigtn.teaching.curriculum import Curriculum, TrainingData

EVALUATION_BATCH = 1000  # images whose batch statistics an evaluated learner shares
TUNING_IMAGES = 2000  # of the validation data, read for each setting of the real arm
FINALISTS = 5  # settings of (lr, momentum), best with as many steps, that are tuned again for more steps
TIMED_RUNS = 5

CurriculumSource = Curriculum | Callable[[int], Curriculum]
"""What learners are shown: one curriculum, or that of the learner with this seed (a teacher that draws
something anew for every one)."""


@torch.inference_mode()
def predictions(learner: Classifier, params: Params, split: Split) -> Tensor:
    """The class that the learner sees in each image of ``split``: int64 (images,)."""
    params = {
        name: p.contiguous(memory_format=torch.channels_last) if p.dim() == 4 else p
        for name, p in params.items()
    }
    return torch.cat([learner(params, x).argmax(1) for x in split.x.split(EVALUATION_BATCH)])


@torch.inference_mode()
def accuracy(learner: Classifier, params: Params, split: Split) -> Tensor:
    """Fraction of ``split`` that is classified correctly, a scalar tensor."""
    return _share_right(predictions(learner, params, split), split)


def _share_right(predicted: Tensor, split: Split) -> Tensor:
    """The accuracy of predictions (..., images): (...)."""
    return (predicted == split.y).sum(-1) / len(split.y)


def reading_steps(steps: int, every: int | None = None) -> list[int]:
    """After which of T inner ``steps`` an accuracy curve is read: 1, 2, 4, 8, ... and T; or every k-th and
    T."""
    return [
        *(range(every, steps, every) if every else (2**i for i in range((steps - 1).bit_length()))),
        steps,
    ]


@torch.no_grad()
def predicted_curves(cohort: Cohort, data: TrainingData, split: Split, every: int | None = None) -> Tensor:
    """Train fresh learners in one pass; what they see in ``split`` at :func:`reading_steps`, int64 (n,
    readings, images). With more than one, ``x`` may be (T, n, B, ...) and ``y`` (T, n, B[, K]): own batches.

    Time: n*T training steps, and n passes over ``split`` for each reading. Memory: 8 bytes a prediction.
    """
    steps = set(reading_steps(len(data.x), every))
    readings = []

    def read(t: int, params: Params) -> None:
        if t in steps:
            members = cohort.members(params)
            readings.append(torch.stack([predictions(cohort.learner, p, split) for p in members]))

    start = cohort.start(data.x.dtype, data.x.device)
    sgd(
        cohort.loss,
        start,
        (data.x, data.y),
        data.lr,
        data.momentum,
        optimizer=cohort.fitted(data.optimizer, start),
        after_step=read,
    )
    return torch.stack(readings, 1)


def real_batches(train: Split, steps: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """``steps`` batches drawn from the training images at random: x (T, B, C, H, W), y (T, B)."""
    return train.draw(steps, batch_size, torch.Generator().manual_seed(seed))


def taught_predictions(
    learner: Classifier,
    taught: CurriculumSource,
    split: Split,
    seeds: Iterable[int],
    every: int | None = None,
) -> Tensor:
    """:func:`predicted_curves` (n, readings, images) of fresh learners on the curriculum, one per seed; one
    by one where each is taught its own."""
    if callable(taught):
        alone = ((Cohort(learner, [seed]), taught(seed)) for seed in seeds)
    else:
        alone = ((cohort, taught) for cohort in cohorts(learner, seeds, split.x.device))
    return torch.cat(
        [predicted_curves(cohort, curriculum.training_data, split, every) for cohort, curriculum in alone]
    )


def taught_curves(
    learner: Classifier,
    taught: CurriculumSource,
    split: Split,
    seeds: Iterable[int],
    every: int | None = None,
) -> Tensor:
    """Accuracy curves (n, readings) of fresh learners on the curriculum, one per seed."""
    return _share_right(taught_predictions(learner, taught, split, seeds, every), split)


def real_curves(
    learner: Classifier, data: Dataset, split: Split, seeds: Iterable[int], steps: int, batch_size: int,
    lr: float, momentum: float, every: int | None = None,
) -> Tensor:  # fmt: skip
    """Accuracy curves (n, readings) of fresh learners on real training batches of their own, one per seed."""
    curves = []
    for cohort in cohorts(learner, seeds, split.x.device):
        x, y = cohort.batches([real_batches(data.train, steps, batch_size, seed) for seed in cohort.seeds])
        predicted = predicted_curves(cohort, TrainingData(x, y, lr, momentum, SGD()), split, every)
        curves.append(_share_right(predicted, split))
    return torch.cat(curves)


def tune_real_arm(
    learner: Classifier, data: Dataset, config: EvaluationConfig, seed: int, steps: int, batch_size: int,
    grid: Sequence[tuple[float, float]] | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Accuracy after the last step, on the first ``TUNING_IMAGES`` validation images, for every (lr,
    momentum) of the grid, best first."""
    seeds = [seed_for(seed, Purpose.TUNING, i) for i in range(config.tuning_learners)]
    grid = grid or list(itertools.product(config.real_lrs, config.real_momenta))
    some = Split(data.valid.x[:TUNING_IMAGES], data.valid.y[:TUNING_IMAGES])
    scores = []
    for lr, momentum in progress_bar(grid, desc="tune real arm", unit="setting", leave=False):
        last = real_curves(learner, data, some, seeds, steps, batch_size, lr, momentum, every=steps)
        scores.append({"lr": lr, "momentum": momentum, "valid_accuracy": last.mean().item()})
    return sorted(scores, key=lambda s: -s["valid_accuracy"])


def finalists(tuned: Sequence[dict[str, float]]) -> list[tuple[float, float]]:
    """The grid for more steps: the ``FINALISTS`` best settings (lr, momentum) of :func:`tune_real_arm` with
    fewer."""
    return [(score["lr"], score["momentum"]) for score in tuned[:FINALISTS]]


def steps_to_reach(level: float, steps: Sequence[int], curve: Sequence[float]) -> int | None:
    """The first of the reading ``steps`` at which the ``curve`` is at ``level`` or above; None where it never
    is."""
    return next((step for step, value in zip(steps, curve, strict=True) if value >= level), None)


@torch.no_grad()
def seconds_of_training(learner: Classifier, data: TrainingData, seed: int) -> float:
    """Wall-clock seconds in which one fresh learner goes through the data, its images in memory: median of
    ``TIMED_RUNS`` runs."""
    x, y, lr, momentum, optimizer = data
    params = learner.init(seed, dtype=x.dtype, device=x.device)
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    seconds = []
    for _ in range(TIMED_RUNS):
        wait()
        started = time.perf_counter()
        sgd(LearnerLoss(learner), params, (x, y), lr, momentum, optimizer=optimizer)
        wait()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def final_evaluation(config: RunConfig, data: Dataset, taught: CurriculumSource) -> dict[str, Any]:
    """The result of a run: both arms on the test data, which nothing before this has read.

    Mean and standard deviation (n - 1) over ``evaluation.learners`` fresh learners, at the end and after
    ``steps``; ``confusion``, (K, K) counts over all taught learners after the last step: rows are the true
    classes, columns what was seen; and the seconds in which one learner is trained in either arm (the only
    part of the result that does not repeat). The real-data arm is SGD with momentum. With
    ``evaluation.more`` above 1 there is a ``longer`` arm: real data for so many times the steps.
    """
    learner = Learner(config.learner, data.image_shape, data.n_classes)
    seeds = [seed_for(config.seed, Purpose.TEST, i) for i in range(config.evaluation.learners)]
    first = taught(seeds[0]) if callable(taught) else taught
    steps, batch_size = first.x.shape[:2]
    tuned = tune_real_arm(learner, data, config.evaluation, config.seed, steps, batch_size)
    best = tuned[0]
    bar = progress_bar(seeds, desc="test, taught", unit="learner", leave=False)
    predicted = taught_predictions(learner, taught, data.test, bar)
    gtn = _share_right(predicted, data.test)
    bar = progress_bar(seeds, desc="test, real data", unit="learner", leave=False)
    real = real_curves(learner, data, data.test, bar, steps, batch_size, best["lr"], best["momentum"])
    result: dict[str, Any] = {
        "inner_steps": steps,
        "batch_size": batch_size,
        "n_learners": len(seeds),
        "steps": reading_steps(steps),
    }
    for arm, curves in (("gtn", gtn), ("real", real)):
        curve = _curve(curves)
        result |= {
            f"{arm}_accuracy": curve["mean"][-1],
            f"{arm}_accuracy_std": curve["std"][-1],
            f"{arm}_curve": curve,
        }
    result["confusion"] = confusion(predicted[:, -1], data.test.y, data.n_classes)
    x, y = real_batches(data.train, steps, batch_size, seeds[0])
    of_real = TrainingData(x, y, best["lr"], best["momentum"], SGD())
    result["seconds_per_learner"] = {
        "gtn": seconds_of_training(learner, first.training_data, seeds[0]),
        "real": seconds_of_training(learner, of_real, seeds[0]),
        "runs": TIMED_RUNS,
    }
    result["steps_to_match_real"] = steps_to_reach(
        result["real_accuracy"], result["steps"], result["gtn_curve"]["mean"]
    )
    grid = {"lr": config.evaluation.real_lrs, "momentum": config.evaluation.real_momenta}
    result["real_arm"] = {
        "lr": best["lr"],
        "momentum": best["momentum"],
        "at_edge_of_grid": at_edge(best, grid),
        "tuned_on": "validation",
        "tuning_images": min(TUNING_IMAGES, len(data.valid)),
        "tuning": tuned,
    }
    if config.evaluation.more > 1:
        result["longer"] = _longer_arm(
            learner, config, data, steps, batch_size, tuned, result["gtn_accuracy"]
        )
    return result


def _longer_arm(
    learner: Classifier,
    config: RunConfig,
    data: Dataset,
    steps: int,
    batch_size: int,
    tuned: list[dict[str, float]],
    level: float,
) -> dict[str, Any]:
    """Real data for ``evaluation.more`` times the steps, tuned again on validation data; when it reaches
    ``level`` on test data."""
    steps *= config.evaluation.more
    best = tune_real_arm(learner, data, config.evaluation, config.seed, steps, batch_size, finalists(tuned))[
        0
    ]
    seeds = [seed_for(config.seed, Purpose.TEST, i) for i in range(config.evaluation.learners)]
    bar = progress_bar(seeds, desc=f"test, real data, {steps} steps", unit="learner", leave=False)
    curve = _curve(
        real_curves(learner, data, data.test, bar, steps, batch_size, best["lr"], best["momentum"])
    )
    readings = reading_steps(steps)
    return {
        "steps": readings,
        "curve": curve,
        "lr": best["lr"],
        "momentum": best["momentum"],
        "accuracy": curve["mean"][-1],
        "accuracy_std": curve["std"][-1],
        "steps_to_match": steps_to_reach(level, readings, curve["mean"]),
    }


def confusion(predicted: Tensor, y: Tensor, n_classes: int) -> list[list[int]]:
    """How often images of each class (rows) were seen as each (columns), from predictions (n, images) for
    images of the classes y (images,)."""
    pairs = (n_classes * y + predicted).flatten()
    return torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes).tolist()


def _curve(curves: Tensor) -> dict[str, list[float]]:
    """Mean and standard deviation (n - 1) of curves (n, readings)."""
    return {"mean": curves.mean(0).tolist(), "std": curves.std(0).tolist()}
