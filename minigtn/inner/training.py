"""The one function: a training run as a differentiable function of its start, its data and its step sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minigtn.inner.adjoints import Adjoint, Unrolled
from minigtn.inner.optimizers import SGD, Optimizer
from minigtn.inner.step import InnerLoop

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Readout:
    """Losses on real data along the way: the intermediate meta-losses of the authors' GTN code.

    ``loss(params, batch) -> scalar`` is read after inner steps k, 2k, ... (``every`` = k) and after the last
    one, so there are ``ceil(T/k)`` readings, each on its own row of ``batches``: a tuple of tensors with that
    leading dimension. ``every >= T`` is the plain meta-loss: one reading, at the end.
    """

    loss: Callable[[Params, Sequence[Tensor]], Tensor]
    batches: tuple[Tensor, ...]
    every: int = 1


def sgd(
    loss: Callable[[Params, Sequence[Tensor]], Tensor],
    params: Params,
    batches: Sequence[Tensor],
    lr: Tensor | float,
    momentum: Tensor | float = 0.0,
    adjoint: Adjoint | None = None,
    readout: Readout | None = None,
    optimizer: Optimizer | None = None,
    after_step: Callable[[int, Params], None] | None = None,
    checks: bool = True,
):
    """Train ``params`` for T steps of SGD with momentum; the result is differentiable with respect to
    everything that went in.

    Step t computes ``g`` = gradient of ``loss(params, [b[t] for b in batches])``, then ``v <- momentum_t*v +
    g`` and ``w <- w - lr_t*v`` with v = 0 at the start: exactly ``torch.optim.SGD``. (Maclaurin et al. write
    ``v <- b*v - (1-b)*g``, ``w <- w + a*v``: the same run with ``lr = a*(1-b)``.)

    Args:
        loss: ``(params, batch) -> scalar``, a function of these alone: no running statistics, no counter,
            nothing else that requires grad; dropout draws from torch's own generator. An ``nn.Module`` goes
            in as ``lambda p, b: F.cross_entropy(torch.func.functional_call(module, p, b[0]), b[1])``.
        params: the initial weights by name, floating point, of one dtype and on one device.
        batches: tensors with leading dimension T; integer tensors (class numbers) are welcome and get no
            gradient.
        lr, momentum: float, ``()`` or ``(T,)``; 0 <= momentum < 1. (On CUDA a momentum tensor out of range
            turns into NaN, and with it the result: an error would have to wait for the device.)
        adjoint: how to differentiate: ``Unrolled()`` (the default: memory grows with T),
            ``Checkpointed(block_size)`` or ``Reversible()``; they give the same gradients
            (docs/choosing-an-adjoint.md).
        readout: losses along the way, entering the same backward pass.
        optimizer: ``SGD()`` (the default), ``Adam(beta2, eps)``, whose beta1 is ``momentum``,
            ``MuAdam(beta2, eps)``, the same with width-aware steps, or ``RMSprop(alpha, eps)``; all but SGD
            not with ``Reversible``.
        after_step: ``after_step(t, params)``, t = 1..T, may measure the learner as it trains; no gradient
            flows through it, and it must not change the params. It is not called again on the way back.
        checks: whether the loss is looked at as it runs (docs/reliability.md): about 1 % of the time of a run
            of 16 steps. False trusts it, and allows surrogate gradients.

    Returns:
        The trained params; with a ``readout``, ``(params, losses)`` where ``losses`` is ``(ceil(T /
        every),)``.

    Raises:
        ValueError: shapes, dtypes, kinds of arguments or step sizes that cannot be right; at the first step,
            a loss that does not depend on params, changes its batch, cannot be differentiated twice, or
            (other adjoints than Unrolled) closes over a tensor that requires grad. RuntimeError, on the way
            back: the loss is not the function that it was; see also :class:`minigtn.Reversible`, as for
            FixedPointOverflow. On CUDA NaN in place of the former.

    Cost: T gradients forward and T second-order passes back. Under ``torch.no_grad()`` it is a plain training
    run in constant memory.
    When not to use it: to train without differentiating the training; ``torch.optim`` and ``minigtn.teach``
    do that with less ceremony.
    """
    adjoint = Unrolled() if adjoint is None else adjoint
    optimizer = SGD() if optimizer is None else optimizer
    _check_kinds(adjoint, optimizer)
    w0, unflatten, describe = _flatten(params)
    steps = _leading(batches, "batches")
    lr = _per_step(lr, steps, w0, "lr")
    momentum = _per_step(_in_range(momentum, w0.dtype), steps, w0, "momentum")

    def flat(f: Callable[[Params, Sequence[Tensor]], Tensor], what: str):
        def flat_loss(w: Tensor, batch: Sequence[Tensor]) -> Tensor:
            value = f(unflatten(w), batch)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                kind = value.dtype if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise ValueError(
                    f"the {what} must return a scalar tensor of floating point, and nothing else; it "
                    f"returned {kind}"
                )
            if value.dim():
                raise ValueError(
                    f"the {what} must return a scalar, such as a mean over the batch; it returned shape "
                    f"{tuple(value.shape)}"
                )
            return value

        return flat_loss

    def show(t: int, w: Tensor) -> None:
        assert after_step is not None
        after_step(t, unflatten(w))

    real: tuple[Tensor, ...] = ()
    readout_loss = loss
    every = steps
    if readout is not None:
        readout_loss = readout.loss
        real = tuple(readout.batches)
        every = readout.every
        _check_readout(readout.batches, every, steps)
    loop = InnerLoop(
        flat(loss, "loss"),
        tuple(batches),
        flat(readout_loss, "readout"),
        real,
        every,
        optimizer.fitted(p.shape for p in params.values()),
        describe,
        identity=(loss, readout_loss, tuple((name, p.shape) for name, p in params.items())),
        checks=checks,
        after_step=None if after_step is None else show,
    )
    w_last, losses = adjoint(loop, w0, lr, momentum)
    # views of one vector would each be saved with all of it
    trained = {name: part.clone() for name, part in unflatten(w_last).items()}
    return trained if readout is None else (trained, losses)


def _check_kinds(adjoint: object, optimizer: object) -> None:
    for what, value, kind in (("adjoint", adjoint, Adjoint), ("optimizer", optimizer, Optimizer)):
        if not isinstance(value, kind):
            examples = "Checkpointed()" if kind is Adjoint else "Adam()"
            raise ValueError(f"{what} must be one of minigtn's, such as minigtn.{examples}, not {value!r}")
    if torch.is_inference_mode_enabled():
        raise ValueError("minigtn.sgd needs gradients, and inference_mode has none: use torch.no_grad()")
    if torch._C._are_functorch_transforms_active():
        raise ValueError(
            "minigtn.sgd cannot be inside a torch.func transform (grad, vmap, jacrev ...), which takes no "
            "torch.autograd.grad inside: differentiate its result with backward() or torch.autograd.grad"
        )


def _flatten(params: Params):
    """The weights as one vector (P,), the way back to a dict of views, and the name that an index of the
    vector belongs to."""
    if not isinstance(params, Mapping) or not all(isinstance(p, Tensor) for p in params.values()):
        raise ValueError(
            f"params must be a dict of tensors by name, not a {type(params).__name__}: of a module, write "
            "dict(module.named_parameters())"
        )
    if not params:
        raise ValueError("params is empty: give the learner's weights as a dict of tensors")
    kinds = {(p.dtype, p.device) for p in params.values()}
    if len(kinds) > 1 or not next(iter(kinds))[0].is_floating_point:
        raise ValueError(
            f"params must be floating point, of one dtype and on one device; given {sorted(map(str, kinds))}"
        )
    shapes = {name: p.shape for name, p in params.items()}
    sizes = [p.numel() for p in params.values()]

    def unflatten(w: Tensor) -> Params:
        return {
            name: part.view(shape) for (name, shape), part in zip(shapes.items(), w.split(sizes), strict=True)
        }

    def describe(index: int) -> str:
        for name, size in zip(shapes, sizes, strict=True):
            if index < size:
                return f"parameter {name!r}"
            index -= size
        raise IndexError(index)

    return torch.cat([p.reshape(-1) for p in params.values()]), unflatten, describe


_STACK = "stack them: tuple(torch.stack(parts) for parts in zip(*itertools.islice(batches, T)))"


def _leading(batches: Sequence[Tensor], what: str) -> int:
    if isinstance(batches, Tensor):
        raise ValueError(
            f"{what} must be a tuple of tensors, not one tensor: write ({what},) for a loss that takes a "
            "single one"
        )
    if not isinstance(batches, Sequence):
        how = "with a loss that unpacks them in that order" if isinstance(batches, Mapping) else _STACK
        given = "tuple(batches.values())" if isinstance(batches, Mapping) else "T of its batches stacked"
        raise ValueError(
            f"{what} must be a tuple of tensors with a leading dimension, the steps, not a "
            f"{type(batches).__name__}: write {given}, {how}"
        )
    strange = [b for b in batches if not isinstance(b, Tensor) or b.layout is not torch.strided]
    if strange:
        kind = strange[0].layout if isinstance(strange[0], Tensor) else f"a {type(strange[0]).__name__}"
        raise ValueError(
            f"{what} must be a tuple of dense tensors with a leading dimension, the steps; one of these is "
            f"{kind}: make tensors of arrays (torch.as_tensor), and of a list of batches, {_STACK}"
        )
    sizes = {len(b) if b.dim() else 0 for b in batches}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"{what} must be tensors that share a leading dimension of at least 1; given shapes "
            f"{[tuple(b.shape) for b in batches]}"
        )
    return sizes.pop()


def _per_step(value: Tensor | float, steps: int, like: Tensor, name: str) -> Tensor:
    if isinstance(value, float | int):
        value = like.new_full((), value)  # unlike as_tensor, does not wait for the device
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if value.dim() > 1 or (value.dim() == 1 and len(value) != steps):
        raise ValueError(
            f"{name} must be a float, a scalar tensor or a tensor of {steps} values, one per step; given "
            f"{tuple(value.shape)}"
        )
    return value.expand(steps)


def _in_range(momentum: Tensor | float, dtype: torch.dtype) -> Tensor | float:
    """``momentum``, if it is from 0 up to but not 1; ValueError if not, and on CUDA NaN, so as not to wait
    for the device."""
    if isinstance(momentum, Tensor) and momentum.is_cuda:
        return nan_unless_in_range(momentum)
    low, high = torch.stack(torch.aminmax(torch.as_tensor(momentum, dtype=dtype).detach())).tolist()
    if not 0.0 <= low <= high < 1.0:
        raise ValueError(
            f"momentum must satisfy 0 <= momentum < 1 at every step; given values from {low:g} to {high:g}"
        )
    return momentum


def nan_unless_in_range(momentum: Tensor) -> Tensor:
    """NaN wherever ``momentum`` is not from 0 up to but not 1."""
    return momentum.where((momentum >= 0) & (momentum < 1), torch.nan)


def _check_readout(readings: Sequence[Tensor], every: int, steps: int) -> None:
    if every < 1:
        raise ValueError(f"a readout needs every >= 1, not {every}")
    n = math.ceil(steps / every)
    if _leading(readings, "readout batches") != n:
        raise ValueError(
            f"a readout every {every} of {steps} steps needs {n} batches, not {len(readings[0])}"
        )
