"""Every setting of a run that teaches agents, with its only default."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from minigtn.agents.environments import ENVIRONMENTS, Environment, make
from minigtn.agents.policies import PolicyConfig
from minigtn.agents.teacher import StatesConfig
from minigtn.inner.adjoints import Adjoint, Checkpointed, Reversible, Unrolled
from minigtn.runs.settings import at_least

# Purposes of seeds (minigtn.config.seed_for), beside those of other runs.
TEACHER = 201
CRITIC = 202
POLICY = 203
EPISODES = 204
FIT = 205
VALIDATION = 206
VALIDATION_EPISODES = 207
JUDGED = 208
JUDGED_EPISODES = 209


@dataclass(frozen=True)
class OuterConfig:
    """The outer loop: Adam on the teacher, through the surrogate of the return."""

    outer_steps: int = 200
    """Updates of the teacher."""
    lr: float = 0.03
    """Adam's learning rate at the first outer step; it falls along a cosine."""
    final_lr: float = 0.1
    """Where the cosine ends, as a fraction of lr."""
    averaging: float = 0.0
    """The teacher that is validated and kept is a mean of those after each outer step so far, where each
    counts this much less than the next (Polyak & Juditsky 1992, exponentially weighted); 0: the last
    alone."""
    clip_norm: float = 0.1
    """The meta-gradient is scaled down to this norm where it is longer; 0 never clips."""
    tries: int = 16
    """Untrained teachers of which the best, by the return of the policies that it teaches, is where
    meta-training begins. More than 1 where rewards are sparse: as long as no policy ever reaches a goal,
    there is no gradient."""
    policies: int = 16
    """Fresh policies per outer step, taught side by side."""
    episodes: int = 4
    """Real episodes that each of them plays at each reading."""
    readout_every: int = 0
    """Inner steps between two readings; 0 reads after the last step only."""
    gamma: float = 0.99
    """Discount of later rewards, in the surrogate alone: what is judged is the undiscounted return."""
    gae_lambda: float = 1.0
    """How far advantages look ahead before they trust the critic; 1: to the end."""
    entropy: float = 0.0
    """Bonus for undecided policies: keeps exploration alive."""
    sharpness: float = 1.0
    """Logits are multiplied by this where actions are drawn for the outer loss. Policies are judged greedily:
    more than 1 brings what is learned nearer to that, and explores less."""
    critic_lr: float = 0.003
    """Adam's learning rate of the critic."""
    critic_steps: int = 8
    """Updates of the critic per outer step, each on 2,048 of the states just visited."""
    adjoint: Literal["unrolled", "checkpointed", "reversible"] = "unrolled"
    """How the inner loop is differentiated; the meta-gradient is the same."""
    valid_every: int = 20
    """Outer steps between two validations; the teacher that does best there is the result."""
    valid_policies: int = 16
    """Fresh policies per validation."""
    valid_episodes: int = 8
    """Greedy episodes of each of them."""
    checkpoint_every: int = 20
    """Outer steps between two checkpoints."""
    max_skipped: int = 20
    """Non-finite meta-gradients in a row after which the run stops."""

    def __post_init__(self) -> None:
        counts = ("outer_steps", "tries", "policies", "critic_steps", "valid_every", "valid_policies",
                  "valid_episodes", "checkpoint_every", "max_skipped")  # fmt: skip
        at_least(self, "outer.", **dict.fromkeys(counts, 1) | {"episodes": 2, "readout_every": 0})
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"outer.{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"outer.averaging must be in [0, 1), not {self.averaging}")
        if self.gamma == 1:
            raise ValueError("outer.gamma must be below 1: values are learned in units of 1 / (1 - gamma)")
        for name in ("lr", "critic_lr", "sharpness"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"outer.{name} must be positive and finite, not {getattr(self, name)}")
        if (
            not 0 <= self.final_lr <= 1
            or not 0 <= self.clip_norm < math.inf
            or not 0 <= self.entropy < math.inf
        ):
            raise ValueError(
                "outer.final_lr must be in [0, 1], clip_norm and entropy finite and not negative; "
                f"given {self.final_lr}, {self.clip_norm}, {self.entropy}"
            )

    def make_adjoint(self) -> Adjoint:
        """The adjoint that the settings name."""
        return {"unrolled": Unrolled(), "checkpointed": Checkpointed(), "reversible": Reversible()}[
            self.adjoint
        ]


@dataclass(frozen=True)
class JudgeConfig:
    """The final judgement, through gymnasium itself."""

    policies: int = 20
    """Fresh policies, with seeds that meta-training never used."""
    episodes: int = 100
    """Greedy episodes of each of them, from starts that it never used."""

    def __post_init__(self) -> None:
        if self.policies < 2 or self.episodes < 1:
            raise ValueError(
                f"a judgement needs 2 policies and 1 episode, or more; given {self.policies}, {self.episodes}"
            )


@dataclass(frozen=True)
class AgentConfig:
    """One run: a teacher of agents meta-trained on an environment, and its judgement."""

    env: Literal["CartPole-v1", "Acrobot-v1", "Pendulum-v1"] = "CartPole-v1"
    """The environment. Pendulum-v1 has three torques here, -2, 0 and 2."""
    seed: int = 0
    """Everything random follows from it."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The network that is taught."""
    teacher: StatesConfig = field(default_factory=StatesConfig)
    """What it is taught with."""
    outer: OuterConfig = field(default_factory=OuterConfig)
    """The outer loop."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """The final judgement."""

    def __post_init__(self) -> None:
        if self.env not in ENVIRONMENTS:
            raise ValueError(f"there is no environment {self.env!r}; there are {', '.join(ENVIRONMENTS)}")
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative, but it is {self.seed}")
        if self.outer.adjoint == "reversible" and self.teacher.optimizer != "sgd":
            raise ValueError(
                f"the adjoint 'reversible' can only reverse sgd, not {self.teacher.optimizer}; use 'unrolled'"
            )

    def make_env(self) -> Environment:
        """The environment in torch, with the standard physics."""
        return make(self.env)

    @property
    def every(self) -> int:
        """Inner steps between two readings."""
        return self.outer.readout_every or self.teacher.inner_steps

    @property
    def readings(self) -> int:
        """Readings in one inner run."""
        return math.ceil(self.teacher.inner_steps / self.every)


PRESETS: dict[str, AgentConfig] = {
    "CartPole-v1": AgentConfig(
        teacher=StatesConfig(batch_size=64, spread=0.1),
        outer=OuterConfig(
            outer_steps=110,
            averaging=0.95,
            tries=64,
            policies=64,
            episodes=2,
            gamma=0.995,
            sharpness=2.0,
            valid_every=10,
            valid_policies=2048,
            valid_episodes=1,
        ),
    ),
    "Acrobot-v1": AgentConfig(
        env="Acrobot-v1",
        policy=PolicyConfig((64,)),
        teacher=StatesConfig(inner_steps=16, spread=0.1),
        outer=OuterConfig(outer_steps=150, tries=64, gamma=0.98, sharpness=2.0, valid_policies=32),
    ),
    "Pendulum-v1": AgentConfig(env="Pendulum-v1"),
}
"""Settings to start from, by environment."""
