"""Folders of runs, as a page reads them, with made-up content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from minigtn.config import RunConfig
from minigtn.runs.settings import to_dict
from minigtn.teaching.curriculum import Curriculum

T = 4
B = 5
K = 3
NAMES = ("<b>cat</b>", "dog & co", '"frog"')


def curriculum(C: int = 1, S: int = 8, T: int = T, B: int = B, names: tuple[str, ...] = NAMES) -> Curriculum:
    rng = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(T, B, C, S, S, generator=rng) - 2
    y = torch.nn.functional.one_hot(torch.arange(B).remainder(len(names)).expand(T, B), len(names)).float()
    return Curriculum(
        x, y, torch.linspace(0.1, 0.4, T), torch.linspace(0.5, 0.9, T), names, (0.4,) * C, (0.3,) * C, {}
    )


def result() -> dict[str, Any]:
    arm = {
        "lr": 0.2,
        "momentum": 0.5,
        "at_edge_of_grid": False,
        "tuned_on": "validation",
        "tuning_images": 2000,
    }
    arm["tuning"] = [
        {"lr": lr, "momentum": m, "valid_accuracy": 0.61234 + lr * m}
        for lr in (0.02, 0.2)
        for m in (0.0, 0.5)
    ]
    return {
        "inner_steps": T,
        "batch_size": B,
        "n_learners": 7,
        "steps": [1, 2, 4],
        "gtn_accuracy": 0.91234,
        "gtn_accuracy_std": 0.0111,
        "gtn_curve": {"mean": [0.3, 0.85, 0.91234], "std": [0.05, 0.04, 0.0111]},
        "real_accuracy": 0.80456,
        "real_accuracy_std": 0.0222,
        "real_curve": {"mean": [0.2, 0.5, 0.80456], "std": [0.05, 0.05, 0.0222]},
        "confusion": [[60, 5, 5], [0, 68, 2], [14, 0, 56]],
        "seconds_per_learner": {"gtn": 0.04321, "real": 1.2345},
        "real_arm": arm,
        "seconds": 1234.5,
        "evaluation_seconds": 67.8,
        "config": to_dict(RunConfig()),
        "commit": "0123456789ab",
        "versions": {"python": "3.11.1"},
        "device": "CPU, one thread",
    }


def with_longer(match: int | None, steps: tuple[int, ...] = (1, 2, 4, 8, 16)) -> dict[str, Any]:
    """A result with real data for more steps, too."""
    curve = {"mean": [i / 10 for i in range(len(steps))], "std": [0.01] * len(steps)}
    sizes = {"lr": 0.02, "momentum": 0.9, "accuracy": curve["mean"][-1], "accuracy_std": 0.01}
    return result() | {"longer": {"steps": [*steps], "curve": curve, **sizes, "steps_to_match": match}}


def records(n: int = 30, skipped: int = 0) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {
            "step": i,
            "meta_loss": 2 / i,
            "grad_norm": 1.0,
            "outer_lr": 0.01,
            "skipped": skipped,
            "seconds": 2.0 * i,
        }
        for i in range(1, n + 1)
    ]
    for line in lines[9::10]:
        line["valid_accuracy"] = 0.5 + line["step"] / 100
    return lines


def make_run(
    folder: Path,
    metrics: list[dict[str, Any]] | None = None,
    taught: Curriculum | None = None,
    judged: Any = None,
) -> Path:
    folder.mkdir()
    environment = {
        "commit": "0123456789ab",
        "versions": {"python": "3.11.1", "torch": "2.13.0"},
        "device": "CPU, one thread",
    }
    config = json.loads(json.dumps(to_dict(RunConfig())))
    (folder / "config.json").write_text(json.dumps({"config": config, **environment}))
    if metrics is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    if taught is not None:
        taught.save(folder / "curriculum.safetensors")
    if judged is not None:
        (folder / "result.json").write_text(json.dumps(judged))
    return folder
