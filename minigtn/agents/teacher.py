"""The teacher of agents: T batches of synthetic states with action probabilities, and the inner step sizes,
all learned.

The pieces are those of :class:`minigtn.teaching.teacher.Teacher`: its learned pixels (here: learned states,
within two ``scale`` of 0), learned soft labels (here: action probabilities), and step sizes. Departures:
states may begin near 0, and a small dense generator can stand between learned vectors and states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minigtn.agents.environments import Environment
from minigtn.teaching.curriculum import Curriculum
from minigtn.teaching.teacher import Teacher, TeacherConfig

CONFIDENCE = 2.0
"""Action probabilities start as softmax(CONFIDENCE * one-hot): .88 for one of two actions. From evenly
divided ones a teacher learns slowly."""


@dataclass(frozen=True)
class StatesConfig:
    """What the teacher shows."""

    inner_steps: int = 10
    """T: batches in the curriculum, one per inner step."""
    batch_size: int = 16
    """B: synthetic states in one batch."""
    spread: float = 1.0
    """States that are learned one by one begin as normal numbers times this, before ``2 tanh``, in units of
    the environment's ``scale``. Where episodes begin near 0, small ones: large states leave a policy what its
    random weights prefer at 0 (docs/log.md)."""
    states: Literal["learned", "generator"] = "learned"
    """States learned one by one, or made by a dense generator from learned vectors."""
    learn_states: bool = True
    """Whether states and action probabilities are learned, or stay as they were drawn, so that only step
    sizes are learned."""
    z_size: int = 8
    """Length of the generator's input vectors."""
    width: int = 32
    """Of the generator's hidden layer."""
    optimizer: Literal["sgd", "adam", "rmsprop"] = "sgd"
    """The policy's optimizer; its momentum is Adam's beta1."""
    lr: float = 0.5
    """Initial inner learning rate, learned per step within (1e-4, 10) on a logarithmic scale."""
    momentum: float = 0.5
    """Initial inner momentum, learned per step within (0, 0.99)."""

    def __post_init__(self) -> None:
        if min(self.z_size, self.width) < 1:
            raise ValueError(
                f"a generator needs z_size and width of at least 1; given {self.z_size} and {self.width}"
            )
        if not 0 < self.spread < math.inf:
            raise ValueError(f"teacher.spread must be positive and finite, not {self.spread}")
        self.parts()

    def parts(self) -> TeacherConfig:
        """The pieces, as :class:`minigtn.teaching.teacher.Teacher` knows them. ValueError for what those do
        not allow."""
        return TeacherConfig(
            inner_steps=self.inner_steps,
            batch_size=self.batch_size,
            images="pixels",
            labels="learned",
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
        )


class StateTeacher(nn.Module):
    """``x, y, lr, momentum = teacher()``: states x (T, B, F) as the environment gives them, action
    probabilities y (T, B, K), lr and momentum (T,). Its parameters are the outer loop's ``theta``."""

    scale: Tensor

    def __init__(self, config: StatesConfig, env: Environment, seed: int) -> None:
        super().__init__()
        self.config = config
        n_features = len(env.features)
        self.register_buffer("scale", torch.tensor(env.scale), persistent=False)
        size = n_features if config.states == "learned" else config.z_size
        self.parts = Teacher(config.parts(), (size,), env.n_actions, seed)
        with torch.no_grad():
            self.parts.y_raw.copy_(CONFIDENCE * self.parts.classes)
            if config.states == "learned":
                self.parts.pixels.mul_(config.spread)
        self.generator: nn.Module = nn.Identity()
        if config.states == "generator":
            with torch.random.fork_rng([]):
                torch.manual_seed(seed)
                inner = nn.Linear(size + env.n_actions, config.width)
                self.generator = nn.Sequential(inner, nn.LeakyReLU(0.1), nn.Linear(config.width, n_features))
        if not config.learn_states:
            for name, p in self.named_parameters():
                p.requires_grad_(name.rpartition(".")[2] in ("lr_raw", "momentum_raw"))

    def forward(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, y, lr, momentum, _ = self.parts()
        if self.config.states == "generator":
            x = 2 * torch.tanh(self.generator(torch.cat([x, y], -1)))
        return x * self.scale, y, lr, momentum

    def curriculum(
        self, env: Environment, provenance: dict[str, Any], state: dict[str, Tensor] | None = None
    ) -> Curriculum:
        """What the teacher shows now, or would in another ``state``: raw observations, so that its
        standardization does nothing."""
        with torch.no_grad():
            x, y, lr, momentum = torch.func.functional_call(self, state or {}, ())
        zeros = (0.0,) * len(env.features)
        ones = (1.0,) * len(env.features)
        tensors = (x.detach(), y.detach(), lr.detach(), momentum.detach())
        return Curriculum(*tensors, env.actions, zeros, ones, provenance, self.config.optimizer)
