"""The final training: a picked architecture, from scratch, on real data.

Source: the CIFAR-10 training of NAO (Luo et al. 2018, arXiv 1808.07233, and its code), whose cells and code
the search of Such et al. 2019 builds on: SGD with momentum and a cosine learning rate, crop and flip, cutout
(DeVries & Taylor 2017, arXiv 1708.04552), drop-path that grows with depth and time (Larsson et al. 2017, Zoph
et al. 2018), an auxiliary head (Szegedy et al. 2015), dropout. The paper's three rows are ``channels=32``, 64
and 128 of the space ``cells``. NAO's own run with 128 channels has weight_decay=5e-4 and drop_path=0.3. The
trained network: ``training = FinalTraining(config, data)``, ``training.load_checkpoint(folder)``,
``training.network``.

Departures: Nesterov's momentum; crops bring in the mean colour, not black; a last batch that is not full is
left out. Nothing is chosen here: the network of the last epoch is the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigtn.data.datasets import Dataset, Split, crop_and_flip
from minigtn.networks import spaces
from minigtn.networks.spaces.cell_network import CellNetwork
from minigtn.runs.claim import claimed
from minigtn.runs.files import (
    RUN_FILES,
    Metrics,
    environment,
    load_tensors,
    read_json,
    require_config,
    save_tensors,
    write_json,
)
from minigtn.runs.interrupt import deferred_interrupt
from minigtn.runs.progress import progress_bar
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import at_least, from_dict, require_same, to_dict

EVALUATION_BATCH = 500
CHECK_EVERY = 50  # steps between two looks at the loss: each look waits for the device
FINAL_CELLS = 6  # N of NAO's final networks; the space's own default is that of the search


class TrainingDiverged(RuntimeError):
    """The loss or the weights of the final training are not finite."""


@dataclass(frozen=True)
class FinalConfig:
    """A final training, at the paper's setting."""

    arch: str
    """The architecture, as a string of its space."""
    space: Literal["cells", "nas-bench-201", "nas-bench-macro"] = "cells"
    """The search space it comes from."""
    cells_per_stage: int = 0
    """N; 0 takes 6 for cells and 5 for nas-bench-201."""
    channels: int = 0
    """F, the channels of the first stage; 0 takes 32, and 16 for nas-bench-201. The paper has 32, 64 and
    128."""
    epochs: int = 600
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step."""
    lr: float = 0.025
    """Learning rate of the first epoch; it falls to 0 along a cosine, epoch by epoch."""
    momentum: float = 0.9
    """Nesterov's."""
    weight_decay: float = 3e-4
    """On all weights."""
    clip_norm: float = 5.0
    """The gradient is scaled down to this norm where it is longer; 0 never clips."""
    augment: bool = True
    """Random crops (4 pixels of padding) and mirror images; switch it off for digits."""
    cutout: int = 16
    """Side of the square that is blanked in every training image; 0 blanks nothing."""
    auxiliary: float = 0.4
    """Weight of the auxiliary head's loss; 0 builds none. Only the space cells has one."""
    drop_path: float = 0.2
    """Probability of dropping an edge of the last cell in the last step. Only the space cells has it."""
    dropout: float = 0.4
    """Before the last layer. Only the space cells has it."""
    train_on_valid: bool = False
    """Whether the validation images join the training images, as in published figures; there is no validation
    accuracy then."""
    seed: int = 0
    """Weights, order of the images, augmentation and everything that is dropped follow from it."""

    def __post_init__(self) -> None:
        at_least(self, epochs=1, batch_size=2, cells_per_stage=0, channels=0, cutout=0, seed=0)
        at_least(self, weight_decay=0, clip_norm=0, auxiliary=0)
        for name in ("momentum", "drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), but it is {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive and finite, but it is {self.lr}")
        self.make_space().parse(self.arch)

    def make_space(self) -> spaces.Space:
        """The space, at the size of this training."""
        cells = self.cells_per_stage or (FINAL_CELLS if self.space == "cells" else 0)
        return spaces.get(self.space, cells_per_stage=cells, channels=self.channels)


@dataclass
class EpochProgress:
    """Where a training stands, beside the tensors."""

    epoch: int = 0
    seconds: float = 0.0


