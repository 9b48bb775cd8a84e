"""Every setting of a run, with its only default; the command line and the saved ``config.json`` are made from
these classes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from minigtn.inner.adjoints import Adjoint, Checkpointed, Reversible, Unrolled
from minigtn.networks import spaces
from minigtn.networks.learners import CIFAR_LEARNER, MNIST_LEARNER, LearnerConfig
from minigtn.runs.settings import at_least
from minigtn.teaching.fidelity import Fidelity
from minigtn.teaching.teacher import TeacherConfig

DatasetName = Literal["digits", "mnist", "fashion-mnist", "cifar10"]
Switch = Literal["auto", "on", "off"]
COMPILATION_STEPS = 20_000
"""Inner steps, there and back, that one compilation has to be repaid by: some 3 ms a step against 60 s."""


@dataclass(frozen=True)
class MetaConfig:
    """The outer loop."""

    outer_steps: int = 2000
    """Updates of the teacher."""
    lr: float = 0.02
    """Adam's learning rate at the first outer step; it falls along a cosine."""
    final_lr: float = 0.1
    """Where the cosine ends, as a fraction of lr."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    eps: float = 1e-8
    """Adam's epsilon."""
    real_batch: int = 128
    """Real training images in each reading of the meta-loss."""
    augment: bool = False
    """Random crops (4 pixels of padding) and mirror images of those, as the paper has it for CIFAR-10."""
    readout_every: int = 1
    """Inner steps between two readings of the meta-loss (intermediate losses); 0 reads after the last step
    only."""
    clip_norm: float = 1.0
    """The meta-gradient is scaled down to this norm where it is longer; 0 never clips."""
    clip_learner: float = 0.0
    """The meta-gradient of each sampled learner is scaled down where its part by the synthetic images is
    longer than this; 0 never clips. The longest tenth of those of ordinary networks is 5 to 1,000 times as
    long as the median, which is about .1 on digits."""
    learners: int = 1
    """Learners per outer step, each with weights and real batches of its own; their meta-gradients are
    averaged. Workers share them."""
    sample_learners: Literal["none", "zoo", "ordinary", "nas-bench-macro", "nas-bench-201", "cells"] = "none"
    """Where every learner gets an architecture of its own from, so that the teacher generalizes: varied from
    the run's (minigtn.networks.sampling), ordinary networks as torch users write them
    (minigtn.networks.ordinary), or drawn at random from a search space (minigtn.networks.spaces). With none
    all have the run's."""
    sample_own: float = 1 / 3
    """With ordinary networks: the share of the draws that take the run's own learner instead."""
    sample_after: int = 0
    """Outer steps before learners are sampled, in which all have the run's. Deep networks hardly teach a
    fresh teacher: a learner that is easily taught shows the way (docs/log.md). Validations always take
    sampled ones."""
    sample_pool: int = 0
    """Architectures that sampled learners have beside the run's own, drawn once; 0: every learner has one of
    its own. With a pool their steps can be compiled and captured, once for each."""
    rank_weight: float = 0.0
    """Weight of the ranking loss beside the mean reading (minigtn.outer.ranked): networks of an outer step
    should be read in the order in which real data bring them forward; with a pool of sampled learners. 0:
    none."""
    rank_temperature: float = 0.1
    """Difference of two readings, in nats, that the ranking loss takes for one."""
    rank_steps: int = 256
    """Real steps, annealed, whose validation loss says how good a network of the pool is; each is trained
    once."""
    rank_lr: float = 0.1
    """Learning rate of those at the first step."""
    rank_table: str = ""
    """CSV file (arch, accuracy) of a published benchmark. The pool is drawn from its networks, and their
    accuracies there say how good they are, in place of real steps; they never judge. "": none."""
    rank_truth: str = ""
    """The table's accuracy column; by default mean_acc, cifar10_test or accuracy."""
    adjoint: Literal["unrolled", "checkpointed", "reversible"] = "checkpointed"
    """How the inner loop is differentiated; the meta-gradient is the same."""
    block_size: int = 1
    """Steps between two kept states, for the adjoint 'checkpointed'."""
    graphs: Switch = "auto"
    """Replay CUDA graphs of the inner steps, for the adjoint 'checkpointed' on a GPU: the same numbers
    without the time to launch them. auto: wherever that can be, on a GPU and with few architectures."""
    compile: Switch = "auto"
    """Compile the inner steps, for the adjoint 'checkpointed'. auto: on a GPU, where T * outer_steps is large
    enough to repay the minute that it takes."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Arithmetic of the inner loop: float32; on CUDA products of 10-bit mantissas (tf32); or learners
    computed in bfloat16 from float32 weights. What that does to the meta-gradient is in
    docs/performance.md."""
    valid_every: int = 100
    """Outer steps between two validations; the teacher that does best there is the result. 0: the last
    teacher is the result."""
    valid_learners: int = 4
    """Fresh learners per validation."""
    checkpoint_every: int = 50
    """Outer steps between two checkpoints."""
    max_skipped: int = 20
    """Non-finite meta-gradients in a row after which the run stops."""

    def __post_init__(self) -> None:
        at_least(
            self, "meta.", outer_steps=1, real_batch=1, readout_every=0, learners=1, sample_after=0,
            sample_pool=0, rank_steps=1, block_size=1, valid_every=0, valid_learners=1, checkpoint_every=1,
            max_skipped=1,
        )  # fmt: skip
        if not 0 <= self.sample_own < 1:
            raise ValueError(
                "meta.sample-own is the share of the draws that take the run's own learner, from 0 to below "
                f"1 (for all of them: meta.sample-learners none), not {self.sample_own}"
            )
        for name in ("graphs", "compile"):
            if getattr(self, name) == "on" and self.adjoint != "checkpointed":
                raise ValueError(
                    f"meta.{name} goes with the adjoint 'checkpointed', not with '{self.adjoint}'; "
                    "turn it off"
                )
            if getattr(self, name) == "on" and not self.architectures:
                raise ValueError(
                    f"meta.{name} holds the steps of each architecture, and meta.sample-learners takes "
                    "another one each time; give meta.sample-pool, too"
                )
        if self.sample_pool and self.sample_learners == "none":
            raise ValueError(
                "meta.sample-pool is a number of sampled architectures; name meta.sample-learners, too"
            )
        self._check_ranking()
        if not 0 <= self.clip_learner < math.inf or (self.clip_learner and self.sample_learners == "none"):
            raise ValueError(
                "meta.clip-learner is a finite length, not negative, and goes with sampled learners, which "
                f"are walked back one by one (meta.sample-learners); given {self.clip_learner} with "
                f"{self.sample_learners}"
            )
        if not 0 < self.lr < math.inf or not 0 <= self.final_lr <= 1 or not 0 <= self.clip_norm < math.inf:
            raise ValueError(
                "meta.lr must be positive, meta.final_lr in [0, 1] and meta.clip_norm not negative, all "
                f"finite; given {self.lr}, {self.final_lr}, {self.clip_norm}"
            )

    def _check_ranking(self) -> None:
        if not 0 <= self.rank_weight < math.inf:
            raise ValueError(
                f"meta.rank-weight must not be negative, nor infinite, but it is {self.rank_weight}"
            )
        if not 0 < self.rank_temperature < math.inf or not 0 < self.rank_lr < math.inf:
            raise ValueError(
                "meta.rank-temperature and meta.rank-lr must be positive numbers, not "
                f"{self.rank_temperature} and {self.rank_lr}"
            )
        if self.rank_weight and (self.learners < 2 or not self.sample_pool):
            raise ValueError(
                "meta.rank-weight compares the networks of an outer step: give meta.learners, at least 2, "
                "and meta.sample-pool"
            )
        of_space = self.sample_learners in spaces.SPACES and self.sample_pool > 0
        if self.rank_table and (not of_space or self.sample_after):
            raise ValueError(
                "meta.rank-table is a table of networks of a search space, which the pool is drawn from: "
                "name the space as meta.sample-learners, give meta.sample-pool, and leave meta.sample-after "
                "out"
            )
        if self.rank_truth and not self.rank_table:
            raise ValueError("meta.rank-truth is a column of meta.rank-table; give the table, too")

    @property
    def architectures(self) -> int:
        """How many different ones the learners have; 0: any number."""
        if self.sample_learners == "none":
            return 1
        own = self.sample_after > 0 or (self.sample_learners == "ordinary" and self.sample_own > 0)
        return self.sample_pool + own if self.sample_pool else 0


