"""The outer loop: Adam on the teacher, through the meta-gradient of whole training runs.

Source: Such et al. 2019 (arXiv 1912.07768), algorithm 1, with the intermediate losses and the cosine schedule
of the authors' code. Departures: a guard for non-finite meta-gradients, clipping by norm, and the teacher
that did best on validation data is the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minigtn.config import RunConfig
from minigtn.data import Dataset
from minigtn.inner.fixed_point import FixedPointOverflow
from minigtn.outer.evaluate import taught_curves
from minigtn.outer.meta_gradient import MetaGradient, curriculum_of, learner_for
from minigtn.runs.distributed import ALONE, WorkerLost, Workers
from minigtn.runs.files import Metrics, load_tensors, save_tensors
from minigtn.runs.interrupt import deferred_interrupt
from minigtn.runs.progress import progress_bar
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import from_dict, require_same, to_dict
from minigtn.teaching.curriculum import Curriculum
from minigtn.teaching.generator import generate_whole
from minigtn.teaching.teacher import Teacher


class MetaTrainingDiverged(RuntimeError):
    """Too many non-finite meta-gradients in a row."""


@dataclass
class MetaProgress:
    """Where a meta-training stands, beside the tensors."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_step: int = 0
    best_accuracy: float = -1.0
    seconds: float = 0.0


class OuterStep(NamedTuple):
    """What one outer step has to tell: a line of ``metrics.jsonl``, and whether to stop."""

    step: int
    """From 1."""
    meta_loss: float
    grad_norm: float
    """Before clipping."""
    outer_lr: float
    skipped: int
    """Steps so far whose meta-gradient was not finite."""
    stop: bool
    """Whether any worker was interrupted, on which all agree."""
    in_order: float | None = None
    """Where the outer loss ranks networks: the fraction of the step's pairs that are read in the right
    order."""

    def record(self) -> dict[str, Any]:
        record = self._asdict()
        del record["stop"]
        if self.in_order is None:
            del record["in_order"]
        return record


