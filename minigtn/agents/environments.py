"""Classic control in torch: many episodes side by side, on any device, by the same equations as gymnasium's.

    env = CartPole()                            # or make("CartPole-v1"); CartPole(length=1.0) is another pole
    state = env.reset(64, torch.Generator())    # (64, S)
    state, reward, terminated = env.step(state, torch.ones(64, dtype=torch.long))
    observation = env.observe(state)            # (64, F), as gymnasium gives it

Sources of the equations: Barto, Sutton & Anderson 1983 (cart and pole), Sutton & Barto 1998 (acrobot, "book"
version), and for all the constants gymnasium's documentation; tests/test_agents_environments.py compares
every step with gymnasium.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Environment(ABC):
    """An environment with discrete actions, as functions of the states of n episodes. Its fields are its
    physics."""

    gym_id: ClassVar[str]
    """Its name in gymnasium."""
    limit: ClassVar[int]
    """Steps after which an episode is cut off."""
    n_actions: ClassVar[int]
    features: ClassVar[tuple[str, ...]]
    """Names of the F numbers of an observation."""
    scale: ClassVar[tuple[float, ...]]
    """Units in which synthetic states are learned (they stay within two of them) and the critic sees
    observations. Not their typical sizes: a policy leans on a feature the more, the larger it is in the
    states that taught it, so what matters gets large ones (docs/log.md)."""
    reward_scale: ClassVar[float]
    """Typical size of one reward."""
    actions: ClassVar[tuple[str, ...]]
    TAU: ClassVar[float]
    """Seconds per step."""

    @abstractmethod
    def reset(self, n: int, rng: torch.Generator) -> Tensor:
        """First states of n episodes, (n, S) float32 on the CPU."""

    @abstractmethod
    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``state`` (n, S), ``action`` (n,) integers -> next state (n, S), reward (n,), terminated (n,)
        bool."""

    def observe(self, state: Tensor) -> Tensor:
        """What a policy sees of states (n, S): (n, F)."""
        return state

    def gymnasium(self) -> Any:
        """The same environment, with the same physics, from gymnasium. ImportError without that package."""
        return self._with_physics(_gym().make(self.gym_id))

    def _with_physics(self, env: Any) -> Any:
        for f in dataclasses.fields(self):
            setattr(env.unwrapped, f.name, getattr(self, f.name))
        return env


@dataclass(frozen=True)
class CartPole(Environment):
    """CartPole-v1: push a cart left or right so that its pole stays up; +1 per step, 500 at most. The state
    is the observation."""

    gravity: float = 9.8
    """m/s^2."""
    length: float = 0.5
    """Half the length of the pole, m."""
    masspole: float = 0.1
    """kg."""
    masscart: float = 1.0
    """kg."""
    force_mag: float = 10.0
    """Of a push, N."""

    gym_id: ClassVar[str] = "CartPole-v1"
    limit: ClassVar[int] = 500
    n_actions: ClassVar[int] = 2
    features: ClassVar[tuple[str, ...]] = ("position", "velocity", "angle", "angular velocity")
    scale: ClassVar[tuple[float, ...]] = (0.5, 1.0, 1.5, 2.0)
    reward_scale: ClassVar[float] = 1.0
    actions: ClassVar[tuple[str, ...]] = ("left", "right")

    TAU: ClassVar[float] = 0.02
    MOST_ANGLE: ClassVar[float] = 12 * math.pi / 180
    MOST_POSITION: ClassVar[float] = 2.4

    def reset(self, n: int, rng: torch.Generator) -> Tensor:
        return 0.1 * torch.rand(n, 4, generator=rng) - 0.05

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, x_dot, theta, theta_dot = state.unbind(-1)
        cos = theta.cos()
        sin = theta.sin()
        mass = self.masspole + self.masscart
        moment = self.masspole * self.length / mass
        push = action.to(state.dtype) * (2 * self.force_mag / mass) - self.force_mag / mass
        push = torch.addcmul(push, theta_dot.square(), sin, value=moment)
        inertia = cos.square() * (-self.length * self.masspole / mass) + self.length * 4.0 / 3.0
        theta_acc = torch.addcmul(self.gravity * sin, cos, push, value=-1) / inertia
        x_acc = torch.addcmul(push, theta_acc, cos, value=-moment)
        state = state.add(torch.stack((x_dot, x_acc, theta_dot, theta_acc), -1), alpha=self.TAU)
        x, _, theta, _ = state.unbind(-1)
        terminated = (x.abs() > self.MOST_POSITION) | (theta.abs() > self.MOST_ANGLE)
        return state, torch.ones_like(x), terminated

    def _with_physics(self, env: Any) -> Any:
        super()._with_physics(env)
        inner = env.unwrapped
        inner.total_mass = self.masspole + self.masscart
        inner.polemass_length = self.masspole * self.length
        return env