class FinalTraining:
    """One training: state, epochs, checkpoint.

    Everything random in epoch i follows from (seed, i), so a run resumed from a checkpoint continues to the
    same bits, on the same kind of device and with the same number of threads. Memory: three copies of the
    weights, and the activations of one batch.
    """

    def __init__(self, config: FinalConfig, data: Dataset) -> None:
        channels, height, width = data.image_shape
        if config.cutout >= min(height, width):
            raise ValueError(
                f"a cutout of {config.cutout} blanks whole images of {height} x {width} pixels; make it "
                "smaller, or 0"
            )
        self.config = config
        self.data = data
        self.train = data.train
        if config.train_on_valid:
            self.train = Split(
                torch.cat([data.train.x, data.valid.x]), torch.cat([data.train.y, data.valid.y])
            )
        self.steps = len(self.train) // config.batch_size
        if not self.steps:
            raise ValueError(
                f"{len(self.train)} training images do not fill a batch of {config.batch_size}; make "
                "batch_size smaller"
            )
        device = self.train.x.device
        space = config.make_space()
        kinds: dict[str, Any] = {"n_classes": data.n_classes, "in_channels": channels, "running_stats": True}
        if config.space == "cells":
            kinds |= {"auxiliary": config.auxiliary > 0, "dropout": config.dropout}
        with seeded(seed_for(config.seed, Purpose.FINAL_WEIGHTS, 0), device):
            self.network: nn.Module = space.build(config.arch, **kinds).to(device)
        nesterov = config.momentum > 0
        self.sgd = torch.optim.SGD(
            self.network.parameters(),
            config.lr,
            config.momentum,
            weight_decay=config.weight_decay,
            nesterov=nesterov,
        )
        self.progress = EpochProgress()

    @property
    def finished(self) -> bool:
        return self.progress.epoch >= self.config.epochs

    def epoch(
        self, stop: Callable[[], bool] = lambda: False, each_step: Callable[[], Any] = lambda: None
    ) -> dict[str, Any] | None:
        """One pass over the training images; its record for ``metrics.jsonl``. None, with the state half-way,
        once ``stop()`` is true.

        Raises TrainingDiverged where the loss, or a weight after the last step, is not finite; the state is
        then worthless.
        """
        config = self.config
        number = self.progress.epoch
        device = self.train.x.device
        seed = seed_for(config.seed, Purpose.FINAL_EPOCH, number)
        lr = config.lr * 0.5 * (1 + math.cos(math.pi * number / config.epochs))
        self.sgd.param_groups[0]["lr"] = lr
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.train), generator=rng).to(device)
        self.network.train()
        total, hits = torch.zeros(2, device=device)
        with seeded(seed, device):
            for step, index in enumerate(order.split(config.batch_size)[: self.steps], 1):
                if stop():
                    return None
                x = self.train.x[index]
                y = self.train.y[index]
                x = cutout(crop_and_flip(x, rng) if config.augment else x, rng, config.cutout)
                loss, logits = self._loss(x, y, (number * self.steps + step) / (config.epochs * self.steps))
                self.sgd.zero_grad()
                loss.backward()
                if config.clip_norm:
                    nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
                self.sgd.step()
                total += loss.detach()
                hits += (logits.argmax(1) == y).sum()
                if step % CHECK_EVERY == 0 or step == self.steps:
                    self._require_finite(total, step)
                each_step()
        self.progress.epoch += 1
        record = {"step": number + 1, "loss": total.item() / self.steps, "lr": lr}
        record["train_accuracy"] = hits.item() / (self.steps * config.batch_size)
        if not config.train_on_valid:
            record["valid_accuracy"] = self.accuracy(self.data.valid)
        return record

    def _require_finite(self, total: Tensor, step: int) -> None:
        state = [total] + (list(self.network.state_dict().values()) if step == self.steps else [])
        if not all(tensor.isfinite().all() for tensor in state):
            what = "weights are" if total.isfinite() else "loss is"
            epoch = self.progress.epoch
            raise TrainingDiverged(
                f"the {what} not finite in epoch {epoch + 1}, by step {step} of {self.steps}: lower lr (it "
                f"is {self.config.lr:g}) or "
                f"clip_norm (it is {self.config.clip_norm:g}), and start in another folder; the checkpoint "
                f"of epoch {epoch} is kept"
            )

    def _loss(self, x: Tensor, y: Tensor, part_done: float) -> tuple[Tensor, Tensor]:
        """The loss, with the auxiliary head's share, and the logits."""
        if not isinstance(self.network, CellNetwork):
            logits = self.network(x)
            return F.cross_entropy(logits, y), logits
        self.network.drop_path = self.config.drop_path * part_done
        logits, auxiliary = self.network.both(x)
        loss = F.cross_entropy(logits, y)
        return loss if auxiliary is None else loss + self.config.auxiliary * F.cross_entropy(
            auxiliary, y
        ), logits

    @torch.no_grad()
    def accuracy(self, split: Split) -> float:
        """Fraction of ``split`` that is classified correctly, with the running averages of batch
        normalization."""
        self.network.eval()
        chunks = zip(split.x.split(EVALUATION_BATCH), split.y.split(EVALUATION_BATCH), strict=True)
        return int(sum((self.network(x).argmax(1) == y).sum() for x, y in chunks)) / len(split)

    def run(self, folder: Path) -> None:
        """All epochs that are left, with progress bar, metrics and a checkpoint after each.

        Ctrl-C and SIGTERM stop after the step in hand and raise KeyboardInterrupt; the epoch in hand is
        repeated when the run goes on.
        """
        before = self.progress.seconds
        started = time.monotonic()
        metrics = Metrics(folder / "metrics.jsonl", self.progress.epoch)
        bar = progress_bar(
            total=self.config.epochs * self.steps,
            initial=self.progress.epoch * self.steps,
            desc="final training",
            unit="step",
        )
        try:
            with deferred_interrupt() as interrupted:
                while not self.finished:
                    record = self.epoch(interrupted.is_set, bar.update)
                    if record is None:
                        break
                    self.progress.seconds = before + time.monotonic() - started
                    metrics.write(record | {"seconds": round(self.progress.seconds, 3)})
                    self.save_checkpoint(folder)
                    bar.set_postfix(
                        {
                            "epoch": record["step"],
                            "accuracy": f"{record.get('valid_accuracy', record['train_accuracy']):.1%}",
                        },
                        refresh=False,
                    )
        finally:
            bar.close()
            metrics.close()

    def save_checkpoint(self, folder: Path) -> None:
        """Weights, running averages, momentum and the progress."""
        tensors = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            momentum = self.sgd.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum/{name}"] = momentum
        about = {"config": to_dict(self.config), "progress": vars(self.progress)}
        save_tensors(folder / "checkpoint.safetensors", tensors, about, self.progress.epoch)

    def load_checkpoint(self, folder: Path) -> None:
        """Continue from ``folder``. ValueError in one sentence where a file is unreadable or belongs to
        another config."""
        path = folder / "checkpoint.safetensors"
        device = self.train.x.device
        tensors, about = load_tensors(path)
        require_same(from_dict(FinalConfig, about["config"]), self.config, path)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "momentum": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            parts[kind][name] = tensor.to(device)
        self.network.load_state_dict(parts["network"])
        named = dict(self.network.named_parameters())
        for name, momentum in parts["momentum"].items():
            self.sgd.state[named[name]]["momentum_buffer"] = momentum
        self.progress = EpochProgress(**about["progress"])


