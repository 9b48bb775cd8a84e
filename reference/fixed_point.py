"""Fixed-point numbers whose multiplication by a fraction can be undone, bit for bit.

Source: Maclaurin, Duvenaud & Adams 2015 (arXiv 1502.03492): fixed-point weights and velocity, and an
*information buffer* that keeps what ``v <- momentum * v`` would forget. Departures: the buffer is made of
uint64 words that spill their low halves together, instead of Python's big integers; momentum is rounded to
``n/d`` with ``d <= 4096``; leaving the range raises.

Notation: P lanes (one per weight), ``x`` int64 (P,), buffer words ``b`` uint64 (P,), all with ``b < bound``.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 52
"""A real number x is stored as the int64 integer nearest to ``x * 2**52``."""
LIMIT = 1024.0
"""|g|, |v|, |lr * v| and |w| stay below this, so a sum of two stays below 2048 = 2**63 / 2**52: no int64 can
wrap."""
MAX_DENOMINATOR = 4096
"""Largest denominator of a momentum; small enough that ``n * d`` is far from 64 bits."""
HALF = np.uint64(32)
"""Bits in half a word."""

Reals = NDArray[np.float64]
Integers = NDArray[np.int64]
Words = NDArray[np.uint64]


class FixedPointOverflow(OverflowError):
    """A number left the range (-1024, 1024) of the fixed point, or is NaN: ``quantity`` of ``where`` at
    ``step``."""

    def __init__(self, quantity: str, where: str, step: int, value: float) -> None:
        super().__init__(
            f"{quantity} of {where} is {value:.6g} at inner step {step}, and must stay inside "
            f"(-{LIMIT:g}, {LIMIT:g}); try a smaller learning rate or momentum, or smaller initial weights"
        )
        self.quantity = quantity
        self.where = where
        self.step = step


def to_fixed(x: Reals) -> Integers:
    """The integers nearest to ``x * 2**52`` (halves go to the even one). The caller checks the range."""
    return np.rint(np.asarray(x, np.float64) * 2.0**FRACTION_BITS).astype(np.int64)


def to_float(x: Integers) -> Reals:
    """``x * 2**-52``. Rounds where |x| > 2**53, always in the same way, so the way back sees the same
    float."""
    return x.astype(np.float64) * 2.0**-FRACTION_BITS


def rational(momentum: float) -> Fraction:
    """The fraction n/d nearest to ``momentum`` with d <= 4096: the momentum that is really applied.

    The two differ by at most 1/8192: by nothing for 0.5, and by less than an ulp for a short decimal such as
    0.9. Raises ValueError outside [0, 1), and where the nearest fraction is 1, because then nothing would
    ever slow down.
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must be at least 0 and less than 1, not {momentum}")
    fraction = Fraction(float(momentum)).limit_denominator(MAX_DENOMINATOR)
    if fraction == 1:
        raise ValueError(
            f"momentum {momentum!r} rounds to 1 as a fraction n/d with d <= {MAX_DENOMINATOR}; "
            f"the largest that can be used is {MAX_DENOMINATOR - 1}/{MAX_DENOMINATOR}"
        )
    return fraction


def scale(x: Integers, b: Words, n: int, d: int) -> tuple[Integers, Words]:
    """Multiply ``x`` by n/d and keep the remainder in ``b``. **Its inverse is itself with n and d
    exchanged.**

    ``x`` gives its last digit in base d to ``b``, and takes a last digit in base n from it. With the big
    number ``big = b * d + x mod d``, the new digit is ``big mod n`` and the new word is ``big // n``. The
    lines below compute just that without forming ``big``, which can need more than 64 bits. If all b < M,
    then all new words are less than (M * d - 1) // n + 1; the caller sees to it that this is at most 2**64.
    """
    high, digit = np.divmod(x, d)  # floor: 0 <= digit < d for negative x too
    q, s = np.divmod(b, n)
    total = s * d + digit.astype(np.uint64)  # < n * d
    return high * n + (total % n).astype(np.int64), q * d + total // n


