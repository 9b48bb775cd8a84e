"""Writes digits.npz: real MNIST digits for the playground, and prints the tuning of its real-data arm.

    python book/playground/digits.py --data-dir DIR        # or MINIGTN_DATA; some minutes

The training digits are the first of the training set, those for judging the first of the test set. Learning
rate and momentum of the real-data arm are tuned on validation data (the grid below, TUNING learners each);
the best goes into the file, too. Source of the digits: LeCun, Cortes and Burges, CC BY-SA 3.0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import minigtn
from minigtn.networks.learners import Learner, LearnerConfig, LearnerLoss

HERE = Path(__file__).parent
STEPS = 32
BATCH = 32
JUDGED = 300
TUNING = 3
RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MOMENTA = (0.0, 0.5, 0.9)
LEARNERS = {
    "conv": LearnerConfig(
        channels=(8, 16), pool_after=(1, 2), hidden=(32,), norm="batch", pool="average", weight_norm=False
    ),
    "dense": LearnerConfig(
        channels=(), pool_after=(), hidden=(128,), norm="batch", pool="average", weight_norm=False
    ),
}


Data = tuple[torch.Tensor, ...]


def accuracy(learner: Learner, data: Data, lr: float, momentum: float, seed: int) -> float:
    """Validation accuracy of a fresh learner after STEPS steps on real batches of its own. `data`: training
    images and labels, validation images and labels."""
    images, labels, valid_images, valid_labels = data
    picked = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[: STEPS * BATCH]
    batches = (
        images[picked].view(STEPS, BATCH, 1, 28, 28),
        F.one_hot(labels[picked], 10).float().view(STEPS, BATCH, 10),
    )
    params = minigtn.sgd(LearnerLoss(learner), learner.init(seed), batches, lr, momentum=momentum)
    with torch.no_grad():
        return (learner(params, valid_images).argmax(1) == valid_labels).float().mean().item()


def tuned(learner: Learner, data: Data) -> tuple[float, float]:
    """Learning rate and momentum with the best mean validation accuracy."""
    best = (-1.0, 0.0, 0.0)
    for lr in RATES:
        for momentum in MOMENTA:
            runs = [accuracy(learner, data, lr, momentum, seed) for seed in range(TUNING)]
            mean = sum(runs) / TUNING
            print(f"lr {lr} momentum {momentum}: {mean:.3f}", flush=True)
            best = max(best, (mean, lr, momentum))
    return best[1], best[2]


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes digits.npz.")
    parser.add_argument("--data-dir", help="a folder with the MNIST files; otherwise as minigtn.data.load")
    mnist = minigtn.data.load("mnist", parser.parse_args().data_dir)

    def pixels(split: minigtn.data.datasets.Split, n: int) -> np.ndarray:
        shares = split.x[:n] * mnist.std[0] + mnist.mean[0]
        return (255 * shares).round().to(torch.uint8).view(n, 784).numpy()

    data = (mnist.train.x, mnist.train.y, mnist.valid.x[:2000], mnist.valid.y[:2000])
    real = {}
    for name, config in LEARNERS.items():
        print(name)
        real[name] = np.array(tuned(Learner(config, (1, 28, 28), 10), data))
    n = STEPS * BATCH
    np.savez_compressed(
        HERE / "digits.npz",
        train_images=pixels(mnist.train, n),
        train_labels=mnist.train.y[:n].to(torch.uint8).numpy(),
        test_images=pixels(mnist.test, JUDGED),
        test_labels=mnist.test.y[:JUDGED].to(torch.uint8).numpy(),
        **real,
    )


if __name__ == "__main__":
    main()
