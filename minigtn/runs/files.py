"""A run is a folder; every file in it is either whole or absent."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
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
    "result.json",
    "report.html",
    "config.json",
)
COMMIT_LENGTH = 12
# of tensors in one file of a checkpoint: files stay below 16 MiB, so that they travel anywhere
PART_BYTES = 15 * 2**20


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside the target, flush to disk, rename: a reader, or a run after a power cut, sees the old file
    or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


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
    before it; those of earlier stamps are deleted after it. Tensors are kept flat and in pieces.
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
    write_atomically(path, save(parts[0], {"about": json.dumps(index, sort_keys=True)}))
    for old in path.parent.glob(f"{path.stem}-*.safetensors"):
        if old not in others:
            old.unlink()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save_tensors` wrote, on the CPU: tensors and JSON values. ValueError, in one sentence, for
    a damaged or missing file."""
    try:
        pieces: dict[str, list[Tensor]] = {}
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
        for name in [path.name, *about["parts"]]:
            with safe_open(path.with_name(name), "pt") as file:
                for key in sorted(file.keys(), key=lambda key: int(key.rpartition("@")[2])):
                    pieces.setdefault(key.rpartition("@")[0], []).append(file.get_tensor(key))
        return {name: torch.cat(pieces[name]).view(shape) for name, shape in about["shapes"].items()}, about
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({error}); start afresh with --overwrite or another --out"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Readable JSON, written atomically; NaN and infinity are refused (ValueError)."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a run's JSON file; in one sentence, FileNotFoundError or ValueError where it is missing
    or damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{path.parent} holds no {path.name}; give the folder of a run made by minigtn train"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error


class Metrics:
    """``metrics.jsonl``: one JSON object per outer step, appended as it happens; what is not finite is
    null."""

    def __init__(self, path: Path, steps_done: int) -> None:
        """Continue after ``steps_done``: lines of later steps (written after the last checkpoint) and a torn
        last line are dropped."""
        kept = [record for record in read_metrics(path) if record["step"] <= steps_done]
        write_atomically(path, "")
        self._file = path.open("a")
        for record in kept:
            self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        record = {
            name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in record.items()
        }
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``, up to a line that a killed run left torn; an empty list where there
    is no file."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
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
