"""Exact fixed-point training state for ``Reversible``: nothing is rounded away on the way forward, so the way
back is exact.

Source: Maclaurin, Duvenaud & Adams 2015 (arXiv 1502.03492), section 2.2 and algorithm 3. Departures: torch's
momentum convention; the information buffer is made of uint64 words whose lower halves all lanes spill
together (theirs is one Python big integer per weight); any momentum is applied as the nearest fraction n/d
with d <= 4096.

One body serves NumPy and CuPy: on the CPU the arrays are views of torch's own memory, on CUDA too (through
DLPack, on torch's current stream, from torch's allocator), where the elementwise functions are fused into one
kernel each.

Arithmetic: a real x is the int64 ``rint(x * 2**52)``, so |x| < 2048; the float that the loss sees is that
integer times 2**-52. All quantities must stay below LIMIT = 1024 in size, so that no sum of two can wrap;
:class:`FixedPointOverflow` otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

FRACTION_BITS = 52
ONE = 2.0**FRACTION_BITS
LIMIT = 1024.0
MAX_DENOMINATOR = 4096
WORD = 2**64
HALF = np.uint64(32)
BLOCK = 2**14  # lanes; a few arrays of them fit into a core's second-level cache
CHECK_EVERY = 64  # steps between two looks at the sizes; each look waits for the device

Array = Any  # numpy.ndarray or cupy.ndarray, int64 or uint64 (P,)


class FixedPointOverflow(ArithmeticError):
    """A weight, velocity or gradient left the range of the fixed-point numbers (or is not finite)."""


def rational_momentum(momentum: float) -> tuple[int, int]:
    """``(n, d)``, the fraction nearest to ``momentum`` with d <= 4096: 0 <= n < d, typically 1e-7 away and at
    most 1/8192.

    Raises ValueError if the nearest fraction is 1.
    """
    fraction = Fraction(momentum).limit_denominator(MAX_DENOMINATOR)
    if not 0 <= fraction < 1:
        raise ValueError(
            f"Reversible applies momentum as a fraction n/d with d <= {MAX_DENOMINATOR}, and {momentum!r} "
            f"rounds to {fraction}; use a momentum from 0 to "
            f"{(MAX_DENOMINATOR - 1) / MAX_DENOMINATOR:.6f}, or another adjoint"
        )
    return fraction.numerator, fraction.denominator


def bits_per_step(momentum: float) -> float:
    """Bits that one weight stores in one step: log2(d/n), or 64 when the velocity must be kept whole (n =
    0)."""
    n, d = rational_momentum(momentum)
    return math.log2(d / n) if n else 64.0


def _in_blocks(body: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's counterpart of a fused kernel: finish one block of lanes before the next, so that temporaries
    stay in the cache."""

    def blockwise(*args: Any) -> Any:
        parts = [
            body(*(x[start : start + BLOCK] if isinstance(x, np.ndarray) else x for x in args))
            for start in range(0, len(args[0]), BLOCK)
        ]
        if len(parts) == 1:
            return parts[0]
        return (
            tuple(map(np.concatenate, zip(*parts, strict=True)))
            if isinstance(parts[0], tuple)
            else np.concatenate(parts)
        )

    return blockwise


class _Kernels:
    """The elementwise bodies, one for NumPy and CuPy; on CUDA each is fused into one kernel."""

    def __init__(self, xp: Any) -> None:
        def scale(x, b, n, d, un, ud):
            # In exact integers: r = x mod d; total = b*d + r; x <- (x // d)*n + total mod n; b <- total // n.
            # With b = q*n + s, total = n*(q*d) + (s*d + r), and nothing needs more than one word.
            low = x // d
            q = b // un
            small = (b - q * un) * ud + (x - low * d).astype(np.uint64)
            carry = small // un
            return low * n + (small - carry * un).astype(np.int64), q * ud + carry

        def fix(x):
            return xp.rint(x * ONE).astype(np.int64)

        def unfix(x):
            return x.astype(np.float64) * (1 / ONE)

        def moved(v, lr):
            return xp.rint(lr * v.astype(np.float64)).astype(np.int64)

        def size(w, v, g, lr):
            v = unfix(v)
            # NaN wins
            return xp.maximum(xp.maximum(xp.abs(unfix(w)), xp.abs(v)), xp.maximum(xp.abs(lr * v), xp.abs(g)))

        fuse: Any = _in_blocks if xp is np else xp.fuse()
        self.scale, self.fix, self.unfix, self.moved, self.size = map(fuse, (scale, fix, unfix, moved, size))


