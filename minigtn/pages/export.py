"""A curriculum as a file for other programs.

export(curriculum, Path("digits.png"), "float32")
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from minigtn.pages.figures import png
from minigtn.runs.files import write_atomically
from minigtn.teaching.curriculum import Curriculum
from minigtn.teaching.pictures import enlarged_sheet


def export(curriculum: Curriculum, target: Path, pixels: str) -> None:
    """Write ``curriculum`` to one file, atomically; the ending of ``target`` chooses the format.

    ``.safetensors``: for :func:`minigtn.load_curriculum`, with ``pixels`` "float32" or "uint8" · ``.npz``:
    NumPy arrays x (T, B, C, H, W), y (T, B, K), lr (T,), momentum (T,), class_names (K,), mean (C,), std (C,)
    · ``.png``: the picture that ``curriculum.show()`` gives. Raises ValueError for any other ending.
    """
    target = target.expanduser()
    ending = target.suffix.lower()
    if ending == ".safetensors":
        curriculum.save(target, pixels=pixels)
    elif ending == ".npz":
        arrays: Any = {
            name: getattr(curriculum, name).detach().cpu().numpy() for name in ("x", "y", "lr", "momentum")
        }
        arrays |= {name: np.array(getattr(curriculum, name)) for name in ("class_names", "mean", "std")}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(target, buffer.getvalue())
    elif ending == ".png":
        write_atomically(target, png(enlarged_sheet(curriculum)))
    else:
        raise ValueError(
            "a curriculum is exported to a file that ends in .safetensors, .npz or .png, not to "
            f"{target.name!r}"
        )
