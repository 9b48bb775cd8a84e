"""One fidelity for teacher, curriculum, ranking and search: carried by the file, agreed upon, or refused."""

from dataclasses import replace

import pytest
import torch

from minigtn import PRESETS, data, load_curriculum, spaces
from minigtn.config import RunConfig
from minigtn.nas.ranking import RankConfig, rank
from minigtn.nas.scores import EstimatorConfig, at_fidelity
from minigtn.outer.meta_gradient import MetaGradient
from minigtn.outer.run import settings_of as settings_of_run
from minigtn.outer.run import train
from minigtn.outer.transfer import settings_of
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import to_dict
from minigtn.teaching.fidelity import Fidelity, made_for, pool_of

DIGITS = data.load("digits")
MADE = Fidelity(channels=4, cells=1, image_size=4, valid_images=60, score="accuracy", steps=3)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A run's folder: two outer steps with networks of NAS-Bench-201 on digits of 4 x 4."""
    folder = tmp_path_factory.mktemp("taught")
    tiny = PRESETS["tiny"]
    meta = replace(tiny.meta, outer_steps=2, valid_every=0, sample_learners="nas-bench-201", sample_pool=2)
    learner = replace(tiny.learner, pool_after=())
    train(replace(tiny, meta=meta, learner=learner, fidelity=MADE), DIGITS, folder)
    return folder


def test_a_curriculum_carries_what_it_was_made_for_and_nothing_else_need_be_said(taught):
    curriculum = load_curriculum(taught)
    assert curriculum.x.shape[2:] == (1, 4, 4)
    assert made_for(curriculum) == ("nas-bench-201", MADE)
    settled, space, images = at_fidelity(EstimatorConfig(curriculum=str(taught)), "", DIGITS)
    assert space == spaces.get("nas-bench-201", channels=4, cells_per_stage=1)
    assert images.image_shape == (1, 4, 4)
    assert {name: getattr(settled, name) for name in to_dict(MADE)} == to_dict(MADE)
    # said once more, it is the same; and it is settled already
    again = at_fidelity(EstimatorConfig(curriculum=str(taught), **to_dict(MADE)), "nas-bench-201", DIGITS)
    assert again[:2] == (settled, space)
    assert at_fidelity(settled, "nas-bench-201", images)[:2] == (settled, space)
    assert settings_of(curriculum).fidelity.image_size == 4


def test_networks_of_the_pool_are_known_by_name_and_never_judge(taught, tmp_path):
    """Those that the teacher met are what :func:`pool_of` says, and a ranking draws others."""
    pool = pool_of(load_curriculum(taught))
    assert len(pool) == 2
    met = MetaGradient(settings_of_run(taught), data.averaged(DIGITS, 4))
    learners = {met._member(0, seed): met._learner(0, seed) for seed in range(20)}
    space = spaces.get("nas-bench-201", channels=4, cells_per_stage=1)
    named = [{n: p.shape for n, p in space.build(a, in_channels=1).named_parameters()} for a in sorted(pool)]
    for learner in learners.values():
        assert {n: p.shape for n, p in learner.init(0).items()} in named
    others = [space.sample(i) for i in range(4)]
    table = tmp_path / "table.csv"
    lines = [f"{arch},{i}" for i, arch in enumerate((*others, *pool))]
    table.write_text("\n".join(["arch,accuracy", *lines]))
    settings = EstimatorConfig(curriculum=str(taught), valid_batch=60)
    config = RankConfig(estimators=("gtn", "flops"), networks=0, bootstrap=5)
    result = rank(config, settings, DIGITS, table, tmp_path / "rank", bar=False)
    assert sorted(result["archs"]) == sorted(others)
    assert result["config"]["space"] == "nas-bench-201"
    assert {"gtn-3-accuracy", "gtn-1-accuracy", "flops"} <= set(result["columns"])
    with pytest.raises(ValueError, match="the table has 6, 2 of which the teacher met; give at most 4"):
        rank(replace(config, networks=5), settings, DIGITS, table, tmp_path / "rank", bar=False)


