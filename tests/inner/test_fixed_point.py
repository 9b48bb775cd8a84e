"""Integers that can be un-multiplied: property tests of the arithmetic, exact return over long runs, and what
is refused."""

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import minigtn
from minigtn import FixedPointOverflow, Reversible
from minigtn.inner.fixed_point import (
    MAX_DENOMINATOR,
    WORD,
    FixedPointState,
    InformationBuffer,
    _external_stream,
    bits_per_step,
    rational_momentum,
)
from problems import QUADRATIC_W0, A, quadratic, quadratic_batches

MIN = np.iinfo(np.int64).min
MAX = np.iinfo(np.int64).max
LANES = arrays(
    np.int64,
    st.integers(1, 8),
    elements=st.one_of(st.sampled_from([MIN, MIN + 1, -1, 0, 1, MAX]), st.integers(MIN, MAX)),
)
FRACTIONS = st.integers(1, MAX_DENOMINATOR).flatmap(lambda d: st.tuples(st.integers(0, d - 1), st.just(d)))
SCALINGS = st.lists(
    st.one_of(FRACTIONS, st.sampled_from([(0, 1), (1, 2), (9, 10), (4095, 4096), (1, 4096)])), max_size=60
)


# ---- the information buffer ----


@given(LANES, SCALINGS, st.integers(MIN, MAX))
def test_what_was_shrunk_grows_back(x, scalings, kick):
    """Whatever is added between the scalings (wrapping round where it must), any lengths, spills and zeros:
    bit for bit."""
    buffer = InformationBuffer(np, len(x))
    start = x.copy()
    kick = np.int64(kick)
    seen = []
    with np.errstate(over="ignore"):
        for n, d in scalings:
            buffer.shrink(x, n, d)
            seen.append(x.copy())
            x += kick
        assert buffer.is_empty == (not scalings or not buffer._history)
        for (n, d), then in zip(reversed(scalings), reversed(seen), strict=True):
            x -= kick
            assert np.array_equal(x, then)
            buffer.grow(x, n, d)
    assert np.array_equal(x, start)
    assert buffer.is_empty
    assert buffer.nbytes == 8 * len(x)


@given(LANES, SCALINGS)
def test_shrinking_multiplies_and_never_fills_a_word(x, scalings):
    buffer = InformationBuffer(np, len(x))
    for n, d in scalings:
        exact = [Fraction(int(value) * n, d) for value in x]
        buffer.shrink(x, n, d)
        assert all(abs(int(value) - true) < max(n, 1) for value, true in zip(x, exact, strict=True))
        assert buffer._bound <= WORD
        assert all(int(word) < buffer._bound for word in buffer._word)


@given(st.integers(MIN, MAX), st.lists(FRACTIONS.filter(lambda f: f[0] > 0), min_size=1, max_size=40))
def test_one_endless_integer_gives_the_same_numbers(x, scalings):
    """Against algorithm 3 of Maclaurin et al. in Python's big integers, as long as nothing spills."""
    lane = np.array([x])
    buffer = InformationBuffer(np, 1)
    endless = 0
    for n, d in scalings:
        buffer.shrink(lane, n, d)
        if buffer.nbytes > 8:
            break
        endless = endless * d + x % d
        x = x // d * n + endless % n
        endless //= n
        assert int(lane[0]) == x
        assert int(buffer._word[0]) == endless


@given(st.floats(0, 1, exclude_max=True, allow_subnormal=False))
def test_momentum_becomes_the_nearest_fraction(momentum):
    if momentum > 1 - 1 / (2 * MAX_DENOMINATOR):
        with pytest.raises(ValueError, match="rounds to 1"):
            rational_momentum(momentum)
        return
    n, d = rational_momentum(momentum)
    assert 0 <= n < d <= MAX_DENOMINATOR
    off = abs(Fraction(momentum) - Fraction(n, d))
    assert off <= Fraction(1, 2 * MAX_DENOMINATOR)
    for other in (d, MAX_DENOMINATOR, 4093):
        assert off <= abs(Fraction(momentum) - Fraction(round(momentum * other), other))


