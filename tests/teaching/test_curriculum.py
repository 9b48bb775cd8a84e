"""The curriculum as a file, and ``teach``: any torch.nn.Module trained on it in one call."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import minigtn
from minigtn import Curriculum, load_curriculum, teach
from minigtn.inner.optimizers import OPTIMIZERS
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


def classifier(classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, classes))


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
        assert json.loads(file.metadata()["about"])["format"] == "minigtn curriculum 1"
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
    "another format": foreign({"about": json.dumps({**ABOUT, "format": "minigtn curriculum 2"})}),
    "no class names": foreign({"about": json.dumps({k: v for k, v in ABOUT.items() if k != "class_names"})}),
    "no momentum": foreign(GOOD, momentum=None),
    "wrong shape": foreign(GOOD, x=torch.zeros(4, 6)),
    "NaN": foreign(GOOD, lr=torch.tensor([0.1, 0.1, 0.1, torch.nan])),
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
    images = torch.rand(5, 2, 3, 3)
    expected = torch.stack([(images[:, 0] - 0.25) / 0.5, (images[:, 1] - 0.5) / 0.125], 1)
    torch.testing.assert_close(curriculum.standardize(images), expected)
    levels = torch.randint(0, 256, (5, 2, 3, 3), dtype=torch.uint8)
    torch.testing.assert_close(curriculum.standardize(levels), curriculum.standardize(levels / 255))


# ---- teach ----


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("momentum", [None, (0.9, 0.0, 0.5, 0.9), (0.0, 0.9, 0.9, 0.0)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muadam", "rmsprop"])
def test_teach_takes_the_steps_of_the_inner_loop(
    dtype: torch.dtype, tolerance: float, momentum: tuple[float, ...] | None, optimizer: str
) -> None:
    curriculum = make(dtype=dtype, momentum=momentum)
    module = classifier().to(dtype)
    if optimizer != "sgd":
        curriculum = dataclasses.replace(curriculum, optimizer=optimizer, lr=curriculum.lr / 10)
        tolerance = 10 * tolerance
    start = {name: p.detach().clone() for name, p in module.named_parameters()}

    def loss(params: dict[str, Tensor], batch: list[Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(module, params, (batch[0],)), batch[1])

    parts = (curriculum.x, curriculum.y), curriculum.lr, curriculum.momentum
    trained = minigtn.sgd(loss, start, *parts, optimizer=OPTIMIZERS[optimizer])
    assert teach(module, curriculum) is module
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.detach(), trained[name].detach(), rtol=tolerance, atol=tolerance)
        assert (p - start[name]).norm() > 0.01


def test_teach_takes_images_in_any_memory_layout() -> None:
    """Channels-last images, as a teacher makes them, lead to channels-last gradients of a convolution."""
    curriculum = make()
    trained = []
    for x in (curriculum.x, curriculum.x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
        trained.append(teach(module, dataclasses.replace(curriculum, x=x))[0].weight.detach())
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-5, atol=1e-6)


def test_teach_trains_in_training_mode_and_lets_after_step_look() -> None:
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(24, 3)
    ).eval()
    frozen = module[0].weight.requires_grad_(False).clone()
    seen = []

    def look(t: int) -> None:
        seen.append((t, module.training))
        module.eval()

    with torch.no_grad():  # as in a script that only evaluates
        teach(module, make(), look)
    assert seen == [(t, True) for t in range(1, 5)]
    assert module.training
    assert module[1].num_batches_tracked == 4
    assert module[0].weight.equal(frozen)
    assert module(make().x[0]).isfinite().all()


def test_teach_refuses_what_cannot_be_taught() -> None:
    with pytest.raises(
        ValueError, match=r"returned \(6, 5\) for a batch whose labels are \(6, 3\) \(batch, classes\)"
    ):
        teach(classifier(5), make())
    with pytest.raises(ValueError, match="no parameters that require grad"):
        teach(nn.Flatten(), make())
