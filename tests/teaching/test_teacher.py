"""The teacher: what it hands out, and that no parameter can push it out of its ranges."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from minigtn import data, load_curriculum
from minigtn.data import Split
from minigtn.teaching.teacher import (
    LR_RANGE,
    MOMENTUM_MAX,
    START_MAX,
    VARIANTS,
    Teacher,
    TeacherConfig,
    variant,
)
from tiny import TEACHER


def make(
    seed: int = 0,
    shape: tuple[int, int, int] = (1, 8, 8),
    classes: int = 10,
    dtype: torch.dtype = torch.float32,
    **settings,
) -> Teacher:
    return Teacher(dataclasses.replace(TEACHER, **settings), shape, classes, seed, dtype)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 8), (2, 4, 28)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_it_hands_out(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, y, lr, momentum, _ = make(shape=shape, classes=4, dtype=dtype)()
    assert x.shape == (3, 10, *shape)
    assert y.shape == (3, 10, 4)
    assert lr.shape == momentum.shape == (3,)
    assert {part.dtype for part in (x, y, lr, momentum)} == {dtype}
    assert x.abs().max() <= 2
    assert x.std() > 0.1


@pytest.mark.parametrize(("batch", "classes"), [(20, 10), (12, 5), (3, 7)])
def test_labels_are_fixed_one_hot_and_balanced(batch: int, classes: int) -> None:
    teacher = make(batch_size=batch, classes=classes)
    assert teacher.classes.sum(-1).eq(1).all()
    assert teacher.classes[0].equal(teacher.classes[2])
    counts = teacher.classes[0].sum(0)
    assert counts.max() - counts.min() <= 1
    assert not teacher.classes.requires_grad


def test_step_sizes_start_where_the_config_says() -> None:
    teacher = make(lr=0.07, momentum=0.35, dtype=torch.float64)
    torch.testing.assert_close(teacher.lr(), torch.full((3,), 0.07, dtype=torch.float64))
    torch.testing.assert_close(teacher.momentum(), torch.full((3,), 0.35, dtype=torch.float64))


@pytest.mark.parametrize("raw", [-1e4, -30.0, 30.0, 1e4])
def test_step_sizes_cannot_leave_their_ranges(raw: float) -> None:
    teacher = make()
    with torch.no_grad():
        teacher.lr_raw.fill_(raw)
        teacher.momentum_raw.fill_(raw)
    low, high = LR_RANGE
    assert teacher.lr().min() >= low * (1 - 1e-6)
    assert teacher.lr().max() <= high * (1 + 1e-6)
    assert teacher.momentum().min() >= 0
    assert teacher.momentum().max() <= MOMENTUM_MAX * (1 + 1e-6) < 1
    teacher.lr().sum().backward()
    assert teacher.lr_raw.grad.isfinite().all()


def test_the_gradient_reaches_every_parameter() -> None:
    teacher = make(dtype=torch.float64)
    x, _, lr, momentum, _ = teacher()
    (x * torch.randn_like(x)).sum().add(lr.sum() + momentum.sum()).backward()
    norms = {name: p.grad.norm().item() for name, p in teacher.named_parameters()}
    assert [name for name, norm in norms.items() if not 0 < norm < math.inf] == []
    assert {
        "z",
        "lr_raw",
        "momentum_raw",
        "generator.dense1-direction",
        "generator.conv2-bias",
    } <= norms.keys()


def test_one_generator_call_normalizes_over_the_whole_curriculum() -> None:
    teacher = make()
    before = teacher.images()
    with torch.no_grad():
        teacher.z[0] += 1
    assert (teacher.images()[2] - before[2]).abs().max() > 1e-3


def test_the_state_holds_the_parameters_and_follows_from_the_seed() -> None:
    first = make(1)
    again = make(1)
    other = make(2)
    assert first.state_dict().keys() == {name for name, _ in first.named_parameters()}
    assert first.images().equal(again.images())
    assert not first.images().equal(other.images())
    other.load_state_dict(first.state_dict())
    assert first.images().equal(other.images())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_steps": 0}, "inner_steps must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"z_size": 0}, "z_size must be at least 1"),
        ({"dense": 0}, "dense must be at least 1"),
        ({"channels": (4, 0)}, r"channels must be at least 1, not \(4, 0\)"),
        ({"lr": 10.0}, r"lr must lie inside \(0.0001, 10.0\), not 10.0"),
        ({"lr": float("nan")}, "lr must lie inside"),
        ({"momentum": 0.0}, r"momentum must lie inside \(0, 0.99\), not 0.0"),
        ({"momentum": 0.99}, "momentum must lie inside"),
        (
            {"images": "pixels", "z": "random"},
            "z='random' is the input of a generator, and images='pixels' has none",
        ),
        ({"images": "real", "order": "all"}, "real images are drawn anew for every learner"),
        ({"images": "real", "labels": "learned"}, "leave order and labels at 'fixed'"),
        ({"images": "real", "learn_step_sizes": False}, "leave nothing to learn"),
        ({"z": "gaussian", "labels": "learned"}, "learned labels belong to learned images"),
    ],
)
def test_bad_config_is_one_sentence(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        TeacherConfig(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 9, 8), (1, 8, 30)])
def test_sizes_that_the_generator_cannot_make_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"multiples of 4, not {shape[1]}x{shape[2]}"):
        make(shape=shape)


# ---- curriculum variants ----


def of(name: str, seed: int = 0, **settings) -> Teacher:
    config = variant(dataclasses.replace(TEACHER, **settings), name)
    return Teacher(config, (1, 8, 8), 10, seed, real=data.load("digits").train if name == "real" else None)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_teaches_and_learns(name: str) -> None:
    teacher = of(name)
    x, y, lr, momentum, _ = teacher(seed=3)
    assert x.shape == (3, 10, 1, 8, 8)
    assert y.shape == (3, 10, 10)
    assert y.sum(-1).eq(1).all()
    (x * torch.randn_like(x)).sum().add(lr.sum() + momentum.sum()).backward()
    norms = {key: p.grad.norm().item() for key, p in teacher.named_parameters()}
    assert [key for key, norm in norms.items() if not 0 < norm < math.inf] == []
    learned = {key.split(".")[0] for key in norms}
    images = {
        "real": set(),
        "pixels": {"pixels"},
        "random-z": {"generator"},
        "gaussian-z": {"generator", "z", "z_log_scale"},
    }
    assert learned == {"lr_raw", "momentum_raw"} | images.get(name, {"generator", "z"})


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_drawn_anew_follows_from_the_seed(name: str) -> None:
    teacher = of(name)
    first, again, other = (teacher(seed)[0] for seed in (1, 1, 2))
    assert first.equal(again)
    assert first.equal(other) != teacher.config.varies
    assert teacher.config.varies == (name not in ("full", "pixels"))


@pytest.mark.parametrize(("name", "unit"), [("batches-shuffled", 1), ("all-shuffled", 2)])
def test_shuffling_moves_images_together_with_their_labels(name: str, unit: int) -> None:
    teacher = of(name, inner_steps=6)
    settings = {"inner_steps": 6}
    plain, labels, *_ = of("full", **settings)()
    x, y, *_ = teacher(seed=5)
    units = [part.flatten(0, unit - 1) for part in (plain, labels, x, y)]
    found = [next(i for i, image in enumerate(units[0]) if image.equal(shuffled)) for shuffled in units[2]]
    assert sorted(found) == list(range(len(found)))
    assert found != sorted(found)
    assert units[3].equal(units[1][found])


def test_random_and_gaussian_inputs_make_other_images_of_the_same_classes() -> None:
    for name in ("random-z", "gaussian-z"):
        teacher = of(name)
        assert teacher(1)[1].equal(teacher(2)[1])
    assert of("gaussian-z")(1)[0].equal(of("random-z")(1)[0])  # as it starts: mean 0, scale 1


def test_real_images_come_with_their_own_labels() -> None:
    train = data.load("digits").train
    x, y, *_ = of("real")(seed=4)
    for image, label in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True):
        assert (train.x == image).flatten(1).all(1)[train.y == label.argmax()].any()
    with pytest.raises(ValueError, match="needs them: give the training split as real="):
        Teacher(variant(TEACHER, "real"), (1, 8, 8), 10, 0)


def test_learned_labels_are_probabilities_that_start_near_the_classes() -> None:
    teacher = make(labels="learned")
    _, y, *_ = teacher()
    torch.testing.assert_close(y.sum(-1), torch.ones(3, 10))
    assert y.argmax(-1).equal(teacher.classes.argmax(-1))
    assert 0.8 < y.amax(-1).min() < 0.95
    y.square().sum().backward()
    assert teacher.y_raw.grad.norm() > 0


def test_step_sizes_and_weight_normalization_can_be_left_out() -> None:
    names = {name for name, _ in make(learn_step_sizes=False, weight_norm=False).named_parameters()}
    assert not {"lr_raw", "momentum_raw"} & names
    assert not [name for name in names if name.endswith(("gain", "direction"))]
    assert make(learn_step_sizes=False, lr=0.3).lr().allclose(torch.tensor(0.3))


def test_an_unknown_variant_is_one_sentence() -> None:
    with pytest.raises(
        ValueError,
        match="there is no curriculum variant 'half'; the variants are full, batches-shuffled, all-shuffled",
    ):
        variant(TEACHER, "half")


def test_learned_pixels_can_begin_as_a_curriculum() -> None:
    config = TeacherConfig(inner_steps=10, batch_size=32, images="pixels", start="digits-10")
    shipped = load_curriculum("digits-10")
    images = Teacher(config, (1, 8, 8), 10, 0).images()
    assert (images - shipped.x).abs().max() < 0.04
    assert (images - shipped.x).abs().mean() < 0.01
    for changes in ({"batch_size": 30}, {"inner_steps": 9}):
        with pytest.raises(
            ValueError, match=r"'digits-10' holds \(10, 32, 1, 8, 8\) images, and this teacher"
        ):
            Teacher(dataclasses.replace(config, **changes), (1, 8, 8), 10, 0)
    with pytest.raises(ValueError, match="set images to 'pixels', not 'generator'"):
        TeacherConfig(start="digits-10")


def test_a_teacher_can_begin_as_a_whole_curriculum_its_learning_rates_scaled() -> None:
    shipped = load_curriculum("digits-any")
    T, B = shipped.x.shape[:2]
    config = TeacherConfig(
        inner_steps=T, batch_size=B, images="pixels", start="digits-any", labels="learned", optimizer="muadam"
    )
    constant = Teacher(config, (1, 8, 8), 10, 0)()
    assert (constant.y - shipped.y).abs().max() < 2e-3
    torch.testing.assert_close(constant.lr, torch.full((T,), config.lr), rtol=1e-4, atol=0)
    whole = Teacher(dataclasses.replace(config, start_lr_scale=0.5), (1, 8, 8), 10, 0)()
    torch.testing.assert_close(whole.lr, shipped.lr / 2, rtol=1e-4, atol=0)
    torch.testing.assert_close(whole.momentum, shipped.momentum.clamp(0.001, 0.989), rtol=1e-4, atol=1e-6)
    assert whole.x.equal(constant.x)
    with pytest.raises(
        ValueError, match="those of muadam, and the optimizer is sgd; set optimizer to muadam"
    ):
        Teacher(dataclasses.replace(config, optimizer="sgd", start_lr_scale=0.5), (1, 8, 8), 10, 0)
    for start in ("", "real"):
        with pytest.raises(ValueError, match=r"of the curriculum that start names; given 0.5"):
            dataclasses.replace(config, start=start, start_lr_scale=0.5)


def test_learned_pixels_can_begin_as_real_images_of_their_classes() -> None:
    digits = data.load("digits")
    config = TeacherConfig(inner_steps=3, batch_size=20, images="pixels", start="real")
    x, y, *_ = Teacher(config, digits.image_shape, 10, 0, real=digits.train)()
    train = digits.train.x.flatten(1).clamp(-2 * START_MAX, 2 * START_MAX)
    distances = torch.cdist(x.detach().flatten(0, 1).flatten(1), train)
    nearest = distances.argmin(1)
    assert distances.amin(1).max() < 0.02
    assert digits.train.y[nearest].equal(y.argmax(-1).flatten())
    assert len(nearest.unique()) == 60
    other = Teacher(config, digits.image_shape, 10, 1, real=digits.train).images()
    assert not other.equal(x)


def test_a_class_with_few_real_images_is_begun_with_all_of_them() -> None:
    digits = data.load("digits")
    few = Split(digits.train.x[:40], digits.train.y[:40])
    config = TeacherConfig(inner_steps=4, batch_size=40, images="pixels", start="real")
    x, y, *_ = Teacher(config, digits.image_shape, 10, 0, real=few)()
    for k in range(10):
        shown = x[y.argmax(-1) == k].detach().flatten(1).unique(dim=0)
        assert len(shown) == min(16, len(few.x[few.y == k].unique(dim=0)))


def test_pixels_that_begin_as_real_images_need_some() -> None:
    digits = data.load("digits")
    config = TeacherConfig(images="pixels", start="real")
    with pytest.raises(ValueError, match="give the training split as real="):
        Teacher(config, digits.image_shape, 10, 0)
    others = digits.train.y != 9
    some = Split(digits.train.x[others], digits.train.y[others])
    with pytest.raises(ValueError, match="there is no image of class 9"):
        Teacher(config, digits.image_shape, 10, 0, real=some)
