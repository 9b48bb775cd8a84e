"""The smallest run that goes through everything, as a config and as flags of the command line."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path
from typing import Any

import numpy as np

from minigtn.config import EvaluationConfig, MetaConfig, RunConfig
from minigtn.data import datasets
from minigtn.networks.learners import LearnerConfig
from minigtn.teaching.teacher import TeacherConfig

LEARNER = LearnerConfig(channels=(4,), pool_after=(1,), hidden=(), norm="batch", pool="average")
TEACHER = TeacherConfig(inner_steps=3, batch_size=10, z_size=4, dense=8, channels=(8, 4), lr=0.1)
META = MetaConfig(outer_steps=6, lr=0.01, real_batch=32, valid_every=2, valid_learners=1, checkpoint_every=2)
EVALUATION = EvaluationConfig(
    learners=2, real_lrs=(0.1, 0.5), real_momenta=(0.5,), tuning_learners=1, transfer=0
)
TINY = RunConfig(learner=LEARNER, teacher=TEACHER, meta=META, evaluation=EVALUATION)


def tiny(**meta: Any) -> RunConfig:
    """The tiny run with other settings of its outer loop."""
    return dataclasses.replace(TINY, meta=dataclasses.replace(META, **meta))


def flags(config: Any, prefix: str = "") -> list[str]:
    """The flags that give every setting of ``config``."""
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            words += flags(value, f"{name}.")
        elif isinstance(value, bool):
            words.append(f"--{prefix}{'' if value else 'no-'}{name}")
        else:
            words += [f"--{prefix}{name}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


def train(config: RunConfig, folder: Path) -> list[str]:
    """The command that makes the run."""
    return ["train", *flags(config), "--device", "cpu", "--out", str(folder)]


SMALL_CIFAR = (40, 10, 10)
"""Images for training, validation and test."""


def cifar_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (6, 10, 3073), dtype=np.uint8)
    records[:, :, 0] = np.arange(10)
    return {filename: records[k].tobytes() for k, filename in enumerate(datasets._CIFAR_FILES)}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for filename, content in files.items():
        (folder / filename).write_bytes(gzip.compress(content, 1) if filename.endswith(".gz") else content)
    return folder
