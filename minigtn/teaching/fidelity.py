"""At what size networks of a search space are trained and read: one thing that a teacher, its curriculum, a
ranking and a search share."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from minigtn.networks import spaces
from minigtn.networks.spaces import Space
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import at_least, from_dict
from minigtn.teaching.curriculum import Curriculum

ScoreName = Literal["loss", "accuracy", "tse"]


@dataclass(frozen=True)
class Fidelity:
    """Sizes that make short trainings cheap, and what they are read for. A curriculum's file carries the one
    that it was made for, and 0 or auto takes that one; without any, what stands here."""

    channels: int = 0
    """Channels of the first stage of networks from a search space; 0: the space's own. Narrow ones are cheap
    to teach."""
    cells: int = 0
    """Cells per stage of networks from nas-bench-201 and cells; 0: the space's own."""
    image_size: int = 0
    """Images are averaged down to so many pixels each way; 0: as they are."""
    valid_images: int = 0
    """Validation images, the first ones, that a reading looks at; 0: 1,000."""
    score: Literal["auto", "loss", "accuracy", "tse"] = "auto"
    """What a training is read for, and what its settings are tuned by: minus the validation loss, which ranks
    earlier than accuracy (auto); accuracy; or tse, minus the sum of the training losses."""
    steps: int = 0
    """Steps of the curriculum, the first ones, after which a network is read; 0: all."""

    def __post_init__(self) -> None:
        at_least(self, channels=0, cells=0, image_size=0, valid_images=0, steps=0)
        if self.score not in ("auto", *get_args(ScoreName)):
            raise ValueError(
                f"score is one of auto, {', '.join(get_args(ScoreName))}, and was given as {self.score!r}"
            )

    def space(self, name: str) -> Space:
        """The search space of that name at this size; ValueError where it has no such size."""
        return spaces.get(name, channels=self.channels, cells_per_stage=self.cells)


UNSET = Fidelity()


def made_for(curriculum: Curriculum) -> tuple[str, Fidelity]:
    """The search space whose networks the curriculum's teacher met, "" for none, and their fidelity, the
    space's own sizes spelled out. A curriculum that does not say has nothing but the size of its images."""
    square = curriculum.of_images and curriculum.x.shape[-1] == curriculum.x.shape[-2]
    of_images = Fidelity(image_size=curriculum.x.shape[-1] if square else 0)
    config = curriculum.provenance.get("config")
    if not isinstance(config, dict) or not {"fidelity", "meta"} <= config.keys():
        return "", of_images
    fidelity = replace(from_dict(Fidelity, config["fidelity"]), image_size=of_images.image_size)
    name = config["meta"].get("sample_learners")
    if name not in spaces.SPACES:
        return "", fidelity
    return name, spelled_out(fidelity, fidelity.space(name))


def pool_of(curriculum: Curriculum) -> frozenset[str]:
    """The architectures that the curriculum's teacher met again and again: its pool, where it had one of a
    search space. They must not judge it. (Files of before pools were written down say their seed.)"""
    name, fidelity = made_for(curriculum)
    if not name:
        return frozenset()
    if "pool" in curriculum.provenance:
        return frozenset(curriculum.provenance["pool"])
    config = curriculum.provenance["config"]
    space = fidelity.space(name)
    members = range(config["meta"].get("sample_pool", 0))
    return frozenset(space.sample(seed_for(config["seed"], Purpose.POOL, member)) for member in members)


def spelled_out(fidelity: Any, space: Space) -> Any:
    """A fidelity (or a config that is one) with the sizes of that space."""
    cells = getattr(space, "cells_per_stage", 0)
    return replace(fidelity, channels=getattr(space, "channels", 0), cells=cells)


def agreed(given: Any, theirs: Fidelity, curriculum: str) -> dict[str, Any]:
    """All settings of a fidelity: those ``given`` (a Fidelity, or a config that is one) and for the others
    those of the curriculum. ValueError, in one sentence, for one that differs."""
    result = {}
    for name in (field.name for field in fields(Fidelity)):
        ours = getattr(given, name)
        made = getattr(theirs, name)
        if getattr(UNSET, name) not in (ours, made) and ours != made:
            raise ValueError(
                f"the curriculum {curriculum} was made for {name.replace('_', '-')} {made}, and {ours} was "
                "given; leave that out, or give a curriculum made for it"
            )
        result[name] = made if ours == getattr(UNSET, name) else ours
    return result