@pytest.mark.parametrize(
    ("momentum", "fraction"),
    [(0.5, (1, 2)), (0.9, (9, 10)), (0.0, (0, 1)), (float(np.float32(0.9)), (9, 10))],
)
def test_usual_momenta_are_exact(momentum, fraction):
    assert rational_momentum(momentum) == fraction


@pytest.mark.parametrize(
    "momentum", [math.nextafter(1, 0), float(np.nextafter(np.float32(1), np.float32(0))), 0.9999]
)
def test_a_momentum_next_to_one_is_refused(momentum):
    with pytest.raises(
        ValueError, match=r"rounds to 1; use a momentum from 0 to 0\.999756, or another adjoint"
    ):
        rational_momentum(momentum)


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.123])
def test_stored_bits(momentum):
    """Within 5 % of T * P * log2(1/momentum), by the buffer's own bytes."""
    (n, d) = rational_momentum(momentum)
    steps = 10_000
    lanes = 3
    buffer = InformationBuffer(np, lanes)
    v = np.array([10**15, -(7**17), 3])
    for _ in range(steps):
        buffer.shrink(v, n, d)
        v += 1234567890123
    assert 8 * buffer.nbytes == pytest.approx(steps * lanes * bits_per_step(momentum), rel=0.05)
    assert bits_per_step(momentum) == pytest.approx(math.log2(1 / momentum), rel=1e-6)


def test_momentum_zero_stores_the_velocity_whole():
    buffer = InformationBuffer(np, 2)
    v = np.array([5, -7])
    buffer.shrink(v, 0, 1)
    assert not v.any()
    assert buffer.nbytes == 2 * 8 + 2 * 8  # the current words and the numbers
    buffer.grow(v, 0, 1)
    assert v.tolist() == [5, -7]
    assert bits_per_step(0.0) == 64


# ---- whole runs ----

STEPS = 10_000
LR = 0.125


def descend(t, w):
    """Gradient of the quadratic at step t: (3,)."""
    return A @ w - torch.tensor([(t % 8) / 8, -(t % 4) / 4, ((t % 5) - 2) / 2], dtype=torch.float64)


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_ten_thousand_steps_there_and_back(momentum):
    w0 = torch.cat(list(QUADRATIC_W0.values()))
    (n, d) = rational_momentum(momentum)
    state = FixedPointState(w0, str)
    for t in range(STEPS):
        state.step(t, descend(t, state.w), LR, n, d)
    state.check()
    assert (state.w - w0).abs().min() > 0.01
    for t in reversed(range(STEPS)):
        assert not state.is_at(w0) or t < 10
        state.back_weights(LR)
        state.back_velocity(descend(t, state.w), n, d)
    assert state.is_at(w0)
    assert torch.equal(state.w, w0)  # dyadic, so that no bit was rounded on the way in either
    assert not state.v.any()


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_plain_floats_do_not_come_back(momentum):
    w0 = torch.cat(list(QUADRATIC_W0.values()))
    w = w0
    v = torch.zeros_like(w0)
    for t in range(STEPS):
        v = momentum * v + descend(t, w)
        w = w - LR * v
    for t in reversed(range(STEPS)):
        w = w + LR * v
        v = (v - descend(t, w)) / momentum
    assert not (w - w0).abs().max() < 1e6  # far away, or not even a number


def test_a_long_run_through_the_front_door():
    """Reversible itself asserts the return; here over a thousand steps, with changing step sizes."""
    w0 = {name: w.clone().requires_grad_() for name, w in QUADRATIC_W0.items()}
    steps = 1000
    momentum = torch.rand(steps, dtype=torch.float64)
    trained = minigtn.sgd(
        quadratic,
        w0,
        quadratic_batches(steps),
        torch.rand(steps, dtype=torch.float64) / 8,
        momentum,
        Reversible(),
    )
    trained["b"].sum().backward()
    assert w0["a"].grad.isfinite().all()


# ---- what is refused ----


def linear(params, batch):
    """Gradient ``batch`` by b (1,), and -0.25 by each entry of a."""
    return batch[0] * params["b"].sum() - 0.25 * params["a"].sum()


