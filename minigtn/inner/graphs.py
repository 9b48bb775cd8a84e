"""Functions of tensors with memory of their own, so that a CUDA graph can hold them: one launch instead of a
few hundred.

The inner loop does the same few things T times: a step, a step back, a reading, a reading back. Each is a
pure function of tensors of fixed shapes (``minigtn.inner.adjoints.Steps``), so each is captured once and
replayed for every step of every outer step. Tensors are copied into the inputs of the graph, and copies of
its outputs are handed out. On the CPU there is nothing to capture; the very same buffers are used with the
function itself, so that all but the capture runs, and is tested, without a GPU. (PyTorch: "CUDA semantics",
section CUDA graphs.)
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

Group = tuple[Tensor, ...]
Groups = tuple[Group, ...]
WARM_UP = 3  # calls before a capture: cuDNN and cuBLAS choose kernels and take workspaces


class GraphPool:
    """On CUDA, memory for what graphs compute in between, and the stream that they are captured on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            self.handle = torch.cuda.graph_pool_handle()
            self.stream = torch.cuda.Stream(device)


class Beside:
    """Work that need not wait for what comes next: on CUDA on a stream of its own, on the CPU in its turn.

    What it reads must be held until :meth:`join`, and what it makes must not be touched before.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = _side_stream(device) if device.type == "cuda" else None

    @contextmanager
    def work(self) -> Iterator[None]:
        """What is launched in the block runs after all that was launched before, and beside all that comes
        after."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What is launched from here on waits for the work."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class StaticCall:
    """``function`` from groups of tensors to groups of tensors, at the shapes, dtypes, layouts and device of
    ``example``.

    The inputs and outputs stay at the same addresses; ``example`` is copied. On CUDA ``function`` runs four
    times now and never again: it must be pure, and may neither wait for the device nor bring tensors over
    from the CPU. Calls that share a ``pool`` share its memory: they must not be made at the same time. No
    gradient flows through a call.
    """

    def __init__(self, function: Callable[..., Groups], example: Groups, pool: GraphPool) -> None:
        self._inputs = _copies(example)
        if pool.device.type == "cuda":
            self._outputs, self._run = _capture(function, self._inputs, pool)
        else:
            self._outputs = _copies(function(*self._inputs))
            self._run = lambda: _write(self._outputs, function(*self._inputs))

    def __call__(self, *groups: Group) -> Groups:
        _write(self._inputs, groups)
        self._run()
        return _copies(self._outputs)


class StepGraphs:
    """The captured functions of several training runs, newest last: as many as ``limit``, then the one unused
    for longest goes."""

    def __init__(self, limit: int = 8) -> None:
        self.limit = limit
        self._captured: OrderedDict[Hashable, Any] = OrderedDict()
        self.captures = 0
        """How often something was captured."""

    def get(self, key: Hashable, capture: Callable[[], Any]) -> Any:
        """What ``capture()`` returned when ``key`` was met first."""
        if key not in self._captured:
            found = capture()
            self._captured[key] = found
            self.captures += 1
            if len(self._captured) > self.limit:
                self._captured.popitem(last=False)
                warnings.warn(
                    f"more than {self.limit} different training runs were captured as graphs, and the "
                    "oldest is dropped; if they are the same run, pass the same loss function each time, "
                    "not a new lambda",
                    RuntimeWarning,
                    stacklevel=2,
                )
        self._captured.move_to_end(key)
        return self._captured[key]


def signature(groups: Groups) -> Hashable:
    """What a capture depends on besides the values."""
    return tuple(tuple((x.shape, x.stride(), x.dtype, x.device) for x in group) for group in groups)


def _capture(
    function: Callable[..., Groups], inputs: Groups, pool: GraphPool
) -> tuple[Groups, Callable[[], None]]:
    """The outputs of ``function(*inputs)``, at addresses that stay, and what computes them again from what
    then lies in ``inputs``."""
    with torch.cuda.device(pool.device):
        warm_up = torch.cuda.Stream()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            for _ in range(WARM_UP):
                function(*inputs)
        torch.cuda.current_stream().wait_stream(warm_up)
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do meanwhile (a data loader, NCCL's watchdog) is no error
        with torch.cuda.graph(graph, pool=pool.handle, stream=pool.stream, capture_error_mode="thread_local"):
            outputs = function(*inputs)
    return outputs, graph.replay


def _copies(groups: Groups) -> Groups:
    return tuple(tuple(x.detach().clone() for x in group) for group in groups)


def _write(targets: Groups, groups: Groups) -> None:
    for target, x in zip(chain(*targets), chain(*groups), strict=True):
        target.copy_(x)
