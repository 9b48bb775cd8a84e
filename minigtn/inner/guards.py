"""Right or refused: whether a user's loss is what a meta-gradient needs, looked at while it runs.

Before anything is spent, the first call of each loss is looked at (:func:`looked_at`): it depends on the
params, leaves its batch as it was, reaches no other tensor that requires grad, and can be differentiated
twice. There is no call for that alone: the number that comes out is the first step's.

What is looked at on the way back is in ``minigtn.inner.again``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from minigtn.inner.again import differ, random_states, same_random_numbers, set_random_states
from minigtn.inner.graphs import Group
from minigtn.inner.step import InnerLoop, Loss, at, gradient, gradient_and_pull_back

DEAD_ENDS = ("torch::autograd::Error", "torch::autograd::NotImplemented")
"""Nodes of a graph that torch puts where it has no derivative."""
REMEDIES = {
    "ScaledDotProduct": "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)",
    "CudnnRnn": "torch.backends.cudnn.flags(enabled=False)",
}
"""By kernel: where torch has others with second derivatives."""
_PASSED: set[str] = set()
"""Kinds of nodes that second derivatives were once taken through: torch has them."""
DIFFERENCES = {torch.float64: 1e-2, torch.float32: 2e-1, torch.float16: 5e-1, torch.bfloat16: 5e-1}
"""How far second derivatives may be from differences of the gradient, relative."""


# ---- the first call ----


def looked_at(loop: InnerLoop, *, taped: bool, twice: bool = True, readings: bool = True) -> InnerLoop:
    """The loop with losses whose first call is looked at; ValueError in one sentence where it is not right.

    ``taped``: no graph of the run is kept, so nothing else may require grad. ``twice``: the loss must have
    second derivatives. Cost: one more gradient at the first step, and a walk over its graph; the first time
    in a process also one second-order pass.
    """
    if not loop.checks:
        return loop
    loss = _FirstCall(loop.loss, "loss", taped, twice)
    readout = _FirstCall(loop.readout_loss, "readout", taped, False) if readings else loop.readout_loss
    return replace(loop, loss=loss, readout_loss=readout)


def look_at(loop: InnerLoop, w0: Tensor, *, may_draw: bool) -> None:
    """The same by a call of its own, for losses that are captured or compiled; unless ``may_draw``, also
    ValueError where they draw random numbers."""
    seen = looked_at(loop, taped=True)
    for what, loss, batches in (
        ("loss", seen.loss, loop.batches),
        ("readout", seen.readout_loss, loop.readout_batches),
    ):
        if not batches:
            continue
        before = random_states(w0.device)
        with same_random_numbers(w0.device):
            loss(w0, at(batches, 0))
            drew = differ(before, random_states(w0.device))
        if drew and not may_draw:
            raise ValueError(
                f"the {what} draws random numbers (dropout?), and captured graphs would draw others on the "
                "way back than on the way there: use graphs=False"
            )


class _FirstCall:
    """A loss whose first call is looked at; all others go straight through."""

    def __init__(self, loss: Loss, what: str, taped: bool, twice: bool) -> None:
        self._loss = loss
        self._what = what
        self._taped = taped
        self._twice = twice
        self._done = False

    def __call__(self, w: Tensor, batch: Sequence[Tensor]) -> Tensor:
        if self._done:
            return self._loss(w, batch)
        self._done = True
        before = _versions(batch)
        traced = torch.is_grad_enabled() and w.requires_grad
        with torch.enable_grad():
            w = w if traced else w.detach().requires_grad_()
            value = self._loss(w, batch)
            if _versions(batch) != before:
                raise ValueError(
                    f"the {self._what} changes its batch in place, so the next call would be given other "
                    "data: make a new tensor (x = x / 255, not x /= 255)"
                )
            self._look(value, w, batch)
        return value if traced else value.detach()

    def _look(self, value: Tensor, w: Tensor, batch: Sequence[Tensor]) -> None:
        what = self._what
        given = (w, *batch)
        ends = {x.grad_fn for x in given}
        nodes = list(_nodes(value.grad_fn, ends))
        through = _leading_to(w, nodes)
        if not through:
            raise ValueError(
                f"the {what} does not depend on params, so the weights would never move: compute it from the "
                "params that it is given, such as torch.func.functional_call(module, params, x)"
            )
        leaves = [leaf for node in nodes if (leaf := _leaf(node)) is not None]
        others = [leaf for leaf in leaves if not any(leaf is x for x in given)]
        if self._taped and others:
            raise ValueError(
                f"the {what} uses a tensor of shape {tuple(others[0].shape)} that requires grad but is "
                "neither in params nor in batches; its gradient would be lost: pass it in params or "
                "in batches (one row per step), detach it, or use Unrolled()"
            )
        if any(getattr(node, "_saved_sparse", False) is True for node in nodes):
            raise ValueError(
                f"the {what} has an embedding with sparse gradients, which cannot be differentiated again: "
                "use sparse=False"
            )
        if self._twice or others:
            _refuse_unless_twice(what, value, w, nodes, ends)
            own = {node.name() for node in through if _is_own(node)}
            if own:
                _refuse_unless_right(what, ", ".join(sorted(own)), self._loss, w, batch)


def _nodes(root, ends) -> Iterator:
    """The nodes of a graph from ``root`` down to ``ends``."""
    todo = [root]
    seen = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if node not in ends:
            todo.extend(following for following, _ in node.next_functions)


def _leading_to(w: Tensor, nodes: Sequence) -> set:
    """Those of a graph's ``nodes`` whose gradient is part of that by ``w``."""
    above: dict = {}
    for node in nodes:
        for following, _ in node.next_functions:
            above.setdefault(following, []).append(node)
    todo = [node for node in nodes if node is w.grad_fn or _leaf(node) is w]
    through = set()
    while todo:
        node = todo.pop()
        if node not in through:
            through.add(node)
            todo.extend(above.get(node, ()))
    return through