@pytest.mark.parametrize("value", [2000.0, -1e300, float("inf"), float("nan")])
@pytest.mark.parametrize("step", [0, 3, 70, 129])
def test_overflow_names_the_parameter_and_the_step(value, step):
    slopes = torch.zeros(130, dtype=torch.float64)
    slopes[step] = value
    with pytest.raises(
        FixedPointOverflow, match=rf"^parameter 'b' reached .* at inner step {step}: .* use Checkpointed$"
    ):
        minigtn.sgd(linear, QUADRATIC_W0, (slopes,), 0.01, 0.5, Reversible())


@pytest.mark.parametrize(
    ("lr", "momentum", "slope", "first"),
    [
        (0.001, 0.5, 600.0, 2),  # velocity: 600, 900, 1050
        (0.5, 0.0, 600.0, 3),  # weight: 0.25 - 300 a step
        (40.0, 0.0, 30.0, 0),  # the product lr * velocity
    ],
)
def test_overflow_of_velocity_and_weights(lr, momentum, slope, first):
    slopes = torch.full((9,), slope, dtype=torch.float64)
    with pytest.raises(FixedPointOverflow, match=rf"'b' .* at inner step {first}:"):
        minigtn.sgd(linear, QUADRATIC_W0, (slopes,), lr, momentum, Reversible())


@pytest.mark.parametrize("value", [1024.0, float("nan")])
def test_weights_that_start_out_of_range(value):
    params = {**QUADRATIC_W0, "b": torch.tensor([value], dtype=torch.float64)}
    with pytest.raises(FixedPointOverflow, match=r"'b' reached .* at inner step 0"):
        minigtn.sgd(linear, params, (torch.zeros(3),), 0.01, 0.5, Reversible())


def test_cupy_gets_torchs_stream_by_the_name_that_it_knows():
    class New:
        def __init__(self, pointer):
            self.pointer = pointer

        @classmethod
        def from_external(cls, stream):
            version, pointer = stream.__cuda_stream__()
            assert version == 0
            return cls(pointer)

    class NewCupy:  # a class, as modules can be hashed and namespaces cannot
        cuda = SimpleNamespace(Stream=New)

    class OldCupy:
        cuda = SimpleNamespace(Stream=object, ExternalStream=lambda pointer, device: (pointer, device))

    stream = _external_stream(NewCupy, 123, 0)
    assert stream.pointer == 123
    assert _external_stream(NewCupy, 123, 0) is stream  # collecting it would destroy torch's stream
    assert _external_stream(OldCupy, 123, 1) == (123, 1)


# ---- CUDA ----


@pytest.mark.gpu
@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0])
def test_cupy_and_numpy_have_the_same_bits(momentum):
    """The same gradients give the same integers, buffer words and return."""
    n, d = rational_momentum(momentum)
    w0 = torch.rand(1000, dtype=torch.float64)
    states = [FixedPointState(w0.to(device), str) for device in ("cpu", "cuda")]
    gradients = torch.randn(500, 1000, dtype=torch.float64)
    for t, g in enumerate(gradients):
        for state in states:
            state.step(t, g.to(state.w.device), 0.01, n, d)
    host, device = states
    for name in ("_w", "_v"):
        assert np.array_equal(getattr(host, name), getattr(device, name).get())
    assert host.buffer.nbytes == device.buffer.nbytes
    for g in reversed(gradients):
        for state in states:
            state.back_weights(0.01)
            state.back_velocity(g.to(state.w.device), n, d)
    assert host.is_at(w0)
    assert device.is_at(w0.cuda())


@pytest.mark.gpu
def test_cupy_takes_its_memory_from_torch():
    """One allocator, one cache: what the state holds shows up in torch's own account, and CuPy's pool stays
    empty."""
    import cupy

    pool = cupy.get_default_memory_pool().used_bytes()
    before = torch.cuda.memory_allocated()
    state = FixedPointState(torch.zeros(1_000_000, device="cuda"), str)
    with torch.cuda.stream(torch.cuda.Stream()):  # torch's current stream, whichever it is
        state.step(0, torch.ones(1_000_000, device="cuda"), 0.5, 1, 2)
    torch.cuda.synchronize()
    assert state.w.eq(-0.5).all()
    assert torch.cuda.memory_allocated() - before >= 24 * 1_000_000
    assert cupy.get_default_memory_pool().used_bytes() == pool