class MetaTraining:
    """One meta-training: state, steps, checkpoint. ``run`` does it all; the result is ``best``, a Teacher
    state.

    Everything random in outer step i follows from (seed, i), so a run resumed from a checkpoint continues to
    the same bits, on the same kind of device and with the same number of threads.
    """

    def __init__(self, config: RunConfig, data: Dataset, workers: Workers = ALONE) -> None:
        if config.meta.learners < workers.size:
            raise ValueError(
                f"{workers.size} workers share the meta.learners = {config.meta.learners} of an outer step; "
                "give at least as many"
            )
        self.config = config
        self.data = data
        self.workers = workers
        self.meta_gradient = MetaGradient(config, data)
        real = data.train if config.teacher.needs_real else None
        seed = seed_for(config.seed, Purpose.TEACHER, 0)
        dtype = data.train.x.dtype
        teacher = Teacher(config.teacher, data.image_shape, data.n_classes, seed, dtype, real)
        self.teacher = teacher.to(data.train.x.device)
        if getattr(self.meta_gradient.adjoint, "compile", False) and data.train.x.is_cuda:
            self.teacher.whole = torch.compile(generate_whole, fullgraph=True, dynamic=False)
        self.adam = torch.optim.Adam(
            self.teacher.parameters(), lr=config.meta.lr, betas=config.meta.betas, eps=config.meta.eps
        )
        self.best = self._snapshot()
        self.progress = MetaProgress()

    def catch_up(self, folder: Path) -> None:
        """Go on where the folder's checkpoint left off, if there is one."""
        if (folder / "checkpoint.safetensors").exists():
            self.load_checkpoint(folder)

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.config.meta.outer_steps

    def outer_step(self, interrupted: Callable[[], bool] = lambda: False) -> OuterStep:
        """One update of the teacher, unless the meta-gradient is not finite."""
        meta = self.config.meta
        progress = self.progress
        cosine = 0.5 * (1 + math.cos(math.pi * progress.step / meta.outer_steps))
        lr = meta.lr * (meta.final_lr + (1 - meta.final_lr) * cosine)
        mine = self.workers.share(meta.learners)
        theta = list(self.teacher.parameters())
        for p in theta:
            p.grad = torch.zeros_like(p)
        try:
            loss = self.meta_gradient.add(self.teacher, progress.step, mine, self.workers.sum_)
        except FixedPointOverflow:  # the adjoint Reversible meets what the others see as infinity
            loss = theta[0].new_tensor(math.nan)
        flags = torch.stack([loss, torch.full_like(loss, float(interrupted()))])
        self.workers.sum_([*(p.grad for p in theta if p.grad is not None), flags])
        norm = torch.nn.utils.clip_grad_norm_(theta, meta.clip_norm or math.inf)
        # the only time the host waits for the device
        self.meta_gradient.prepare(progress.step + 1, mine)
        meta_loss, stops, grad_norm = torch.cat([flags, norm.view(1)]).tolist()
        progress.step += 1
        if math.isfinite(grad_norm) and math.isfinite(meta_loss):
            progress.skipped_in_a_row = 0
            self.adam.param_groups[0]["lr"] = lr
            self.adam.step()
        else:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        ranked = self.meta_gradient.ranked
        in_order = None if ranked is None else ranked.in_order
        return OuterStep(progress.step, meta_loss, grad_norm, lr, progress.skipped, stops > 0, in_order)

    def curriculum_for(self, seed: int) -> Curriculum:
        """What the teacher shows the learner with that seed; the same to all, unless the config makes it
        vary."""
        return curriculum_of(self.teacher, self.data, {}, seed)

    def validate(self) -> float:
        """Mean final accuracy of fresh learners on validation data; keeps the teacher if it is the best so
        far."""
        T = self.config.teacher.inner_steps
        seeds = [
            seed_for(self.config.seed, Purpose.VALIDATION, i) for i in range(self.config.meta.valid_learners)
        ]
        curves = []
        for seed in seeds:
            learner = learner_for(self.config, self.data, seed)
            curves.append(taught_curves(learner, self.curriculum_for(seed), self.data.valid, [seed], every=T))
        accuracy = torch.cat(curves).mean().item()
        if accuracy > self.progress.best_accuracy:
            self.progress.best_accuracy = accuracy
            self.progress.best_step = self.progress.step
            self.best = self._snapshot()
        return accuracy

    def run(self, folder: Path) -> None:
        """All outer steps that are left; the writer validates, shows progress and keeps metrics, TensorBoard
        and checkpoints (also on Ctrl-C, which then raises). Raises MetaTrainingDiverged, WorkerLost."""
        meta = self.config.meta
        progress = self.progress
        before = progress.seconds
        started = time.monotonic()
        with (
            deferred_interrupt() as interrupted,
            _Log(folder, progress.step, meta.outer_steps, self.workers.writer) as log,
        ):
            stop = False
            while not self.finished and not stop:
                try:
                    done = self.outer_step(interrupted.is_set)
                except WorkerLost:
                    self.save_checkpoint(folder)
                    raise
                stop = done.stop
                last = self.finished
                record = done.record()
                progress.seconds = before + time.monotonic() - started
                if not self.workers.writer:
                    continue
                if last or (meta.valid_every and progress.step % meta.valid_every == 0):
                    record["valid_accuracy"] = self.validate()
                    log.picture(_sheet(self.teacher), progress.step)
                record["seconds"] = round(progress.seconds, 3)
                log.write(record, self._postfix(record))
                diverged = progress.skipped_in_a_row >= meta.max_skipped
                if last or stop or diverged or progress.step % meta.checkpoint_every == 0:
                    self.save_checkpoint(folder)
                if diverged:
                    raise MetaTrainingDiverged(
                        f"{progress.skipped_in_a_row} meta-gradients in a row were not finite (outer step "
                        f"{progress.step}): lower meta.lr or the initial teacher.lr, or turn on weight "
                        "normalization (learner.weight-norm)"
                    )

    def result(self) -> Curriculum:
        """The curriculum of the best teacher on validation data, on the CPU; of a teacher that varies, one
        that it might show."""
        return self.best_curriculum_for(seed_for(self.config.seed, Purpose.CURRICULUM, 2**62)).to("cpu")

    def best_curriculum_for(self, seed: int) -> Curriculum:
        """What the best teacher (the last one without validations) shows the learner with that seed."""
        state = self.best if self.config.meta.valid_every else None
        steps = self.progress.best_step if self.config.meta.valid_every else self.progress.step
        made: dict[str, Any] = {"config": to_dict(self.config), "outer_steps_taken": steps}
        if self.meta_gradient.pool.archs:
            made["pool"] = list(self.meta_gradient.pool.archs)
        if self.config.meta.rank_weight:
            made["real_trainings"] = self.meta_gradient.targets.cost()
        return curriculum_of(self.teacher, self.data, made, seed, state)

    # ---- checkpoints ----

    def save_checkpoint(self, folder: Path) -> None:
        """Teacher, best teacher, Adam's moments and the progress, in files below 16 MiB; only the writer
        does."""
        if not self.workers.writer:
            return
        tensors = {f"teacher/{k}": v for k, v in self.teacher.state_dict().items()} | {
            f"best/{k}": v for k, v in self.best.items()
        }
        for i, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam/{i}/{k}": v for k, v in state.items()}
        about = {"config": to_dict(self.config), "progress": vars(self.progress)}
        about["targets"] = self.meta_gradient.targets.state()
        save_tensors(folder / "checkpoint.safetensors", tensors, about, self.progress.step)

    def load_checkpoint(self, folder: Path) -> None:
        """Continue from ``folder``. ValueError in one sentence where a file is unreadable or belongs to
        another config."""
        path = folder / "checkpoint.safetensors"
        tensors, about = load_tensors(path)
        require_same(from_dict(RunConfig, about["config"]), self.config, path)
        device = self.data.train.x.device
        adam: dict[int, dict[str, Tensor]] = {}
        parts: dict[str, dict[str, Tensor]] = {"teacher": {}, "best": {}}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "adam":
                i, _, name = rest.partition("/")
                adam.setdefault(int(i), {})[name] = tensor if name == "step" else tensor.to(device)
            else:
                parts[kind][rest] = tensor.to(device)
        self.teacher.load_state_dict(parts["teacher"])
        self.best = parts["best"]
        self.adam.load_state_dict({"state": adam, "param_groups": self.adam.state_dict()["param_groups"]})
        self.progress = MetaProgress(**about["progress"])
        self.meta_gradient.targets.load_state(about.get("targets", {}))

    def _snapshot(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.teacher.state_dict().items()}

    def _postfix(self, record: dict[str, Any]) -> dict[str, str]:
        shown = {"meta-loss": f"{record['meta_loss']:.3f}"}
        if self.progress.best_accuracy >= 0:
            shown["accuracy"] = f"{record.get('valid_accuracy', self.progress.best_accuracy):.1%}"
        if self.progress.skipped:
            shown["skipped"] = str(self.progress.skipped)
        return shown