@dataclass(frozen=True)
class EvaluationConfig:
    """The final judgement, and the real-data arm it is compared with."""

    learners: int = 10
    """Fresh learners per arm, with seeds that meta-training never used."""
    real_lrs: tuple[float, ...] = (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    """Grid of learning rates that the real-data arm is tuned over, on validation data."""
    real_momenta: tuple[float, ...] = (0.0, 0.5, 0.8, 0.9, 0.95)
    """Grid of its momenta."""
    tuning_learners: int = 5
    """Fresh learners per grid point."""
    transfer: int = 3
    """Fresh ones of each ordinary network that no teacher met, in the transfer matrix of every run
    (minigtn.networks.unmet): taught, and on real data with as many and with ten times the steps. At least 2;
    0: no matrix."""
    more: int = 1
    """Real data are also given so many times the steps, tuned for that length, to see how many steps they
    need for the accuracy of the taught learner; 1: not."""

    def __post_init__(self) -> None:
        if self.learners < 2 or self.tuning_learners < 1 or self.more < 1:
            raise ValueError(
                "evaluation needs learners >= 2 (for a spread), tuning_learners >= 1 and more >= 1 (times "
                "the steps)"
            )
        if self.transfer < 0 or self.transfer == 1:
            raise ValueError(
                "evaluation.transfer is a number of fresh networks, at least 2 (for a spread), or 0 for no "
                f"matrix, not {self.transfer}"
            )
        sound = [0 < lr < math.inf for lr in self.real_lrs] + [
            0 <= momentum < 1 for momentum in self.real_momenta
        ]
        if not self.real_lrs or not self.real_momenta or not all(sound):
            raise ValueError(
                "the real-data arm needs a grid of positive learning rates and one of momenta in [0, 1); "
                f"given {self.real_lrs} and {self.real_momenta}"
            )


@dataclass(frozen=True)
class RunConfig:
    """One run: a teacher meta-trained on a data set, and its evaluation."""

    dataset: DatasetName = "digits"
    """Real data; everything but digits is downloaded once, unless --data-dir or MINIGTN_DATA names a
    folder."""
    seed: int = 0
    """Everything random follows from it; the split of the data does not."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """The network that is taught."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Generator and curriculum."""
    meta: MetaConfig = field(default_factory=MetaConfig)
    """The outer loop."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """The final judgement."""
    fidelity: Fidelity = field(default_factory=Fidelity)
    """Sizes of images and of networks from a search space, and what a ranking by the curriculum will read."""

    def __post_init__(self) -> None:
        if self.meta.sample_learners in spaces.SPACES:
            self.make_space()
        elif self.fidelity.channels or self.fidelity.cells:
            raise ValueError(
                "fidelity.channels and fidelity.cells are sizes of a search space; name one as "
                "meta.sample-learners"
            )
        if self.fidelity.steps > self.teacher.inner_steps:
            raise ValueError(
                f"fidelity.steps is one of the {self.teacher.inner_steps} inner steps, not "
                f"{self.fidelity.steps}"
            )
        if self.meta.adjoint == "reversible" and self.teacher.optimizer != "sgd":
            raise ValueError(
                f"the adjoint 'reversible' can only reverse sgd, not {self.teacher.optimizer}; use "
                "'checkpointed'"
            )
        if self.meta.clip_learner and self.teacher.images == "real":
            raise ValueError(
                "meta.clip-learner is a length of gradients by synthetic images, and teacher.images real has "
                "none; leave one of them out"
            )
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative, but it is {self.seed}")

    def make_space(self) -> spaces.Space:
        """The search space that learners are drawn from, at its size here."""
        return self.fidelity.space(self.meta.sample_learners)

    def make_adjoint(self, device: torch.device) -> Adjoint:
        """The adjoint that the settings name, on that device."""
        meta = self.meta
        if meta.adjoint != "checkpointed":
            return Unrolled() if meta.adjoint == "unrolled" else Reversible()
        can = device.type == "cuda" and meta.architectures > 0
        steps = self.teacher.inner_steps * meta.outer_steps * meta.learners
        repaid = steps >= COMPILATION_STEPS * meta.architectures
        return Checkpointed(
            meta.block_size,
            graphs=meta.graphs == "on" or (meta.graphs == "auto" and can),
            compile=meta.compile == "on" or (meta.compile == "auto" and can and repaid),
            max_captured=max(8, meta.architectures),
        )


def _teacher_of_a_space(space: str, fidelity: Fidelity) -> RunConfig:
    """A teacher for ranking networks of a search space on two CPU cores: it begins as the curriculum
    cifar10-any, with a quarter of its learning rates, and goes on with a fixed pool of the space's networks,
    to bring them far and to put them in order. Validations and judgements take networks outside of the pool;
    the last teacher is the result, since the one that brings networks furthest need not rank best."""
    return RunConfig(
        dataset="cifar10",
        learner=LearnerConfig(channels=(16, 32), hidden=(), global_pool=True, norm="batch", pool="average"),
        teacher=TeacherConfig(
            inner_steps=16,
            batch_size=32,
            images="pixels",
            start="cifar10-any",
            start_lr_scale=0.25,
            labels="learned",
            optimizer="muadam",
        ),
        meta=MetaConfig(
            outer_steps=60,
            lr=0.01,
            real_batch=128,
            readout_every=16,
            learners=4,
            sample_learners=space,  # type: ignore[arg-type]
            sample_pool=48,
            clip_learner=1.0,
            rank_weight=0.5,
            valid_every=0,
            checkpoint_every=10,
        ),
        evaluation=EvaluationConfig(
            learners=3, real_lrs=(0.03, 0.1, 0.3), real_momenta=(0.9,), tuning_learners=1, transfer=0
        ),
        fidelity=fidelity,
    )


def _teacher_of_ordinary_networks(
    dataset: DatasetName,
    channels: tuple[int, ...],
    inner_steps: int,
    lr: float,
    fidelity: Fidelity | None = None,
) -> RunConfig:
    """A teacher for networks that it never met: taught by four ordinary ones per outer step, each clipped by
    itself, one draw in three the run's own, a network of those ``channels``. Its images begin as real ones,
    so that any network learns from them at once (docs/log.md)."""
    return RunConfig(
        dataset=dataset,
        learner=LearnerConfig(channels=channels, hidden=(64,), norm="batch", pool="average"),
        teacher=TeacherConfig(
            inner_steps=inner_steps,
            batch_size=32,
            images="pixels",
            start="real",
            labels="learned",
            optimizer="muadam",
            lr=0.01,
        ),
        meta=MetaConfig(
            outer_steps=300,
            lr=lr,
            clip_learner=0.2,
            learners=4,
            sample_learners="ordinary",
            real_batch=64,
            readout_every=max(2, inner_steps // 4),
            adjoint="unrolled",
            valid_every=50,
            valid_learners=10,
            checkpoint_every=25,
        ),
        fidelity=fidelity or Fidelity(),
    )


PRESETS: dict[str, RunConfig] = {
    "tiny": RunConfig(
        learner=LearnerConfig(channels=(8,), pool_after=(1,), hidden=(), norm="batch", pool="average"),
        teacher=TeacherConfig(inner_steps=4, batch_size=20, z_size=8, dense=16, channels=(16, 8), lr=0.1),
        meta=MetaConfig(outer_steps=20, lr=0.02, valid_every=10, checkpoint_every=10),
        evaluation=EvaluationConfig(
            learners=3, real_lrs=(0.1, 0.5), real_momenta=(0.5,), tuning_learners=2, transfer=0
        ),
    ),
    "digits": RunConfig(
        learner=LearnerConfig(channels=(32, 64), hidden=(64,), norm="batch", pool="average"),
        teacher=TeacherConfig(inner_steps=10, batch_size=32, z_size=64, dense=128, channels=(64, 32), lr=0.1),
        meta=MetaConfig(outer_steps=400, lr=0.007, valid_every=50, valid_learners=8, checkpoint_every=25),
    ),
    "digits-any": _teacher_of_ordinary_networks("digits", (32, 64), inner_steps=10, lr=0.01),
    "mnist-small": RunConfig(
        dataset="mnist",
        learner=LearnerConfig(channels=(16, 32), hidden=(64,), norm="batch", pool="average"),
        teacher=TeacherConfig(inner_steps=16, batch_size=40, z_size=64, dense=256, channels=(32, 16), lr=0.1),
        meta=MetaConfig(outer_steps=1000, lr=0.01, readout_every=4, checkpoint_every=25),
    ),
    "mnist-any": _teacher_of_ordinary_networks("mnist", (16, 32), inner_steps=32, lr=0.02),
    "mnist-paper": RunConfig(dataset="mnist", learner=MNIST_LEARNER),
    "cifar10-tiny": RunConfig(
        dataset="cifar10",
        learner=LearnerConfig(channels=(8, 16), hidden=(), global_pool=True, norm="batch", pool="average"),
        teacher=TeacherConfig(inner_steps=4, batch_size=20, z_size=16, dense=32, channels=(16, 8), lr=0.1),
        meta=MetaConfig(
            outer_steps=20,
            lr=0.01,
            real_batch=64,
            readout_every=2,
            valid_every=10,
            valid_learners=2,
            checkpoint_every=10,
        ),
        evaluation=EvaluationConfig(
            learners=3,
            real_lrs=(0.03, 0.1, 0.3),
            real_momenta=(0.5, 0.9),
            tuning_learners=1,
            more=4,
            transfer=0,
        ),
    ),
    "cifar10-small": RunConfig(
        dataset="cifar10",
        learner=LearnerConfig(
            channels=(16, 32, 32, 64, 64),
            pool_after=(1, 3),
            hidden=(),
            global_pool=True,
            norm="batch",
            pool="average",
        ),
        teacher=TeacherConfig(
            inner_steps=16, batch_size=20, z_size=64, dense=256, channels=(64, 32), lr=0.05
        ),
        meta=MetaConfig(outer_steps=800, lr=0.01, real_batch=64, readout_every=4, checkpoint_every=25),
        evaluation=EvaluationConfig(
            learners=5,
            real_lrs=(0.01, 0.03, 0.1, 0.3, 1.0),
            real_momenta=(0.5, 0.9),
            tuning_learners=2,
            more=4,
        ),
    ),
    "cifar10-any": _teacher_of_ordinary_networks(
        "cifar10", (16, 32), inner_steps=16, lr=0.01, fidelity=Fidelity(image_size=16)
    ),
    "nas-201-cpu": _teacher_of_a_space(
        "nas-bench-201", Fidelity(channels=8, cells=1, image_size=16, valid_images=1000)
    ),
    "nas-macro-cpu": _teacher_of_a_space(
        "nas-bench-macro", Fidelity(channels=8, image_size=16, valid_images=1000)
    ),
    "cifar10-paper": RunConfig(
        dataset="cifar10",
        learner=CIFAR_LEARNER,
        teacher=TeacherConfig(inner_steps=128),
        meta=MetaConfig(lr=0.004, betas=(0.9, 0.9), eps=1e-5, real_batch=256, augment=True, readout_every=16),
        evaluation=EvaluationConfig(more=4),
    ),
}
