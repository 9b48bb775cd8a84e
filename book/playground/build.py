"""Puts the playground together: one HTML file with its script, worker, style and data inside.

    python book/playground/build.py OUT.html          # also called by book/conf.py

A page opened from a folder (file://) may neither fetch nor import; so the worker's script is text in the
page, started from a Blob, and the data are base64. The content security policy lets nothing else run, by
hashes, and nothing be fetched from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from minigtn.teaching.curriculum import PIXEL_RANGE, load_curriculum

HERE = Path(__file__).parent
WORKER = (
    "vendor/jax.js",
    "random.js",
    "problems.js",
    "networks.js",
    "training.js",
    "teaching.js",
    "worker.js",
)
PAGE = (
    "random.js",
    "problems.js",
    "page.js",
    "drawing.js",
    "digits.js",
    "teacher.js",
    "cartpole.js",
    "main.js",
)


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.astype(np.uint8).tobytes()).decode()


def _rounded(tensor: Tensor) -> list[float]:
    """float32 survives nine digits."""
    return [float(f"{number:.9g}") for number in tensor.flatten().tolist()]


def page_data() -> dict[str, Any]:
    """What the page needs: the curricula `mnist-32` and `cartpole-10`, the real digits, and how the real-data
    arm was tuned. Byte arrays are base64."""
    curriculum = load_curriculum("mnist-32")
    policy = load_curriculum("cartpole-10")
    low, high = PIXEL_RANGE
    with np.load(HERE / "digits.npz", allow_pickle=False) as file:
        digits = {name: file[name] for name in file.files}
    return {
        "curriculum": {
            "lr": _rounded(curriculum.lr),
            "momentum": _rounded(curriculum.momentum),
            "batch": curriculum.x.shape[1],
            "mean": curriculum.mean[0],
            "std": curriculum.std[0],
        },
        "curriculumImages": _base64(((curriculum.x - low) * (255 / (high - low))).round().numpy()),
        "curriculumLabels": _base64(curriculum.y.argmax(-1).numpy()),
        "trainImages": _base64(digits["train_images"]),
        "trainLabels": _base64(digits["train_labels"]),
        "testImages": _base64(digits["test_images"]),
        "testLabels": _base64(digits["test_labels"]),
        "real": {
            name: {"lr": float(digits[name][0]), "momentum": float(digits[name][1])}
            for name in ("conv", "dense")
        },
        "policy": {
            "x": _rounded(policy.x),
            "y": _rounded(policy.y),
            "lr": _rounded(policy.lr),
            "momentum": _rounded(policy.momentum),
            "batch": policy.x.shape[1],
        },
    }


def script(names: tuple[str, ...]) -> str:
    """The files one after the other, as one script."""
    text = '"use strict";\n' + "\n".join((HERE / name).read_text() for name in names)
    if "</script" in text or "<!--" in text:
        raise ValueError("a script that stands in a page cannot hold '</script' or '<!--'")
    return text


def page() -> str:
    """The whole page, as HTML."""
    style = (HERE / "style.css").read_text()
    code = script(PAGE)
    hashes = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, text in (("style", style), ("code", code))
    }
    policy = (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; "
        f"script-src 'sha256-{hashes['code']}' blob: 'wasm-unsafe-eval'; worker-src blob:; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "style": style,
        "data": json.dumps(page_data()),
        "worker": script(WORKER),
        "code": code,
    }
    text = (HERE / "index.html").read_text()
    for name, part in parts.items():
        assert text.count(f"@{name}@") == 1, name
        text = text.replace(f"@{name}@", part, 1)
    return text


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