@pytest.mark.parametrize("name", ["nas-201-cpu", "nas-macro-cpu"])
def test_presets_of_a_space_have_a_pool_and_validate_outside_of_it(name):
    config = PRESETS[name]
    space = config.make_space()
    pool = {space.sample(seed_for(config.seed, Purpose.POOL, i)) for i in range(config.meta.sample_pool)}
    judges = {space.sample(seed_for(config.seed, Purpose.VALIDATION, i)) for i in range(100)}
    assert len(pool) >= 47
    assert not pool & {space.sample(seed_for(config.seed, Purpose.VALIDATION, i)) for i in range(4)}
    assert len(judges & pool) <= 2
    assert config.fidelity.image_size == 16
    assert config.meta.rank_weight > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"channels": 8}, "was made for channels 4, and 8 was given; leave that out, or give a curriculum"),
        ({"image_size": 8}, "was made for image-size 4, and 8 was given"),
        ({"score": "loss"}, "was made for score accuracy, and loss was given"),
        ({"steps": 2}, "was made for steps 3, and 2 was given"),
    ],
)
def test_another_fidelity_is_refused(taught, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        at_fidelity(EstimatorConfig(curriculum=str(taught), **changes), "", DIGITS)


def test_another_space_is_refused(taught):
    with pytest.raises(
        ValueError, match="made for networks of nas-bench-201, and the space is nas-bench-macro"
    ):
        at_fidelity(EstimatorConfig(curriculum=str(taught)), "nas-bench-macro", DIGITS)


def test_curricula_of_before_say_nothing_but_their_images():
    old = load_curriculum("digits-10")
    assert made_for(old) == ("", Fidelity(image_size=8))
    settings = EstimatorConfig(curriculum="digits-10", channels=8)
    settled, space, images = at_fidelity(settings, "", DIGITS)
    assert space == spaces.get("nas-bench-macro", channels=8)
    assert images is DIGITS
    assert (settled.valid_images, settled.score, settled.steps) == (297, "loss", 0)
    with pytest.raises(ValueError, match="was made for image-size 8, and 4 was given"):
        at_fidelity(replace(settings, image_size=4), "", DIGITS)
    later = EstimatorConfig(curriculum="not/yet/there", image_size=4)
    assert at_fidelity(later, "cells", DIGITS)[2].image_shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("space", "changes", "sentence"),
    [
        ("none", {"channels": 4}, "fidelity.channels and fidelity.cells are sizes of a search space"),
        ("zoo", {"cells": 4}, "name one as meta.sample-learners"),
        ("nas-bench-macro", {"cells": 2}, "nas-bench-macro has no size 'cells_per_stage'"),
        ("cells", {"channels": 5}, "channels must be even, not 5"),
        ("cells", {"channels": -2}, "channels must be at least 0, not -2"),
        ("none", {"steps": 33}, "fidelity.steps is one of the 32 inner steps, not 33"),
    ],
)
def test_a_fidelity_that_cannot_be_is_refused(space, changes, sentence):
    run = RunConfig()
    with pytest.raises(ValueError, match=sentence):
        replace(run, meta=replace(run.meta, sample_learners=space), fidelity=Fidelity(**changes))


def test_images_are_averaged_down():
    small = data.averaged(DIGITS, 4)
    for part in ("train", "valid", "test"):
        big = getattr(DIGITS, part).x
        by_hand = big.reshape(-1, 1, 4, 2, 4, 2).mean((3, 5))
        torch.testing.assert_close(getattr(small, part).x, by_hand)
        assert getattr(small, part).y is getattr(DIGITS, part).y
    assert (small.mean, small.std) == (DIGITS.mean, DIGITS.std)
    assert data.averaged(DIGITS, 0) is data.averaged(DIGITS, 8) is DIGITS
    assert data.averaged(small, 4) is small
    for size in (3, 16, -1):
        with pytest.raises(
            ValueError, match=f"averaged down to {size} x {size}; image sizes that fit are 1, 2, 4"
        ):
            data.averaged(DIGITS, size)
