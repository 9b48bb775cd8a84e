"""What a curriculum's images look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from minigtn.data import Dataset
    from minigtn.teaching.curriculum import Curriculum

CELL = 40  # pixels that an image is enlarged to, at least
MOST_CLASSES = 16  # that a page shows


def evenly(n: int, most: int) -> list[int]:
    """All of 0..n-1, or ``most`` of them, evenly spaced from the first to the last."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()


def gap_of(W: int) -> int:
    """Pixels between two images of width W on a sheet."""
    return max(1, W // 14)


def contact_sheet(curriculum: Curriculum, steps: Sequence[int], classes: Sequence[int]) -> NDArray[np.uint8]:
    """The first image of each class (rows) in the batch of each step (columns), as RGBA.

    Returns uint8 (len(classes) * (H + gap), len(steps) * (W + gap), 4): a gap of max(1, W // 14) pixels
    follows every image. Pixels are taken out of standardized units and clipped to what a real one can be;
    other than 3 channels are shown as their mean. Gaps, and the cells of classes that a batch does not hold,
    are transparent.
    """
    if not curriculum.of_images:
        shape = tuple(curriculum.x.shape)
        raise ValueError(
            f"a contact sheet shows images, and this curriculum holds vectors of features, x {shape}; "
            "export it to .npz"
        )
    C, H, W = curriculum.x.shape[2:]
    gap = gap_of(W)
    labels = curriculum.y.argmax(-1).cpu().numpy()
    sheet = np.zeros((len(classes), H + gap, len(steps), W + gap, 4), np.uint8)
    for column, t in enumerate(steps):
        for row, k in enumerate(classes):
            found = np.flatnonzero(labels[t] == k)
            if len(found):
                image = curriculum.x[t, int(found[0])].detach().cpu().double().numpy()
                image = image * np.reshape(curriculum.std, (-1, 1, 1)) + np.reshape(
                    curriculum.mean, (-1, 1, 1)
                )
                rgb = image if C == 3 else image.mean(0, keepdims=True)
                sheet[row, :H, column, :W, :3] = (rgb.clip(0, 1) * 255).round().transpose(1, 2, 0)
                sheet[row, :H, column, :W, 3] = 255
    return sheet.reshape(len(classes) * (H + gap), len(steps) * (W + gap), 4)


def real_column(data: Dataset, classes: Sequence[int]) -> NDArray[np.uint8]:
    """The first training image of each class, to stand beside a :func:`contact_sheet`: uint8 RGBA
    (len(classes) * (H + gap), W + gap, 4). A class without an image is transparent."""
    from minigtn.teaching.curriculum import Curriculum

    first = [int((data.train.y == k).int().argmax()) for k in range(data.n_classes)]
    x = data.train.x[None, first].cpu()
    y = torch.nn.functional.one_hot(data.train.y[None, first].cpu(), data.n_classes).float()
    one = torch.ones(1)
    real = Curriculum(x, y, one, 0 * one, data.class_names, data.mean, data.std)
    return contact_sheet(real, [0], classes)


def enlarged_sheet(curriculum: Curriculum) -> NDArray[np.uint8]:
    """:func:`contact_sheet` of all steps and classes, its images enlarged to ``CELL`` pixels or more."""
    sheet = contact_sheet(curriculum, range(len(curriculum.x)), range(len(curriculum.class_names)))
    scale = -(-CELL // curriculum.x.shape[-1])
    return sheet.repeat(scale, 0).repeat(scale, 1)