class _Log:
    """MetaProgress bar, ``metrics.jsonl`` and TensorBoard of a run, for the writer; for the other workers,
    nothing."""

    def __init__(self, folder: Path, step: int, steps: int, writer: bool) -> None:
        self._writer = writer
        if writer:
            from torch.utils.tensorboard import SummaryWriter  # late: imports slowly

            self._metrics = Metrics(folder / "metrics.jsonl", step)
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
            self._bar = progress_bar(
                total=steps, initial=step, desc="outer steps", unit="step", smoothing=0.05
            )

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer:
            self._bar.close()
            self._metrics.close()
            self._board.close()

    def write(self, record: dict[str, Any], shown: dict[str, str]) -> None:
        self._metrics.write(record)
        for name, value in record.items():
            if name != "step":
                self._board.add_scalar(name, value, record["step"])
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def picture(self, sheet: Tensor, step: int) -> None:
        self._board.add_image("curriculum", sheet, step, dataformats="CHW")


def _sheet(teacher: Teacher) -> Tensor:
    """The curriculum's first images of each class as one picture (C, K*H, T*W) in [0, 1]: rows are classes,
    columns inner steps."""
    with torch.no_grad():
        x = teacher.images()[:, : teacher.n_classes].cpu()  # (T, K, C, H, W)
    T, K, C, H, W = x.shape
    return (x.permute(2, 1, 3, 0, 4).reshape(C, K * H, T * W) / 4 + 0.5).clamp(0, 1)
