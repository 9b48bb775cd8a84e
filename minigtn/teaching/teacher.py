"""The teacher: a curriculum of synthetic batches and the inner step sizes, all learned, in interchangeable
pieces.

Source: Such et al. 2019 (arXiv 1912.07768) in the set-up of the authors' code. Departure: lr and momentum are
bounded (theirs are plain exponentials: a learned momentum could pass 1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minigtn.data import Split
from minigtn.inner.optimizers import OPTIMIZERS
from minigtn.teaching.curriculum import Curriculum, TrainingData, load_curriculum
from minigtn.teaching.generator import generate, init_generator

LR_RANGE = (1e-4, 10.0)
MOMENTUM_MAX = 0.99
# learned labels start as softmax(CONFIDENCE * one-hot): .86 for the right one of ten classes
CONFIDENCE = 4.0
START_MAX = 0.98  # of the tanh that a pixel begins at, or it could hardly move
LEAST = 1e-4  # probability that a label begins with, for the same reason


@dataclass(frozen=True)
class TeacherConfig:
    """Generator and curriculum. Memory grows with T*B and the image size; ``minigtn train`` measures and
    prints it before the first step (2 MiB for the preset ``digits``, 13 MiB for ``mnist-small``, 330 MiB for
    ``mnist-paper``)."""

    inner_steps: int = 32
    """T: batches in the curriculum, one per inner step."""
    batch_size: int = 128
    """B: synthetic images in one batch; class labels are balanced (image i has class i mod K)."""
    images: Literal["generator", "pixels", "real"] = "generator"
    """What makes the images: the generator; pixels learned one by one (dataset distillation); or nothing:
    real images, in an order drawn anew for every learner, so that only the step sizes are learned."""
    start: str = ""
    """What learned pixels begin as: "real", training images of each class, drawn once by the seed, and
    recognizable in the curriculum (do not use it where real images are private); or the images, and learned
    labels the labels, of a curriculum of the same size, by its name, file or run's folder, which is refined
    so, for other learners or another optimizer; "": noise."""
    start_lr_scale: float = 0.0
    """With a curriculum as the start: its step sizes are begun with, too, its learning rates times this; 0:
    lr and momentum below."""
    z: Literal["learned", "gaussian", "random"] = "learned"
    """The generator's input vectors: learned (a curriculum); drawn anew for every learner with a learned mean
    and scale; or drawn anew from the standard normal distribution (no curriculum)."""
    order: Literal["fixed", "batches", "all"] = "fixed"
    """The order of the images: as learned; whole batches shuffled anew for every learner; or all images
    shuffled."""
    labels: Literal["fixed", "learned"] = "fixed"
    """Labels: the class each image was made for, or class probabilities that are learned (soft labels)."""
    learn_step_sizes: bool = True
    """Whether the inner lr and momentum of each step are learned or stay where they start."""
    weight_norm: bool = True
    """Weight normalization in the generator."""
    z_size: int = 128
    """Length of the input vector of each image."""
    dense: int = 1024
    """Width of the generator's first layer."""
    channels: tuple[int, int] = (128, 64)
    """Channels of the generator at a quarter and at half of the image size."""
    optimizer: Literal["sgd", "adam", "muadam", "rmsprop"] = "sgd"
    """The learner's optimizer; its momentum is Adam's beta1. muadam is Adam with width-aware steps, for
    learners of many widths. Not with the adjoint 'reversible' but for sgd."""
    lr: float = 0.02
    """Initial inner learning rate, learned per step within (1e-4, 10) on a logarithmic scale."""
    momentum: float = 0.5
    """Initial inner momentum, learned per step within (0, 0.99)."""

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("inner_steps", "batch_size", "z_size", "dense")} | {
            "channels": min(self.channels)
        }
        small = [name for name, size in sizes.items() if size < 1]
        if small:
            raise ValueError(f"{small[0]} must be at least 1, not {getattr(self, small[0])}")
        if not LR_RANGE[0] < self.lr < LR_RANGE[1]:
            raise ValueError(f"the initial inner lr must lie inside {LR_RANGE}, not {self.lr}")
        if not 0.0 < self.momentum < MOMENTUM_MAX:
            raise ValueError(
                f"the initial inner momentum must lie inside (0, {MOMENTUM_MAX}), not {self.momentum}"
            )
        if self.images != "generator" and self.z != "learned":
            raise ValueError(
                f"z='{self.z}' is the input of a generator, and images='{self.images}' has none; leave z at "
                "'learned'"
            )
        if self.start and self.images != "pixels":
            raise ValueError(
                f"start={self.start!r} is what learned pixels begin as; set images to 'pixels', not "
                f"'{self.images}'"
            )
        if self.start_lr_scale and (self.start in ("", "real") or not 0 < self.start_lr_scale < math.inf):
            raise ValueError(
                "start_lr_scale is a positive, finite factor of the learning rates of the curriculum that "
                f"start names; given {self.start_lr_scale} with start={self.start!r}"
            )
        if self.images == "real" and (self.order, self.labels) != ("fixed", "fixed"):
            raise ValueError(
                "real images are drawn anew for every learner, with their own labels; leave order and "
                "labels at 'fixed'"
            )
        if self.images == "real" and not self.learn_step_sizes:
            raise ValueError(
                "real images with fixed step sizes leave nothing to learn; turn learn_step_sizes on, or use "
                "another teacher"
            )
        if self.z != "learned" and self.labels == "learned":
            raise ValueError(
                "learned labels belong to learned images; with z drawn anew there are none, so leave labels "
                "at 'fixed'"
            )

    @property
    def needs_real(self) -> bool:
        """Whether real images are shown, or begun with."""
        return "real" in (self.images, self.start)

    @property
    def varies(self) -> bool:
        """Whether every learner is shown something else."""
        return self.images == "real" or self.z != "learned" or self.order != "fixed"


VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "batches-shuffled": {"order": "batches"},
    "all-shuffled": {"order": "all"},
    "gaussian-z": {"z": "gaussian"},
    "random-z": {"z": "random"},
    "pixels": {"images": "pixels"},
    "real": {"images": "real"},
}
"""The curriculum variants of the paper (its section 3.4 and code), by the settings that make them."""


def variant(config: TeacherConfig, name: str) -> TeacherConfig:
    """``config`` as that variant of the curriculum. ValueError for an unknown name."""
    if name not in VARIANTS:
        raise ValueError(f"there is no curriculum variant {name!r}; the variants are {', '.join(VARIANTS)}")
    return dataclasses.replace(config, **VARIANTS[name])


class Teacher(nn.Module):
    """``x, y, lr, momentum, optimizer = teacher(seed)``: x (T, B, C, H, W), y (T, B, K) class probabilities,
    lr and momentum (T,), and the inner optimizer that they are for
    (:class:`~minigtn.teaching.curriculum.TrainingData`).

    The seed decides whatever the config draws anew for every learner. For the generator H and W must be
    multiples of 4 (two doublings). Its parameters are the outer loop's ``theta``: those of the pieces that
    the config names. ``real`` is needed where the images are, or begin as, real ones.
    """

    whole: Callable[..., Tensor] | None = None
    """Stands in for :func:`~minigtn.teaching.generator.generate_whole` where gradients are wanted: a compiled
    one."""
    classes: Tensor
    lr_raw: Tensor
    momentum_raw: Tensor

    def __init__(
        self,
        config: TeacherConfig,
        image_shape: tuple[int, ...],
        n_classes: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        real: Split | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.image_shape = image_shape
        self.n_classes = n_classes
        self.real = real
        if config.needs_real and real is None:
            raise ValueError("a teacher of real images needs them: give the training split as real=")
        rng = torch.Generator().manual_seed(seed)
        T = config.inner_steps
        B = config.batch_size
        Z = config.z_size
        labels = nn.functional.one_hot(torch.arange(B).remainder(n_classes), n_classes).to(dtype)
        self.register_buffer("classes", labels.expand(T, B, n_classes), persistent=False)
        if config.images == "generator":
            sizes = config.dense, config.channels
            weights = init_generator(
                image_shape, Z + n_classes, *sizes, rng, weight_norm=config.weight_norm, dtype=dtype
            )
            # nn.ParameterDict forbids dots in names, so layer.role is kept as layer-role
            self.generator = nn.ParameterDict({name.replace(".", "-"): w for name, w in weights.items()})
        if config.images == "generator" and config.z != "random":
            learned = torch.randn(T, B, Z, generator=rng, dtype=dtype)
            self.z = nn.Parameter(learned if config.z == "learned" else torch.zeros_like(learned))
            if config.z == "gaussian":
                self.z_log_scale = nn.Parameter(torch.zeros_like(learned))
        begun = self._begun()
        if config.images == "pixels":
            drawn = torch.randn(T, B, *image_shape, generator=rng, dtype=dtype)
            if config.start == "real":
                drawn = _raw_pixels(self._real_images(rng)).to(dtype)
            self.pixels = nn.Parameter(drawn if begun is None else _raw_pixels(begun.x).to(dtype))
        if config.labels == "learned":
            given = CONFIDENCE * self.classes.clone()
            self.y_raw = nn.Parameter(given if begun is None else begun.y.clamp(min=LEAST).log().to(dtype))
        for name, steps in self._raw_step_sizes(begun).items():
            if config.learn_step_sizes:
                self.register_parameter(name, nn.Parameter(steps.to(dtype)))
            else:
                self.register_buffer(name, steps.to(dtype), persistent=False)

    def _begun(self) -> Curriculum | None:
        """The curriculum that this teacher begins as; ValueError where it does not fit."""
        source = self.config.start
        if source in ("", "real"):
            return None
        curriculum = load_curriculum(source)
        given = tuple(curriculum.x.shape)
        wanted = (*self.classes.shape[:2], *self.image_shape)
        if given != wanted or curriculum.y.shape != self.classes.shape:
            raise ValueError(
                f"the curriculum {source!r} holds {given} images, and this teacher makes {wanted}; set "
                "inner_steps, batch_size and the data set to those of the curriculum"
            )
        in_order = curriculum.y.argmax(-1).equal(self.classes.argmax(-1))
        if not in_order and self.config.labels == "fixed":
            raise ValueError(
                f"image i of {source!r} is not of class i mod {self.n_classes} in every batch, as here; set "
                "labels to 'learned'"
            )
        if self.config.start_lr_scale and curriculum.optimizer != self.config.optimizer:
            raise ValueError(
                f"the step sizes of {source!r} are those of {curriculum.optimizer}, and the optimizer is "
                f"{self.config.optimizer}; set optimizer to {curriculum.optimizer}, or start_lr_scale to 0"
            )
        return curriculum

    def _raw_step_sizes(self, begun: Curriculum | None) -> dict[str, Tensor]:
        """What lr and momentum of each step begin as, (T,), before they are squashed into their ranges."""
        T = self.config.inner_steps
        lo, hi = LR_RANGE
        lr = torch.full((T,), self.config.lr, dtype=torch.float64)
        momentum = torch.full((T,), self.config.momentum, dtype=torch.float64)
        if begun is not None and self.config.start_lr_scale:
            lr = (self.config.start_lr_scale * begun.lr.double()).clamp(2 * lo, hi / 2)
            momentum = begun.momentum.double().clamp(0.001, MOMENTUM_MAX - 0.001)
        return {
            "lr_raw": torch.logit((lr / lo).log() / math.log(hi / lo)),
            "momentum_raw": torch.logit(momentum / MOMENTUM_MAX),
        }

    def _real_images(self, rng: torch.Generator) -> Tensor:
        """Real images, image by image of the curriculum's classes, (T, B, C, H, W): each once before any
        twice. ValueError for a class without any."""
        real = self.real
        assert real is not None
        labels = self.classes.argmax(-1).flatten()
        x = real.x.new_zeros(len(labels), *self.image_shape)
        for k in range(self.n_classes):
            places = (labels == k).nonzero()[:, 0]
            images = real.x[real.y == k]
            if not len(images):
                raise ValueError(
                    f"learned pixels cannot begin as real images: there is no image of class {k}"
                )
            order = torch.randperm(len(images), generator=rng).to(images.device)
            x[places] = images[order].repeat(math.ceil(len(places) / len(order)), 1, 1, 1)[: len(places)]
        return x.view(*self.classes.shape[:2], *self.image_shape)

    def images(self, seed: int = 0) -> Tensor:
        """All images in one call: (T, B, C, H, W), in standardized units; within (-2, 2) unless real."""
        return self(seed)[0]

    def lr(self) -> Tensor:
        """Learning rate of each inner step, (T,), inside LR_RANGE: a sigmoid on the logarithmic scale."""
        lo, hi = LR_RANGE
        return lo * (hi / lo) ** torch.sigmoid(self.lr_raw)

    def momentum(self) -> Tensor:
        """Momentum of each inner step, (T,), inside (0, MOMENTUM_MAX)."""
        return MOMENTUM_MAX * torch.sigmoid(self.momentum_raw)

    def forward(self, seed: int = 0) -> TrainingData:
        rng = torch.Generator().manual_seed(seed)
        x, y = self._examples(rng)
        T, B = self.classes.shape[:2]
        if self.config.order == "batches":
            shuffled = torch.randperm(T, generator=rng).to(x.device)
            x = x[shuffled]
            y = y[shuffled]
        elif self.config.order == "all":
            shuffled = torch.randperm(T * B, generator=rng).to(x.device)
            x, y = (part.flatten(0, 1)[shuffled].view(part.shape) for part in (x, y))
        return TrainingData(x, y, self.lr(), self.momentum(), OPTIMIZERS[self.config.optimizer])

    def _examples(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (T, B, C, H, W) and labels (T, B, K) before any shuffling."""
        T, B = self.classes.shape[:2]
        if self.real is not None and self.config.images == "real":
            x, numbers = self.real.draw(T, B, rng)
            return x.to(self.classes.dtype), nn.functional.one_hot(numbers, self.n_classes).to(
                self.classes.dtype
            )
        y = torch.softmax(self.y_raw, -1) if self.config.labels == "learned" else self.classes
        if self.config.images == "pixels":
            return 2 * torch.tanh(self.pixels), y
        params = {name.replace("-", "."): w for name, w in self.generator.items()}
        inputs = torch.cat([self._latent(rng), self.classes], -1).flatten(0, 1)
        whole = self.whole if torch.is_grad_enabled() else None
        return generate(params, inputs, self.image_shape, whole).view(T, B, *self.image_shape), y

    def _latent(self, rng: torch.Generator) -> Tensor:
        """The generator's input vectors (T, B, Z)."""
        if self.config.z == "learned":
            return self.z
        noise = torch.randn(
            *self.classes.shape[:2], self.config.z_size, generator=rng, dtype=self.classes.dtype
        ).to(self.classes.device)
        return noise if self.config.z == "random" else self.z + self.z_log_scale.exp() * noise


def _raw_pixels(x: Tensor) -> Tensor:
    """The learned pixels that are shown as ``x``, or, where that is out of their range, near it."""
    return torch.atanh((x / 2).clamp(-START_MAX, START_MAX))
