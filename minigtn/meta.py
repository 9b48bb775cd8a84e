"""The outer loop: Adam on the teacher, through the meta-gradient of whole training runs.

Source: Such et al. 2019 (arXiv 1912.07768), algorithm 1, with the intermediate losses and the cosine schedule of the authors' code.
Departures: a guard for non-finite meta-gradients, clipping by norm, and the teacher that did best on validation data is the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minigtn.batched import Classifier, most_together, stack
from minigtn.config import Purpose, RunConfig, from_dict, require_same, seed_for, to_dict
from minigtn.curriculum import Curriculum
from minigtn.data import Dataset
from minigtn.distributed import WorkerLost, Workers
from minigtn.evaluate import taught_curves
from minigtn.files import Metrics, load_tensors, save_tensors
from minigtn.fixed_point import FixedPointOverflow
from minigtn.interrupt import deferred_interrupt
from minigtn.learners import Learner
from minigtn.meta_gradient import InBfloat16, Lesson, add_meta_gradient, curriculum_of, meta_loss, real_readout
from minigtn.optimisers import NAMES
from minigtn.teacher import Teacher
from minigtn.zoo import from_space, sample


class MetaTrainingDiverged(RuntimeError):
    """Too many non-finite meta-gradients in a row."""


@dataclass
class Progress:
    """Where a meta-training stands, beside the tensors."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_step: int = 0
    best_accuracy: float = -1.0
    seconds: float = 0.0


