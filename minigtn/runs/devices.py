"""Where to compute, set up so that results repeat."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor

from minigtn.runs.distributed import local_rank

Device = Literal["auto", "cpu", "cuda"]


def sent(x: Tensor, device: torch.device) -> Tensor:
    """``x``, made on the CPU, on ``device``; the host does not wait for what the device is doing."""
    if device.type != "cuda" or x.is_cuda:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def choose(name: str, threads: int = 1, precision: str = "float32") -> torch.device:
    """The device of that name, set up so that results repeat bit for bit on it; "auto" is CUDA where there is
    one. With torchrun each worker has a GPU of its own. On CUDA products are computed in float32, or with
    ``precision`` "tf32" in that. ValueError for what is not there."""
    if threads < 1:
        raise ValueError(f"--threads must be at least 1, not {threads}")
    torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError(
            "--device cuda was given, but torch sees no CUDA device; use --device cpu, or install a CUDA "
            "build of torch"
        )
    if name == "cpu" or not available:
        return torch.device("cpu")
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a costly guard
    return device
