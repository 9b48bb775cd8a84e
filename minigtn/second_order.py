"""The one pass of each step on the way back: gradient, Hessian product and mixed term together.

For ``l(w, batch)`` and a direction ``nu`` both functions below give

    g = dl/dw            H nu = d<g, nu>/dw            mixed = d<g, nu>/d batch

``double_backward`` differentiates <g, nu> once more in reverse (Pearlmutter 1994); ``forward_over_reverse`` carries the tangent ``nu``
forward through the gradient computation (MixFlow-MG, ICML 2025: less memory). They are two evaluation orders of the same numbers.
``curvature`` names the one in use; benchmarks/second_order.py is the evidence.

``Reversible`` needs the ``g`` of ``curvature`` to have the very bits that ``gradient`` returned on the way forward. That holds for
``double_backward``, which runs the same kernels; ``forward_over_reverse`` runs others and differs in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

Loss = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""Flat weights (P,) and one batch -> scalar."""


def gradient(loss: Loss, w: Tensor, batch: Sequence[Tensor], *, create_graph: bool = False) -> Tensor:
    """dl/dw (P,), differentiable again if ``create_graph``; zeros where the loss does not depend on ``w``."""
    with torch.enable_grad():
        if not (create_graph and w.requires_grad):
            w = w.detach().requires_grad_()
        value = loss(w, batch)
        return grad_or_zeros(value, [w], create_graph=create_graph)[0]


def double_backward(loss: Loss, w: Tensor, batch: Sequence[Tensor], wanted: Sequence[bool]):
    """``g`` (P,), and a function to be called once: of ``nu`` (P,), which may depend on ``g``, it returns ``H nu`` (P,) and the mixed
    terms, one for each tensor of ``batch`` that is ``wanted``."""
    with torch.enable_grad():
        w, batch = w.detach().requires_grad_(), leaves(batch, wanted)
        g = grad_or_zeros(loss(w, batch), [w], create_graph=True)[0]

    def along(nu: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        h_nu, *mixed = grad_or_zeros(g, [w, *_only(batch)], nu)
        return h_nu, tuple(mixed)

    return g.detach(), along


def forward_over_reverse(loss: Loss, w: Tensor, batch: Sequence[Tensor], nu: Tensor, wanted: Sequence[bool]):
    """``g``, ``H nu`` and the mixed terms as of :func:`double_backward`, by forward-mode differentiation of the gradient along ``nu``,
    which must be known before. Not used by the adjoints: it was no faster (docs/performance.md)."""
    with fwAD.dual_level(), torch.enable_grad():
        batch = leaves(batch, wanted)
        w = fwAD.make_dual(w.detach().requires_grad_(), nu)
        duals = [fwAD.unpack_dual(d) for d in grad_or_zeros(loss(w, batch), [w, *_only(batch)])]
        h_nu, *mixed = [torch.zeros_like(d.primal) if d.tangent is None else d.tangent for d in duals]
    return duals[0].primal, h_nu, tuple(mixed)


curvature = double_backward
"""What the adjoints use (see the table in docs/performance.md)."""


def grad_or_zeros(output: Tensor, inputs: Sequence[Tensor], cotangent: Tensor | None = None, *, create_graph: bool = False):
    """torch.autograd.grad with zeros, not None or an error, for whatever the output does not depend on."""
    if not output.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return torch.autograd.grad(output, inputs, cotangent, create_graph=create_graph, materialize_grads=True)


def leaves(batch: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, ...]:
    """The same numbers cut from any graph; those ``wanted`` require grad."""
    return tuple(b.detach().requires_grad_(want) for b, want in zip(batch, wanted, strict=True))


def _only(batch: Sequence[Tensor]) -> list[Tensor]:
    return [b for b in batch if b.requires_grad]


def saved_bytes(function: Callable[[], Tensor], weights: Sequence[Tensor]) -> int:
    """Bytes that torch keeps to differentiate ``function()``, and, where ``weights`` are given, also its gradient with respect to them.

    This is A, the activations of one second-order pass, measured by running it once. Views count their storage once.
    """
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