class MetaTraining:
    """One meta-training: state, steps, checkpoint. ``run`` does it all; the result is ``best``, a Teacher state.

    Everything random in outer step i follows from (seed, i), so a run resumed from a checkpoint continues to the same bits, on the same
    kind of device and with the same number of threads.
    """

    def __init__(self, config: RunConfig, data: Dataset, workers: Workers = Workers()) -> None:  # noqa: B008 (frozen)
        if config.meta.learners < workers.size:
            raise ValueError(
                f"{workers.size} workers share the meta.learners = {config.meta.learners} of an outer step; give at least as many"
            )
        self.config, self.data, self.workers = config, data, workers
        device, dtype = data.train.x.device, data.train.x.dtype
        self.learner = Learner(config.learner, data.image_shape, data.n_classes)
        self.adjoint = config.meta.make_adjoint()
        teacher_seed = seed_for(config.seed, Purpose.TEACHER, 0)
        real = data.train if config.teacher.images == "real" else None
        self.teacher = Teacher(config.teacher, data.image_shape, data.n_classes, teacher_seed, dtype, real).to(device)
        self.adam = torch.optim.Adam(self.teacher.parameters(), lr=config.meta.lr, betas=config.meta.betas, eps=config.meta.eps)
        self.best = self._snapshot()
        self.progress = Progress()

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.config.meta.outer_steps

    def learner_for(self, seed: int) -> Classifier:
        """The learner whose weights have that seed: of the run's architecture, or of one of its own."""
        source = self.config.meta.sample_learners
        if source == "none":
            return self.learner
        if source == "zoo":
            return Learner(sample(self.config.learner, seed), self.data.image_shape, self.data.n_classes)
        return from_space(self.config.meta.make_space(), seed, self.data.image_shape, self.data.n_classes)

    def curriculum_for(self, seed: int) -> Curriculum:
        """What the teacher shows the learner with that seed; the same to all, unless the config makes it vary."""
        return curriculum_of(self.teacher, self.data, {}, seed)

    def outer_step(self, interrupted: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """One update of the teacher, unless the meta-gradient is not finite. Returns the record for ``metrics.jsonl``, and ``stop``:
        whether any worker is ``interrupted``, on which all agree."""
        meta, progress, step = self.config.meta, self.progress, self.progress.step
        lr = meta.lr * (meta.final_lr + (1 - meta.final_lr) * 0.5 * (1 + math.cos(math.pi * step / meta.outer_steps)))
        theta = list(self.teacher.parameters())
        for p in theta:
            p.grad = torch.zeros_like(p)
        try:
            loss = self._add_meta_gradient(self.workers.share(meta.learners))
        except FixedPointOverflow:  # the adjoint Reversible meets what the others see as infinity
            loss = theta[0].new_tensor(math.nan)
        flags = torch.stack([loss, torch.full_like(loss, float(interrupted()))])
        self.workers.sum_([*(p.grad for p in theta if p.grad is not None), flags])
        norm = torch.nn.utils.clip_grad_norm_(theta, meta.clip_norm or math.inf)
        loss_, stops, norm_ = torch.cat([flags, norm.view(1)]).tolist()  # the only time the host waits for the device
        progress.step += 1
        if math.isfinite(norm_) and math.isfinite(loss_):
            progress.skipped_in_a_row = 0
            self.adam.param_groups[0]["lr"] = lr
            self.adam.step()
        else:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        record = {"step": progress.step, "meta_loss": loss_, "grad_norm": norm_, "outer_lr": lr, "skipped": progress.skipped}
        return {**record, "stop": stops > 0}

    def _add_meta_gradient(self, learners: range) -> Tensor:
        """These learners' part of the meta-gradient, added to the teacher's; and of the meta-loss."""
        first = self.progress.step * self.config.meta.learners
        numbers = [first + i for i in learners]
        groups = [[i] for i in numbers] if self.config.teacher.varies else [numbers]
        totals = []
        for group in groups:
            lesson = self.teacher(seed_for(self.config.seed, Purpose.CURRICULUM, group[0]))
            losses = [partial(self._meta_loss, numbers=together) for together in self._together(group)]
            totals.append(add_meta_gradient(lesson, losses))
        return torch.stack(totals).sum()

    def _together(self, numbers: list[int]) -> list[list[int]]:
        """These learners in groups that are trained in one pass: of one architecture, where that pays on the device."""
        most = 1 if self.config.meta.sample_learners != "none" else most_together(self.data.train.x.device)
        return [numbers[i : i + most] for i in range(0, len(numbers), most)]

    def _meta_loss(self, lesson: Lesson, numbers: list[int]) -> Tensor:
        """The sum of the meta-losses of these of the run's learners, over the number of learners in an outer step."""
        meta, teacher, train = self.config.meta, self.config.teacher, self.data.train
        weights, images = ([seed_for(self.config.seed, purpose, i) for i in numbers] for purpose in (Purpose.LEARNER, Purpose.REAL_BATCH))
        learner = self.learner if self.progress.step < meta.sample_after else self.learner_for(weights[0])
        readout = real_readout(InBfloat16(learner) if meta.precision == "bfloat16" else learner, train, meta, teacher.inner_steps, images)
        members = [learner.init(seed, dtype=train.x.dtype, device=train.x.device) for seed in weights]
        params = members[0] if len(members) == 1 else stack(members)
        return meta_loss(lesson, params, readout, self.adjoint, NAMES[teacher.optimiser]) / meta.learners

    def validate(self) -> float:
        """Mean final accuracy of fresh learners on validation data; keeps the teacher if it is the best so far."""
        step, T = self.progress.step, self.config.teacher.inner_steps
        seeds = [seed_for(self.config.seed, Purpose.VALIDATION, i) for i in range(self.config.meta.valid_learners)]
        curves = [taught_curves(self.learner_for(seed), self.curriculum_for(seed), self.data.valid, [seed], every=T) for seed in seeds]
        accuracy = torch.cat(curves).mean().item()
        if accuracy > self.progress.best_accuracy:
            self.progress.best_accuracy, self.progress.best_step, self.best = accuracy, step, self._snapshot()
        return accuracy

    def run(self, folder: Path) -> None:
        """All outer steps that are left; the writer validates, shows progress and keeps metrics, TensorBoard and checkpoints (also on
        Ctrl-C, which then raises). Raises MetaTrainingDiverged, WorkerLost."""
        meta, progress, before, started = self.config.meta, self.progress, self.progress.seconds, time.monotonic()
        with deferred_interrupt() as interrupted, _Log(folder, progress.step, meta.outer_steps, self.workers.writer) as log:
            stop = False
            while not self.finished and not stop:
                try:
                    record = self.outer_step(interrupted.is_set)
                except WorkerLost:
                    self.save_checkpoint(folder)
                    raise
                stop, last = record.pop("stop"), self.finished
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
                        f"{progress.skipped_in_a_row} meta-gradients in a row were not finite (outer step {progress.step}): lower "
                        "meta.lr or the initial teacher.lr, or turn on weight normalisation (learner.weight-norm)"
                    )

    def result(self) -> Curriculum:
        """The curriculum of the best teacher on validation data, on the CPU; of a teacher that varies, one that it might show."""
        return self.best_curriculum_for(seed_for(self.config.seed, Purpose.CURRICULUM, 2**62)).to("cpu")

    def best_curriculum_for(self, seed: int) -> Curriculum:
        """What the best teacher (the last one without validations) shows the learner with that seed."""
        state, steps = (self.best, self.progress.best_step) if self.config.meta.valid_every else (None, self.progress.step)
        return curriculum_of(self.teacher, self.data, {"config": to_dict(self.config), "outer_steps_taken": steps}, seed, state)

    # ---- checkpoints ----

    def save_checkpoint(self, folder: Path) -> None:
        """Teacher, best teacher, Adam's moments and the progress, in files below 16 MiB; only the writer does."""
        if not self.workers.writer:
            return
        tensors = {f"teacher/{k}": v for k, v in self.teacher.state_dict().items()} | {f"best/{k}": v for k, v in self.best.items()}
        for i, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam/{i}/{k}": v for k, v in state.items()}
        about = {"config": to_dict(self.config), "progress": vars(self.progress)}
        save_tensors(folder / "checkpoint.safetensors", tensors, about, self.progress.step)

    def load_checkpoint(self, folder: Path) -> None:
        """Continue from ``folder``. ValueError in one sentence where a file is unreadable or belongs to another config."""
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
        self.progress = Progress(**about["progress"])

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
    """Progress bar, ``metrics.jsonl`` and TensorBoard of a run, for the writer; for the other workers, nothing."""

    def __init__(self, folder: Path, step: int, steps: int, writer: bool) -> None:
        self._writer = writer
        if writer:
            from torch.utils.tensorboard import SummaryWriter  # late: imports slowly

            self._metrics = Metrics(folder / "metrics.jsonl", step)
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
            self._bar = tqdm(total=steps, initial=step, desc="outer steps", unit="step", smoothing=0.05)

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
    """The curriculum's first images of each class as one picture (C, K*H, T*W) in [0, 1]: rows are classes, columns inner steps."""
    with torch.no_grad():
        x = teacher.images()[:, : teacher.n_classes].cpu()  # (T, K, C, H, W)
    T, K, C, H, W = x.shape
    return (x.permute(2, 1, 3, 0, 4).reshape(C, K * H, T * W) / 4 + 0.5).clamp(0, 1)