def _leaf(node) -> Tensor | None:
    """The tensor that a node at the end of a graph stands for."""
    leaf = getattr(node, "variable", None)
    return leaf if isinstance(leaf, Tensor) else None


def _is_own(node) -> bool:
    """Whether a node is a user's: a torch.autograd.Function, or one in C++."""
    return isinstance(node, BackwardCFunction) or "CppNode" in node.name()


def _versions(batch: Sequence[Tensor]) -> list[int]:
    return [0 if b.is_inference() else b._version for b in batch]


def _refuse_unless_twice(what: str, value: Tensor, w: Tensor, nodes: Sequence, ends: set) -> None:
    """ValueError where torch has no second derivative; looks at the graph of the first."""
    reason = ""
    try:
        (g,) = torch.autograd.grad(value, [w], create_graph=True)
        kinds = {node.name() for node in _nodes(g.grad_fn, ends)}
        if not kinds.isdisjoint(DEAD_ENDS):
            names = sorted({node.name() for node in nodes if _is_own(node)})
            reason = f"{', '.join(names) or 'some operation'}: there is no derivative of its backward"
        if not kinds <= _PASSED:
            torch.autograd.grad(g, [w], torch.ones_like(g), retain_graph=True, allow_unused=True)
            _PASSED.update(kinds.difference(DEAD_ENDS))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = (str(error).strip() or reason or type(error).__name__).splitlines()[0]
    if reason:
        met = [way for kernel, way in REMEDIES.items() if any(n.name().startswith(kernel) for n in nodes)]
        remedy = f"inside the loss use `with {met[0]}:`" if met else "write that part in operations that can"
        raise ValueError(
            f"the {what} cannot be differentiated twice, which a meta-gradient needs ({reason}): {remedy}"
        )