@dataclass(frozen=True)
class Acrobot(Environment):
    """Acrobot-v1: swing a two-link arm up by a torque at the elbow; -1 per step until the tip is high, 500
    steps at most.

    The state is (angle of the first link, of the second against it, their velocities), in rad and rad/s."""

    LINK_LENGTH_1: float = 1.0
    """m."""
    LINK_MASS_1: float = 1.0
    """kg."""
    LINK_MASS_2: float = 1.0
    """kg."""

    gym_id: ClassVar[str] = "Acrobot-v1"
    limit: ClassVar[int] = 500
    n_actions: ClassVar[int] = 3
    features: ClassVar[tuple[str, ...]] = ("cos 1", "sin 1", "cos 2", "sin 2", "velocity 1", "velocity 2")
    scale: ClassVar[tuple[float, ...]] = (0.7, 0.7, 0.7, 0.7, 2.0, 4.0)
    reward_scale: ClassVar[float] = 1.0
    actions: ClassVar[tuple[str, ...]] = ("torque -1", "no torque", "torque +1")

    TAU: ClassVar[float] = 0.2
    CENTRE: ClassVar[float] = 0.5  # of mass, along either link
    MOMENT: ClassVar[float] = 1.0
    GRAVITY: ClassVar[float] = 9.8
    MOST_VELOCITY: ClassVar[tuple[float, float]] = (4 * math.pi, 9 * math.pi)

    def reset(self, n: int, rng: torch.Generator) -> Tensor:
        return 0.2 * torch.rand(n, 4, generator=rng) - 0.1

    def observe(self, state: Tensor) -> Tensor:
        first = state[:, 0]
        second = state[:, 1]
        return torch.stack(
            (first.cos(), first.sin(), second.cos(), second.sin(), state[:, 2], state[:, 3]), -1
        )

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torque = (action - 1).to(state.dtype)
        h = self.TAU
        k1 = self._slope(state, torque)
        k2 = self._slope(state + h / 2 * k1, torque)
        k3 = self._slope(state + h / 2 * k2, torque)
        k4 = self._slope(state + h * k3, torque)
        after = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles = (after[:, :2] + math.pi).remainder(2 * math.pi) - math.pi
        most = after.new_tensor(self.MOST_VELOCITY)
        after = torch.cat((angles, after[:, 2:].clamp(-most, most)), -1)
        terminated = -after[:, 0].cos() - (after[:, 0] + after[:, 1]).cos() > 1.0
        return after, terminated.to(state.dtype) - 1, terminated

    def _slope(self, state: Tensor, torque: Tensor) -> Tensor:
        """Time derivative of the state, (n, 4)."""
        m1 = self.LINK_MASS_1
        m2 = self.LINK_MASS_2
        l1 = self.LINK_LENGTH_1
        c = self.CENTRE
        g = self.GRAVITY
        theta1, theta2, speed1, speed2 = state.unbind(-1)
        cos2 = theta2.cos()
        sin2 = theta2.sin()
        d1 = m1 * c**2 + m2 * (l1**2 + c**2 + 2 * l1 * c * cos2) + 2 * self.MOMENT
        d2 = m2 * (c**2 + l1 * c * cos2) + self.MOMENT
        phi2 = m2 * c * g * (theta1 + theta2).sin()  # cos(angle - pi/2)
        turning = m2 * l1 * c * sin2
        phi1 = -turning * speed2 * (speed2 + 2 * speed1) + (m1 * c + m2 * l1) * g * theta1.sin() + phi2
        pull = torque + d2 / d1 * phi1 - turning * speed1.square() - phi2
        acc2 = pull / (m2 * c**2 + self.MOMENT - d2.square() / d1)
        acc1 = -(d2 * acc2 + phi1) / d1
        return torch.stack((speed1, speed2, acc1, acc2), -1)


