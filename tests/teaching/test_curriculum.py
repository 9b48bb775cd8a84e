"""The curriculum as a file, and ``teach``: any torch.nn.Module trained on it in one call."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import minigtn
from minigtn import Curriculum, load_curriculum
from minigtn.teaching import curriculum as module_under_test


def make(
    steps: int = 4,
    classes: int = 3,
    dtype: torch.dtype = torch.float32,
    momentum: tuple[float, ...] | None = None,
) -> Curriculum:
    x = (2 * torch.randn(steps, 6, 2, 4, 5, dtype=dtype)).clamp(-2, 2)
    y = torch.randn(steps, 6, classes, dtype=dtype).softmax(-1)
    mu = torch.tensor(momentum, dtype=dtype) if momentum else torch.linspace(0.2, 0.8, steps, dtype=dtype)
    names = tuple(f"class {k}" for k in range(classes))
    return Curriculum(
        x,
        y,
        torch.linspace(0.3, 0.05, steps, dtype=dtype),
        mu,
        names,
        (0.25, 0.5),
        (0.5, 0.125),
        {"made by": "a test"},
    )


def parts(curriculum: Curriculum) -> tuple[Tensor, ...]:
    return curriculum.x, curriculum.y, curriculum.lr, curriculum.momentum


# ---- the file ----


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_file_knows_its_optimizer(tmp_path: Path, optimizer: str) -> None:
    dataclasses.replace(make(), optimizer=optimizer).save(tmp_path / "c.safetensors")
    assert load_curriculum(tmp_path / "c.safetensors").optimizer == optimizer
    with pytest.raises(ValueError, match="one of sgd, adam, muadam, rmsprop, not 'lion'"):
        dataclasses.replace(make(), optimizer="lion")


def test_a_float32_file_gives_back_every_bit(tmp_path: Path) -> None:
    curriculum = make()
    curriculum.save(tmp_path / "curriculum.safetensors")
    for source in (tmp_path, tmp_path / "curriculum.safetensors", str(tmp_path)):
        back = load_curriculum(source)
        assert all(a.equal(b) for a, b in zip(parts(back), parts(curriculum), strict=True))
        assert {part.dtype for part in parts(back)} == {torch.float32}
        assert dataclasses.asdict(back).keys() == dataclasses.asdict(curriculum).keys()
        for name in ("class_names", "mean", "std", "provenance"):
            assert getattr(back, name) == getattr(curriculum, name)


def with_moments() -> Curriculum:
    return dataclasses.replace(make(), moments=torch.rand(2, 2, 4, 5))


@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_a_file_keeps_the_moments_of_the_real_images(tmp_path: Path, pixels: str) -> None:
    curriculum = with_moments()
    curriculum.save(tmp_path / "c", pixels=pixels)
    assert load_curriculum(tmp_path / "c").moments.equal(curriculum.moments)
    assert load_curriculum(tmp_path / "c").to("cpu").moments.equal(curriculum.moments)


@pytest.mark.parametrize(
    "moments",
    [
        torch.rand(2, 2, 4, 4),
        torch.rand(2, 4, 5),
        torch.ones(2, 2, 4, 5, dtype=torch.int64),
        -torch.rand(2, 2, 4, 5) - 0.1,
        torch.full((2, 2, 4, 5), torch.nan),
    ],
)
def test_moments_that_cannot_be_right_are_refused(moments: Tensor) -> None:
    with pytest.raises(ValueError, match=r"moments of a curriculum of x .* are finite floats"):
        dataclasses.replace(make(), moments=moments)


def test_damaged_moments_are_noticed(tmp_path: Path) -> None:
    with_moments().save(tmp_path / "c")
    content = bytearray((tmp_path / "c").read_bytes())
    with safe_open(tmp_path / "c", "pt") as file:
        moments = file.get_tensor("moments")
    at = content.find(moments.numpy().tobytes())
    content[at] ^= 1
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(ValueError, match="does not fit its digest"):
        load_curriculum(tmp_path / "c")


def test_a_uint8_file_is_a_quarter_of_the_size_and_off_by_half_a_step(tmp_path: Path) -> None:
    curriculum = make(steps=40)
    curriculum.save(tmp_path / "a", pixels="float32")
    curriculum.save(tmp_path / "b", pixels="uint8")
    error = (load_curriculum(tmp_path / "b").x - curriculum.x).abs().max().item()
    assert 0.5 * 2 / 255 < error <= 2 / 255 * (1 + 1e-4)
    assert load_curriculum(tmp_path / "b").y.equal(curriculum.y)
    saved = (tmp_path / "a").stat().st_size - (tmp_path / "b").stat().st_size
    assert saved == pytest.approx(3 * curriculum.x.numel(), abs=16)


def test_equal_content_is_the_same_file_byte_for_byte_and_holds_no_pickle(tmp_path: Path) -> None:
    curriculum = make()
    again = dataclasses.replace(
        curriculum, provenance=dict(reversed({**curriculum.provenance, "a": 1}.items()))
    )
    dataclasses.replace(curriculum, provenance={**curriculum.provenance, "a": 1}).save(tmp_path / "a")
    again.save(tmp_path / "deeper" / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "deeper" / "b").read_bytes()
    with safe_open(tmp_path / "a", "pt") as file:
        assert set(file.keys()) == {"x", "y", "lr", "momentum"}
        assert json.loads(file.metadata()["about"])["format"] == "minigtn curriculum 3"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "deeper"]


def test_a_name_finds_what_comes_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "SHIPPED", tmp_path)
    curriculum = make()
    curriculum.save(tmp_path / "some-digits.safetensors")
    assert load_curriculum("some-digits").x.equal(curriculum.x)
    with pytest.raises(
        FileNotFoundError,
        match="no curriculum file nothing; give a file, a run's folder, or one of these names: some-digits",
    ):
        load_curriculum("nothing")


def foreign(about: Any, **changed: Tensor | None) -> bytes:
    """A safetensors file with this metadata, and with tensors that are changed or (None) missing."""
    tensors = dict(zip(("x", "y", "lr", "momentum"), parts(make()), strict=True)) | changed
    return module_under_test.save({k: v for k, v in tensors.items() if v is not None}, about)


ABOUT = {
    "format": "minigtn curriculum 1",
    "class_names": list("abc"),
    "mean": [0, 0],
    "std": [1, 1],
    "provenance": {},
}
GOOD = {"about": json.dumps(ABOUT)}
BAD_FILES = {
    "empty": b"",
    "not safetensors": b"hello, this is no curriculum at all" * 9,
    "torn": foreign(GOOD)[:-100],
    "no metadata": foreign(None),
    "metadata are no JSON": foreign({"about": "{"}),
    "another format": foreign({"about": json.dumps({**ABOUT, "format": "minigtn curriculum 4"})}),
    "a digest is missing": foreign({"about": json.dumps({**ABOUT, "format": "minigtn curriculum 2"})}),
    "a digest of something else": foreign({"about": json.dumps({**ABOUT, "digest": "0"})}),
    "metadata are a list": foreign({"about": "[]"}),
    "means are text": foreign({"about": json.dumps({**ABOUT, "mean": ["0", "1"]})}),
    "names are one text": foreign({"about": json.dumps({**ABOUT, "class_names": 5})}),
    "a std of nothing": foreign({"about": json.dumps({**ABOUT, "std": [1, 0]})}),
    "whole numbers": foreign(GOOD, lr=torch.ones(4, dtype=torch.int64)),
    "no class names": foreign({"about": json.dumps({k: v for k, v in ABOUT.items() if k != "class_names"})}),
    "no momentum": foreign(GOOD, momentum=None),
    "wrong shape": foreign(GOOD, x=torch.zeros(4, 6)),
    "NaN": foreign(GOOD, lr=torch.tensor([0.1, 0.1, 0.1, torch.nan])),
    "negative lr": foreign(GOOD, lr=torch.tensor([0.1, 0.1, 0.1, -0.1])),
    "momentum 1": foreign(GOOD, momentum=torch.tensor([0.1, 0.1, 0.1, 1.0])),
    "negative momentum": foreign(GOOD, momentum=torch.tensor([0.1, 0.1, 0.1, -0.1])),
    "labels that are no probabilities": foreign(GOOD, y=torch.full((4, 6, 3), 0.5)),
    "labels below 0": foreign(GOOD, y=torch.tensor([1.5, -0.5, 0.0]).expand(4, 6, 3).contiguous()),
    "whole numbers as labels": foreign(GOOD, y=torch.zeros(4, 6, 3, dtype=torch.long)),
    **{
        f"{name} {value}": foreign({"about": json.dumps(ABOUT | {name: value})})
        for name, value in (
            ("std", [1, 0]),
            ("std", [1, -1]),
            ("std", [1, float("nan")]),
            ("std", ["1", "1"]),
            ("std", 1),
            ("mean", [0, float("inf")]),
            ("mean", None),
            ("class_names", "abc"),
            ("class_names", [1, 2, 3]),
            ("provenance", [1]),
            ("optimizer", ["sgd"]),
            ("optimizer", "lion"),
        )
    },
}


def test_the_good_one_of_the_bad_files_is_good(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(foreign(GOOD))
    assert load_curriculum(tmp_path / "file").class_names == ("a", "b", "c")


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BAD_FILES[kind])
    with pytest.raises(ValueError, match=f"{path} is not a readable curriculum file") as caught:
        load_curriculum(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flip", [0.05, 0.5, 0.99])
def test_one_flipped_bit_is_seen(tmp_path: Path, flip: float) -> None:
    path = tmp_path / "file"
    make().save(path)
    content = bytearray(path.read_bytes())
    content[int(flip * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not a readable curriculum file"):
        load_curriculum(path)


def test_provenance_with_numbers_as_keys_comes_back(tmp_path: Path) -> None:
    dataclasses.replace(make(), provenance={10: "a", 9: [1, (2, 3)]}).save(tmp_path / "file")
    assert load_curriculum(tmp_path / "file").provenance == {"10": "a", "9": [1, [2, 3]]}


def test_a_curriculum_of_views_is_saved_as_its_numbers(tmp_path: Path) -> None:
    """Also of views that overlap, which safetensors refuses."""
    curriculum = make()
    steps = torch.rand(100_000)
    views = dataclasses.replace(curriculum, lr=steps[:4], momentum=steps[2:6])
    views.save(tmp_path / "views")
    curriculum.save(tmp_path / "own")
    assert load_curriculum(tmp_path / "views").momentum.equal(steps[2:6])
    assert (tmp_path / "views").stat().st_size == (tmp_path / "own").stat().st_size


def test_a_missing_file_and_a_folder_without_one_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(
            FileNotFoundError, match=f"no curriculum file {path}.*; give a file, a run's folder"
        ) as caught:
            load_curriculum(path)
        assert "\n" not in str(caught.value)


def test_other_tensors_in_a_file_do_no_harm(tmp_path: Path) -> None:
    save_file(
        {**dict(zip(("x", "y", "lr", "momentum"), parts(make()), strict=True)), "extra": torch.ones(1)},
        tmp_path / "file",
        GOOD,
    )
    assert load_curriculum(tmp_path / "file").x.shape == (4, 6, 2, 4, 5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(4, 6, 20)}, r"given x \(4, 6, 20\)"),
        ({"x": torch.tensor(0.0)}, r"given x \(\)"),
        ({"y": torch.zeros(4, 6, 2)}, r"y \(4, 6, 2\)"),
        ({"lr": torch.zeros(3)}, r"lr \(3,\)"),
        ({"std": (1.0,)}, "2 means and 1 stds"),
        ({"momentum": torch.tensor([0.5, 0.5, torch.inf, 0.5])}, "finite everywhere"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make(), **changed)


def test_unknown_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pixels must be 'float32' or 'uint8', not 'int8'"):
        make().save(tmp_path / "file", pixels="int8")


def test_standardize_brings_images_into_the_curriculums_units() -> None:
    curriculum = make()
    images = torch.rand(5, 2, 4, 5)
    expected = torch.stack([(images[:, 0] - 0.25) / 0.5, (images[:, 1] - 0.5) / 0.125], 1)
    torch.testing.assert_close(curriculum.standardize(images), expected)
    torch.testing.assert_close(curriculum.standardize(images[3]), expected[3])
    levels = torch.randint(0, 256, (5, 2, 4, 5), dtype=torch.uint8)
    torch.testing.assert_close(curriculum.standardize(levels), curriculum.standardize(levels / 255))


def test_standardize_takes_numpy() -> None:
    curriculum = make()
    levels = np.random.default_rng(0).integers(0, 256, (5, 2, 4, 5), np.uint8)
    levels.flags.writeable = False
    expected = curriculum.standardize(torch.tensor(levels))
    assert curriculum.standardize(levels).equal(expected)
    torch.testing.assert_close(curriculum.standardize(levels / 255), expected)
    assert curriculum.standardize(levels[:, :, ::-1]).equal(expected.flip(2))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(5, 2, 4, 4), r"for images \(..., 2, 4, 5\), and these are \(5, 2, 4, 4\)$"),
        (torch.rand(5, 1, 4, 5), r"these are \(5, 1, 4, 5\)$"),
        (torch.rand(5, 4, 5, 2), r"the channels go first, images.movedim\(-1, -3\)"),
        (torch.randint(0, 256, (5, 2, 4, 5)), "uint8, or floats in .0, 1., not torch.int64"),
        (torch.linspace(0, 16, 40).view(1, 2, 4, 5), "go from 0 to 16: divide by the largest value"),
        (torch.linspace(-2, 1, 40).view(1, 2, 4, 5), "go from -2 to 1"),
        (torch.full((1, 2, 4, 5), torch.nan), "go from nan to nan"),
    ],
)
def test_standardize_refuses_what_cannot_be_right(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().standardize(images)


def test_grey_images_without_a_channel_are_told_how() -> None:
    with pytest.raises(ValueError, match=r"images\[:, None\] gives them their one channel"):
        load_curriculum("digits-10").standardize(torch.rand(3, 8, 8))


# ---- what a reader sees ----


def test_repr_is_one_short_paragraph() -> None:
    assert repr(make()) == (
        "Curriculum: 4 steps of 6 images of 2x4x5, 3 classes (class 0, class 1, class 2); sgd, learning "
        "rates from 0.05 to 0.3, momentum from 0.2 to 0.8"
    )
    assert repr(load_curriculum("digits-10")).startswith("Curriculum for digits: 10 steps of 32 images")
    many = make(classes=30)
    assert "30 classes (class 0, " in repr(many)
    assert len(repr(many)) < 300


def test_show_gives_the_picture_that_export_writes(tmp_path: Path) -> None:
    curriculum = load_curriculum("digits-10")
    picture = curriculum.show()
    minigtn.export(curriculum, tmp_path / "sheet.png", "float32")
    with Image.open(tmp_path / "sheet.png") as written:
        assert np.array_equal(np.asarray(picture), np.asarray(written.convert("RGBA")))
    assert picture.size == (10 * 9 * 5, 10 * 9 * 5)
    with pytest.raises(ValueError, match="a contact sheet shows images"):
        load_curriculum("cartpole-10").show()


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    curriculum = make()
    curriculum.save("~/deeper/curriculum.safetensors")
    assert (tmp_path / "deeper/curriculum.safetensors").is_file()
    assert load_curriculum("~/deeper/curriculum.safetensors").x.equal(curriculum.x)
    assert load_curriculum(Path("~/deeper")).x.equal(curriculum.x)
    minigtn.export(curriculum, Path("~/curriculum.npz"), "float32")
    assert (tmp_path / "curriculum.npz").is_file()
