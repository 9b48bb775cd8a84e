"""Several workers, one meta-gradient: each trains learners of its own, on real batches of their own, and the
gradients are summed.

    torchrun --nproc-per-node=2 -m minigtn train --meta.learners 2 ...

torchrun says in the environment who a worker is; without it there is one worker, and nothing here costs
anything. NCCL carries CUDA tensors, gloo those of the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=30)  # one worker validates while the others wait in their next sum


class WorkerLost(RuntimeError):
    """Another worker is gone; what this one has computed up to the last whole outer step is sound."""


@dataclass(frozen=True)
class Workers:
    """Who takes part: ``rank`` of ``size``. The first is the writer: it alone validates, writes files and
    prints."""

    rank: int = 0
    size: int = 1

    @property
    def writer(self) -> bool:
        return self.rank == 0

    def share(self, n: int) -> range:
        """Which of ``n`` learners this worker trains: ``rank``, ``rank + size``, ..."""
        return range(self.rank, n, self.size)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all workers, in one message; all must call it together. Raises
        WorkerLost."""
        if self.size == 1:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        with self._lost():
            dist.all_reduce(flat)
        for t, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(summed.view_as(t))

    def wait(self) -> None:
        """Return once every worker is here. Raises WorkerLost."""
        if self.size > 1:
            with self._lost():
                dist.barrier()

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise WorkerLost(
                f"worker {self.rank} of {self.size} has lost another one ({str(error).splitlines()[0]}); "
                "what is done is saved, and the same command with --resume goes on from there"
            ) from error


ALONE = Workers()
"""One worker that does everything."""


@contextmanager
def workers(device: torch.device) -> Iterator[Workers]:
    """The workers that torchrun started, joined for the length of the block; one alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Workers()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Workers(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """Number of this worker on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))