@dataclass(frozen=True)
class Pendulum(Environment):
    """Pendulum-v1 with three torques (-2, 0, 2 N m) in place of the continuous one: swing up and stay; 200
    steps, cost per step.

    The state is (angle from upright, angular velocity), in rad and rad/s. Episodes never terminate before the
    limit."""

    g: float = 10.0
    """Gravity, m/s^2."""
    m: float = 1.0
    """Mass, kg."""
    l: float = 1.0
    """Length, m."""

    gym_id: ClassVar[str] = "Pendulum-v1"
    limit: ClassVar[int] = 200
    n_actions: ClassVar[int] = 3
    features: ClassVar[tuple[str, ...]] = ("cos", "sin", "angular velocity")
    scale: ClassVar[tuple[float, ...]] = (0.7, 0.7, 3.0)
    reward_scale: ClassVar[float] = 8.0
    actions: ClassVar[tuple[str, ...]] = ("torque -2", "no torque", "torque +2")

    TAU: ClassVar[float] = 0.05
    TORQUES: ClassVar[tuple[float, ...]] = (-2.0, 0.0, 2.0)
    MOST_VELOCITY: ClassVar[float] = 8.0

    def reset(self, n: int, rng: torch.Generator) -> Tensor:
        return (2 * torch.rand(n, 2, generator=rng) - 1) * torch.tensor([math.pi, 1.0])

    def observe(self, state: Tensor) -> Tensor:
        return torch.stack((state[:, 0].cos(), state[:, 0].sin(), state[:, 1]), -1)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        angle, speed = state.unbind(-1)
        torque = 2 * (action - 1).to(state.dtype)
        wrapped = (angle + math.pi).remainder(2 * math.pi) - math.pi
        cost = wrapped.square() + 0.1 * speed.square() + 0.001 * torque.square()
        pull = 3 * self.g / (2 * self.l) * angle.sin() + 3.0 / (self.m * self.l**2) * torque
        speed = (speed + self.TAU * pull).clamp(-self.MOST_VELOCITY, self.MOST_VELOCITY)
        return (
            torch.stack((angle + self.TAU * speed, speed), -1),
            -cost,
            torch.zeros_like(angle, dtype=torch.bool),
        )

    def gymnasium(self) -> Any:
        gym = _gym()
        space = gym.spaces.Discrete(len(self.TORQUES))
        return gym.wrappers.TransformAction(super().gymnasium(), lambda action: [self.TORQUES[action]], space)


ENVIRONMENTS: dict[str, type[Environment]] = {env.gym_id: env for env in (CartPole, Acrobot, Pendulum)}


def make(name: str, **physics: float) -> Environment:
    """The environment with gymnasium's ``name``, with other physics where given. ValueError for a name that
    is not here."""
    if name not in ENVIRONMENTS:
        raise ValueError(f"there is no environment {name!r} in torch; there are {', '.join(ENVIRONMENTS)}")
    return ENVIRONMENTS[name](**physics)


def _gym() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("judging an agent needs gymnasium: pip install 'minigtn[rl]'") from error
    return gymnasium