class InformationBuffer:
    """What multiplying ``lanes`` int64 numbers by n/d < 1 loses: log2(d/n) bits per lane and step, last in,
    first out.

    Every lane has one uint64 word ``b`` < ``bound``. When the next scaling could pass 2**64, the low halves
    of all words are put aside together, 4 bytes per lane, all of them in use; the schedule follows from the
    sequence of (n, d) alone, so no lane needs a big integer.
    """

    def __init__(self, xp: Any, lanes: int) -> None:
        self._kernels = _Kernels(xp)
        self._word: Array = xp.zeros(lanes, np.uint64)
        self._bound = 1
        self._aside: list[Array] = []
        # of each scaling: the bound before it, and whether it put something aside
        self._history: list[tuple[int, bool]] = []

    @property
    def nbytes(self) -> int:
        """Bytes in use now, the current word of each lane included."""
        return self._word.nbytes + sum(array.nbytes for array in self._aside)

    @property
    def is_empty(self) -> bool:
        """True at the start, and again when every :meth:`shrink` is undone. Waits for the device."""
        return not self._history and not bool(self._word.any())

    def shrink(self, x: Array, n: int, d: int) -> None:
        """``x <- x * n/d`` in place, 0 <= n < d; ``n = 0`` keeps x whole (64 bits per lane) and sets it to
        zero."""
        full = n > 0 and self._bound_after(n, d) > WORD
        self._history.append((self._bound, full))
        if n == 0:
            self._aside.append(x.copy())
            x[...] = 0
            return
        if full:
            self._aside.append(self._word.astype(np.uint32))  # keeps the low half
            self._word >>= HALF
            self._bound = ((self._bound - 1) >> int(HALF)) + 1
        self._bound = self._bound_after(n, d)
        self._apply(x, n, d)

    def grow(self, x: Array, n: int, d: int) -> None:
        """The exact inverse of the latest :meth:`shrink`, which must have been called with the same ``n,
        d``."""
        self._bound, full = self._history.pop()
        if n == 0:
            x[...] = self._aside.pop()
            return
        self._apply(x, d, n)
        if full:
            self._word <<= HALF
            self._word |= self._aside.pop()

    def _bound_after(self, n: int, d: int) -> int:
        return (self._bound * d - 1) // n + 1

    def _apply(self, x: Array, n: int, d: int) -> None:
        x[...], self._word[...] = self._kernels.scale(
            x, self._word, np.int64(n), np.int64(d), np.uint64(n), np.uint64(d)
        )