def final_training(config: FinalConfig, data: Dataset, folder: Path) -> dict[str, Any]:
    """Train, judge on test data, write ``folder``: ``config.json``, ``metrics.jsonl``,
    ``checkpoint.safetensors``, ``result.json``.

    A training that was stopped goes on from its last epoch; one that is finished only gives back its result,
    and the test data are not read again. Runs where the tensors of ``data`` are. Cost: at the paper's setting
    days on a GPU (600 epochs of 350 steps).

    Raises ValueError where ``folder`` holds a run with other settings, another process is at work in it, or
    the settings do not fit the images, CannotWrite,
    TrainingDiverged where the loss is not finite (the last checkpoint stays), KeyboardInterrupt after Ctrl-C
    (call again to go on).
    """
    training = FinalTraining(config, data)  # it refuses what does not fit; nothing is written yet
    with claimed(folder):
        return _run(training, folder)


def _run(training: FinalTraining, folder: Path) -> dict[str, Any]:
    config = training.config
    data = training.data
    about = {"config": to_dict(config), **environment(data.train.x.device)}
    if require_config(folder, RUN_FILES, "delete them, or use another --out"):
        saved = read_json(folder / "config.json")
        require_same(
            from_dict(FinalConfig, saved.get("config") if isinstance(saved, dict) else saved), config, folder
        )
    else:
        write_json(folder / "config.json", about)
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    if (folder / "checkpoint.safetensors").exists():
        training.load_checkpoint(folder)
    training.run(folder)
    parameters = [p for name, p in training.network.named_parameters() if not name.startswith("auxiliary.")]
    result = {
        "test_accuracy": training.accuracy(data.test),
        "valid_accuracy": None if config.train_on_valid else training.accuracy(data.valid),
        "params": sum(p.numel() for p in parameters),
        "test_images": len(data.test),
        "dataset": data.name,
        "seconds": round(training.progress.seconds, 3),
        **about,
    }
    write_json(folder / "result.json", result)
    return result


def cutout(x: Tensor, rng: torch.Generator, side: int) -> Tensor:
    """Images (N, C, H, W), each with a ``side`` x ``side`` square set to 0 (the mean colour); its centre is
    any pixel, so that at the border less is blanked."""
    if not side:
        return x
    N, _, H, W = x.shape
    # from the corner
    rows, columns = (
        torch.arange(size) - torch.randint(size, (N, 1), generator=rng) + side // 2 for size in (H, W)
    )
    blank = ((rows >= 0) & (rows < side)).view(N, 1, H, 1) & ((columns >= 0) & (columns < side)).view(
        N, 1, 1, W
    )
    return x.masked_fill(blank.to(x.device), 0)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators start from ``seed`` inside, and are as before outside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
