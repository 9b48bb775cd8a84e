"""The meta-gradient of an outer step: what it is, whose it is, and what it may be made with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from minigtn import Checkpointed, Unrolled
from minigtn.data.datasets import Dataset, Split
from minigtn.inner.optimizers import OPTIMIZERS
from minigtn.networks.learners import Learner
from minigtn.outer import meta_gradient
from minigtn.outer.batched import Cohort
from minigtn.outer.loop import MetaTraining
from minigtn.outer.meta_gradient import (
    add_meta_gradient,
    base_learner,
    estimated_bytes,
    learner_for,
    meta_loss,
    real_readout,
)
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.teaching.curriculum import TrainingData
from minigtn.teaching.fidelity import Fidelity
from minigtn.teaching.teacher import VARIANTS, Teacher, variant
from tiny import LEARNER, META, TEACHER, tiny


@pytest.mark.parametrize(
    "name",
    [
        "generator.dense1-direction",
        "generator.conv1-norm_scale",
        "generator.conv2-gain",
        "z",
        "lr_raw",
        "momentum_raw",
    ],
)
def test_meta_gradient_is_that_of_finite_differences(digits: Dataset, name: str) -> None:
    teacher = Teacher(TEACHER, digits.image_shape, 10, 7, torch.float64)
    learner = Learner(LEARNER, digits.image_shape, 10)
    params = learner.init(1, dtype=torch.float64)
    readout = real_readout(
        Cohort(learner, [1]),
        Split(digits.train.x.double(), digits.train.y),
        dataclasses.replace(META, readout_every=2),
        3,
        seeds=[2],
    )
    parameter = dict(teacher.named_parameters())[name]
    direction = torch.randn_like(parameter)
    direction /= direction.norm()

    def loss_at(step: float) -> float:
        with torch.no_grad():
            parameter.add_(step * direction)
            value = meta_loss(teacher(), params, readout, Checkpointed()).item()
            parameter.sub_(step * direction)
        return value

    meta_loss(teacher(), params, readout, Checkpointed()).backward()
    slope = (parameter.grad * direction).sum().item()
    step = 1e-5
    difference = (8 * (loss_at(step) - loss_at(-step)) - loss_at(2 * step) + loss_at(-2 * step)) / (12 * step)
    assert abs(slope) > 1e-5
    assert slope == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, *({"optimizer": name, "lr": 0.003} for name in ("adam", "muadam")), {"images": "pixels"}],
)
def test_learners_in_one_pass_give_the_mean_of_their_meta_gradients(
    digits: Dataset, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Split(digits.train.x.double(), digits.train.y)
    config = dataclasses.replace(
        tiny(learners=3, clip_norm=0.0), teacher=dataclasses.replace(TEACHER, **settings)
    )
    gradients = []
    for most in (32, 2, 1):
        monkeypatch.setattr(meta_gradient, "most_together", lambda device, most=most: most)
        training = MetaTraining(config, dataclasses.replace(digits, train=train))
        record = training.outer_step()
        gradients.append(
            torch.cat(
                [
                    torch.tensor([record.meta_loss]).double(),
                    *(p.grad.flatten() for p in training.teacher.parameters()),
                ]
            )
        )
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(gradients[1], gradients[2], rtol=1e-8, atol=1e-12)
    fewer = MetaTraining(
        dataclasses.replace(config, meta=dataclasses.replace(config.meta, learners=2)), digits
    )
    assert abs(fewer.outer_step().meta_loss - gradients[0][0].item()) > 1e-4


def test_a_learner_with_a_long_meta_gradient_is_clipped_and_the_others_are_not() -> None:
    images = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    lr = torch.tensor([0.5, 0.5], dtype=torch.float64, requires_grad=True)
    # doubled on the way, as a generator would
    lesson = TrainingData(2 * images, torch.zeros(2), 3 * lr, 0.0, OPTIMIZERS["sgd"])

    def loss(weight: float) -> Callable[[TrainingData], torch.Tensor]:
        return lambda shown: weight * (shown.x**2).sum() / 2 + weight * shown.lr.sum()

    norm = 2 * images.detach().norm().item()
    total = add_meta_gradient(lesson, [loss(0.1), loss(100.0)], longest=0.2 * norm)
    assert total.item() == pytest.approx(100.1 * (norm**2 / 2 + 3))
    # the first is shorter than .2, the second was 100 and becomes .2, by images and step sizes alike
    torch.testing.assert_close(images.grad, 2 * (0.1 + 0.2) * 2 * images.detach())
    torch.testing.assert_close(lr.grad, torch.full((2,), 3 * (0.1 + 0.2), dtype=torch.float64))


def test_a_network_that_no_image_reaches_is_not_clipped() -> None:
    """Such are in NAS-Bench-201; only the bias of its last layer learns."""
    images = torch.ones(2, requires_grad=True)
    lr = torch.tensor([0.5], requires_grad=True)
    lesson = TrainingData(2 * images, torch.zeros(1), 3 * lr, 0.0, OPTIMIZERS["sgd"])
    cut_off = [lambda shown: 7 * shown.lr.sum()]
    assert add_meta_gradient(lesson, cut_off, longest=0.1).item() == pytest.approx(10.5)
    torch.testing.assert_close(lr.grad, torch.tensor([21.0]))
    assert images.grad is None or not images.grad.any()


def test_clipping_is_by_learner(digits: Dataset) -> None:
    def gradients(clip: float) -> list[torch.Tensor]:
        training = MetaTraining(tiny(learners=2, sample_learners="zoo", clip_learner=clip), digits)
        training.meta_gradient.add(training.teacher, 0, range(2))
        return [p.grad for p in training.teacher.parameters() if p.grad is not None]

    assert all(a.equal(b) for a, b in zip(gradients(1e9), gradients(0.0), strict=True))
    assert not any(a.equal(b) for a, b in zip(gradients(1e-4), gradients(0.0), strict=True))


def test_real_images_have_no_gradient_to_clip() -> None:
    config = tiny(learners=2, sample_learners="zoo", clip_learner=0.1)
    with pytest.raises(ValueError, match=r"teacher\.images real has none"):
        dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, images="real"))


def test_sampled_learners_have_architectures_of_their_own(digits: Dataset) -> None:
    training = MetaTraining(tiny(learners=4, sample_learners="zoo"), digits)
    assert len({learner_for(training.config, digits, seed).config for seed in range(20)}) > 5
    assert math.isfinite(training.outer_step().grad_norm)
    assert 0 <= training.validate() <= 1
    assert learner_for(tiny(), digits, 3).config == LEARNER


def test_ordinary_networks_come_beside_the_runs_own(digits: Dataset) -> None:
    config = tiny(learners=4, sample_learners="ordinary")
    learners = [learner_for(config, digits, seed) for seed in range(300)]
    assert 75 < sum(learner == base_learner(config, digits) for learner in learners) < 125
    assert len({learner for learner in learners}) > 120
    training = MetaTraining(config, digits)
    assert all(training.meta_gradient._learner(0, seed) == learners[seed] for seed in range(20))
    record = training.outer_step()
    assert record.skipped == 0
    assert record.grad_norm > 0
    assert 0 <= training.validate() <= 1
    without = tiny(sample_learners="ordinary", sample_own=0.0)
    assert base_learner(config, digits) not in [learner_for(without, digits, seed) for seed in range(60)]


def test_a_pool_of_ordinary_networks_stands_beside_the_runs_own(digits: Dataset) -> None:
    config = tiny(learners=2, sample_learners="ordinary", sample_pool=3, graphs="on")
    assert config.meta.architectures == 4
    training = MetaTraining(config, digits)
    seeds = range(200)
    drawn = [training.meta_gradient._learner(0, seed) for seed in seeds]
    assert len({id(learner) for learner in drawn}) == 4
    assert 45 < sum(learner is training.meta_gradient._own for learner in drawn) < 90
    for _ in range(6):
        assert training.outer_step().skipped == 0
    assert 1 < training.meta_gradient.adjoint._captured.captures <= 4


def test_learners_come_from_a_search_space(digits: Dataset) -> None:
    config = tiny(learners=2, sample_learners="nas-bench-201")
    training = MetaTraining(dataclasses.replace(config, fidelity=Fidelity(channels=4, cells=1)), digits)
    seeds = [seed_for(0, Purpose.LEARNER, i) for i in range(60)]
    weights = [learner_for(training.config, digits, seed).init(seed) for seed in seeds[:12]]
    assert len({sum(p.numel() for p in params.values()) for params in weights}) > 5
    assert all(params["0.weight"].shape == (4, 1, 3, 3) for params in weights)  # the stem's channels
    record = training.outer_step()
    assert record.skipped == 0
    assert record.grad_norm > 0
    assert 0 <= training.validate() <= 1


def test_the_runs_own_learner_comes_first(digits: Dataset) -> None:
    """With ``sample_after`` the first steps are those without sampling; from then on they are not, and
    validations never are."""
    plain, later = (
        MetaTraining(tiny(outer_steps=4, **changes), digits)
        for changes in ({}, {"sample_learners": "zoo", "sample_after": 2})
    )
    losses = [[training.outer_step().meta_loss for _ in range(4)] for training in (plain, later)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][2:] != losses[1][2:]
    assert plain.validate() != later.validate()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sample_own": 1.0}, "from 0 to below 1 .* not 1.0"),
        ({"clip_learner": 0.1}, "goes with sampled learners.* given 0.1 with none"),
        ({"clip_learner": -0.1, "sample_learners": "zoo"}, "finite length, not negative"),
        ({"sample_own": -0.1}, "share of the draws"),
        ({"sample_after": -1}, "meta.sample_after must be at least 0, not -1"),
        ({"sample_learners": "zoo", "graphs": "on"}, "meta.graphs holds the steps of each architecture"),
        ({"sample_learners": "zoo", "compile": "on"}, "give meta.sample-pool, too"),
        ({"sample_pool": 2}, "a number of sampled architectures; name meta.sample-learners, too"),
        ({"graphs": "on", "adjoint": "unrolled"}, "meta.graphs goes with the adjoint 'checkpointed'"),
    ],
)
def test_bad_samples_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny(**changes)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_curriculum_variant_is_meta_trained(digits: Dataset, name: str) -> None:
    config = dataclasses.replace(tiny(outer_steps=2, learners=2), teacher=variant(TEACHER, name))
    training = MetaTraining(config, digits)
    before = training.teacher.lr().detach()
    for _ in range(2):
        assert training.outer_step().skipped == 0
    assert not training.teacher.lr().equal(before)
    assert 0 <= training.validate() <= 1
    curricula = [training.curriculum_for(seed).x for seed in (1, 2)]
    assert curricula[0].equal(curricula[1]) != config.teacher.varies
    assert training.result().x.shape == (3, 10, 1, 8, 8)


def test_graphs_change_no_bit(digits: Dataset) -> None:
    states = []
    for graphs in ("off", "on"):
        training = MetaTraining(tiny(graphs=graphs), digits)
        training.outer_step()
        training.outer_step()
        states.append(training.teacher.state_dict())
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
    assert training.meta_gradient.adjoint._captured.captures == 1


def test_bfloat16_learners_give_nearly_the_same_meta_gradient(digits: Dataset) -> None:
    gradients = {}
    for precision in ("float32", "bfloat16"):
        training = MetaTraining(tiny(precision=precision, clip_norm=0.0), digits)
        training.outer_step()
        gradients[precision] = torch.cat([p.grad.flatten() for p in training.teacher.parameters()])
        assert gradients[precision].dtype == torch.float32
    difference = (gradients["bfloat16"] - gradients["float32"]).norm() / gradients["float32"].norm()
    assert 1e-4 < difference < 0.2


def test_every_adjoint_gives_the_same_first_meta_gradient(digits: Dataset) -> None:
    gradients = {}
    for adjoint in ("unrolled", "checkpointed", "reversible"):
        training = MetaTraining(tiny(adjoint=adjoint, clip_norm=0.0), digits)
        training.outer_step()
        gradients[adjoint] = torch.cat([p.grad.flatten() for p in training.teacher.parameters()])
    assert gradients["unrolled"].norm() > 0.01
    torch.testing.assert_close(gradients["checkpointed"], gradients["unrolled"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients["reversible"], gradients["unrolled"], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("every", "readings"), [(1, 5), (2, 3), (5, 1), (0, 1)])
def test_readings_of_the_meta_loss(digits: Dataset, every: int, readings: int) -> None:
    learner = Learner(LEARNER, digits.image_shape, 10)
    readout = real_readout(
        Cohort(learner, [0]), digits.train, dataclasses.replace(META, readout_every=every), 5, seeds=[0]
    )
    x, y = readout.batches
    assert x.shape == (readings, 32, 1, 8, 8)
    assert y.shape == (readings, 32)
    teacher = Teacher(dataclasses.replace(TEACHER, inner_steps=5), digits.image_shape, 10, 0)
    meta_loss(teacher(), learner.init(0), readout, Unrolled()).backward()
    assert teacher.z.grad[0].norm() > 0


def test_the_memory_of_an_outer_step_is_estimated(digits: Dataset) -> None:
    sizes = {}
    for steps in (3, 12):
        config = dataclasses.replace(
            tiny(adjoint="unrolled"), teacher=dataclasses.replace(TEACHER, inner_steps=steps)
        )
        training = MetaTraining(config, digits)
        sizes[steps] = estimated_bytes(config, digits, training.teacher)
        assert sizes[steps].keys() == {"adjoint", "teacher"}
    assert sizes[12]["adjoint"] == 4 * sizes[3]["adjoint"] > 10_000
    assert 2 < sizes[12]["teacher"] / sizes[3]["teacher"] <= 4


# ---- architectures from a pool ----


def pooled(digits: Dataset, **changes: Any) -> MetaTraining:
    return MetaTraining(tiny(learners=3, sample_learners="zoo", sample_pool=2, **changes), digits)


def test_learners_of_a_pool_are_the_same_few_objects(digits: Dataset) -> None:
    drawn = pooled(digits).meta_gradient
    seeds = [seed_for(0, Purpose.LEARNER, i) for i in range(20)]
    learners = [drawn._learner(0, seed) for seed in seeds]
    assert len({id(learner) for learner in learners}) == 2
    assert len({learner.config for learner in learners}) == 2
    again = pooled(digits).meta_gradient
    assert [again._learner(5, seed).config for seed in seeds] == [learner.config for learner in learners]
    other = MetaTraining(dataclasses.replace(pooled(digits).config, seed=1), digits).meta_gradient
    assert {other._learner(0, seed).config for seed in seeds} != {learner.config for learner in learners}


def test_before_the_pool_comes_the_runs_own_learner(digits: Dataset) -> None:
    drawn = pooled(digits, sample_after=2).meta_gradient
    assert drawn._learner(1, 3).config == LEARNER
    assert drawn._learner(2, 3).config != LEARNER


def test_graphs_go_with_a_pool_and_hold_each_member_once(digits: Dataset) -> None:
    losses = {}
    for graphs in ("off", "on"):
        training = pooled(digits, graphs=graphs)
        losses[graphs] = [training.outer_step().meta_loss for _ in range(3)]
    assert losses["on"] == losses["off"]
    assert training.meta_gradient.adjoint._captured.captures == 2


def test_auto_makes_neither_graphs_nor_compiled_steps_on_a_cpu() -> None:
    long = tiny(outer_steps=1_000_000)
    adjoint = long.make_adjoint(torch.device("cpu"))
    assert (adjoint.graphs, adjoint.compile) == (False, False)
    on = tiny(graphs="on", compile="on", block_size=2).make_adjoint(torch.device("cpu"))
    assert (on.graphs, on.compile, on.block_size) == (True, True, 2)


@pytest.mark.parametrize(
    ("changes", "graphs", "compiled"),
    [
        ({"outer_steps": 10_000}, True, True),
        ({"outer_steps": 6_000}, True, False),
        ({"outer_steps": 6_000, "learners": 2}, True, True),
        ({"outer_steps": 10_000, "graphs": "off", "compile": "off"}, False, False),
        ({"outer_steps": 10_000, "sample_learners": "zoo"}, False, False),
        ({"outer_steps": 10_000, "sample_learners": "zoo", "sample_pool": 2}, True, False),
        ({"outer_steps": 20_000, "sample_learners": "zoo", "sample_pool": 2}, True, True),
    ],
)
def test_auto_on_a_gpu_is_where_it_pays(changes: dict[str, Any], graphs: bool, compiled: bool) -> None:
    adjoint = tiny(**changes).make_adjoint(torch.device("cuda"))
    assert (adjoint.graphs, adjoint.compile) == (graphs, compiled)


def test_as_many_captures_are_held_as_there_are_architectures() -> None:
    few, many = (
        tiny(sample_learners="zoo", sample_pool=n, sample_after=1, graphs="on").make_adjoint(
            torch.device("cpu")
        )
        for n in (2, 20)
    )
    assert (few.max_captured, many.max_captured) == (8, 21)


# ---- drawn before it is needed ----


@pytest.mark.parametrize(
    "changes", [{}, {"sample_learners": "zoo"}, {"sample_learners": "zoo", "sample_pool": 2}]
)
def test_what_is_prepared_is_what_would_be_drawn(
    digits: Dataset, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU prepares nothing, so that the numbers of a step are asked for here as if on another device."""
    seen = []
    for prepared in (False, True):
        training = MetaTraining(tiny(learners=2, **changes), digits)
        gradient = training.meta_gradient
        assert gradient.prepare(0, range(2)) is None
        assert not gradient._drawn
        for step in range(2):
            if prepared:
                groups = gradient._in_one_pass(gradient._numbers(step, range(2)))
                gradient._drawn = {tuple(group): gradient._draw(step, group) for group in groups}
                assert len(gradient._drawn) == 2
                monkeypatch.setattr(gradient, "_draw", None)  # nothing is drawn twice
            seen.append(training.outer_step().meta_loss)
            assert not gradient._drawn
            monkeypatch.undo()
        seen.append(training.teacher.lr_raw.tolist())
    assert seen[:3] == seen[3:]
    assert seen[0] != seen[1]
