"""The sheet of a curriculum's images, real ones beside it, and exported curricula come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from minigtn import data
from minigtn.pages.export import export
from minigtn.teaching.curriculum import PIXEL_RANGE, Curriculum, load_curriculum
from minigtn.teaching.pictures import contact_sheet, evenly, real_column
from run_folders import NAMES, B, K, T, curriculum


def test_the_real_column_holds_the_first_training_image_of_each_class() -> None:
    digits = data.load("digits")
    column = real_column(digits, [0, 7])
    assert column.shape == (18, 9, 4)
    first = digits.train.x[digits.train.y == 7][0, 0]
    pixels = (first * digits.std[0] + digits.mean[0]).clip(0, 1) * 255
    np.testing.assert_allclose(column[9:17, :8, 0], pixels, atol=0.5 + 1e-3)
    assert (column[8, :, 3] == 0).all()


def test_contact_sheet_holds_the_first_image_of_each_class_in_pixels() -> None:
    c = curriculum(C=3)
    sheet = contact_sheet(c, [1, 3], [0, 2])
    assert sheet.shape == (2 * 9, 2 * 9, 4)
    real = c.x[3, 2].double().numpy() * 0.3 + 0.4  # step 3, class 2, which comes third in the batch
    cell = sheet[9:17, 9:17]
    np.testing.assert_array_equal(
        cell[..., :3], (real.clip(0, 1) * 255).round().transpose(1, 2, 0).astype(np.uint8)
    )
    assert (cell[..., 3] == 255).all()
    assert (sheet[8, :, 3] == 0).all()  # gaps
    assert (sheet[:, 17, 3] == 0).all()


def test_contact_sheet_undoes_the_standardization() -> None:
    pixels = torch.rand(T, B, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    c = curriculum()
    c = Curriculum(c.standardize(pixels), c.y, c.lr, c.momentum, c.class_names, c.mean, c.std)
    shown = contact_sheet(c, [0], [1])[:8, :8, 0]
    np.testing.assert_allclose(shown / 255, pixels[0, 1, 0], atol=0.5 / 255 + 1e-6)


def test_classes_that_a_batch_does_not_hold_are_transparent() -> None:
    sheet = contact_sheet(curriculum(B=2), [0], range(K))
    assert (sheet[:18, :8, 3].reshape(2, 9, 8)[:, :8] == 255).all()
    assert (sheet[18:, :, 3] == 0).all()


def test_exported_safetensors_come_back(tmp_path: Path) -> None:
    c = curriculum()
    export(c, tmp_path / "exact.safetensors", "float32")
    exact = load_curriculum(tmp_path / "exact.safetensors")
    assert torch.equal(exact.x, c.x)
    export(c, tmp_path / "small.safetensors", "uint8")
    small = load_curriculum(tmp_path / "small.safetensors")
    # rounding to the nearest of 256 levels over 4 standardized units
    half_a_level = (PIXEL_RANGE[1] - PIXEL_RANGE[0]) / 255 / 2
    assert (small.x - c.x).abs().max() <= half_a_level + 1e-6
    for part in ("y", "lr", "momentum"):
        assert torch.equal(getattr(small, part), getattr(c, part))
    assert small.class_names == exact.class_names == NAMES
    assert (tmp_path / "small.safetensors").stat().st_size < (tmp_path / "exact.safetensors").stat().st_size


def test_exported_npz_comes_back(tmp_path: Path) -> None:
    c = curriculum(C=3)
    export(c, tmp_path / "c.npz", "float32")
    with np.load(tmp_path / "c.npz") as arrays:  # allow_pickle is off
        assert sorted(arrays) == ["class_names", "lr", "mean", "momentum", "std", "x", "y"]
        for part in ("x", "y", "lr", "momentum"):
            np.testing.assert_array_equal(arrays[part], getattr(c, part).numpy())
        assert tuple(arrays["class_names"]) == NAMES
        np.testing.assert_array_equal(arrays["mean"], c.mean)
        np.testing.assert_array_equal(arrays["std"], c.std)
    before = (tmp_path / "c.npz").read_bytes()
    export(c, tmp_path / "c.npz", "float32")
    assert (tmp_path / "c.npz").read_bytes() == before


def test_exported_png_is_the_contact_sheet_of_everything(tmp_path: Path) -> None:
    from matplotlib.image import imread

    c = curriculum(C=3)
    export(c, tmp_path / "c.PNG", "float32")
    image = imread(tmp_path / "c.PNG", format="png")
    assert image.shape == (K * 9 * 5, T * 9 * 5, 4)  # 8 pixels and a gap, enlarged to cells of at least 40
    np.testing.assert_array_equal((image[::5, ::5] * 255).round(), contact_sheet(c, range(T), range(K)))


@pytest.mark.parametrize("name", ["c.pkl", "c", "c.npz.zip"])
def test_unknown_endings_are_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"\.safetensors, \.npz or \.png, not to '{name}'"):
        export(curriculum(), tmp_path / name, "float32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("n", "most", "expected"), [(1, 16, [0]), (3, 16, [0, 1, 2]), (128, 3, [0, 64, 127])]
)
def test_evenly_spaced_choice_keeps_the_ends(n: int, most: int, expected: list[int]) -> None:
    assert evenly(n, most) == expected
