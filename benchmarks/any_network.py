"""What does a curriculum bring to ordinary torch networks that no teacher met, and what do real data?

    python benchmarks/any_network.py --curricula digits-10 --size full --out DIR

Each network of ``minigtn.networks.unmet`` is taught by each curriculum: with ``lr="auto"``, and with the
learned step sizes. Beside it stand real data with as many steps and with ten times as many: torch's SGD and
Adam with momentum .9, rate and optimizer chosen per network on validation images. Figures are accuracies in
evaluation mode on test images, mean and standard deviation over fresh networks.

DIR/any_network.json is written after each network; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minigtn import Curriculum, data, load_curriculum, teach
from minigtn.data import Dataset, Split
from minigtn.networks.unmet import UNMET
from minigtn.outer.modules import RealArm, accuracy_of
from minigtn.runs.files import environment, read_json, write_json

RATES = {"sgd": (0.01, 0.03, 0.1, 0.3), "adam": (0.001, 0.003, 0.01, 0.03)}
TUNING_SEED = 10_000  # fresh networks and batches that tune, apart from those that count
SIZES = {  # fresh networks, networks that tune, times the steps, images of validation and test
    "tiny": {"seeds": 2, "tuning": 1, "more": 2, "images": 200},
    "full": {"seeds": 5, "tuning": 2, "more": 10, "images": 10_000},
}


def fresh(name: str, dataset: Dataset, seed: int) -> nn.Module:
    """The network of that name, drawn from ``seed``."""
    torch.manual_seed(seed)
    return UNMET[name].make(dataset.image_shape, dataset.n_classes).to(dataset.train.x.device)


def figures(found: list[float], seconds: list[float]) -> dict[str, Any]:
    """Mean and spread of accuracies, and the median time of one training."""
    return {
        "mean": statistics.mean(found),
        "std": statistics.stdev(found),
        "each": found,
        "seconds": statistics.median(seconds),
    }


def by_curriculum(
    name: str, curriculum: Curriculum, lr: str, dataset: Dataset, test: Split, n: int
) -> dict[str, Any]:
    """n fresh networks, taught. One that diverged counts as it is: not taught."""
    found = []
    seconds = []
    chosen = []
    for seed in range(n):
        module = fresh(name, dataset, seed)
        started = time.perf_counter()
        try:
            chosen.append(teach(module, curriculum, lr).chosen)
        except FloatingPointError:
            chosen.append("diverged")
        seconds.append(time.perf_counter() - started)
        if not all(p.isfinite().all() for p in module.parameters()):
            raise SystemExit(f"{name}, seed {seed}: teach left weights that are not finite")
        found.append(accuracy_of(module, test))
    return {**figures(found, seconds), "chosen": chosen}


def by_real_data(
    name: str, dataset: Dataset, valid: Split, test: Split, size: dict[str, int], steps: int, batch_size: int
) -> dict[str, Any]:
    """n fresh networks on real data, with what was best on validation images."""

    def run(optimizer: str, lr: float, seed: int, split: Split) -> tuple[float, float]:
        """Accuracy, and seconds of training."""
        module = fresh(name, dataset, seed)
        started = time.perf_counter()
        RealArm(optimizer, lr).train(module, dataset, steps, batch_size, seed)
        seconds = time.perf_counter() - started
        return accuracy_of(module, split), seconds

    tuning = {
        (optimizer, lr): statistics.mean(
            run(optimizer, lr, TUNING_SEED + i, valid)[0] for i in range(size["tuning"])
        )
        for optimizer, rates in RATES.items()
        for lr in rates
    }
    optimizer, lr = max(tuning, key=lambda setting: tuning[setting])
    runs = [run(optimizer, lr, seed, test) for seed in range(size["seeds"])]
    best = {o: max(value for (other, _), value in tuning.items() if other == o) for o in RATES}
    return {
        **figures([accuracy for accuracy, _ in runs], [seconds for _, seconds in runs]),
        "optimizer": optimizer,
        "lr": lr,
        "at_edge": lr in (RATES[optimizer][0], RATES[optimizer][-1]),
        "valid": best,
    }


def row(
    name: str, curricula: dict[str, Curriculum], dataset: Dataset, size: dict[str, int]
) -> dict[str, Any]:
    """All figures of one network."""
    valid, test = (
        Split(split.x[: size["images"]], split.y[: size["images"]]) for split in (dataset.valid, dataset.test)
    )
    taught = {
        curriculum: {
            lr: by_curriculum(name, c, lr, dataset, test, size["seeds"]) for lr in ("auto", "learned")
        }
        for curriculum, c in curricula.items()
    }
    real = {}
    for T, B in sorted({tuple(c.x.shape[:2]) for c in curricula.values()}):
        for steps in (T, size["more"] * T):
            real[f"{steps} x {B}"] = by_real_data(name, dataset, valid, test, size, steps, B)
    weights = sum(p.numel() for p in fresh(name, dataset, 0).parameters())
    return {"weights": weights, "taught": taught, "real": real}


def table(result: dict[str, Any]) -> str:
    """The rows and their mean as a Markdown table, in percent."""
    columns: dict[str, list[dict[str, Any]]] = {}
    for entry in result["rows"].values():
        for curriculum, arms in entry["taught"].items():
            for lr, cell in arms.items():
                columns.setdefault(f"{curriculum}, {lr}", []).append(cell)
        for steps, cell in entry["real"].items():
            columns.setdefault(f"real, {steps}", []).append(cell)
    lines = ["| network | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for i, name in enumerate(result["rows"]):
        cells = (f"{100 * c[i]['mean']:.1f} ± {100 * c[i]['std']:.1f}" for c in columns.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    means = (f"{100 * statistics.mean(cell['mean'] for cell in c):.1f}" for c in columns.values())
    lines.append("| **mean** | " + " | ".join(means) + " |")
    times = (f"{statistics.mean(cell['seconds'] for cell in c):.2f} s" for c in columns.values())
    lines.append("| one training | " + " | ".join(times) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--curricula", nargs="+", default=["digits-10"], help="names, files or folders of runs"
    )
    parser.add_argument("--dataset", choices=("digits", "mnist", "cifar10"), default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--networks", nargs="+", choices=UNMET, default=list(UNMET))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder of the record")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = SIZES[arguments.size]
    dataset = data.load(arguments.dataset, arguments.data_dir)
    curricula = {Path(name).stem: load_curriculum(name) for name in arguments.curricula}
    settings = {
        "dataset": arguments.dataset,
        "size": size,
        "curricula": {
            name: hashlib.sha256(c.x.numpy().tobytes()).hexdigest()[:12] for name, c in curricula.items()
        },
    }
    path = arguments.out / "any_network.json"
    saved = read_json(path) if path.exists() else {"settings": settings, "rows": {}}
    if saved["settings"] != settings:
        raise SystemExit(f"{path} was made with other settings or curricula: choose another folder")
    result = {"settings": settings, **environment(dataset.train.x.device), "rows": saved["rows"]}
    for name in arguments.networks:
        if name not in result["rows"]:
            rows = {**result["rows"], name: row(name, curricula, dataset, size)}
            result["rows"] = {known: rows[known] for known in UNMET if known in rows}
            write_json(path, result)
            print(f"{name} done", flush=True)
    print(table(result))


if __name__ == "__main__":
    main()
