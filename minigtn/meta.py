"""The outer loop: Adam on the teacher, through the meta-gradient of whole training runs.

Source: Such et al. 2019 (arXiv 1912.07768), algorithm 1, with the intermediate losses and the cosine schedule of the authors' code.
Departures: a guard for non-finite meta-gradients, clipping by norm, and the teacher that did best on validation data is the result.
"""

from __future__ import annotations

import copy
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from minigtn.adjoints import Adjoint
from minigtn.config import MetaConfig, Purpose, RunConfig, from_dict, require_same, seed_for, to_dict
from minigtn.curriculum import Curriculum
from minigtn.data import Dataset, Split
from minigtn.evaluate import taught_curves
from minigtn.files import Metrics, write_atomically
from minigtn.fixed_point import FixedPointOverflow
from minigtn.layers import cross_entropy
from minigtn.learners import Learner
from minigtn.second_order import saved_bytes
from minigtn.sgd import Params, Readout, sgd
from minigtn.teacher import Teacher


class MetaTrainingDiverged(RuntimeError):
    """Too many non-finite meta-gradients in a row."""


def real_readout(learner: Learner, train: Split, config: MetaConfig, steps: int, seed: int) -> Readout:
    """The meta-losses of one outer step: cross entropy on a fresh real batch at each reading."""
    every = config.readout_every or steps
    rng = torch.Generator().manual_seed(seed)
    index = torch.randint(len(train.y), (math.ceil(steps / every), config.real_batch), generator=rng).to(train.y.device)
    return Readout(_loss(learner), (train.x[index], train.y[index]), every)


def meta_loss(teacher: Teacher, learner: Learner, params: Params, readout: Readout, adjoint: Adjoint) -> Tensor:
    """Train ``params`` on the teacher's curriculum; the mean of the readings, differentiable into the teacher, a scalar.

    Memory: that of the adjoint, and the generator's activations for all T*B images. Time: T inner steps (with
    ``backward``: there and back) and the generator once.
    """
    x, y, lr, momentum = teacher()
    _, readings = sgd(_loss(learner), params, (x, y), lr, momentum, adjoint, readout)
    return readings.mean()


def _loss(learner: Learner) -> Callable[[Params, Any], Tensor]:
    return lambda params, batch: cross_entropy(learner(params, batch[0]), batch[1])


def curriculum_of(teacher: Teacher, data: Dataset, provenance: dict[str, Any]) -> Curriculum:
    """What the teacher teaches now, on the CPU."""
    with torch.no_grad():
        x, y, lr, momentum = (part.detach().cpu() for part in teacher())
    return Curriculum(x, y, lr, momentum, data.class_names, data.mean, data.std, provenance)


