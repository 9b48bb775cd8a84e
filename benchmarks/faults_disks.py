"""A full disk, of sizes drawn between nothing and enough, so that any write may be the one that fails."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from faults_commands import LONGEST, Job, command, differences, last_sentence, tracebacks

PAGE = 4096
LARGE = 64 * 2**20


def can_mount(place: Path) -> bool:
    """Whether a small disk can be had."""
    place.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True).returncode:
        return False
    subprocess.run(["umount", str(place)], check=True)
    return True


@contextmanager
def disk(place: Path, size: int) -> Iterator[None]:
    """A tmpfs of ``size`` bytes at ``place``."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def full_disk(kind: str, sizes: int, place: Path, rng: np.random.Generator) -> dict[str, Any]:
    """A job on disks of ``sizes`` sizes: it must end with one sentence, and go on to the same bits once there
    is room.

    Where nothing can be mounted a limit on the length of any file stands in for the disk (RLIMIT_FSIZE)."""
    mounted = can_mount(place / "disk")
    whole = Job(kind, place / f"full-{kind}-whole" / "run", 0)
    log = place / f"full-{kind}.log"
    whole.finish(log)
    files = [path for path in whole.folder.rglob("*") if path.is_file()]
    needed = sum(-(-path.stat().st_size // PAGE) * PAGE for path in files) + PAGE * (1 + len(files))
    most = needed if mounted else max(path.stat().st_size for path in files)
    counts: dict[str, Any] = {
        "means": "tmpfs" if mounted else "RLIMIT_FSIZE", "sizes": 0, "refused": 0, "fitted": 0,
        "same_bits": 0, "tracebacks": 0, "sentences": {},
    }  # fmt: skip
    for i, size in enumerate(rng.uniform(PAGE if mounted else 0, most, sizes).astype(int).tolist()):
        size = size // PAGE * PAGE if mounted else size
        mine = place / f"full-{kind}-{i}.log"
        folder = place / "disk" if mounted else place / f"full-{kind}-{i}"
        job = Job(kind, folder / "run", 0)
        table = place / f"full-{kind}-whole" / "table.csv"
        with disk(folder, size + PAGE * 4) if mounted else _nothing():
            folder.mkdir(exist_ok=True)
            if table.exists():
                shutil.copy(table, folder)
            with command(job.argv(), mine, None if mounted else size) as process:
                process.join(LONGEST)
                code = process.exitcode
            assert code in (0, 1, 2), f"{kind}: exit code {code} on a disk of {size} bytes, see {mine}"
            counts["sizes"] += 1
            counts["fitted"] += code == 0
            if code:
                said = last_sentence(mine).replace(str(folder), "DISK")
                assert said, f"{kind}: no sentence, see {mine}"
                counts["refused"] += 1
                counts["sentences"][said] = counts["sentences"].get(said, 0) + 1
            if mounted:
                subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(folder)], check=True)
            job.finish(mine)
            changed = differences(whole.bits(), job.bits())
            counts["same_bits"] += not changed
            if changed:
                counts.setdefault("changed", []).append({"size": size, "parts": changed})
        counts["tracebacks"] += tracebacks(mine)
    return counts


@contextmanager
def _nothing() -> Iterator[None]:
    yield