class InformationBuffer:
    """A stack of what multiplying P lanes by n/d < 1 would forget: log2(d/n) bits per lane and step.

    When a word could overflow, all lanes spill the low half of theirs together: 32 bits, all in use. One
    Python integer decides it, ``bound``, which depends on the (n, d) so far and not on the data: the schedule
    is the same on every machine. Momentum 0 costs 64 bits.
    """

    def __init__(self, lanes: int) -> None:
        self.words: Words = np.zeros(lanes, np.uint64)
        self.bound = 1  # all words are below it
        self.spilled: list[NDArray[Any]] = []  # uint32 halves of words; int64 velocities met by momentum 0
        self._history: list[tuple[int, bool]] = []  # per multiplication: bound before it, did it spill?

    def multiply(self, x: Integers, n: int, d: int) -> Integers:
        """``x * n / d`` for 0 <= n < d, wrong by less than n (how much depends on the buffer)."""
        spills = n > 0 and self._bound_after(n, d) > 2**64  # the states of a uint64 word
        self._history.append((self.bound, spills))
        if n == 0:
            self.spilled.append(x)  # nothing is left of x: keep all 64 bits
            return np.zeros_like(x)
        if spills:
            self.spilled.append(self.words.astype(np.uint32))  # the low halves
            self.words = self.words >> HALF
            self.bound = ((self.bound - 1) >> int(HALF)) + 1
        self.bound = self._bound_after(n, d)
        x, self.words = scale(x, self.words, n, d)
        return x

    def undo(self, x: Integers, n: int, d: int) -> Integers:
        """The inverse of the last :meth:`multiply` that is not undone yet; n and d must be those of then."""
        self.bound, spilled = self._history.pop()
        if n == 0:
            return self.spilled.pop()
        x, self.words = scale(x, self.words, d, n)
        if spilled:
            self.words = (self.words << HALF) | self.spilled.pop()
        return x

    @property
    def is_empty(self) -> bool:
        """True at the start, and again when everything is undone."""
        return not self._history and not self.spilled and not self.words.any()

    @property
    def nbytes(self) -> int:
        """Bytes held now, all lanes together: spilled words and current words."""
        return self.words.nbytes + sum(words.nbytes for words in self.spilled)

    @property
    def bits(self) -> int:
        """Bits in use now, per lane: all that was spilled, and as many as ``bound`` needs of the current
        word."""
        return 8 * sum(array.itemsize for array in self.spilled) + (self.bound - 1).bit_length()

    def _bound_after(self, n: int, d: int) -> int:
        return (self.bound * d - 1) // n + 1


class Exact:
    """The arithmetic of a reversible run: int64 numbers, checked range, a buffer for the velocity's lost
    bits.

    ``name_of(i)`` tells what lane i is called in an error message.
    """

    def __init__(self, lanes: int, name_of: Callable[[int], str]) -> None:
        self.buffer = InformationBuffer(lanes)
        self.name_of = name_of

    number = staticmethod(to_fixed)
    value = staticmethod(to_float)
    factor = staticmethod(rational)

    def check(self, x: Reals, quantity: str, step: int) -> Reals:
        """``x`` itself if all of it is inside (-1024, 1024), else (NaN too) raises
        :class:`FixedPointOverflow`."""
        inside = np.abs(x) < LIMIT
        if not inside.all():
            lane = int(np.argmin(inside))
            raise FixedPointOverflow(quantity, self.name_of(lane), step, float(x[lane]))
        return x

    def shrink(self, v: Integers, momentum: Fraction) -> Integers:
        return self.buffer.multiply(v, momentum.numerator, momentum.denominator)

    def grow(self, v: Integers, momentum: Fraction) -> Integers:
        return self.buffer.undo(v, momentum.numerator, momentum.denominator)


class Float(Exact):
    """Plain float64 in the same clothes, only to show that floats forget. Momentum 0 has no way back at
    all."""

    number: Any = staticmethod(lambda x: x)
    value: Any = number
    factor: Any = staticmethod(float)

    check: Any = staticmethod(lambda x, quantity, step: x)
    shrink: Any = staticmethod(lambda v, momentum: v * momentum)
    grow: Any = staticmethod(lambda v, momentum: v / momentum)
