"""What several benchmarks need: the adjoints to compare, processes of their own, and what those say about
memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from resident import forget_resident_peak, resident_bytes

from minigtn import Adjoint, Checkpointed, Reversible, Unrolled

MIB = 2**20


def adjoints(steps: int) -> dict[str, Adjoint]:
    """The three adjoints, and the checkpointed one with the block size that needs least memory for so many
    steps."""
    return {
        "Unrolled": Unrolled(),
        "Checkpointed(1)": Checkpointed(),
        "Checkpointed(sqrt T)": Checkpointed(math.ceil(math.sqrt(steps))),
        "Reversible": Reversible(),
    }


def memory_bytes(device: str) -> tuple[int, int]:
    """Memory now, and its peak since the last :func:`forget_peak`: of torch's allocator on CUDA; resident on
    the CPU."""
    if device == "cuda":
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    return resident_bytes()


def forget_peak(device: str) -> None:
    """From now on :func:`memory_bytes` gives the peak since this call."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_resident_peak()


def wait_for(device: str) -> None:
    """Return once everything that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def run_apart(script: str, job: Any) -> Any:
    """``script --job <job>`` in a fresh process: the JSON that it prints; stops the benchmark, with what it
    said, where it fails."""
    child = subprocess.run([sys.executable, script, "--job", json.dumps(job)], capture_output=True, text=True)
    if child.returncode:
        raise SystemExit(f"the job {job} failed:\n{child.stderr}")
    return json.loads(child.stdout)


def min_max(values: Sequence[float]) -> list[float]:
    """The spread of a few samples."""
    return [min(values), max(values)]
