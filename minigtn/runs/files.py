"""A run is a folder; every file in it is either whole or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

RUN_FILES = (
    "checkpoint.safetensors",
    "metrics.jsonl",
    "curriculum.safetensors",
    "real.png",
    "result.json",
    "report.html",
    "config.json",
)
COMMIT_LENGTH = 12
PART = ".part"
"""How the names of files that are being written end."""
# of tensors in one file of a checkpoint: files stay below 16 MiB, so that they travel anywhere
PART_BYTES = 15 * 2**20


class CannotWrite(OSError):
    """What cannot be written, why, and what to do, in one sentence."""


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """``error``, met in writing ``path``, as a sentence."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    todo = (
        "make room there and go on; all that was written before is whole"
        if full
        else "check it, or name another place"
    )
    return CannotWrite(f"{path} cannot be written ({error.strerror or error}): {todo}")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside the target, flush to disk, rename: a reader, or a run after a power cut, sees the old file
    or the new one; of two writers at once the later one stays. Raises CannotWrite."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def require_config(folder: Path, names: Iterable[str], instead: str) -> bool:
    """Whether ``folder`` has a ``config.json``. ValueError where it has other files of these ``names``, but
    not that one: nobody knows what settings they were made with. ``instead`` is what to do then."""
    if (folder / "config.json").exists():
        return True
    left = [name for name in names if (folder / name).exists()]
    if left:
        raise ValueError(
            f"{folder} holds {', '.join(left)} of a run, but no config.json, so nobody knows what settings "
            f"they were made with; {instead}"
        )
    return False


def remove_run(folder: Path) -> None:
    """Delete what a run wrote into ``folder``, and nothing else that may be there; ``config.json``, the sign
    of a run, goes last."""
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    for part in folder.glob("checkpoint-*.safetensors"):
        part.unlink()
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any], stamp: int) -> None:
    """Write tensors and JSON values to ``path``, atomically, in safetensors files of at most PART_BYTES each.

    Where one does not do, ``path`` names the others, ``<stem>-<stamp>-<i>.safetensors``, which are written
    before it; those of earlier stamps are deleted after it. Tensors are kept flat and in pieces. A digest
    of everything goes with them. Time: some 2 ms per MB.
    """
    parts: list[dict[str, Tensor]] = [{}]
    room = PART_BYTES
    for name, tensor in tensors.items():
        flat = tensor.detach().reshape(-1)
        for i, piece in enumerate(flat.split(PART_BYTES // flat.element_size())):
            if piece.nbytes > room:
                parts.append({})
                room = PART_BYTES
            parts[-1][f"{name}@{i}"] = piece.cpu().clone()
            room -= piece.nbytes
    others = [path.with_name(f"{path.stem}-{stamp}-{i}.safetensors") for i in range(1, len(parts))]
    for other, part in zip(others, parts[1:], strict=True):
        write_atomically(other, save(part))
    index = {
        **about,
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "parts": [other.name for other in others],
    }
    index["digest"] = digest({name: piece for part in parts for name, piece in part.items()}, index)
    write_atomically(path, save(parts[0], {"about": json.dumps(index, sort_keys=True)}))
    for old in path.parent.glob(f"{path.stem}-*.safetensors"):
        if old not in others:
            old.unlink()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save_tensors` wrote, on the CPU: tensors and JSON values. ValueError, in one sentence, for
    a damaged or missing file; one flipped bit is enough."""
    try:
        flat: dict[str, Tensor] = {}
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
        for name in [path.name, *about["parts"]]:
            with safe_open(path.with_name(name), "pt") as file:
                flat |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if about.pop("digest") != digest(flat, about):
            raise ValueError("its content does not fit its digest")
        pieces: dict[str, list[Tensor]] = {}
        for key in sorted(flat, key=lambda key: int(key.rpartition("@")[2])):
            pieces.setdefault(key.rpartition("@")[0], []).append(flat[key])
        return {name: torch.cat(pieces[name]).view(shape) for name, shape in about["shapes"].items()}, about
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({error}); start afresh with --overwrite or another --out"
        ) from error


UNREADABLE = (
    SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError
)  # fmt: skip
"""What a damaged file may raise on its way through safetensors, JSON and torch."""


def digest(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """A number that tells whether anything in ``tensors`` (on the CPU) or the JSON values ``about`` was
    changed: SHA-256."""
    as_read = json.loads(json.dumps(about))  # a number that is a key is text then
    found = hashlib.sha256(json.dumps(as_read, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Readable JSON, written atomically; NaN and infinity are refused (ValueError)."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a run's JSON file; in one sentence, FileNotFoundError or ValueError where it is missing
    or damaged."""
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_each_once, parse_constant=_no_constant)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{path.parent} holds no {path.name}; give the folder of a run made by minigtn train"
        ) from None
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}); check it and its permissions") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands there twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


class Lines:
    """A file of JSON objects, one a line, appended as they come."""

    def __init__(self, path: Path, kept: Iterable[dict[str, Any]]) -> None:
        """Begin with the records ``kept``, in place of all that is there. Raises CannotWrite."""
        write_atomically(path, "".join(_line(record) for record in kept))
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; what is not finite in it becomes null. Raises CannotWrite."""
        try:
            self._file.write(_line(record))
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        with suppress(OSError):  # of what write() has failed to write, and told
            self._file.close()


class Metrics(Lines):
    """``metrics.jsonl``: one JSON object per outer step."""

    def __init__(self, path: Path, steps_done: int) -> None:
        """Continue after ``steps_done``: lines of later steps (written after the last checkpoint) and a torn
        last line are dropped. ValueError for a damaged file."""
        records = read_metrics(path)
        if not all(type(record.get("step")) is int for record in records):
            raise ValueError(f"{path} has a line without a number as its step; mend it, or delete the file")
        super().__init__(path, [record for record in records if record["step"] <= steps_done])


def _line(record: dict[str, Any]) -> str:
    finite = {
        name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in record.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl`` without a last line that a killed run left torn; an empty list where
    there is no file. ValueError, with its number, for any other line that is no JSON object."""
    records = []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line, object_pairs_hook=_each_once, parse_constant=_no_constant)
            if not isinstance(record, dict):
                raise ValueError("no JSON object")
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # it has no end: torn, or nothing at all
                break
            raise ValueError(
                f"{path}, line {number}, is damaged ({error}); mend it, or delete the file"
            ) from error
        records.append(record)
    return records


def environment(device: torch.device) -> dict[str, Any]:
    """What a figure rests on besides its config: commit, versions, device, threads."""
    versions = {"python": platform.python_version()}
    for package in ("minigtn", "torch", "numpy", "scikit-learn", "safetensors", "cupy-cuda13x"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    threads = torch.get_num_threads()
    cpu = f"{threads} thread{'s' * (threads > 1)} of {_cpu_name()}"
    return {
        "commit": _commit(),
        "versions": versions,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {cpu}",
    }


def _commit() -> str:
    """The commit of the source tree that this package runs from, with "+changes" if it is not clean;
    "unknown" outside a checkout."""
    package = Path(__file__).parents[1]
    try:
        top, head, status = (
            subprocess.run(
                ["git", *args], cwd=package, capture_output=True, text=True, check=True
            ).stdout.strip()
            for args in (
                ["rev-parse", "--show-toplevel"],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    if Path(top) != package.parent:  # installed inside somebody else's repository
        return "unknown"
    return head[:COMMIT_LENGTH] + ("+changes" if status else "")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()
