"""Step functions compiled with their derivatives inside, which torch.compile alone refuses: it does not
differentiate twice.

A step, a step back, a reading and a reading back are pure functions of tensors (``minigtn.inner.step``),
whatever autograd they call. So each is run once and what it computes is recorded, the second derivatives
included (``make_fx``); nothing in that record needs a gradient any more, and inductor fuses it. The result is
the same exact meta-gradient in other kernels, and it is not believed before it has been compared with the
function itself.
"""

from __future__ import annotations

import operator
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode

from minigtn.inner.graphs import Groups

UNITS = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""Relative spacing of numbers."""
TF32_UNIT = UNITS[torch.float16]
TOLERANCES = {2.0**-52: 1e-10, 2.0**-23: 1e-4, 2.0**-10: 2e-2, 2.0**-7: 1e-1}
"""By the coarsest spacing in the function: the difference allowed between compiled and uncompiled outputs,
relative, in L2 norm."""
MARGIN = 16.0
"""Where rounding the inputs once more moves an output by more than that, so many times what it moves it
by."""
LIMITS = {2.0**-52: 1e-6, 2.0**-23: 1e-2, 2.0**-10: 2e-1, 2.0**-7: 5e-1}
"""But never more than that: an output that rounding moves further cannot be compared."""


class CompiledMismatch(RuntimeError):
    """Compiled code returned something else than the function it was made of."""


class NotCompiled(Exception):
    """Why a function stays as it is."""


def compiled(function: Callable[..., Groups], example: Groups, what: str) -> Callable[..., Groups]:
    """``function``, which maps groups of tensors to groups of tensors, compiled for the shapes, dtypes and
    device of ``example``.

    ``function`` must be pure. Tensors that it closes over are read anew at each call, so they may change in
    place, but not be replaced; Python values are those of now. The ``example`` is copied: its values are
    moved a little, so that no two tensors are equal and none is zero, and on these the compiled function is
    compared with ``function``.

    Cost: on a CPU 10 to 60 s for a step of a small network, once; later processes find the kernels in
    inductor's cache on disk.
    When not to use it: for fewer calls than that pays for, or where every call has other shapes.

    Raises CompiledMismatch, naming ``what``, where the two differ by more than rounding does. Where
    ``function`` reads numbers on the host or draws random ones, where inductor fails, or where there is no
    C++ compiler on a CPU, ``function`` itself is returned, with one RuntimeWarning.
    """
    return all_compiled([function], [example], [what])[0]


def all_compiled(
    functions: Sequence[Callable[..., Groups]], examples: Sequence[Groups], names: Sequence[str]
) -> list[Callable[..., Groups]]:
    """:func:`compiled` for each of ``functions``, all or none, with one warning. An example with an empty
    group: will not be called."""
    try:
        return [
            _compiled(f, x, name) if all(x) else f
            for f, x, name in zip(functions, examples, names, strict=True)
        ]
    except NotCompiled as cause:
        warnings.warn(
            f"the inner loop runs uncompiled, because {cause}; turn compile off, or change that",
            RuntimeWarning,
            stacklevel=3,
        )
        return list(functions)


class _Compiled:
    """Compiled code behind the signature of the function it was made of."""

    def __init__(
        self,
        run: Callable[..., Sequence[Tensor]],
        closed_over: Sequence[Tensor],
        inputs: Groups,
        outputs: Groups,
    ) -> None:
        self._run = run
        self._closed_over = closed_over
        self._layouts = [(x.shape, x.stride(), x.dtype) for x in chain(*inputs)]
        self._sizes = [len(group) for group in outputs]

    def __call__(self, *groups: Sequence[Tensor]) -> Groups:
        flat = [_laid_out(x, *layout) for x, layout in zip(chain(*groups), self._layouts, strict=True)]
        with torch.no_grad():
            found = self._run(*flat, *self._closed_over)
        return _grouped(found, self._sizes)


def _compiled(function: Callable[..., Groups], example: Groups, what: str) -> _Compiled:
    given = _moved(example)
    device = next(chain(*given)).device
    _require_compiler(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), _ignoring_warnings():
        with _Watch(what):
            expected = function(*given)
        try:
            graph, closed_over = _trace(function, given)
            inputs = [x.clone() for x in chain(*given)]
            call = _Compiled(_compile(graph, [*inputs, *closed_over]), closed_over, given, expected)
            found = call(*given)
        except Exception as error:
            first_line = (str(error).strip() or "no reason given").splitlines()[0]
            raise NotCompiled(
                f"{what} could not be traced or compiled ({type(error).__name__}: {first_line})"
            ) from error
        unit = _unit(graph, device)
        nearby = function(*(tuple(_rounded(x, unit) for x in group) for group in given))
    _compare(what, found, expected, nearby, unit)
    return call


def _compile(graph: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """What inductor makes of a graph of tensors that need no gradient."""
    import torch._inductor  # late, all of these: seconds
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # inductor's cache on disk is passed over where there is no such context
    context = TracingContext(
        FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True, allow_non_fake_inputs=True)
    )
    with torch.no_grad(), tracing(context):
        return torch._inductor.compile(graph, list(inputs))


def _trace(function: Callable[..., Groups], given: Groups) -> tuple[GraphModule, list[Tensor]]:
    """All that ``function`` computes, as a graph from flat inputs to flat outputs; the tensors that it closes
    over are further inputs."""
    from torch.fx.experimental.proxy_tensor import make_fx

    sizes = [len(group) for group in given]

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(chain(*function(*_grouped(tensors, sizes))))

    traced = make_fx(flat)(*(x.clone() for x in chain(*given)))
    graph = traced.graph
    closed_over: dict[str, tuple[Node, Tensor]] = {}
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        name = str(node.target)
        if name not in closed_over:
            with graph.inserting_after(inputs[-1]):
                inputs.append(graph.placeholder(f"closed_over_{len(closed_over)}"))
            closed_over[name] = (inputs[-1], getattr(traced, name))
        node.replace_all_uses_with(closed_over[name][0])
        graph.erase_node(node)
    _as_weight_gradients(graph)
    graph.lint()
    return GraphModule(torch.nn.Module(), graph), [tensor for _, tensor in closed_over.values()]


def _as_weight_gradients(graph: Graph) -> None:
    """Ask for weight gradients of convolutions where that is what is computed.

    torch's double backward of a convolution has its gradient by the weights as another convolution, whose
    kernel is a whole image and whose channels are the batch. cuDNN took .45 ms for one that its weight
    gradient does in .035 (a quarter of a step back of the paper's MNIST learner; one H200, TF32).
    """
    for node in [node for node in graph.nodes if node.target is torch.ops.aten.convolution.default]:
        arguments: Any = node.args
        image, kernel, bias, stride, padding, dilation, transposed, _, groups = arguments
        image = _untransposed(image)
        kernel = _untransposed(kernel)
        if (
            image is None
            or kernel is None
            or bias is not None
            or transposed
            or groups != 1
            or set(dilation) != {1}
            or _leaves_a_rest(image, kernel, stride, padding)
        ):
            continue
        inputs, outputs, *window = node.meta["val"].shape
        with graph.inserting_before(node):
            like = graph.call_function(torch.ops.aten.new_empty.default, (kernel, [outputs, inputs, *window]))
            size = len(window)
            arguments = (kernel, image, like, None, dilation, padding, stride, False, [0] * size, 1)
            both = graph.call_function(
                torch.ops.aten.convolution_backward.default, (*arguments, [False, True, False])
            )
            weight = graph.call_function(operator.getitem, (both, 1))
            swapped = graph.call_function(torch.ops.aten.transpose.int, (weight, 0, 1))
        node.replace_all_uses_with(swapped)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _leaves_a_rest(image: Node, kernel: Node, stride: Sequence[int], padding: Sequence[int]) -> bool:
    """Whether the last stride of a convolution ends before its image does."""
    sizes = image.meta["val"].shape[2:], kernel.meta["val"].shape[2:], stride, padding
    return any((n + 2 * pad - k) % by for n, k, by, pad in zip(*sizes, strict=True))


def _untransposed(node: Any) -> Node | None:
    """What ``node`` is with its first two axes exchanged; None if it is not."""
    if node.target is torch.ops.aten.clone.default:
        node = node.args[0]
    if node.target is torch.ops.aten.transpose.int and sorted(node.args[1:]) == [0, 1]:
        return node.args[0]
    return None


class _Watch(TorchDispatchMode):
    """Refuses what a recording would freeze in silence."""

    REFUSED = {  # noqa: RUF012
        torch.Tag.data_dependent_output: "reads a tensor on the host",
        torch.Tag.dynamic_output_shape: "makes a tensor whose shape depends on numbers",
        torch.Tag.nondeterministic_seeded: "draws random numbers",
    }

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tag, does in self.REFUSED.items():
            if tag in func.tags:
                raise NotCompiled(f"{self._what} {does} ({func})")
        return func(*args, **(kwargs or {}))


def _compare(what: str, found: Groups, expected: Groups, nearby: Groups, unit: float) -> None:
    """CompiledMismatch unless each output ``found`` is the one ``expected``; ``nearby`` are those of inputs
    rounded once more."""
    largest = max((float(_norm(x)) for x in chain(*expected)), default=0.0)
    for i, group in enumerate(expected):
        for j, y in enumerate(group):
            scale = max(float(_norm(y)), unit * largest, torch.finfo(torch.float64).tiny)
            difference = float(_norm(found[i][j].double() - y.double())) / scale
            rounding = float(_norm(nearby[i][j].double() - y.double())) / scale
            allowed = min(max(TOLERANCES[unit], MARGIN * rounding), LIMITS[unit])
            same_kind = found[i][j].shape == y.shape and found[i][j].dtype == y.dtype
            if not same_kind or not difference <= allowed:
                raise CompiledMismatch(
                    f"{what}: output {j} of group {i}, {tuple(y.shape)} {y.dtype}, differs from the "
                    f"uncompiled one by {difference:.1e} "
                    f"(relative; {allowed:.1e} is allowed), so the compiled meta-gradient would be wrong; "
                    "turn compile off"
                )


def _moved(example: Groups) -> Groups:
    """Copies of the tensors of ``example``; floating-point numbers are moved by up to a fifth, and zeros by
    as much as others are large."""
    rng = torch.Generator().manual_seed(0)

    def moved(x: Tensor) -> Tensor:
        x = x.detach().clone()
        if not x.is_floating_point():
            return x
        noise = torch.rand(x.shape, generator=rng, dtype=torch.float64).to(x)
        mean = x.abs().mean()
        size = torch.where(mean > 0, mean, torch.ones_like(mean)) / 2
        return x.copy_(torch.where(x == 0, size * (0.2 + noise), x * (1 - noise / 5)))

    return tuple(tuple(map(moved, group)) for group in example)


def _rounded(x: Tensor, unit: float) -> Tensor:
    """``x`` with every other number moved by a unit in its last place."""
    if not x.is_floating_point():
        return x
    signs = torch.arange(x.numel(), device=x.device).remainder(2).view(x.shape)
    return x * (1 + unit * signs.to(x))


def _unit(graph: GraphModule, device: torch.device) -> float:
    """The coarsest spacing of the numbers that the graph computes with."""
    metas = [node.meta.get("tensor_meta") for node in graph.graph.nodes]
    units = [UNITS[meta.dtype] for meta in metas if getattr(meta, "dtype", None) in UNITS]
    if device.type == "cuda" and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32):
        units += [TF32_UNIT] * (UNITS[torch.float32] in units)
    return max(units, default=UNITS[torch.float32])


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.detach().double())


def _laid_out(x: Tensor, shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """``x``, copied if it lies in memory in another way; ValueError if it is not of that shape and dtype."""
    if x.shape != shape or x.dtype != dtype:
        raise ValueError(
            f"compiled for a tensor {tuple(shape)} {dtype}, called with {tuple(x.shape)} {x.dtype}; compile "
            "anew for that"
        )
    if x.stride() == stride:
        return x
    return torch.empty_strided(shape, stride, dtype=dtype, device=x.device).copy_(x)


def _grouped(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Groups:
    rest = iter(tensors)
    return tuple(tuple(next(rest) for _ in range(size)) for size in sizes)


def _require_compiler(device: torch.device) -> None:
    """NotCompiled where inductor would look for a C++ compiler in vain; asked without starting inductor."""
    if device.type != "cpu":
        return

    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    name = os.environ.get("CXX", usual)
    if shutil.which(name) is None:
        raise NotCompiled(
            f"there is no C++ compiler {name!r}; install one, or name yours in the environment variable CXX"
        )


@contextmanager
def _ignoring_warnings() -> Iterator[None]:
    """What torch deprecates inside itself is not the caller's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
