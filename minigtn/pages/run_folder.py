"""What the folder of a run holds so far, as its page reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigtn.runs.files import read_json, read_metrics
from minigtn.teaching.curriculum import Curriculum, load_curriculum
from minigtn.teaching.pictures import MOST_CLASSES, evenly

ALL_STEPS = 32  # a curriculum of more steps
SOME_STEPS = 16  # is shown by so many, or the page would grow without end


@dataclass(frozen=True)
class Run:
    """A run, finished or not; what it has not made yet is None or empty."""

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    curriculum: Curriculum | None
    real: NDArray[np.uint8] | None
    """The real images of :func:`minigtn.teaching.pictures.real_column`."""
    result: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Raises FileNotFoundError without a config.json, ValueError for an unreadable file."""
        saved = read_json(folder / "config.json")
        result = read_json(folder / "result.json") if (folder / "result.json").exists() else None
        curriculum = load_curriculum(folder) if (folder / "curriculum.safetensors").exists() else None
        real = _read_png(folder / "real.png") if (folder / "real.png").exists() else None
        if result is not None:  # those of minigtn 0.1 were read after every step, and the time was not taken
            curve = result["gtn_curve"]["mean"]
            steps = result.get("steps", [*range(1, len(curve) + 1)])
            reached = [
                step for step, mean in zip(steps, curve, strict=True) if mean >= result["real_accuracy"]
            ]
            older = {"steps": steps, "seconds_per_learner": None, "longer": None, "confusion": None}
            result = {**older, "steps_to_match_real": min(reached, default=None), **result}
        config = (result or saved)["config"]
        records = read_metrics(folder / "metrics.jsonl")
        return cls(folder.resolve().name, config, saved, records, curriculum, real, result)

    @property
    def outer_steps(self) -> int:
        """Outer steps taken so far."""
        return int(self.records[-1]["step"]) if self.records else 0

    @property
    def seconds(self) -> float | None:
        """Of meta-training, so far."""
        return self.records[-1].get("seconds") if self.records else None

    @property
    def skipped_in_a_row(self) -> int:
        """Of the last outer steps, how many had a meta-gradient that was not finite."""
        skipped = [0, *(r["skipped"] for r in self.records)]
        finite = [i for i in range(1, len(skipped)) if skipped[i] == skipped[i - 1]]
        return len(self.records) - max(finite, default=0)

    @property
    def varies(self) -> bool:
        """Whether every learner is shown something else, so that the saved curriculum is an example."""
        teacher = self.config["teacher"]
        usual = {"images": ("generator", "pixels"), "z": ("learned",), "order": ("fixed",)}
        return any(teacher.get(name, values[0]) not in values for name, values in usual.items())

    @property
    def shown_steps(self) -> list[int]:
        """The inner steps, from 0, whose images are on the page."""
        T = len(self.curriculum.x) if self.curriculum else 0
        return evenly(T, ALL_STEPS if T <= ALL_STEPS else SOME_STEPS)

    @property
    def shown_classes(self) -> list[int]:
        """The classes whose images are on the page."""
        return evenly(len(self.curriculum.class_names), MOST_CLASSES) if self.curriculum else []

    def column(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Outer steps, and the metric ``name`` at them, where it was recorded; null (not finite) becomes
        NaN."""
        pairs = [(r["step"], r[name]) for r in self.records if name in r]
        steps, values = np.array(pairs, float).reshape(-1, 2).T
        return steps, values


def _read_png(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGBA"))
    except OSError as error:
        raise ValueError(
            f"{path} is not a picture that can be read; minigtn evaluate makes it anew"
        ) from error
