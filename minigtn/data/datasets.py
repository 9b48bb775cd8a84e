"""Real data sets, as tensors, carved once and for all into train, valid and test.

| name | images | train / valid / test | source |
| --- | --- | --- | --- |
| `digits` | 1 x 8 x 8 | 1,000 / 297 / 500 | bundled with scikit-learn (UCI, Alpaydin & Kaynak 1998) |
| `mnist` | 1 x 28 x 28 | 50,000 / 10,000 / 10,000 | LeCun, Cortes, Burges: the four IDX files |
| `fashion-mnist` | 1 x 28 x 28 | 50,000 / 10,000 / 10,000 | Xiao, Rasul, Vollgraf 2017: the four IDX files |
| `cifar10` | 3 x 32 x 32 | 45,000 / 5,000 / 10,000 | Krizhevsky 2009: the official *binary version* |

The carving does not depend on a run's seed: image i of the official training files gets the i-th 64-bit
number of NumPy's bit generator `PCG64(20200)`, images are sorted by it, and the first ones are `train`, the
others `valid`. (Raw bits, because NumPy promises them to stay the same in all its versions.) `test` is the
official test set; `digits` has none, so its last 500 images in the order of `PCG64(20201)` are it.

    data = minigtn.data.load("mnist", data_dir="~/datasets")
    data.train.x[:32], data.train.y[:32]
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from minigtn.data import downloads
from minigtn.data.downloads import DataError
from minigtn.runs.devices import sent

__all__ = ["DATASETS", "DataError", "Dataset", "Split", "averaged", "load", "read_cifar_batch", "read_idx"]

DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10")

_DIGITS = tuple("0123456789")
_CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip
_SIZES = {  # train, valid, test
    "digits": (1_000, 297, 500),
    "mnist": (50_000, 10_000, 10_000),
    "fashion-mnist": (50_000, 10_000, 10_000),
    "cifar10": (45_000, 5_000, 10_000),
}
_BRIGHTEST = {"digits": 16, "mnist": 255, "fashion-mnist": 255, "cifar10": 255}
_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CIFAR_FILES = tuple(f"{stem}.bin" for stem in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"))
_CIFAR_FOLDER = "cifar-10-batches-bin"
_CIFAR_RECORD = 1 + 3 * 32 * 32
# MNIST and Fashion-MNIST share their file names: the first test labels tell which one a folder really holds.
_FIRST_TEST_LABELS = {
    "mnist": bytes.fromhex("07020100040104090509"),
    "fashion-mnist": bytes.fromhex("09020101060104060507"),
}
_GZIP = b"\x1f\x8b"
_CARVING_SEED = 20200
_DIGITS_TEST_SEED = 20201

_Bytes = NDArray[np.uint8]
_Images = tuple[_Bytes, _Bytes]  # pixels (N, C, H, W) and labels (N,)


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        x: float32 (N, C, H, W), contiguous, loaded on the CPU; standardized per channel with the statistics
            of `train`.
        y: int64 (N,), class numbers from 0.
    """

    x: Tensor
    y: Tensor

    def to(self, device: torch.device | str) -> Split:
        """The same split on another device; no copy if it is there already."""
        return Split(self.x.to(device), self.y.to(device))

    def draw(self, steps: int, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """``steps`` batches drawn at random: x (T, B, C, H, W), y (T, B); the same images on every device."""
        index = sent(torch.randint(len(self.y), (steps, batch_size), generator=rng), self.y.device)
        return self.x[index], self.y[index]

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Split(x={tuple(self.x.shape)}, y={tuple(self.y.shape)})"


def crop_and_flip(x: Tensor, rng: torch.Generator, padding: int = 4) -> Tensor:
    """Images (N, C, H, W), each shifted by up to ``padding`` pixels (zeros come in: the mean colour) and
    mirrored half of the time."""
    N, C, H, W = x.shape
    down, right = torch.randint(2 * padding + 1, (2, N, 1), generator=rng)
    mirrored = torch.randint(2, (N, 1), generator=rng).bool()
    rows = torch.arange(H) + down
    columns = torch.arange(W)
    columns = torch.where(mirrored, columns.flip(0), columns) + right
    rows = sent(rows, x.device)
    columns = sent(columns, x.device)
    padded = torch.nn.functional.pad(x, [padding] * 4)
    image, channel = (torch.arange(n, device=x.device) for n in (N, C))
    return padded[
        image.view(-1, 1, 1, 1), channel.view(1, -1, 1, 1), rows.view(N, 1, H, 1), columns.view(N, 1, 1, W)
    ]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three parts that share no image.

    Attributes:
        name: one of `DATASETS`.
        train, valid, test: the three `Split`s.
        class_names: what class k is called.
        mean, std: per channel, of the pixels of `train` in [0, 1]; a pixel p became (p - mean) / std in all
            splits.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    @property
    def n_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    @cached_property
    def moments(self) -> Tensor:
        """(2, C, H, W): mean and standard deviation of each pixel over the images of `train`."""
        return torch.stack([self.train.x.mean(0), self.train.x.std(0)])

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set with all three splits on another device; no copy if they are there already."""
        return replace(
            self, train=self.train.to(device), valid=self.valid.to(device), test=self.test.to(device)
        )


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Load a data set; the same tensors, bit for bit, every time.

    `digits` comes with scikit-learn and needs no file. For the others, with `data_dir` or the environment
    variable `MINIGTN_DATA` the files are looked for there and the network is never touched; otherwise the
    official files are downloaded once into `MINIGTN_CACHE` (by default the operating system's cache folder),
    their digests checked.

    Local files, gzipped or not whatever they are called (`.gz` or not, `train-images.idx3-ubyte` as well as
    `train-images-idx3-ubyte`), may be in `data_dir/<name>/` or in `data_dir` itself; those of CIFAR-10 also
    in a folder `cifar-10-batches-bin` in one of these. They are checked for their structure, not for their
    digest.

    Memory kept / needed while loading: mnist and fashion-mnist 0.22 / 0.37 GB, cifar10 0.74 / 0.91 GB, digits
    0.5 MB.

    Args:
        name: one of `DATASETS`.
        data_dir: folder with local files; None: `MINIGTN_DATA` if set and not empty, else the download cache.

    Raises:
        DataError: unknown name; a folder or file that is missing, unreadable, truncated, or not what it
            should be; a download that failed on all mirrors. The message is one sentence.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}.")
    if name == "digits":
        (pixels, labels), test = _read_digits()
    elif name == "cifar10":
        (pixels, labels), test = _read_cifar10(_find_files(name, data_dir))
    else:
        (pixels, labels), test = _read_mnist(name, _find_files(name, data_dir))
    n_train = _SIZES[name][0]
    order = _fixed_order(len(labels), _CARVING_SEED)
    train = pixels[order[:n_train]], labels[order[:n_train]]
    valid = pixels[order[n_train:]], labels[order[n_train:]]
    del pixels, labels
    mean, std = _statistics(name, train[0])
    return Dataset(
        name=name,
        train=_standardized(train, mean, std),
        valid=_standardized(valid, mean, std),
        test=_standardized(test, mean, std),
        class_names=_CLASS_NAMES[name],
        mean=tuple((mean / _BRIGHTEST[name]).tolist()),
        std=tuple((std / _BRIGHTEST[name]).tolist()),
    )


def averaged(data: Dataset, size: int) -> Dataset:
    """The data set with images of ``size`` x ``size`` pixels, each the mean of a square of pixels; 0, or the
    size that they have: the data set itself.

    They stay in the units of the full images: ``mean`` and ``std`` are those, and the means of squares spread
    a little less. Memory: the smaller images. ValueError where the squares do not fit.
    """
    height, width = data.image_shape[1:]
    if size in (0, height) and size in (0, width):
        return data
    if height != width or size < 1 or height % size:
        fit = ", ".join(str(n) for n in range(1, height) if height % n == 0)
        raise ValueError(
            f"images of {height} x {width} pixels cannot be averaged down to {size} x {size}; image sizes "
            f"that fit are {fit if height == width else '0'}, and 0 leaves them as they are"
        )

    def smaller(split: Split) -> Split:
        return Split(F.avg_pool2d(split.x, height // size), split.y)

    return replace(data, train=smaller(data.train), valid=smaller(data.valid), test=smaller(data.test))


def read_idx(path: str | Path, ndim: int) -> _Bytes:
    """Read an IDX file of unsigned bytes, gzipped or not.

    The format: bytes 0, 0, 8 (unsigned byte), `ndim`; then `ndim` big-endian 32-bit sizes; then the values.

    Args:
        path: the file.
        ndim: number of dimensions it must have; 3 for images, 1 for labels.

    Returns:
        uint8 array of the shape in the header; read-only.

    Raises:
        DataError: missing, unreadable, damaged gzip data, wrong magic number, truncated, or too long.
    """
    content = _read_bytes(path)
    magic = bytes((0, 0, 8, ndim))
    start = 4 + 4 * ndim
    if content[:4] != magic[: len(content)]:
        found = content[:4].hex(" ")
        needed = magic.hex(" ")
        raise _bad(
            path, f"starts with the bytes {found}, but an IDX file of {ndim} dimensions starts with {needed}"
        )
    if len(content) < start:
        raise _bad(path, f"is truncated, it has {len(content)} bytes where the header alone has {start}")
    shape = np.frombuffer(content, ">u4", count=ndim, offset=4).tolist()
    expected = start + math.prod(shape)
    if len(content) != expected:
        problem = "is truncated" if len(content) < expected else "is too long"
        raise _bad(path, f"{problem}, it has {len(content):,} bytes where its header announces {expected:,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar_batch(path: str | Path) -> tuple[_Bytes, _Bytes]:
    """Read a file of CIFAR-10's binary version: records of 1 label byte and 3,072 pixel bytes (R, G, B
    planes).

    Args:
        path: the file, gzipped or not.

    Returns:
        Images, uint8 (N, 3, 32, 32), and labels, uint8 (N,); both read-only views of one buffer.

    Raises:
        DataError: missing, unreadable, not a whole number of records, or a label above 9.
    """
    content = _read_bytes(path)
    if len(content) == 0 or len(content) % _CIFAR_RECORD:
        problem = f"its {len(content):,} bytes are not a whole number of records of {_CIFAR_RECORD:,} bytes"
        raise _bad(path, f"is truncated or not of CIFAR-10's binary version, {problem}")
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
    _check_labels(path, records[:, 0], 10)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _read_digits() -> tuple[_Images, _Images]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = _fixed_order(len(bunch.target), _DIGITS_TEST_SEED)
    pixels = bunch.images.astype(np.uint8)[order, None]  # the values 0..16 are whole numbers
    labels = bunch.target.astype(np.uint8)[order]
    n_test = _SIZES["digits"][2]
    return (pixels[:-n_test], labels[:-n_test]), (pixels[-n_test:], labels[-n_test:])


def _read_mnist(name: str, files: dict[str, Path]) -> tuple[_Images, _Images]:
    n_train, n_valid, n_test = _SIZES[name]
    parts = []
    for stem, n in (("train", n_train + n_valid), ("t10k", n_test)):
        path = files[f"{stem}-images-idx3-ubyte"]
        images = read_idx(path, ndim=3)
        if images.shape != (n, 28, 28):
            count, height, width = images.shape
            raise _bad(
                path, f"holds {count:,} images of {height} x {width} pixels, but {name} has {n:,} of 28 x 28"
            )
        path = files[f"{stem}-labels-idx1-ubyte"]
        labels = read_idx(path, ndim=1)
        if len(labels) != n:
            raise _bad(path, f"holds {len(labels):,} labels for {n:,} images, but every image has one")
        _check_labels(path, labels, 10)
        parts.append((images[:, None], labels))
    for other, first in _FIRST_TEST_LABELS.items():
        if other != name and parts[1][1][: len(first)].tobytes() == first:
            raise DataError(
                f"{path.parent} holds {other}, not {name}, though the files are called alike: name the "
                f"folder of {name} with --data-dir, or leave --data-dir and MINIGTN_DATA out to download "
                "it."
            )
    return parts[0], parts[1]


def _read_cifar10(files: dict[str, Path]) -> tuple[_Images, _Images]:
    n = _SIZES["cifar10"][2]  # all six files are of the same size
    batches = []
    for filename in _CIFAR_FILES:
        batches.append(read_cifar_batch(files[filename]))
        if len(batches[-1][1]) != n:
            problem = (
                f"holds {len(batches[-1][1]):,} images, but every file of CIFAR-10's binary version has {n:,}"
            )
            raise _bad(files[filename], problem)
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*batches[:-1], strict=True))
    return (pixels, labels), batches[-1]


def _find_files(name: str, data_dir: str | Path | None) -> dict[str, Path]:
    """Where each official file (by its name without .gz) is; everything comes from the first folder that has
    any."""
    wanted = _CIFAR_FILES if name == "cifar10" else _IDX_FILES
    data_dir = data_dir if data_dir is not None else os.environ.get("MINIGTN_DATA") or None
    root = downloads.download(name) if data_dir is None else Path(data_dir).expanduser()
    if not root.is_dir():
        raise DataError(
            f"the data folder {root} is not a folder: name an existing one with --data-dir or MINIGTN_DATA, "
            "or leave both out to download the official files."
        )
    folders = [root / name, root]
    if name == "cifar10":
        folders = [root / name / _CIFAR_FOLDER, root / _CIFAR_FOLDER, *folders]
    for folder in folders:
        choices = {stem: [folder / name for name in _spellings(stem)] for stem in wanted}
        found = {stem: path for stem, paths in choices.items() for path in reversed(paths) if path.is_file()}
        if found:
            break
    missing = [stem for stem in wanted if stem not in found]
    if missing:
        searched = str(folder) if found else ", ".join(str(folder) for folder in folders)
        kind = (
            "the official binary version" if name == "cifar10" else "the official IDX files, gzipped or not,"
        )
        raise DataError(
            f"{name} lacks {', '.join(missing)} (searched: {searched}): put {kind} there, "
            "or leave --data-dir and MINIGTN_DATA out to download them."
        )
    return found


def _spellings(stem: str) -> list[str]:
    """The names that an official file goes by, best first: gzipped or not, with the dot that some unpackers
    put in."""
    dotted = stem.replace("-idx", ".idx")
    return [f"{stem}.gz", stem, f"{dotted}.gz", dotted]


def _read_bytes(path: str | Path) -> bytes:
    """The content of a file, unpacked where it is gzipped: its first bytes say so (no IDX file and no label
    begins with them), not its name."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): check its name and permissions."
        ) from error
    if content[:2] != _GZIP:
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise _bad(path, "is truncated, its gzip data end too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _bad(path, "is a damaged gzip file") from error


def _check_labels(path: str | Path, labels: _Bytes, n_classes: int) -> None:
    if labels.size and labels.max() >= n_classes:
        at = int(np.argmax(labels >= n_classes))
        raise _bad(
            path, f"has the label {labels[at]} for image {at:,}, but the classes are 0 to {n_classes - 1}"
        )


def _bad(path: str | Path, problem: str) -> DataError:
    return DataError(f"{path} {problem}: get the official file again.")


def _fixed_order(n: int, seed: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1 that is the same with every version of NumPy, on every machine."""
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def _statistics(name: str, pixels: _Bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation per channel, in units of the stored pixels; from exact (Python) integer
    sums."""
    n = pixels[:, 0].size
    mean = []
    std = []
    for channel in range(pixels.shape[1]):
        histogram = np.bincount(pixels[:, channel].reshape(-1), minlength=256).tolist()
        total = sum(count * value for value, count in enumerate(histogram))
        squares = sum(count * value**2 for value, count in enumerate(histogram))
        mean.append(total / n)
        std.append(math.sqrt(n * squares - total**2) / n)
    if not all(std):
        raise DataError(f"all training images of {name} are of one colour: get the official files again.")
    return np.array(mean), np.array(std)


def _standardized(images: _Images, mean: NDArray[np.float64], std: NDArray[np.float64]) -> Split:
    pixels, labels = images
    x = torch.from_numpy(pixels.astype(np.float32, order="C"))
    shape = (1, len(mean), 1, 1)
    x -= torch.from_numpy(mean.astype(np.float32)).view(shape)
    x /= torch.from_numpy(std.astype(np.float32)).view(shape)
    return Split(x, torch.from_numpy(labels.astype(np.int64)))
