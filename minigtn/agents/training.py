"""Meta-training a teacher of agents: real episodes in a first pass, the meta-gradient in a second.

curriculum = train(config, Path("runs/cartpole"))
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigtn.agents import config as purpose
from minigtn.agents.bandit import Bandit, BanditConfig, SumOfBanditLosses
from minigtn.agents.config import AgentConfig
from minigtn.agents.policies import Policy, SumOfImitations
from minigtn.agents.rollout import Episodes, Simulation, greedy, play, sampler, side_by_side
from minigtn.agents.surrogate import (
    Critic,
    InnerLoss,
    Lesson,
    PolicyGradient,
    advantages,
    meta_loss,
    readout_of,
    weights_at_readings,
)
from minigtn.agents.teacher import StateTeacher
from minigtn.inner.fixed_point import FixedPointOverflow
from minigtn.inner.optimizers import OPTIMIZERS
from minigtn.inner.training import Params, sgd
from minigtn.runs.files import Metrics, load_tensors, save_tensors
from minigtn.runs.interrupt import deferred_interrupt
from minigtn.runs.progress import progress_bar
from minigtn.runs.seeds import seed_for
from minigtn.runs.settings import from_dict, require_same, to_dict
from minigtn.teaching.curriculum import Curriculum

CRITIC_BATCH = 2048


class AgentTrainingDiverged(RuntimeError):
    """Too many non-finite meta-gradients in a row."""


@dataclass
class Progress:
    """Where a meta-training stands, beside the tensors."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_step: int = 0
    best_return: float = -math.inf
    env_steps: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class AgentTraining:
    """One meta-training: state, steps, checkpoint.

    Everything random in outer step i follows from (seed, i), so a run resumed from a checkpoint continues to
    the same bits, on the same kind of device and with the same number of threads. Time of an outer step:
    most of it is the ``env.limit`` steps of the ``readings * policies * episodes`` episodes side by side.
    Memory: those steps, and the adjoint's.
    """

    def __init__(
        self, config: AgentConfig, device: torch.device | str = "cpu", bandit: BanditConfig | None = None
    ) -> None:
        """With ``bandit`` the teacher is a synthetic environment (:mod:`minigtn.agents.bandit`) in place of
        ``config.teacher``'s states."""
        self.config = config
        self.device = torch.device(device)
        self.env = config.make_env()
        self.policy = Policy(config.policy, len(self.env.features), self.env.n_actions)
        self.adjoint = config.outer.make_adjoint()
        self.optimizer = OPTIMIZERS[config.teacher.optimizer]
        self.unit = self.env.reward_scale / (1 - config.outer.gamma)
        self.bandit = bandit
        self.teacher = self._new_teacher(0)
        self.inner: InnerLoss = (
            SumOfImitations(self.policy) if bandit is None else SumOfBanditLosses(self.policy)
        )
        self.critic = Critic(self.env.scale, seed_for(config.seed, purpose.CRITIC, 0)).to(self.device)
        self.learned = [p for p in self.teacher.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.learned, lr=config.outer.lr)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=config.outer.critic_lr)
        self.average = self._snapshot()
        self.best = self._snapshot()
        self.progress = Progress()

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.config.outer.outer_steps

    def fresh(self, purpose_: int, first: int, n: int) -> Params:
        """The weights of n fresh policies, stacked."""
        seeds = [seed_for(self.config.seed, purpose_, first + i) for i in range(n)]
        return self.policy.init(seeds, device=self.device)

    def _new_teacher(self, number: int) -> nn.Module:
        seed = seed_for(self.config.seed, purpose.TEACHER, number)
        if self.bandit is not None:
            return Bandit(self.bandit, self.env, seed).to(self.device)
        return StateTeacher(self.config.teacher, self.env, seed).to(self.device)

    def lesson(self, number: int) -> Lesson:
        """What the teacher hands out; a bandit draws other states for every ``number``."""
        return self.teacher(number) if isinstance(self.teacher, Bandit) else self.teacher()

    def episodes_of(self, kept: list[Params]) -> Episodes:
        """The first pass's episodes: of R readings of M policies, N each, actions sampled; R*M*N side by
        side."""
        outer = self.config.outer
        rng = torch.Generator().manual_seed(seed_for(self.config.seed, purpose.EPISODES, self.progress.step))
        here = torch.Generator(self.device).manual_seed(int(torch.randint(2**62, (), generator=rng)))
        params = {name: torch.cat([at[name] for at in kept]) for name in kept[0]}
        n_policies = len(params["0.weight"])
        running = Simulation(self.env, n_policies * outer.episodes, rng, self.device)
        logits = side_by_side(self.policy, params, n_policies)
        return play(
            running, sampler(lambda observation: outer.sharpness * logits(observation), here), self.env.limit
        )

    def begin(self) -> None:
        """Before the first outer step: the best of ``outer.tries`` untrained teachers takes this one's
        place."""
        outer = self.config.outer
        params = self.fresh(purpose.POLICY, 0, outer.policies)
        states = []
        taught = []
        for number in range(outer.tries):
            self.teacher.load_state_dict(self._new_teacher(number).state_dict())
            states.append(self._snapshot())
            taught += weights_at_readings(
                self.inner, params, self.lesson(0), self.config.teacher.inner_steps, self.optimizer
            )
        episodes = self.episodes_of(taught)
        self.progress.env_steps += episodes.steps()
        best = episodes.returns().view(outer.tries, -1).mean(1).argmax()
        self.teacher.load_state_dict(states[int(best)])
        self.best = self._snapshot()

    def outer_step(self) -> dict[str, Any]:
        """One update of the teacher, unless the meta-gradient is not finite, and of the critic. Returns the
        record for the metrics."""
        outer = self.config.outer
        progress = self.progress
        if progress.step == 0 and outer.tries > 1:
            self.begin()
        params = self.fresh(purpose.POLICY, progress.step * outer.policies, outer.policies)
        lesson = self.lesson(progress.step)
        kept = weights_at_readings(self.inner, params, lesson, self.config.every, self.optimizer)
        episodes = self.episodes_of(kept)
        done = self._done()
        advantage, targets = advantages(episodes, self.critic, done, outer.gamma, outer.gae_lambda, self.unit)
        surrogate = PolicyGradient(self.policy, outer.entropy, outer.sharpness)
        readout = readout_of(
            surrogate, episodes, advantage, self.config.readings, outer.policies, self.config.every
        )
        self.adam.zero_grad()
        try:
            loss = meta_loss(self.inner, params, lesson, readout, self.adjoint, self.optimizer)
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(self.learned, outer.clip_norm or math.inf))
        except FixedPointOverflow:  # the adjoint Reversible meets what the others see as infinity
            norm = math.nan
        lr = outer.lr * (
            outer.final_lr
            + (1 - outer.final_lr) * 0.5 * (1 + math.cos(math.pi * progress.step / outer.outer_steps))
        )
        if math.isfinite(norm):
            progress.skipped_in_a_row = 0
            self.adam.param_groups[0]["lr"] = lr
            self.adam.step()
        else:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        error = self._fit_critic(episodes, done, targets)
        progress.step += 1
        self._move_average()
        progress.env_steps += episodes.steps()
        returns = episodes.returns().view(self.config.readings, outer.policies, outer.episodes)
        return {
            "step": progress.step,
            "return": returns[-1].mean().item(),
            "returns": [round(value, 3) for value in returns.mean((1, 2)).tolist()],
            "worst_policy": returns[-1].mean(1).min().item(),
            "grad_norm": norm,
            "outer_lr": lr,
            "critic_error": error,
            "env_steps": progress.env_steps,
            "skipped": progress.skipped,
        }

    def _move_average(self) -> None:
        """The teacher as it is now joins the average, which is corrected for its start as in Adam."""
        decay = self.config.outer.averaging
        share = (1 - decay) / (1 - decay**self.progress.step)
        for name, now in self.teacher.state_dict().items():
            self.average[name].lerp_(now, share)

    def _done(self) -> Tensor:
        """For each of the episodes side by side, the part of the inner run that its policy has behind it."""
        steps = self.config.teacher.inner_steps
        after = [min((r + 1) * self.config.every, steps) / steps for r in range(self.config.readings)]
        return torch.tensor(after, device=self.device).repeat_interleave(
            self.config.outer.policies * self.config.outer.episodes
        )

    def _fit_critic(self, episodes: Episodes, done: Tensor, targets: Tensor) -> float:
        """A few steps towards the targets; the mean squared error before the last one."""
        outer = self.config.outer
        counts = episodes.alive.flatten().nonzero().squeeze(1)
        observations = episodes.observations.flatten(0, 1)
        wanted = targets.flatten()
        progress = done.expand(targets.shape).flatten()
        rng = torch.Generator().manual_seed(seed_for(self.config.seed, purpose.FIT, self.progress.step))
        for _ in range(outer.critic_steps):
            some = counts[torch.randint(len(counts), (CRITIC_BATCH,), generator=rng).to(self.device)]
            loss = F.mse_loss(self.critic(observations[some], progress[some]), wanted[some])
            self.critic_adam.zero_grad()
            loss.backward()
            self.critic_adam.step()
        return loss.item()

    @torch.no_grad()
    def validate(self) -> float:
        """Mean return of fresh policies after the last inner step of the averaged teacher, greedy; keeps that
        teacher if it is the best so far."""
        outer = self.config.outer
        x, y, lr, momentum = torch.func.functional_call(self.teacher, self.average, ())
        params = self.fresh(purpose.VALIDATION, 0, outer.valid_policies)
        taught = sgd(self.inner, params, (x, y), lr, momentum, optimizer=self.optimizer)
        rng = torch.Generator().manual_seed(seed_for(self.config.seed, purpose.VALIDATION_EPISODES, 0))
        running = Simulation(self.env, outer.valid_policies * outer.valid_episodes, rng, self.device)
        episodes = play(
            running, greedy(side_by_side(self.policy, taught, outer.valid_policies)), self.env.limit
        )
        value = episodes.returns().mean().item()
        if value >= self.progress.best_return:
            self.progress.best_return = value
            self.progress.best_step = self.progress.step
            self.best = {name: tensor.clone() for name, tensor in self.average.items()}
        return value

    def run(self, folder: Path) -> None:
        """All outer steps that are left, with progress bar, metrics and checkpoints (also on Ctrl-C, which
        then raises).

        Raises AgentTrainingDiverged."""
        outer = self.config.outer
        progress = self.progress
        before = (progress.seconds, progress.cpu_seconds)
        started = (time.monotonic(), time.process_time())
        metrics = Metrics(folder / "metrics.jsonl", progress.step)
        bar = progress_bar(
            total=outer.outer_steps, initial=progress.step, desc="outer steps", unit="step", smoothing=0.05
        )
        try:
            with deferred_interrupt() as interrupted:
                while not self.finished and not interrupted.is_set():
                    record = self.outer_step()
                    if self.finished or progress.step % outer.valid_every == 0:
                        record["valid_return"] = self.validate()
                    progress.seconds = before[0] + time.monotonic() - started[0]
                    progress.cpu_seconds = before[1] + time.process_time() - started[1]
                    metrics.write({**record, "seconds": round(progress.seconds, 3)})
                    bar.set_postfix(
                        {"return": f"{record['return']:.1f}", "best": f"{progress.best_return:.1f}"},
                        refresh=False,
                    )
                    bar.update()
                    diverged = progress.skipped_in_a_row >= outer.max_skipped
                    if (
                        self.finished
                        or interrupted.is_set()
                        or diverged
                        or progress.step % outer.checkpoint_every == 0
                    ):
                        self.save_checkpoint(folder)
                    if diverged:
                        raise AgentTrainingDiverged(
                            f"{progress.skipped_in_a_row} meta-gradients in a row were not finite (outer "
                            f"step {progress.step}): lower outer.lr or the initial teacher.lr"
                        )
        finally:
            bar.close()
            metrics.close()

    def result(self) -> Curriculum:
        """The curriculum of the best teacher on validation episodes, on the CPU. ValueError for a bandit,
        which has none."""
        if not isinstance(self.teacher, StateTeacher):
            raise ValueError(
                "a synthetic environment hands out rewards, not action probabilities: it has no curriculum"
            )
        about = {"config": to_dict(self.config), "outer_steps_taken": self.progress.best_step}
        return self.teacher.curriculum(self.env, about, self.best).to("cpu")

    # ---- checkpoints ----

    def save_checkpoint(self, folder: Path) -> None:
        """Teacher, its average, best teacher, critic, both optimizers' moments and the progress."""
        tensors = {f"best/{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        for kind, part in (("teacher", self.teacher), ("critic", self.critic)):
            tensors |= {f"{kind}/{name}": tensor for name, tensor in part.state_dict().items()}
        for kind, adam in (("adam", self.adam), ("critic-adam", self.critic_adam)):
            for i, state in adam.state_dict()["state"].items():
                tensors |= {f"{kind}/{i}/{name}": value for name, value in state.items()}
        about = {
            "config": to_dict(self.config),
            "progress": {**vars(self.progress), "best_return": repr(self.progress.best_return)},
        }
        save_tensors(folder / "checkpoint.safetensors", tensors, about, self.progress.step)

    def load_checkpoint(self, folder: Path) -> None:
        """Continue from ``folder``. ValueError in one sentence where a file is unreadable or belongs to
        another config."""
        path = folder / "checkpoint.safetensors"
        tensors, about = load_tensors(path)
        require_same(from_dict(AgentConfig, about["config"]), self.config, path)
        modules: dict[str, dict[str, Tensor]] = {"best": {}, "average": {}, "teacher": {}, "critic": {}}
        adams: dict[str, dict[int, dict[str, Tensor]]] = {"adam": {}, "critic-adam": {}}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition("/")
            if kind in adams:
                i, _, name = rest.partition("/")
                adams[kind].setdefault(int(i), {})[name] = (
                    tensor if name == "step" else tensor.to(self.device)
                )
            else:
                modules[kind][rest] = tensor.to(self.device)
        self.best = modules["best"]
        self.average = modules["average"]
        self.teacher.load_state_dict(modules["teacher"])
        self.critic.load_state_dict(modules["critic"])
        for adam, state in zip((self.adam, self.critic_adam), adams.values(), strict=True):
            adam.load_state_dict({"state": state, "param_groups": adam.state_dict()["param_groups"]})
        saved = about["progress"]
        self.progress = Progress(**{**saved, "best_return": float(saved["best_return"])})

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.teacher.state_dict().items()}
