"""The curriculum as a thing of its own: a file that trains any classifier in one call.

On the command line it is ``minigtn train``, ``report`` and ``export``; in Python:

    curriculum = minigtn.load_curriculum("runs/demo")
    minigtn.teach(my_module, curriculum)
    my_module.eval()(curriculum.standardize(images)).argmax(1)
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from minigtn.inner.optimizers import OPTIMIZERS, Optimizer
from minigtn.runs.files import UNREADABLE, digest, write_atomically

if TYPE_CHECKING:
    import PIL.Image

FORMAT = "minigtn curriculum 3"
OLDER = ("minigtn curriculum 1", "minigtn curriculum 2")
"""The same without moments; the first without a digest, too."""
TENSORS = ("x", "y", "lr", "momentum")
SHIPPED = Path(__file__).parent / "curricula"
PIXEL_RANGE = (-2.0, 2.0)  # of the generator's 2*tanh; what uint8 files are scaled from


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


@dataclass(frozen=True, repr=False)
class Curriculum:
    """Ordered synthetic batches with their step sizes: all that a learner needs for T inner steps.

    x: (T, B, C, H, W) float32 in standardized units, or (T, B, C) where the learner takes plain vectors of C
    features, such as the observations of an agent · y: (T, B, K) class probabilities · lr, momentum: (T,) ·
    mean, std: per channel, of the pixels in [0, 1] that a real image is standardized with; per feature of a
    vector (an agent's curriculum has 0 and 1: it takes observations as they are) · provenance: where it came
    from · optimizer: of the inner steps (sgd, adam, muadam or rmsprop, with torch's usual constants;
    momentum is Adam's beta1) · moments: (2, C, H, W), mean and standard deviation of each pixel over the real
    training images in standardized units, which running statistics of batch norms need; None where they are
    not known. Memory: ``4 * T*B*C*H*W`` bytes. ValueError for shapes that do not fit each other, and for what
    cannot be right: numbers that are not finite, labels that are no probabilities, lr below 0, momentum
    outside [0, 1), std not above 0, a negative deviation.
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
    moments: Tensor | None = None

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
        parts = (self.x, self.y, self.lr, self.momentum)
        if not all(part.is_floating_point() for part in parts):
            dtypes = ", ".join(str(part.dtype) for part in parts)
            raise ValueError(f"x, y, lr and momentum of a curriculum are floats, not {dtypes}")
        if not all(torch.isfinite(part).all() for part in parts):
            raise ValueError("a curriculum must be finite everywhere; this one holds NaN or infinity")
        if (self.y < 0).any() or ((self.y.sum(-1) - 1).abs() > 1e-3).any():
            raise ValueError(
                "y must be class probabilities, none below 0, with the sum 1 for each image; class numbers "
                "become so by torch.nn.functional.one_hot(numbers, K).float()"
            )
        if self.lr.min() < 0:
            raise ValueError(f"a learning rate must not be negative, and one is {self.lr.min():g}")
        if self.momentum.min() < 0 or self.momentum.max() >= 1:
            raise ValueError(
                "momentum must be from 0 to below 1 at every step, and goes from "
                f"{self.momentum.min():g} to {self.momentum.max():g}"
            )
        numbers = (*self.mean, *self.std)
        if not all(isinstance(name, str) for name in self.class_names) or not all(
            type(number) in (int, float) for number in numbers
        ):
            raise ValueError(
                "a curriculum's class names are texts, and its means and stds numbers; given "
                f"{self.class_names}, {self.mean} and {self.std}"
            )
        if not all(map(math.isfinite, self.mean)) or not all(0 < s < math.inf for s in self.std):
            raise ValueError(
                f"mean must be finite and std positive in every channel; given {self.mean} and {self.std}"
            )
        if self.moments is not None and not _are_moments(self.moments, x):
            raise ValueError(
                f"moments of a curriculum of x {x} are finite floats (2, C, H, W), the deviations not "
                f"negative; given {tuple(self.moments.shape)} of {self.moments.dtype}"
            )

    def __repr__(self) -> str:
        T, B = self.x.shape[:2]
        of = "x".join(map(str, self.x.shape[2:]))
        what = f"images of {of}" if self.of_images else f"vectors of {of} features"
        names = self.class_names if len(self.class_names) <= 12 else (*self.class_names[:10], "...")
        config = self.provenance.get("config")
        made_for = config.get("dataset") if isinstance(config, dict) else None
        return (
            f"Curriculum{f' for {made_for}' if made_for else ''}: {T} steps of {B} {what}, "
            f"{len(self.class_names)} classes ({', '.join(names)}); {self.optimizer}, learning rates from "
            f"{self.lr.min():.3g} to {self.lr.max():.3g}, momentum from {self.momentum.min():.3g} to "
            f"{self.momentum.max():.3g}"
        )

    @property
    def training_data(self) -> TrainingData:
        """The batches and their steps."""
        return TrainingData(self.x, self.y, self.lr, self.momentum, OPTIMIZERS[self.optimizer])

    def to(self, device: torch.device | str) -> Curriculum:
        """The same curriculum with its tensors on ``device``."""
        there = {name: getattr(self, name).to(device) for name in TENSORS}
        return replace(self, moments=None if self.moments is None else self.moments.to(device), **there)

    @property
    def of_images(self) -> bool:
        """Whether x holds images, rather than plain vectors of features."""
        return self.x.dim() == 5

    def standardize(self, images: Tensor | NDArray[Any]) -> Tensor:
        """Real images (..., C, H, W), uint8 or floats in [0, 1], or vectors (..., C), torch or NumPy, in the
        units that the learner is taught in. On the images' device, in the curriculum's dtype.

        ValueError for what cannot be right: images of another size, or floats that are not in [0, 1] (a half
        below and above is let pass).
        """
        if not isinstance(images, Tensor):
            images = torch.from_numpy(np.array(images, order="C"))
        self._refuse_images(images)
        pixels = images.to(self.x.dtype) / (255 if images.dtype == torch.uint8 else 1)
        shape = (-1, 1, 1) if self.of_images else (-1,)
        mean, std = (
            torch.tensor(v, dtype=pixels.dtype, device=pixels.device).view(shape)
            for v in (self.mean, self.std)
        )
        return (pixels - mean) / std

    def _refuse_images(self, images: Tensor) -> None:
        size = tuple(self.x.shape[2:])
        given = tuple(images.shape)
        if given[-len(size) :] != size:
            hint = ""
            if self.of_images and given[-3:] == (*size[1:], size[0]):
                hint = ": the channels go first, images.movedim(-1, -3)"
            elif self.of_images and size[0] == 1 and given[-2:] == size[1:]:
                hint = ": images[:, None] gives them their one channel"
            raise ValueError(
                f"this curriculum is for {'images' if self.of_images else 'vectors'} (..., "
                f"{', '.join(map(str, size))}), and these are {given}{hint}"
            )
        if not self.of_images or images.dtype == torch.uint8:
            return
        if not images.dtype.is_floating_point:
            raise ValueError(f"images are uint8, or floats in [0, 1], not {images.dtype}")
        if images.numel() and not (images.min() >= -0.5 and images.max() <= 1.5):
            raise ValueError(
                f"float images are expected in [0, 1], and these go from {images.min():g} to "
                f"{images.max():g}: divide by the largest value a pixel can have (and do not standardize "
                "twice)"
            )

    def show(self) -> PIL.Image.Image:
        """A picture of the first image of each class (rows) in each batch (columns): a notebook displays it,
        ``.save("curriculum.png")`` writes it. ValueError for a curriculum of vectors."""
        from PIL import Image

        from minigtn.teaching.pictures import enlarged_sheet

        return Image.fromarray(enlarged_sheet(self))

    def save(self, path: str | Path, *, pixels: str = "float32") -> None:
        """Write one safetensors file, atomically, with a digest of its content. ``pixels="uint8"`` is a
        quarter of the size, in steps of 4/255 of a unit."""
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
        if self.moments is not None:
            tensors["moments"] = self.moments.float()
        tensors = {  # clones: safetensors takes no views that overlap
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        about["digest"] = digest(tensors, about)
        write_atomically(Path(path).expanduser(), save(tensors, {"about": json.dumps(about, sort_keys=True)}))


def load_curriculum(path_or_name: str | Path) -> Curriculum:
    """Read a curriculum: a file, a run's folder, or the name of one that comes with the package.

    Raises FileNotFoundError or ValueError, in one sentence, for what is missing or is no curriculum.
    """
    path = Path(path_or_name).expanduser()
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
            _check_metadata(about)
            names = [*TENSORS, "moments"] if about["format"] == FORMAT else TENSORS
            tensors = {name: file.get_tensor(name) for name in names if name in {*TENSORS, *file.keys()}}
        has_digest = about["format"] != OLDER[0] or "digest" in about
        if has_digest and about.pop("digest") != digest(tensors, about):
            raise ValueError("its content does not fit its digest: it is damaged")
        x, y, lr, momentum, *moments = tensors.values()
        if x.dtype == torch.uint8:
            low, high = PIXEL_RANGE
            x = x.float() * ((high - low) / 255) + low
        class_names, mean, std = (tuple(about[name]) for name in ("class_names", "mean", "std"))
        return Curriculum(
            x,
            y,
            lr,
            momentum,
            class_names,
            mean,
            std,
            about["provenance"],
            about.get("optimizer", about.get("optimiser", "sgd")),
            *moments,
        )
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is not a readable curriculum file ({error}); make one with minigtn train or export"
        ) from error


def _are_moments(moments: Tensor, x: tuple[int, ...]) -> bool:
    fits = moments.is_floating_point() and len(x) == 5 and tuple(moments.shape) == (2, *x[2:])
    return fits and bool(torch.isfinite(moments).all() and (moments[1] >= 0).all())


def _check_metadata(about: Any) -> None:
    """ValueError unless each entry is what its name says."""
    if not isinstance(about, dict) or about.get("format") not in (FORMAT, *OLDER):
        found = about.get("format") if isinstance(about, dict) else about
        raise ValueError(f"its format is {found!r}, not {FORMAT!r}")

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    for name, is_one in (
        ("class_names", lambda value: isinstance(value, str)),
        ("mean", is_number),
        ("std", is_number),
    ):
        if not isinstance(about[name], list) or not all(map(is_one, about[name])):
            kind = "texts" if name == "class_names" else "numbers"
            raise ValueError(f"its {name} is no list of {kind}: {str(about[name])[:80]}")
    if not isinstance(about["provenance"], dict):
        raise ValueError("its provenance is no table")
    if not all(isinstance(about.get(name, ""), str) for name in ("optimizer", "optimiser")):
        raise ValueError("its optimizer is no text")
