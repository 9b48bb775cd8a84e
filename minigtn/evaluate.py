"""How good is a curriculum? Fresh learners on it, beside fresh learners on real data with tuned step sizes.

Validation data choose (the teacher, the real arm's learning rate and momentum); test data are read once, by :func:`final_evaluation`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minigtn.config import EvaluationConfig, Purpose, RunConfig, seed_for
from minigtn.curriculum import Curriculum
from minigtn.data import Dataset, Split
from minigtn.layers import cross_entropy
from minigtn.learners import Learner
from minigtn.sgd import Params, Readout, sgd

EVALUATION_BATCH = 1000  # images whose batch statistics an evaluated learner shares


def accuracy(learner: Learner, params: Params, split: Split) -> Tensor:
    """Fraction of ``split`` that is classified correctly, a scalar tensor."""
    chunks = zip(split.x.split(EVALUATION_BATCH), split.y.split(EVALUATION_BATCH), strict=True)
    hits = torch.stack([(learner(params, x).argmax(1) == y).sum() for x, y in chunks])
    return hits.sum() / len(split.y)


@torch.no_grad()
def accuracy_curve(
    learner: Learner, seed: int, x: Tensor, y: Tensor, lr: Tensor | float, momentum: Tensor | float, split: Split, every: int = 1
) -> Tensor:
    """Train one fresh learner on batches ``x`` (T, B, ...), ``y`` (T, B[, K]); its accuracy on ``split`` after every k-th step
    and the last: (ceil(T / every),). Time: T training steps and as many passes over ``split`` as there are readings."""
    params = learner.init(seed, dtype=x.dtype, device=x.device)
    index = torch.zeros(-(-len(x) // every), 1)  # the split is read whole, whatever the row
    readout = Readout(lambda params, _: accuracy(learner, params, split), (index,), every)
    _, curve = sgd(lambda p, batch: cross_entropy(learner(p, batch[0]), batch[1]), params, (x, y), lr, momentum, readout=readout)
    return curve


def real_batches(train: Split, steps: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """``steps`` batches drawn from the training images at random: x (T, B, C, H, W), y (T, B)."""
    return train.draw(steps, batch_size, torch.Generator().manual_seed(seed))


def taught_curves(learner: Learner, curriculum: Curriculum, split: Split, seeds: Iterable[int], every: int = 1) -> Tensor:
    """Accuracy curves (n, readings) of fresh learners on the curriculum, one per seed."""
    parts = curriculum.x, curriculum.y, curriculum.lr, curriculum.momentum
    return torch.stack([accuracy_curve(learner, seed, *parts, split, every) for seed in seeds])


def real_curves(
    learner: Learner, data: Dataset, split: Split, seeds: Iterable[int], steps: int, batch_size: int, lr: float, momentum: float,
    every: int = 1,
) -> Tensor:  # fmt: skip
    """Accuracy curves (n, readings) of fresh learners on real training batches of their own, one per seed."""
    return torch.stack(
        [accuracy_curve(learner, seed, *real_batches(data.train, steps, batch_size, seed), lr, momentum, split, every) for seed in seeds]
    )


def tune_real_arm(
    learner: Learner, data: Dataset, config: EvaluationConfig, seed: int, steps: int, batch_size: int
) -> list[dict[str, float]]:
    """Validation accuracy after the last step for every (lr, momentum) of the grid, best first."""
    seeds = [seed_for(seed, Purpose.TUNING, i) for i in range(config.tuning_learners)]
    grid = list(itertools.product(config.real_lrs, config.real_momenta))
    scores = []
    for lr, momentum in tqdm(grid, desc="tune real arm", unit="setting", leave=False):
        last = real_curves(learner, data, data.valid, seeds, steps, batch_size, lr, momentum, every=steps)[:, -1]
        scores.append({"lr": lr, "momentum": momentum, "valid_accuracy": last.mean().item()})
    return sorted(scores, key=lambda s: -s["valid_accuracy"])


def final_evaluation(config: RunConfig, data: Dataset, curriculum: Curriculum) -> dict[str, Any]:
    """The result of a run: both arms on the test data, which nothing before this has read.

    Mean and standard deviation (n - 1) over ``evaluation.learners`` fresh learners, at the end and after each inner step.
    """
    learner = Learner(config.learner, data.image_shape, data.n_classes)
    steps, batch_size = curriculum.x.shape[:2]
    tuned = tune_real_arm(learner, data, config.evaluation, config.seed, steps, batch_size)
    best = tuned[0]
    seeds = [seed_for(config.seed, Purpose.TEST, i) for i in range(config.evaluation.learners)]
    bar = tqdm(seeds, desc="test, taught", unit="learner", leave=False)
    gtn = taught_curves(learner, curriculum, data.test, bar)
    bar = tqdm(seeds, desc="test, real data", unit="learner", leave=False)
    real = real_curves(learner, data, data.test, bar, steps, batch_size, best["lr"], best["momentum"])
    result: dict[str, Any] = {"inner_steps": steps, "batch_size": batch_size, "n_learners": len(seeds)}
    for arm, curves in (("gtn", gtn), ("real", real)):
        mean, std = curves.mean(0).tolist(), curves.std(0).tolist()
        result |= {f"{arm}_accuracy": mean[-1], f"{arm}_accuracy_std": std[-1]}
        result[f"{arm}_curve"] = {"mean": mean, "std": std}
    lrs, momenta = config.evaluation.real_lrs, config.evaluation.real_momenta
    result["real_arm"] = {
        "lr": best["lr"],
        "momentum": best["momentum"],
        "at_edge_of_grid": best["lr"] in (min(lrs), max(lrs)) or (best["momentum"] > 0 and best["momentum"] == max(momenta)),
        "tuned_on": "validation",
        "tuning": tuned,
    }
    return result
