"""The curriculum as a thing of its own: a file that trains any classifier in one call.

On the command line it is ``minigtn train``, ``report`` and ``export``; in Python:

    curriculum = minigtn.load_curriculum("runs/demo")
    minigtn.teach(my_module, curriculum)
    my_module(curriculum.standardize(images))
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from minigtn.inner.optimizers import OPTIMIZERS, Optimizer
from minigtn.runs.files import write_atomically

FORMAT = "minigtn curriculum 1"
SHIPPED = Path(__file__).parent / "curricula"
PIXEL_RANGE = (-2.0, 2.0)  # of the generator's 2*tanh; what uint8 files are scaled from

M = TypeVar("M", bound=nn.Module)


class TrainingData(NamedTuple):
    """What a learner goes through: batches, and the steps to take on them."""

    x: Tensor
    """(T, B, C, H, W)."""
    y: Tensor
    """(T, B, K) class probabilities, or (T, B) class numbers."""
    lr: Tensor | float
    """(T,), or one for all steps."""
    momentum: Tensor | float
    """(T,), or one for all steps."""
    optimizer: Optimizer
    """Whose steps lr and momentum are for."""


@dataclass(frozen=True)
class Curriculum:
    """Ordered synthetic batches with their step sizes: all that a learner needs for T inner steps.

    x: (T, B, C, H, W) float32 in standardized units, or (T, B, C) where the learner takes plain vectors of C
    features, such as the observations of an agent · y: (T, B, K) class probabilities · lr, momentum: (T,) ·
    mean, std: per channel, of the pixels in [0, 1] that a real image is standardized with; per feature of a
    vector (an agent's curriculum has 0 and 1: it takes observations as they are) · provenance: where it came
    from · optimizer: of the inner steps (sgd, adam, muadam or rmsprop, with torch's usual constants;
    momentum is Adam's beta1). Memory: ``4 * T*B*C*H*W`` bytes.
    """

    x: Tensor
    y: Tensor
    lr: Tensor
    momentum: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"a curriculum's optimizer is one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}"
            )
        x, y, lr, momentum = (tuple(part.shape) for part in (self.x, self.y, self.lr, self.momentum))
        names = len(self.class_names)
        means = len(self.mean)
        stds = len(self.std)
        T, B, C, *_ = x if len(x) in (3, 5) else (0, 0, 0)
        if T < 1 or (y, lr, momentum, means, stds) != ((T, B, names), (T,), (T,), C, C):
            raise ValueError(
                "a curriculum needs x (T, B, C, H, W) or (T, B, C), y (T, B, K), lr (T,), momentum (T,), K "
                f"class names, C means and C stds; given x {x}, y {y}, lr {lr}, momentum {momentum}, {names} "
                f"names, {means} means and {stds} stds"
            )
        if not all(torch.isfinite(part).all() for part in (self.x, self.y, self.lr, self.momentum)):
            raise ValueError("a curriculum must be finite everywhere; this one holds NaN or infinity")

    @property
    def training_data(self) -> TrainingData:
        """The batches and their steps."""
        return TrainingData(self.x, self.y, self.lr, self.momentum, OPTIMIZERS[self.optimizer])

    def to(self, device: torch.device | str) -> Curriculum:
        """The same curriculum with its tensors on ``device``."""
        return replace(
            self, **{name: getattr(self, name).to(device) for name in ("x", "y", "lr", "momentum")}
        )

    @property
    def of_images(self) -> bool:
        """Whether x holds images, rather than plain vectors of features."""
        return self.x.dim() == 5

    def standardize(self, images: Tensor) -> Tensor:
        """Real images (N, C, H, W), uint8 or floats in [0, 1], or vectors (N, C), in the units that the
        learner is taught in."""
        pixels = images.to(self.x.dtype) / (255 if images.dtype == torch.uint8 else 1)
        shape = (-1, 1, 1) if self.of_images else (-1,)
        mean, std = (
            torch.tensor(v, dtype=pixels.dtype, device=pixels.device).view(shape)
            for v in (self.mean, self.std)
        )
        return (pixels - mean) / std

    def save(self, path: str | Path, *, pixels: str = "float32") -> None:
        """Write one safetensors file, atomically. ``pixels="uint8"`` is a quarter of the size, in steps of
        4/255 of a unit."""
        if pixels not in ("float32", "uint8"):
            raise ValueError(f"pixels must be 'float32' or 'uint8', not {pixels!r}")
        if pixels == "uint8" and not self.of_images:
            raise ValueError(
                "pixels='uint8' is for images, and this curriculum holds vectors of features; save it with "
                "pixels='float32'"
            )
        low, high = PIXEL_RANGE
        x = self.x.float()
        if pixels == "uint8":
            x = ((x.clamp(low, high) - low) * (255 / (high - low))).round().to(torch.uint8)
        about = {
            "format": FORMAT,
            "class_names": self.class_names,
            "mean": self.mean,
            "std": self.std,
            "provenance": self.provenance,
            "optimizer": self.optimizer,
        }
        tensors = {"x": x, "y": self.y.float(), "lr": self.lr.float(), "momentum": self.momentum.float()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(Path(path), save(tensors, {"about": json.dumps(about, sort_keys=True)}))


def load_curriculum(path_or_name: str | Path) -> Curriculum:
    """Read a curriculum: a file, a run's folder, or the name of one that comes with the package.

    Raises FileNotFoundError or ValueError, in one sentence, for what is missing or is no curriculum.
    """
    path = Path(path_or_name)
    if path.is_dir():
        path = path / "curriculum.safetensors"
    if not path.is_file():
        shipped = {p.stem: p for p in sorted(SHIPPED.glob("*.safetensors"))}
        if str(path_or_name) not in shipped:
            known = ", ".join(shipped) or "(none)"
            raise FileNotFoundError(
                f"no curriculum file {path}; give a file, a run's folder, or one of these names: {known}"
            )
        path = shipped[str(path_or_name)]
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            if about.get("format") != FORMAT:
                raise ValueError(f"its format is {about.get('format')!r}, not {FORMAT!r}")
            x, y, lr, momentum = (file.get_tensor(name) for name in ("x", "y", "lr", "momentum"))
        if x.dtype == torch.uint8:
            low, high = PIXEL_RANGE
            x = x.float() * ((high - low) / 255) + low
        names, mean, std = (tuple(about[name]) for name in ("class_names", "mean", "std"))
        return Curriculum(
            x,
            y,
            lr,
            momentum,
            names,
            mean,
            std,
            about["provenance"],
            about.get("optimizer", about.get("optimiser", "sgd")),
        )
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not a readable curriculum file ({error}); make one with minigtn train or export"
        ) from error
