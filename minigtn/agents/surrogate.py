"""The outer loss of a taught agent: a surrogate whose gradient by the policy's weights is the policy
gradient, as a ``Readout``.

The return of real episodes cannot be differentiated by the weights; its expectation can (Williams 1992,
REINFORCE):

    d E[return] = E[ sum_t  A_t  d log pi(a_t | s_t) ]

So episodes are played in a first pass, without gradient, by the weights that the inner loop has at each
reading. Observations, actions and advantages A_t are then constants of the loss ``-mean(A log pi) -
entropy_bonus * mean(H)``, which the same inner run, differentiated in a second pass, reads at the same
places. All that is left to the adjoint is an ordinary readout, so every adjoint works.

Advantages are those of Schulman et al. 2016 (arXiv 1506.02438), from a learned critic that is told how far
the inner run is; they are standardized over each reading's steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigtn.agents.policies import Policy
from minigtn.agents.rollout import Episodes
from minigtn.inner.adjoints import Adjoint, Unrolled
from minigtn.inner.optimizers import Optimizer
from minigtn.inner.training import Params, Readout, sgd

Lesson = tuple[Tensor, Tensor, Tensor, Tensor]
"""What a teacher hands out: states x (T, B, F), what it says of their actions y (T, B, K), lr (T,), momentum
(T,)."""
InnerLoss = Callable[[Params, Sequence[Tensor]], Tensor]
"""What stacked policies are trained with: ``SumOfImitations`` or ``SumOfBanditLosses``."""


@dataclass(frozen=True)
class PolicyGradient:
    """``loss(params, batch)``: the surrogate of M stacked policies, a scalar; its gradient is that of their
    mean.

    ``batch``: observations (M, N, F), actions (M, N) integers, weights (M, N): advantages over the number of
    steps that were played, 0 for padding; and shares (M, N): 1 over that number, 0 for padding.
    """

    policy: Policy
    entropy: float = 0.0
    sharpness: float = 1.0
    """Of the policy that acted: it drew its actions from softmax(sharpness * logits)."""

    def __call__(self, params: Params, batch: Sequence[Tensor]) -> Tensor:
        observations, actions, weights, shares = batch
        log_p = F.log_softmax(self.sharpness * self.policy(params, observations), -1)
        chosen = log_p.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        loss = -(weights * chosen).sum()
        if self.entropy:
            loss = loss + self.entropy * (shares * (log_p.exp() * log_p).sum(-1)).sum()
        return loss


class Critic(nn.Module):
    """``critic(observations (..., F), progress (...)) -> values (...)``, in units of about one: what a policy
    of that ``progress``, the part of the inner run that is done, will earn from there."""

    scale: Tensor

    def __init__(self, scale: Sequence[float], seed: int, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(len(scale) + 1, width),
                nn.Tanh(),
                nn.Linear(width, width),
                nn.Tanh(),
                nn.Linear(width, 1),
            )

    def forward(self, observations: Tensor, progress: Tensor) -> Tensor:
        return self.layers(torch.cat([observations / self.scale, progress.unsqueeze(-1)], -1)).squeeze(-1)


def weights_at_readings(
    inner: InnerLoss, params: Params, lesson: Lesson, every: int, optimizer: Optimizer | None = None
) -> list[Params]:
    """The first pass: the weights of M stacked policies after inner steps ``every``, 2 * ``every``, ... and
    the last, without gradient."""
    kept: list[Params] = []

    def keep(params: Params, batch: Sequence[Tensor]) -> Tensor:
        kept.append(params)
        return batch[0]

    x, y, lr, momentum = lesson
    nothing = x.new_zeros(math.ceil(len(x) / every))
    with torch.no_grad():
        sgd(inner, params, (x, y), lr, momentum, Unrolled(), Readout(keep, (nothing,), every), optimizer)
    return kept


@torch.no_grad()
def advantages(
    episodes: Episodes, critic: Critic, progress: Tensor, gamma: float, lam: float, unit: float
) -> tuple[Tensor, Tensor]:
    """Advantages and the critic's targets, both (L, n), in ``unit``s of return; 0 after an episode's end.

    ``progress`` (n,). An episode that was cut off at the limit counts as going on: its last value is the
    critic's.
    """
    values = critic(episodes.observations, progress.expand(episodes.alive.shape))
    after = critic(episodes.last, progress) * ~episodes.terminated
    goes_on = torch.cat([episodes.alive[1:], torch.zeros_like(episodes.alive[:1])])
    ahead = torch.where(goes_on > 0, values.roll(-1, 0), after)
    delta = (episodes.rewards / unit + gamma * ahead - values) * episodes.alive
    keep = gamma * lam * goes_on
    advantage = torch.empty_like(values)
    following = torch.zeros_like(after)
    for t in reversed(range(len(values))):
        following = torch.addcmul(delta[t], keep[t], following)
        advantage[t] = following
    return advantage, (advantage + values) * episodes.alive


def standardize(advantage: Tensor, alive: Tensor) -> Tensor:
    """Advantages (L, n) with mean 0 and standard deviation 1 over the steps that count; 0 elsewhere."""
    steps = alive.sum()
    centred = (advantage - (advantage * alive).sum() / steps) * alive
    return centred / (centred.square().sum() / steps).sqrt().clamp(min=1e-8)


def readout_of(
    loss: PolicyGradient, episodes: Episodes, advantage: Tensor, readings: int, n_policies: int, every: int
) -> Readout:
    """The second pass's readout: ``episodes`` (n = readings * M * N of them, in this order) as R batches of M
    stacked policies.

    ``advantage`` (L, n), raw: each reading is standardized by itself, over all of its policies, and is a mean
    over its steps.
    """
    length = len(advantage)

    def by_reading(x: Tensor) -> Tensor:
        """(L, R*M*N, ...) -> (R, M, N*L, ...)."""
        parts = x.reshape(length, readings, n_policies, -1, *x.shape[2:])
        return parts.permute(1, 2, 3, 0, *range(4, parts.dim())).flatten(2, 3)

    weights = torch.empty_like(advantage)
    shares = torch.empty_like(advantage)
    for own in torch.arange(advantage.shape[1], device=advantage.device).chunk(readings):
        alive = episodes.alive[:, own]
        weights[:, own] = standardize(advantage[:, own], alive) / alive.sum()
        shares[:, own] = alive / alive.sum()
    batches = tuple(by_reading(part) for part in (episodes.observations, episodes.actions, weights, shares))
    return Readout(loss, batches, every)


def meta_loss(
    inner: InnerLoss,
    params: Params,
    lesson: Lesson,
    readout: Readout,
    adjoint: Adjoint,
    optimizer: Optimizer | None = None,
) -> Tensor:
    """The second pass: teach M stacked policies, mean of the readings; differentiable into all of the lesson,
    a scalar."""
    x, y, lr, momentum = lesson
    _, readings = sgd(inner, params, (x, y), lr, momentum, adjoint, readout, optimizer)
    return readings.mean()
