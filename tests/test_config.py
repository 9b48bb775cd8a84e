"""Settings: presets, their way through JSON and the command line, seeds."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from minigtn import Checkpointed, Reversible, Unrolled
from minigtn.config import PRESETS, EvaluationConfig, MetaConfig, RunConfig
from minigtn.data import Split
from minigtn.networks.learners import Learner
from minigtn.runs.settings import from_dict, to_dict
from minigtn.teaching.curriculum import load_curriculum
from minigtn.teaching.teacher import Teacher
from tiny import TINY, tiny

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
EVERY_PRESET = pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)


@EVERY_PRESET
def test_preset_builds_its_learner_and_teacher(config: RunConfig) -> None:
    shape = SHAPES[config.dataset]
    learner = Learner(config.learner, shape, 10)
    if config.teacher.start not in ("", "real"):
        begun = load_curriculum(config.teacher.start)
        x, y, lr, momentum, _ = Teacher(config.teacher, tuple(begun.x.shape[2:]), 10, 0)()
        assert x.shape == begun.x.shape
        assert begun.x.shape[-1] == config.fidelity.image_size
        torch.testing.assert_close(lr, config.teacher.start_lr_scale * begun.lr, rtol=1e-4, atol=0)
        assert learner(learner.init(0), x[0]).shape == y[0].shape
        return
    small = dataclasses.replace(config.teacher, inner_steps=1, batch_size=4)
    real = Split(torch.randn(20, *shape), torch.arange(20) % 10)
    x, _, lr, momentum, _ = Teacher(small, shape, 10, 0, real=real)()
    assert x.shape == (1, 4, *shape)
    assert learner(learner.init(0), x[0]).shape == (4, 10)
    torch.testing.assert_close([lr.item(), momentum.item()], [config.teacher.lr, config.teacher.momentum])


@EVERY_PRESET
def test_preset_goes_through_json_and_back(config: RunConfig) -> None:
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**to_dict(TINY), "sede": 1}, r"RunConfig has the settings .*unknown or missing: \['sede'\]"),
        ({k: v for k, v in to_dict(TINY).items() if k != "seed"}, r"unknown or missing: \['seed'\]"),
        (
            {**to_dict(TINY), "meta": {"lr": 1.0}},
            "MetaConfig has the settings .*unknown or missing: .*'outer_steps'",
        ),
        ({**to_dict(TINY), "meta": 3}, "MetaConfig has the settings .*given 3"),
        ({**to_dict(TINY), "seed": -1}, "seed must not be negative"),
    ],
)
def test_settings_that_do_not_fit_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(RunConfig, values)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (MetaConfig, {"outer_steps": 0}, "meta.outer_steps must be at least 1, not 0"),
        (MetaConfig, {"readout_every": -1}, "meta.readout_every must be at least 0, not -1"),
        (MetaConfig, {"block_size": 0}, "meta.block_size must be at least 1"),
        (MetaConfig, {"lr": float("nan")}, "meta.lr must be positive"),
        (MetaConfig, {"lr": float("inf")}, "all finite"),
        (MetaConfig, {"final_lr": 1.5}, r"meta.final_lr in \[0, 1\]"),
        (MetaConfig, {"clip_norm": -1.0}, "meta.clip_norm not negative"),
        (EvaluationConfig, {"learners": 1}, "learners >= 2"),
        (EvaluationConfig, {"more": 0}, "more >= 1"),
        (EvaluationConfig, {"real_lrs": ()}, "grid of positive learning rates"),
        (EvaluationConfig, {"real_lrs": (0.1, float("nan"))}, "grid of positive learning rates"),
        (EvaluationConfig, {"real_momenta": (1.0,)}, r"momenta in \[0, 1\); given .* and \(1.0,\)"),
    ],
)
def test_bad_setting_is_one_sentence(cls: type, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        cls(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "adjoint"),
    [("unrolled", Unrolled()), ("checkpointed", Checkpointed(3)), ("reversible", Reversible())],
)
def test_the_adjoint_that_is_named_is_made(name: str, adjoint: object) -> None:
    assert tiny(adjoint=name, block_size=3).make_adjoint(torch.device("cpu")) == adjoint
