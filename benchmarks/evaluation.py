"""Seconds to judge a curriculum: fresh learners trained on it, in one stacked pass and one after the other,
and their accuracy.

    python benchmarks/evaluation.py --size full --device cuda --out benchmarks/records/<date>_evaluation

The learner is that of the paper for MNIST (size L: conv 64, 128, dense 256; B = 128, T = 32); the images are
random numbers, so accuracies mean nothing. Both ways must give the same learners (float32: logits within 1e-3
of the largest).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from common import min_max, wait_for
from torch import Tensor

from minigtn.data.datasets import Split
from minigtn.inner.training import Params, sgd
from minigtn.networks.learners import MNIST_LEARNER, Learner, LearnerConfig
from minigtn.outer.batched import SumOfLosses, stack, unstack
from minigtn.outer.evaluate import accuracy
from minigtn.runs.files import environment, write_json
from minigtn.studies.problems import relative_difference

SIZES = {  # learner, learners, T, B, test images
    "tiny": (LearnerConfig(channels=(3, 4), hidden=(8,)), 3, 4, 10, 50),
    "full": (MNIST_LEARNER, 20, 32, 128, 10_000),
}
FEW = 4  # steps after which rounding has not grown yet
TOLERANCE = 1e-3


@torch.no_grad()
def taught(learner: Learner, seeds: Sequence[int], x: Tensor, y: Tensor) -> list[Params]:
    """One fresh learner per seed, trained in one pass."""
    params = stack([learner.init(seed, device=x.device) for seed in seeds])
    return unstack(sgd(SumOfLosses(learner), params, (x, y), 0.02, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="full", help="tiny: seconds, for CI")
    parser.add_argument("--out", type=Path, required=True, help="folder for evaluation.json")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3, help="samples, after one to warm up")
    args = parser.parse_args()
    config, n, T, B, images = SIZES[args.size]
    learner = Learner(config, (1, 28, 28), 10)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(T, B, 1, 28, 28, generator=rng).to(args.device)
    y = torch.arange(B).remainder(10).expand(T, B).to(args.device)
    split = Split(
        torch.randn(images, 1, 28, 28, generator=rng), torch.randint(10, (images,), generator=rng)
    ).to(args.device)

    ways = {"in one pass": [range(n)], "one by one": [[seed] for seed in range(n)]}
    samples: dict[str, list[float]] = {way: [] for way in ways}
    logits = {}
    for i in range(args.rounds + 1):
        for way, groups in ways.items():
            start = time.perf_counter()
            learners = [params for seeds in groups for params in taught(learner, seeds, x, y)]
            found = torch.stack([accuracy(learner, params, split) for params in learners])
            wait_for(args.device)
            if i:
                samples[way].append(time.perf_counter() - start)
            else:
                few = [params for seeds in groups for params in taught(learner, seeds, x[:FEW], y[:FEW])]
                logits[way] = torch.stack([learner(params, x[0]) for params in few]).detach()
    difference = relative_difference(logits["in one pass"], logits["one by one"])
    if not difference <= TOLERANCE:
        raise SystemExit(f"the two ways gave other learners: logits differ by {difference:.1e}")
    rows = {
        way: {"n": len(s), "seconds": statistics.median(s), "seconds_min_max": min_max(s)}
        for way, s in samples.items()
    }
    for way, row in rows.items():
        low, high = row["seconds_min_max"]
        print(
            f"{n} fresh learners taught {T} steps and read on {len(split.y):,} images, {way}: "
            f"{row['seconds']:.3f} s ({low:.3f}-{high:.3f})"
        )
    record = {
        "config": {"size": args.size, "learners": n, "steps": T, "batch": B, "images": images},
        **environment(torch.device(args.device)),
    }
    write_json(
        args.out / "evaluation.json",
        {**record, "agreement": difference, "mean_accuracy": found.mean().item(), "rows": rows},
    )


if __name__ == "__main__":
    main()
