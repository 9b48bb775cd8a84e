"""Damaged input files: every reader of the library on mutants of files that it can read.

A mutant is refused in one sentence (ValueError or OSError, one printable line), or loaded. A load is right if
it equals the original (for files that carry a digest or a checksum nothing else is), or, for files that carry
none, what another reader, written here without the library's, finds in the same bytes: a flipped pixel in an
IDX file is another picture, and nobody can tell. Everything else is a fault: another exception, a wrong load,
a read that takes longer than SLOW seconds.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import signal
import struct
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults_mutants import mutant

from minigtn import PRESETS, Curriculum, load_curriculum, spaces
from minigtn.agents.config import AgentConfig
from minigtn.agents.runs import read_config
from minigtn.data.datasets import read_cifar_batch, read_idx
from minigtn.nas.final_training import FinalConfig
from minigtn.nas.tables import scored
from minigtn.networks.spaces.tables import read_table
from minigtn.outer.run import settings_of
from minigtn.runs.files import load_tensors, read_json, read_metrics, save_tensors
from minigtn.runs.settings import from_dict, to_dict

SLOW = 5
REFUSALS = (ValueError, OSError)


@dataclass(frozen=True)
class Kind:
    """One sort of file: good bytes, how the library reads them, and what is right to find in other bytes."""

    name: str
    file: str
    """What the file is called in its folder."""
    good: bytes
    read: Callable[[Path], Any]
    """By the library."""
    right: Callable[[bytes], Any] | None = None
    """By another reader; None: nothing but the original is right."""


# ---- files, and other readers of them ----


def kinds(place: Path) -> list[Kind]:
    """Every sort of file, with good ones of a few kilobytes."""
    rng = np.random.default_rng(0)
    images = b"\0\0\x08\x03" + struct.pack(">3I", 6, 28, 28) + rng.bytes(6 * 784)
    labels = b"\0\0\x08\x01" + struct.pack(">I", 60) + (np.arange(60) % 10).astype(np.uint8).tobytes()
    records = rng.integers(0, 256, (2, 3073), dtype=np.uint8)
    records[:, 0] = (3, 9)
    curriculum = load_curriculum("digits-10")
    small = Curriculum(
        curriculum.x[:2, :12].clone(), curriculum.y[:2, :12].clone(),
        curriculum.lr[:2], curriculum.momentum[:2],
        curriculum.class_names, curriculum.mean, curriculum.std, {"made": "here"},
    )  # fmt: skip
    small.save(place / "good.safetensors")
    new = (place / "good.safetensors").read_bytes()
    tensors = {"teacher/w": torch.randn(20, 7), "adam/0/step": torch.tensor(3.0), "best/n": torch.arange(9)}
    save_tensors(place / "good-checkpoint.safetensors", tensors, {"progress": {"step": 3, "best": 0.5}}, 3)
    checkpoint = (place / "good-checkpoint.safetensors").read_bytes()
    config = json.dumps({"config": to_dict(PRESETS["digits"]), "commit": "x"}, indent=2).encode()
    agents = json.dumps({"kind": "agents", "config": to_dict(AgentConfig())}, indent=2).encode()
    final = json.dumps({"config": to_dict(FinalConfig("00000000", "nas-bench-macro"))}, indent=2).encode()
    metrics = "".join(
        json.dumps({"step": i, "meta_loss": 2.5 / i, "skipped": 0}) + "\n" for i in range(1, 30)
    )
    line = {
        "repeat": 0,
        "truth": 93.5,
        "scores": {"gtn-2": 0.25, "tse-2": None},
        "seconds": {"gtn-2": 0.1, "tse-2": 0.1},
    }
    scores = "".join(json.dumps({"arch": f"0000000{i % 3}", **line}) + "\n" for i in range(9))
    space = spaces.get("nas-bench-macro")
    table = "arch,mean_acc,params\n" + "".join(
        f"{space.sample(i)},{90 + i / 7:.2f},{i}\n" for i in dict.fromkeys(range(40))
    )
    return [
        Kind("IDX images", "a", images, lambda p: read_idx(p, 3), lambda b: _idx(b, 3)),
        Kind("IDX labels", "a", labels, lambda p: read_idx(p, 1), lambda b: _idx(b, 1)),
        Kind("IDX images, gzipped", "a.gz", gzip.compress(images, 1, mtime=0), lambda p: read_idx(p, 3)),
        Kind("CIFAR-10 batch", "a.bin", records.tobytes(), read_cifar_batch, _cifar),
        Kind("curriculum", "a.safetensors", new, load_curriculum),
        Kind("curriculum without digest", "a.safetensors", older(new), load_curriculum, _safetensors),
        Kind("checkpoint", "checkpoint.safetensors", checkpoint, load_tensors),
        Kind("config.json of a run", "config.json", config, lambda p: settings_of(p.parent), _config),
        Kind("config.json of agents", "config.json", agents, lambda p: read_config(p.parent), _config),
        Kind("config.json of a final training", "config.json", final, _final, _config),
        Kind("metrics.jsonl", "metrics.jsonl", metrics.encode(), read_metrics, _lines),
        Kind("scores.jsonl", "scores.jsonl", scores.encode(), lambda p: scored(p.parent), _lines),
        Kind("table", "a.csv", table.encode(), lambda p: read_table(p, "", space), _csv),
    ]  # fmt: skip


def _final(path: Path) -> Any:
    saved = read_json(path)
    return from_dict(FinalConfig, saved.get("config") if isinstance(saved, dict) else saved)


def older(new: bytes) -> bytes:
    """The same curriculum as it was saved before there were digests."""
    size = int.from_bytes(new[:8], "little")
    header = json.loads(new[8 : 8 + size])
    about = json.loads(header["__metadata__"]["about"])
    del about["digest"]
    about["format"] = "minigtn curriculum 1"
    header["__metadata__"]["about"] = json.dumps(about)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + new[8 + size :]


def _idx(b: bytes, ndim: int) -> Any:
    if b[:4] != bytes((0, 0, 8, ndim)):
        return None
    shape = struct.unpack(f">{ndim}I", b[4 : 4 + 4 * ndim])
    values = np.array(list(b[4 + 4 * ndim :]), np.uint8)
    return values.reshape(shape) if values.size == np.prod(shape, dtype=object) else None


def _cifar(b: bytes) -> Any:
    rows = [b[i : i + 3073] for i in range(0, len(b), 3073)]
    labels = np.array([row[0] for row in rows], np.uint8)
    pixels = [np.array(list(row[1:]), np.uint8).reshape(3, 32, 32) for row in rows]
    return (np.stack(pixels), labels) if labels.max() <= 9 else None


def _safetensors(b: bytes) -> Any:
    size = int.from_bytes(b[:8], "little")
    header = json.loads(b[8 : 8 + size])
    about = json.loads(header["__metadata__"]["about"])
    data = b[8 + size :]
    parts = []
    for name in ("x", "y", "lr", "momentum"):
        entry = header[name]
        start, end = entry["data_offsets"]
        kind = {"F32": np.float32, "F64": np.float64, "F16": np.float16}[entry["dtype"]]
        parts.append(torch.from_numpy(np.frombuffer(data[start:end], kind).reshape(entry["shape"]).copy()))
    texts = (tuple(about[name]) for name in ("class_names", "mean", "std"))
    return Curriculum(*parts, *texts, about["provenance"], about.get("optimizer", "sgd"))


def _config(b: bytes) -> Any:
    return json.loads(b)["config"]


def _lines(b: bytes) -> Any:
    found = []
    *lines, torn = b.split(b"\n")
    for line in lines:
        record = json.loads(line, object_pairs_hook=_each_once, parse_constant=_none)
        assert isinstance(record, dict)
        found.append(record)
    with suppress(ValueError, AssertionError):  # torn, or nothing after the last whole line
        found += [json.loads(torn, object_pairs_hook=_each_once, parse_constant=_none)]
    return found


def _none(name: str) -> Any:
    raise AssertionError(name)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def _csv(b: bytes) -> Any:
    wide = b[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = b.decode("utf-16" if wide else "utf-8").removeprefix("\ufeff")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    named = [{(key or "").strip(): value for key, value in row.items()} for row in rows]
    column = next(name for name in ("mean_acc", "cifar10_test", "accuracy") if name in named[0])
    return {row["arch"].strip(): float(row[column]) for row in named}


# ---- the campaign ----


def plain(value: Any) -> Any:
    """Values that can be compared."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, np.ndarray):
        return (value.shape, value.tobytes())
    if isinstance(value, Curriculum):
        return [plain(part) for part in vars(value).values()]
    if hasattr(value, "__dataclass_fields__"):
        return plain(to_dict(value))
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def damaged_inputs(wanted: int, place: Path, examples: Path, rng: np.random.Generator) -> dict[str, Any]:
    """``wanted`` mutants of each kind. What was a fault is kept in the folder ``examples``."""
    place.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGALRM, _too_slow)
    found: dict[str, Any] = {}
    for kind in kinds(place):
        path = place / kind.name.replace(" ", "_") / kind.file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(kind.good)
        original = plain(kind.read(path))
        counts = dict.fromkeys(
            (
                "mutants",
                "refused",
                "loaded_equal",
                "loaded_other_content",
                "tracebacks",
                "wrong_loads",
                "hangs",
            ),
            0,
        )
        for i in range(wanted):
            content = mutant(kind.good, rng)
            path.write_bytes(content)
            outcome, why = judge(kind, path, content, original)
            counts["mutants"] += 1
            counts[outcome] += 1
            if outcome in ("tracebacks", "wrong_loads", "hangs"):
                examples.mkdir(parents=True, exist_ok=True)
                (examples / f"{path.parent.name}-{i}").write_bytes(content)
                (examples / f"{path.parent.name}-{i}.txt").write_text(f"{outcome}: {why}\n")
        found[kind.name] = counts
    return found


def judge(kind: Kind, path: Path, content: bytes, original: Any) -> tuple[str, str]:
    """What became of one mutant, and why."""
    signal.setitimer(signal.ITIMER_REAL, SLOW)
    try:
        loaded = plain(kind.read(path))
    except Slow:
        return "hangs", ""
    except REFUSALS as error:
        text = str(error)
        return ("refused", text) if text and text.isprintable() else ("tracebacks", f"not one line: {text!r}")
    except Exception:
        return "tracebacks", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if loaded == original:
        return "loaded_equal", ""
    if kind.right is None:
        return "wrong_loads", repr(loaded)[:500]
    try:
        right = plain(kind.right(content))
    except Exception:
        return "wrong_loads", f"the other reader fails:\n{traceback.format_exc()}"
    return (
        ("loaded_other_content", "")
        if loaded == right
        else ("wrong_loads", f"{loaded!r} is not {right!r}"[:2000])
    )


class Slow(BaseException):
    """A read that takes too long."""


def _too_slow(*_: Any) -> None:
    raise Slow
