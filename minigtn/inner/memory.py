"""How much memory a training run and its meta-gradient will need, before it is started."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minigtn.inner.adjoints import Adjoint, Checkpointed, Reversible, Unrolled
from minigtn.inner.fixed_point import bits_per_step
from minigtn.inner.optimizers import SGD, Optimizer

WORKING_VECTORS = 13
"""Tensors (P,) that a step back holds at its peak, found by measuring (tests/inner/test_memory.py)."""


def memory_bytes(
    adjoint: Adjoint,
    steps: int,
    weights: int,
    activations: int,
    itemsize: int = 4,
    momentum: float = 0.5,
    optimizer: Optimizer | None = None,
) -> int:
    """Predicted peak of :func:`minigtn.sgd` and its way back beyond the inputs, in bytes.

    For T ``steps``, P ``weights`` of ``itemsize`` bytes, and the ``activations`` of one second-order pass in
    bytes, which :func:`saved_bytes` measures. Raises TypeError for an adjoint that is none of minigtn's.
    """
    vectors = (SGD() if optimizer is None else optimizer).vectors
    match adjoint:
        case Unrolled():
            return steps * (activations + (vectors + 1) * weights * itemsize)
        case Checkpointed(block_size=k):
            kept = math.ceil(steps / k) + min(k, steps) - 1
            static = 5 * vectors + 3 if adjoint.graphs else 0
            return activations + (vectors * kept + WORKING_VECTORS + static) * weights * itemsize
        case Reversible():
            spills = max(0, math.ceil((steps * bits_per_step(momentum) - 64) / 32))
            return activations + (16 + 8 + 4 * spills) * weights + 9 * weights * max(itemsize, 8)
    raise TypeError(f"the memory of Unrolled, Checkpointed and Reversible is known, not that of {adjoint!r}")


def saved_bytes(function: Callable[[], Tensor], weights: Sequence[Tensor]) -> int:
    """Bytes that torch keeps to differentiate ``function()``, and, where ``weights`` are given, also its
    gradient with respect to them: the activations of one second-order pass, measured by running it once.
    Views count their storage once."""
    storages: dict[int, int] = {}
    alive = []

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x)  # so that no address is used twice
        return x

    for w in weights:
        w.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), torch.enable_grad():
        value = function()
        if weights:
            torch.autograd.grad(value, weights, create_graph=True)
    return sum(storages.values())