class FixedPointState:
    """Weights and velocity (P,) of a training run that can be stepped forward and exactly back.

    Memory: 16 bytes per weight and the buffer. ``describe`` names the parameter that a flat index belongs to.
    """

    def __init__(self, w0: Tensor, describe: Callable[[int], str]) -> None:
        self._dtype = w0.dtype
        self._device = w0.device
        self._describe = describe
        self._xp = np if w0.device.type == "cpu" else _cupy()
        self._kernels = _Kernels(self._xp)
        self._peaks: list[tuple[int, Array, Array]] = []  # step, size, index of the largest number met there
        with self._on_stream():
            floats = self._array(w0)
            self._see(0, self._xp.abs(floats))
            self.check()
            self._w = self._kernels.fix(floats)
            self._v = self._xp.zeros_like(self._w)
            self.buffer = InformationBuffer(self._xp, len(self._w))

    @property
    def w(self) -> Tensor:
        """The weights the loss sees, (P,): a rounding of the integers to the learner's dtype, the same bits
        both ways."""
        return self._tensor(self._w)

    @property
    def v(self) -> Tensor:
        """The velocity, (P,), in the learner's dtype."""
        return self._tensor(self._v)

    def step(self, t: int, g: Tensor, lr: float, n: int, d: int) -> None:
        """``v <- v*n/d + g``, ``w <- w - lr*v``; ``t`` is for the error message only."""
        with self._on_stream(), np.errstate(invalid="ignore", over="ignore"):
            floats = self._array(g)
            kernels = self._kernels
            self.buffer.shrink(self._v, n, d)
            self._v += kernels.fix(floats)
            self._w -= kernels.moved(self._v, lr)
            self._see(t, kernels.size(self._w, self._v, floats, lr))
        if len(self._peaks) >= CHECK_EVERY:
            self.check()

    def back_weights(self, lr: float) -> None:
        """``w <- w + lr*v``, with the same product, rounded the same way, as the step took."""
        with self._on_stream():
            self._w += self._kernels.moved(self._v, lr)

    def back_velocity(self, g: Tensor, n: int, d: int) -> None:
        """``v <- (v - g)*d/n``; exact only for the very bits of ``g`` that the step took."""
        with self._on_stream():
            self._v -= self._kernels.fix(self._array(g))
            self.buffer.grow(self._v, n, d)

    def check(self) -> None:
        """Raise FixedPointOverflow for the first step since the last check at which anything reached LIMIT or
        was not finite."""
        for t, peak, index in self._peaks:
            if not float(peak) < LIMIT:
                raise FixedPointOverflow(
                    f"{self._describe(int(index))} reached {float(peak):.4g} at inner step {t}: weights, "
                    "velocity, gradient and "
                    f"lr*velocity must stay below {LIMIT:g} in size for Reversible; lower the learning rate "
                    "or the momentum, "
                    "or use Checkpointed"
                )
        self._peaks.clear()

    def is_at(self, w0: Tensor) -> bool:
        """Whether the state is ``w0`` with zero velocity and an empty buffer, bit for bit. Waits for the
        device."""
        with self._on_stream():
            return self.buffer.is_empty and not bool(
                (self._w != self._kernels.fix(self._array(w0))).any() | self._v.any()
            )

    def _see(self, t: int, sizes: Array) -> None:
        index = sizes.argmax()
        self._peaks.append((t, sizes[index], index))

    def _array(self, x: Tensor) -> Array:
        x = x.detach().to(torch.float64)
        return x.numpy() if self._xp is np else self._xp.from_dlpack(x)

    def _tensor(self, x: Array) -> Tensor:
        with self._on_stream():
            return torch.from_dlpack(self._kernels.unfix(x)).to(self._dtype)

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """CuPy works on torch's current stream and takes memory from torch's allocator: one queue, one
        cache."""
        if self._xp is np:
            yield
            return
        xp = self._xp
        device = self._device.index or 0
        with xp.cuda.Device(device):
            stream = _external_stream(xp, torch.cuda.current_stream(self._device).cuda_stream, device)
            with stream, xp.cuda.using_allocator(self._allocate):
                yield

    def _allocate(self, size: int):
        block = torch.empty(size, dtype=torch.uint8, device=self._device)
        memory = self._xp.cuda.UnownedMemory(block.data_ptr(), size, block)
        return self._xp.cuda.MemoryPointer(memory, 0)


class _Handle:
    """A stream of torch's by the CUDA stream protocol, which not every torch speaks itself."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


@functools.cache
def _external_stream(xp: Any, pointer: int, device: int) -> Any:
    """Torch's stream as one of CuPy's on the current device, ``device``; CuPy 14 warns of the older name.

    Kept for good: what ``from_external`` returns destroys the stream, which is torch's, when it is collected.
    Torch makes few streams.
    """
    from_external = getattr(xp.cuda.Stream, "from_external", None)
    return from_external(_Handle(pointer)) if from_external else xp.cuda.ExternalStream(pointer, device)


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise ImportError("Reversible on CUDA needs CuPy: pip install 'minigtn[cuda]'") from error
    return cupy