def estimated_bytes(config: RunConfig, data: Dataset, teacher: Teacher, learner: Learner) -> dict[str, int]:
    """Predicted peak memory of an outer step: the adjoint's share and the generator's, from one measured step on real images."""
    T, B = config.teacher.inner_steps, config.teacher.batch_size
    params = learner.init(0, device=data.train.x.device)
    x, y = data.train.x[:B], data.train.y[:B]
    weights = sum(p.numel() for p in params.values())
    activations = saved_bytes(lambda: _loss(learner)(params, (x, y)), list(params.values()))
    return {
        "adjoint": config.meta.make_adjoint().memory_bytes(T, weights, activations, 4, config.teacher.momentum),
        "generator": saved_bytes(teacher.images, []),
    }


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

    def __init__(self, config: RunConfig, data: Dataset) -> None:
        self.config, self.data = config, data
        device = data.train.x.device
        self.learner = Learner(config.learner, data.image_shape, data.n_classes)
        teacher_seed = seed_for(config.seed, Purpose.TEACHER, 0)
        self.teacher = Teacher(config.teacher, data.image_shape, data.n_classes, teacher_seed).to(device)
        self.adam = torch.optim.Adam(self.teacher.parameters(), lr=config.meta.lr, betas=config.meta.betas, eps=config.meta.eps)
        self.best = self._snapshot()
        self.progress = Progress()

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.config.meta.outer_steps

    def outer_step(self) -> dict[str, float]:
        """One update of the teacher, unless the meta-gradient is not finite. Returns the record for ``metrics.jsonl``."""
        meta, progress, step = self.config.meta, self.progress, self.progress.step
        device, T = self.data.train.x.device, self.config.teacher.inner_steps
        lr = meta.lr * (meta.final_lr + (1 - meta.final_lr) * 0.5 * (1 + math.cos(math.pi * step / meta.outer_steps)))
        params = self.learner.init(seed_for(self.config.seed, Purpose.LEARNER, step), device=device)
        readout = real_readout(self.learner, self.data.train, meta, T, seed_for(self.config.seed, Purpose.REAL_BATCH, step))
        self.adam.zero_grad()
        try:
            meta_loss_ = meta_loss(self.teacher, self.learner, params, readout, meta.make_adjoint())
            meta_loss_.backward()
            loss = meta_loss_.item()
            norm = torch.nn.utils.clip_grad_norm_(self.teacher.parameters(), meta.clip_norm or math.inf).item()
        except FixedPointOverflow:  # the adjoint Reversible meets what the others see as infinity
            loss = norm = math.nan
        progress.step += 1
        if math.isfinite(norm) and math.isfinite(loss):
            progress.skipped_in_a_row = 0
            self.adam.param_groups[0]["lr"] = lr
            self.adam.step()
        else:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        return {"step": progress.step, "meta_loss": loss, "grad_norm": norm, "outer_lr": lr, "skipped": progress.skipped}

    def validate(self) -> float:
        """Mean final accuracy of fresh learners on validation data; keeps the teacher if it is the best so far."""
        step = self.progress.step
        n = self.config.meta.valid_learners
        seeds = [seed_for(self.config.seed, Purpose.VALIDATION, i) for i in range(n)]
        curriculum = curriculum_of(self.teacher, self.data, {}).to(self.data.train.x.device)
        accuracy = taught_curves(self.learner, curriculum, self.data.valid, seeds, every=self.config.teacher.inner_steps).mean().item()
        if accuracy > self.progress.best_accuracy:
            self.progress.best_accuracy, self.progress.best_step, self.best = accuracy, step, self._snapshot()
        return accuracy

    def run(self, folder: Path) -> None:
        """All outer steps that are left, with progress bar, metrics, TensorBoard, and checkpoints (also on Ctrl-C, which then raises)."""
        from torch.utils.tensorboard import SummaryWriter  # late: imports slowly

        meta, progress = self.config.meta, self.progress
        metrics = Metrics(folder / "metrics.jsonl", progress.step)
        board = SummaryWriter(str(folder / "tensorboard"), purge_step=progress.step + 1)
        bar = tqdm(total=meta.outer_steps, initial=progress.step, desc="outer steps", unit="step", smoothing=0.05)
        before = progress.seconds
        started = time.monotonic()
        try:
            with deferred_interrupt() as interrupted:
                stop = False
                while not self.finished and not stop:
                    record: dict[str, Any] = self.outer_step()
                    last = self.finished
                    if last or (meta.valid_every and progress.step % meta.valid_every == 0):
                        record["valid_accuracy"] = self.validate()
                        board.add_image("curriculum", _sheet(self.teacher), progress.step, dataformats="CHW")
                    progress.seconds = before + time.monotonic() - started
                    record["seconds"] = round(progress.seconds, 3)
                    metrics.write(record)
                    for name, value in record.items():
                        if name != "step":
                            board.add_scalar(name, value, progress.step)
                    bar.set_postfix(self._postfix(record), refresh=False)
                    bar.update()
                    stop = interrupted.is_set()
                    diverged = progress.skipped_in_a_row >= meta.max_skipped
                    if last or stop or diverged or progress.step % meta.checkpoint_every == 0:
                        self.save_checkpoint(folder)
                    if diverged:
                        raise MetaTrainingDiverged(
                            f"{progress.skipped_in_a_row} meta-gradients in a row were not finite (outer step {progress.step}): lower "
                            "meta.lr or the initial teacher.lr, or turn on weight normalisation (learner.weight-norm)"
                        )
        finally:
            bar.close()
            metrics.close()
            board.close()

    def result(self) -> Curriculum:
        """The curriculum of the best teacher on validation data (of the last one without validations)."""
        teacher, steps = copy.deepcopy(self.teacher), self.progress.step
        if self.config.meta.valid_every:
            teacher.load_state_dict(self.best)
            steps = self.progress.best_step
        return curriculum_of(teacher, self.data, {"config": to_dict(self.config), "outer_steps_taken": steps})

    # ---- checkpoints ----

    def save_checkpoint(self, folder: Path) -> None:
        """Teacher, best teacher, Adam's moments and the progress: one file, written atomically."""
        tensors = {f"teacher/{k}": v for k, v in self.teacher.state_dict().items()} | {f"best/{k}": v for k, v in self.best.items()}
        for i, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam/{i}/{k}": v for k, v in state.items()}
        about = json.dumps({"config": to_dict(self.config), "progress": vars(self.progress)}, sort_keys=True)
        contiguous = {k: v.detach().cpu().clone() for k, v in tensors.items()}
        write_atomically(folder / "checkpoint.safetensors", save(contiguous, {"about": about}))

    def load_checkpoint(self, folder: Path) -> None:
        """Continue from ``folder``. ValueError in one sentence where the file is unreadable or belongs to another config."""
        path = folder / "checkpoint.safetensors"
        try:
            with safe_open(path, "pt", device=str(self.data.train.x.device)) as file:
                about = json.loads(file.metadata()["about"])
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            saved = from_dict(RunConfig, about["config"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a readable checkpoint ({error}); start afresh with --overwrite or another --out") from error
        require_same(saved, self.config, path)
        adam: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "adam":
                i, _, name = rest.partition("/")
                adam.setdefault(int(i), {})[name] = tensor.cpu() if name == "step" else tensor
        groups = self.adam.state_dict()["param_groups"]
        self.teacher.load_state_dict({k.removeprefix("teacher/"): v for k, v in tensors.items() if k.startswith("teacher/")})
        self.best = {k.removeprefix("best/"): v for k, v in tensors.items() if k.startswith("best/")}
        self.adam.load_state_dict({"state": adam, "param_groups": groups})
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


def _sheet(teacher: Teacher) -> Tensor:
    """The curriculum's first images of each class as one picture (C, K*H, T*W) in [0, 1]: rows are classes, columns inner steps."""
    with torch.no_grad():
        x = teacher.images()[:, : teacher.n_classes].cpu()  # (T, K, C, H, W)
    T, K, C, H, W = x.shape
    return (x.permute(2, 1, 3, 0, 4).reshape(C, K * H, T * W) / 4 + 0.5).clamp(0, 1)


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM sets the event, so that the step in hand is finished and saved; KeyboardInterrupt is raised at the end of the
    block, or at once if it comes a second time."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if event.is_set():
        raise KeyboardInterrupt