def _refuse_unless_right(what: str, names: str, loss: Loss, w: Tensor, batch: Sequence[Tensor]) -> None:
    """ValueError where the second derivatives of a user's own functions are not those of its gradient."""
    batch = [b.detach() for b in batch]
    try:
        wide = [x.double() if x.is_floating_point() else x for x in (w.detach(), *batch)]
        off = _off_differences(loss, wide[0], wide[1:])
        allowed = DIFFERENCES[torch.float64]
    except (RuntimeError, TypeError):  # the loss is for one dtype alone
        off = _off_differences(loss, w.detach(), batch)
        allowed = DIFFERENCES[w.dtype]
    if not off <= allowed:
        raise ValueError(
            f"the {what} uses {names}, whose second derivatives are not those of its gradient (relative "
            f"difference {off:.1g}), so the meta-gradient would be wrong: its backward must itself be made "
            "of differentiable torch operations (not once_differentiable, NumPy or a compiled kernel); if "
            "that is meant, as in surrogate gradients, pass checks=False"
        )


def _off_differences(loss: Loss, w: Tensor, batch: Sequence[Tensor]) -> float:
    """How far second derivatives along random directions are from central differences of the gradient: 0 to
    1."""
    unit = torch.finfo(w.dtype).eps
    h = unit ** (1 / 3)
    rng = torch.Generator().manual_seed(0)
    floating = [b.is_floating_point() for b in batch]

    def direction(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        size = x.square().mean().sqrt()
        noise = torch.randn(x.shape, generator=rng, dtype=torch.float64).to(x)
        return noise * torch.where(size > 0, size, torch.ones_like(size))

    def slopes(sign: float, along: Sequence[Tensor]) -> Tensor:
        pairs = zip((w, *batch), along, strict=True)
        moved = [x + sign * h * u if x.is_floating_point() else x for x, u in pairs]
        with same_random_numbers(w.device):
            return gradient(loss, moved[0], moved[1:])

    apart = 0.0
    size = 0.0
    for _ in range(3):
        along = [direction(x) for x in (w, *batch)]
        u = direction(w)
        with same_random_numbers(w.device):
            g, pull_back = gradient_and_pull_back(loss, w, batch, floating)
            hessian_u, mixed = pull_back(u)
        of_batch = [x for x, want in zip(along[1:], floating, strict=True) if want]
        pairs = zip((along[0], *of_batch), (hessian_u, *mixed), strict=True)
        found = sum(float((x * d).sum()) for x, d in pairs)
        expected = float(torch.dot(u, slopes(1, along) - slopes(-1, along))) / (2 * h)
        rounding = 50 * unit / h * float(g.norm() * u.norm())
        apart += max(0.0, abs(found - expected) - rounding)
        size += abs(found) + abs(expected)
    return apart / size if size else 0.0


# ---- the same bits ----


def repeatable_gradient(
    loss: Loss, w: Tensor, batch: Group, wanted: Sequence[bool]
) -> tuple[Tensor, Callable[[Tensor, Group], Tensor]]:
    """The gradient of the first step, and what takes that of any step with the very bits that the way back
    will have.

    torch computes some gradients by other formulas where they are to be differentiated again (group norm,
    SiLU, LSTM cells). Where the first step shows that, the way there uses those of the way back. RuntimeError
    where the gradient does not repeat bit for bit. Cost: one or two gradients more.
    """

    def plain(w: Tensor, batch: Group) -> Tensor:
        return gradient(loss, w, batch)

    def as_on_the_way_back(w: Tensor, batch: Group) -> Tensor:
        return gradient_and_pull_back(loss, w, batch, wanted)[0]

    before = random_states(w.device)

    def again() -> Tensor:
        with same_random_numbers(w.device):
            set_random_states(before, w.device)
            return as_on_the_way_back(w, batch)

    g = plain(w, batch)
    first = again()
    if torch.equal(g, first) or not bool(g.isfinite().all()):
        return g, plain
    if not torch.equal(first, again()):
        raise RuntimeError(
            "the gradient of the loss does not repeat bit for bit, which Reversible needs: use deterministic "
            "kernels (torch.use_deterministic_algorithms(True), torch.backends.cudnn.deterministic = True, "
            "cudnn.benchmark = False), no counters, and no random numbers but those of torch's own "
            "generator; or use Checkpointed"
        )
    return first, as_on_the_way_back
