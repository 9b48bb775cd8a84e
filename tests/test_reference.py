"""The reference against everything that can prove it: big integers, finite differences, an unrolled run, slow
loops.

The oracle for gradients is ``unrolled``, which shares no code with the reference's loops: autograd through a
float run.

Longer than other test files, because it is the only one for a whole package; the sections follow its files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad
from autograd.extend import defvjp, primitive
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import correlate2d

import reference
from reference import (
    Exact,
    FixedPointOverflow,
    Float,
    InformationBuffer,
    Layout,
    NotReversed,
    forward,
    meta_gradient,
    rational,
    reverse,
    scale,
    to_fixed,
    to_float,
)
from reference import layers as L

pytestmark = pytest.mark.filterwarnings("error")
README = (Path(reference.__file__).parent / "README.md").read_text()
UNIT = 2.0**-reference.FRACTION_BITS


# ---- fixed point and buffer ----

INT64 = st.integers(-(2**63), 2**63 - 1)
FRACTIONS = st.integers(2, reference.MAX_DENOMINATOR).flatmap(
    lambda d: st.integers(1, d - 1).map(lambda n: Fraction(n, d))
)


def lanes(*values: int, dtype: type = onp.int64) -> onp.ndarray:
    return onp.array(values, dtype)


@given(INT64, FRACTIONS, st.data())
def test_scale_is_big_integer_arithmetic_and_its_own_inverse(
    x: int, factor: Fraction, data: st.DataObject
) -> None:
    n = factor.numerator
    d = factor.denominator
    b = data.draw(st.integers(0, 2**64 * n // d - 1))  # all words whose successor still is a word
    new_x, new_b = scale(lanes(x), lanes(b, dtype=onp.uint64), n, d)
    big = b * d + x % d
    assert (new_x.dtype, new_b.dtype) == (onp.int64, onp.uint64)
    assert (int(new_x[0]), int(new_b[0])) == (x // d * n + big % n, big // n)
    assert abs(int(new_x[0]) - x * factor) < n
    old_x, old_b = scale(new_x, new_b, d, n)
    assert (int(old_x[0]), int(old_b[0])) == (x, b)


STEPS = st.lists(
    st.tuples(FRACTIONS | st.just(Fraction(0)) | st.just(Fraction(1, 4096)), st.integers(-(2**40), 2**40))
)


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=5), STEPS)
def test_buffer_undoes_any_sequence_with_additions_between(
    start: list[int], steps: list[tuple[Fraction, int]]
) -> None:
    x = lanes(*start)
    buffer = InformationBuffer(len(start))
    past = []
    for factor, added in steps:
        past.append((x, buffer.words, buffer.bound, buffer.nbytes))
        x = buffer.multiply(x, factor.numerator, factor.denominator) + added
        assert max(int(word) for word in buffer.words) < buffer.bound <= 2**64
    for factor, added in reversed(steps):
        x = buffer.undo(x - added, factor.numerator, factor.denominator)
        old_x, old_words, old_bound, old_nbytes = past.pop()
        assert (x == old_x).all()
        assert (buffer.words == old_words).all()
        assert (buffer.bound, buffer.nbytes) == (old_bound, old_nbytes)
    assert buffer.is_empty
    assert x.tolist() == start


def test_spills_depend_on_the_fractions_and_not_on_the_data() -> None:
    rng = onp.random.default_rng(0)
    factors = [Fraction(1, 4096)] * 7 + [Fraction(4095, 4096)] * 3 + [Fraction(3, 1000)] * 20
    quiet = InformationBuffer(3)
    busy = InformationBuffer(3)
    for factor in factors:
        quiet.multiply(lanes(0, 0, 0), factor.numerator, factor.denominator)
        busy.multiply(rng.integers(-(2**62), 2**62, 3), factor.numerator, factor.denominator)
        assert (quiet.bound, len(quiet.spilled)) == (busy.bound, len(busy.spilled))
    # 251.6 bits, of which at most 64 stay in the word
    assert [half.dtype for half in busy.spilled] == [onp.uint32] * 6
    assert not busy.is_empty


@pytest.mark.parametrize(("momentum", "nbytes"), [(0.5, 1252), (0.9, 192)])
def test_stored_bits_are_those_of_the_theory(momentum: float, nbytes: int) -> None:
    T = 10_000
    P = 3
    factor = rational(momentum)
    buffer = InformationBuffer(P)
    rng = onp.random.default_rng(1)
    for _ in range(T):
        buffer.multiply(rng.integers(-(2**60), 2**60, P), factor.numerator, factor.denominator)
    assert buffer.nbytes == P * nbytes == sum(w.nbytes for w in [*buffer.spilled, buffer.words])
    theory = T * onp.log2(1 / float(factor))
    assert theory <= buffer.bits <= 8 * nbytes <= 1.05 * theory


def test_momentum_is_a_fraction_and_one_is_refused() -> None:
    assert rational(0.0) == 0
    assert rational(0.5) == Fraction(1, 2)
    assert rational(0.9) == Fraction(9, 10)
    assert rational(4095 / 4096) == Fraction(4095, 4096)
    assert rational(1 / 10_000) == 0
    for near_one in (onp.nextafter(1.0, 0.0), 0.99999):
        with pytest.raises(ValueError, match="the largest that can be used is 4095/4096"):
            rational(near_one)
    for wrong in (1.0, -0.1, onp.nan, 2.0):
        with pytest.raises(ValueError, match="at least 0 and less than 1"):
            rational(wrong)
    for momentum in onp.random.default_rng(2).uniform(0, 0.9998, 1000):
        assert abs(rational(momentum) - momentum) <= 1 / 8192


def test_fixed_point_rounds_half_to_even_and_keeps_52_bits() -> None:
    assert to_fixed(onp.array([0.5, 1.5, -2.5, 1.0 / UNIT]) * UNIT).tolist() == [0, 2, -2, 2**52]
    x = onp.random.default_rng(3).uniform(-1023, 1023, 1000)
    assert onp.max(onp.abs(to_float(to_fixed(x)) - x)) <= UNIT / 2
    assert (to_fixed(-x) == -to_fixed(x)).all()


# ---- the README ----


def readme_rows(section: str) -> list[list[str]]:
    """The cells of all table rows below a heading that start with a number."""
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| *\d.*$", text, re.M)]


def test_worked_example_of_the_readme() -> None:
    rows = [[Fraction(cell) for cell in row] for row in readme_rows("A worked example, in integers")]
    down = rows[:3]
    up = rows[3:]
    momentum = [float(row[2]) for row in down]
    g = onp.array([[int(row[7])] for row in down]) * UNIT
    start_v = down[0][1]
    start_w = Fraction(200)

    def loss(w: onp.ndarray, x: onp.ndarray) -> float:
        return np.dot(w, x)  # its gradient is x, whatever w is

    def run(T: int) -> reference.Run:
        w0 = onp.array([float(start_w) * UNIT])
        v0 = onp.array([float(start_v) * UNIT])
        return forward(loss, w0, g[:T], 1.0, momentum[:T], {T: np.sum}, v0)

    buffer = [0, *(int(run(T).numbers.buffer.words[0]) for T in (1, 2, 3))]
    v = [int(start_v), *(int(run(T).v[0]) for T in (1, 2, 3))]
    w = [int(start_w), *(int(run(T).w[0]) for T in (1, 2, 3))]
    for t, row in enumerate(down):
        bound = run(t + 1).numbers.buffer.bound
        shrunk = v[t + 1] - int(row[7])
        before = [t, v[t], rational(momentum[t]), buffer[t]]
        after = [v[t + 1], w[t + 1]]
        assert row == [*before, shrunk, buffer[t + 1], bound, int(row[7]), *after]
    for t, row in zip((2, 1, 0), up, strict=True):
        assert row == [
            t,
            w[t + 1],
            v[t + 1],
            w[t],
            v[t + 1] - int(down[t][7]),
            buffer[t + 1],
            v[t],
            buffer[t],
        ]
    reverse(run(3))


def test_table_of_bits_in_the_readme() -> None:
    rows = readme_rows("Bits per weight")
    assert len(rows) >= 5
    for momentum, fraction, bits, ratio, *counts in rows:
        factor = rational(float(Fraction(momentum)))
        assert factor == Fraction(fraction)
        exact = onp.log2(1 / float(factor)) if factor else 64.0
        assert float(bits) == pytest.approx(exact, rel=5e-3)
        assert float(ratio.replace(",", "")) == pytest.approx(32 / exact, rel=2e-2)
        for T, count in zip((1_000, 10_000), counts, strict=True):
            buffer = InformationBuffer(1)
            for _ in range(T):
                buffer.multiply(lanes(5), factor.numerator, factor.denominator)
            assert buffer.nbytes == int(count.replace(",", ""))


# ---- gradient checking ----


def unrolled(loss, readouts, w, v, batches, lr, momentum):
    """The meta-loss of a plain float run. Differentiate through it with autograd: the oracle."""
    total = 0.0
    for t in range(len(batches)):
        v = momentum[t] * v + grad(loss)(w, batches[t])
        w = w - lr[t] * v
        if t + 1 in readouts:
            total = total + readouts[t + 1](w)
    return total


def flat(tree) -> onp.ndarray:
    """Arrays in lists, tuples and dicts as one vector."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    return (
        onp.concatenate([flat(leaf) for leaf in tree]) if isinstance(tree, list | tuple) else onp.ravel(tree)
    )


def assert_same_gradient(actual, expected, tolerance: float) -> None:
    """Largest difference <= tolerance * largest entry, of a gradient that can tell: not tiny, not
    symmetric."""
    actual = flat(actual)
    expected = flat(expected)
    largest = onp.max(onp.abs(expected))
    assert actual.shape == expected.shape
    assert largest > 1e-6, "a gradient of zero tests nothing"
    if expected.size > 1:
        assert onp.max(onp.abs(expected - expected[::-1])) > 1e-3 * largest, (
            "a symmetric gradient hides exchanged entries"
        )
    assert onp.max(onp.abs(actual - expected)) <= tolerance * largest


def test_the_checker_sees_a_slightly_wrong_gradient() -> None:
    right = [onp.random.default_rng(4).normal(size=(3, 4)), onp.arange(5.0)]
    assert_same_gradient(right, right, 1e-7)
    one_wrong = [right[0].copy(), right[1]]
    one_wrong[0][1, 2] += 1e-5
    for wrong in ([1.001 * a for a in right], one_wrong, [right[0], -right[1]], [onp.nan * a for a in right]):
        with pytest.raises(AssertionError):
            assert_same_gradient(wrong, right, 1e-7)
    for useless in ([onp.zeros(3)], [onp.ones(4)]):
        with pytest.raises(AssertionError, match=r"tests nothing|hides"):
            assert_same_gradient(useless, useless, 1e-7)


def make_weights(
    rng: onp.random.Generator, shapes: dict[str, tuple[int, ...]], norm_scale: bool, gain: float
) -> dict:
    params = {}
    for layer, shape in shapes.items():
        params[f"{layer}.direction"] = rng.normal(size=shape)
        params[f"{layer}.gain"] = gain * rng.uniform(0.5, 1.5, shape[0])
        params[f"{layer}.bias"] = 0.3 * rng.normal(size=shape[0])
        if norm_scale and layer != "head":
            params[f"{layer}.norm_scale"] = rng.uniform(0.5, 1.5, shape[0])
    return params


CONV = {"conv1": (2, 1, 3, 3), "conv2": (3, 2, 3, 3), "dense1": (5, 12), "head": (3, 5)}
DENSE = {"dense1": (6, 64), "dense2": (5, 6), "head": (3, 5)}


@dataclass(frozen=True)
class Problem:
    """A small learner on random 8 x 8 images of three classes, everything of it different from step to
    step."""

    shapes: dict
    norm: str = "mean-only"
    pool: str = "max"
    momentum: tuple[float, ...] = (0.5, 0.9, 0.25, 0.0, 0.98)
    readout_at: tuple[int, ...] = (5,)
    weight_norm: bool = True

    def build(self):
        rng = onp.random.default_rng(5)
        T = len(self.momentum)
        B = 4
        params = make_weights(rng, self.shapes, self.norm == "batch", 1.0)
        if not self.weight_norm:
            params = {k.replace("direction", "weight"): a for k, a in params.items() if "gain" not in k}
        layout = Layout.of(params)

        def loss(w, batch):
            x, y = batch
            return L.cross_entropy(L.learner(layout.unflatten(w), x, self.norm, self.pool), y)

        def batch():
            return rng.normal(size=(B, 1, 8, 8)), rng.dirichlet(onp.ones(3), B)

        def readout(weight, real):
            return lambda w: weight * loss(w, real)

        readouts = {t: readout(rng.uniform(0.5, 2), batch()) for t in self.readout_at}
        w0 = layout.flatten(params)
        v0 = 0.1 * rng.normal(size=w0.size)
        lr = rng.uniform(0.05, 0.3, T)
        return loss, readouts, w0, v0, [batch() for _ in range(T)], lr, onp.array(self.momentum)


PROBLEMS = {
    "dense": Problem(DENSE),
    "dense, no weight norm, no norm": Problem(DENSE, norm="none", weight_norm=False, readout_at=(2, 5)),
    "conv": Problem(CONV),
    "conv, readouts": Problem(CONV, readout_at=(1, 3, 5)),
    "conv, batch norm, average pool": Problem(CONV, norm="batch", pool="average", readout_at=(2, 5)),
    "one step": Problem(CONV, momentum=(0.9,), readout_at=(1,)),
    "no momentum": Problem(DENSE, momentum=(0.0, 0.0, 0.0), readout_at=(3,)),
    "readout not at the end": Problem(DENSE, readout_at=(3,)),
}
NAMES = ("w0", "v0", "batches", "lr", "momentum")


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_reverse_is_the_unrolled_gradient(problem: Problem) -> None:
    loss, readouts, w0, v0, batches, lr, momentum = problem.build()
    run = forward(loss, w0, batches, lr, momentum, readouts, v0)
    assert run.meta_loss == pytest.approx(unrolled(loss, readouts, w0, v0, batches, lr, momentum), rel=1e-9)
    assert list(run.values) == sorted(problem.readout_at)
    d = reverse(run)
    expected = grad(unrolled, argnum=(2, 3, 4, 5, 6))(loss, readouts, w0, v0, batches, lr, momentum)
    useful = max(problem.readout_at)  # later steps have no influence, and their gradient must be exactly zero
    for name, e in zip(NAMES, expected, strict=True):
        actual = getattr(d, name)
        per_step = name in ("batches", "lr", "momentum")
        if per_step:
            assert not flat([a for a in actual[useful:]] or 0.0).any()
        if name == "v0" and momentum[0] == 0:
            assert not actual.any()  # the first step forgets it
        else:
            assert_same_gradient(actual[:useful] if per_step else actual, e[:useful] if per_step else e, 1e-7)


@pytest.mark.parametrize("name", ["dense", "conv, readouts"])
def test_unrolled_is_the_finite_difference(name: str) -> None:
    loss, readouts, *inputs = PROBLEMS[name].build()
    gradients = grad(unrolled, argnum=(2, 3, 4, 5, 6))(loss, readouts, *inputs)
    rng = onp.random.default_rng(6)
    step = 1e-5

    def moved(tree, direction, size: float):
        if isinstance(tree, list | tuple):
            return type(tree)(moved(a, b, size) for a, b in zip(tree, direction, strict=True))
        return tree + size * direction

    def random_like(tree):
        return (
            type(tree)(map(random_like, tree))
            if isinstance(tree, list | tuple)
            else rng.normal(size=tree.shape)
        )

    for i, gradient in enumerate(gradients):
        direction = random_like(inputs[i])
        up, down = (
            unrolled(loss, readouts, *inputs[:i], moved(inputs[i], direction, s), *inputs[i + 1 :])
            for s in (step, -step)
        )
        slope = flat(gradient) @ flat(direction)
        assert abs(slope) > 1e-4
        assert (up - down) / (2 * step) == pytest.approx(slope, rel=1e-5)


def test_scalar_lr_and_momentum_stand_for_all_steps() -> None:
    loss, readouts, w0, _, batches, _, _ = PROBLEMS["dense"].build()
    short, long = (
        reverse(forward(loss, w0, batches, lr, m, readouts)) for lr, m in ((0.1, 0.5), ([0.1] * 5, [0.5] * 5))
    )
    assert short.w0.any()
    assert (short.w0 == long.w0).all()
    assert (short.lr == long.lr).all()


# ---- exact return ----


def slow_quadratic(momentum: float, arithmetic: type = Exact):
    """10,000 stirred steps on a quadratic with some negative curvatures: a contracting run would forget its
    start."""
    rng = onp.random.default_rng(7)
    T = 10_000
    # factors from e^-3 to e^2 over the run
    curvature = onp.array([-2e-4, -1e-4, 1e-4, 3e-4]) * (1 - momentum) / 0.1
    a = rng.normal(size=4)
    w0 = rng.normal(size=4)
    v0 = rng.normal(size=4)
    loss = primitive(lambda w, x: w @ (0.5 * curvature * w - x))  # its derivative is given: half the time
    defvjp(loss, lambda ans, w, x: lambda g: g * (curvature * w - x), lambda ans, w, x: lambda g: -g * w)
    run = forward(
        loss,
        w0,
        rng.normal(size=(T, 4)),
        0.1,
        momentum,
        {T: lambda w: np.dot(a, w)},
        v0,
        arithmetic=arithmetic,
    )
    step = [onp.array([[1 - 0.1 * c, -0.1 * momentum], [c, momentum]]) for c in curvature]
    # (4, 2): d_w0 and d_v0
    return run, a[:, None] * onp.array([onp.linalg.matrix_power(m, T)[0] for m in step])


@pytest.mark.parametrize(("momentum", "nbytes"), [(0.9, 192), (0.5, 1252)])
def test_ten_thousand_steps_and_back_bit_for_bit(momentum: float, nbytes: int) -> None:
    run, expected = slow_quadratic(momentum)
    buffer = run.numbers.buffer
    assert buffer.nbytes == 4 * nbytes
    assert (run.w != to_fixed(run.w0)).all()
    d = reverse(run)  # asserts the return itself
    assert buffer.is_empty
    assert buffer.nbytes == 4 * 8
    assert_same_gradient(d.w0, expected[:, 0], 1e-7)
    assert_same_gradient(d.v0, expected[:, 1], 1e-7)
    with pytest.raises(IndexError):
        reverse(run)  # it is used up


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_plain_floats_forget(momentum: float) -> None:
    run, _ = slow_quadratic(momentum, Float)
    with onp.errstate(all="ignore"), pytest.raises(NotReversed, match="8 of 8 numbers"):
        reverse(run)


def test_a_gradient_that_does_not_repeat_is_found_out() -> None:
    calls = []

    def loss(w, x):
        calls.append(1)
        return np.sum(w**2 * x) * (1.0 + 1e-15 * len(calls))

    run = forward(loss, onp.array([1.0, 2.0]), onp.ones((20, 2)), 0.1, 0.5, {20: np.sum})
    with pytest.raises(NotReversed, match="bit for bit"):
        reverse(run)


# ---- refusals ----


@pytest.mark.parametrize(
    ("quantity", "w0", "slope", "lr", "step"),
    [
        ("g", 1.0, [0, 0, 1024.0], 0.1, 2),
        ("g", 1.0, [0, onp.nan, 0], 0.1, 1),
        ("g", 1.0, [0, -onp.inf, 0], 0.1, 1),
        ("v", 1.0, [900.0, 600.0, 0], 0.1, 1),
        ("lr * v", 1.0, [0, 0, 200.0], 6.0, 2),
        ("w", 1000.0, [0, -30.0, -30.0], 0.5, 2),
        ("w0", 1024.0, [0, 0, 0], 0.1, 0),
    ],
)
def test_overflow_names_quantity_weight_and_step(
    quantity: str, w0: float, slope: list, lr: float, step: int
) -> None:
    layout = Layout.of({"conv1.gain": onp.zeros(2), "head.bias": onp.zeros(3)})
    batches = onp.zeros((3, 5))
    batches[:, 3] = slope
    start = onp.array([0, 0, 0, w0, 0])
    with pytest.raises(FixedPointOverflow, match=re.escape(f"{quantity} of head.bias is ")) as caught:
        forward(np.dot, start, batches, lr, 0.5, {3: np.sum}, name_of=layout.name_of)
    assert (caught.value.quantity, caught.value.where, caught.value.step) == (quantity, "head.bias", step)
    assert f"at inner step {step}," in str(caught.value)
    assert isinstance(caught.value, OverflowError)


def test_just_inside_the_range_is_exact() -> None:
    edge = onp.nextafter(1024.0, 0.0)
    run = forward(
        np.dot,
        onp.array([-edge, edge]),
        onp.array([[-edge, edge]]),
        1.0,
        0.5,
        {1: np.sum},
        onp.array([0.0, -0.5]),
    )
    assert onp.abs(to_float(run.w)).max() < 1024
    reverse(run)


@pytest.mark.parametrize("readouts", [{}, {0: np.sum}, {4: np.sum}])
def test_readouts_outside_the_run_are_refused(readouts: dict) -> None:
    with pytest.raises(ValueError, match="each after 1 to 3 steps"):
        forward(np.dot, onp.ones(2), onp.ones((3, 2)), 0.1, 0.5, readouts)


def test_wrong_sizes_are_refused() -> None:
    theta, w0, real, labels = tiny_gtn(CONV, 2)
    with pytest.raises(ValueError, match=r"after steps \[2, 3\], not 1"):
        meta_gradient(theta, w0, real[:1], labels, every=2)
    with pytest.raises(ValueError, match="multiples of 4"):
        L.generator(theta, theta["z"][0], labels[0], (8, 6))


# ---- the outer step ----


def tiny_gtn(learner_shapes: dict, n_real: int):
    """T=3 steps of B=5 images 8 x 8 in K=3 classes."""
    rng = onp.random.default_rng(8)
    T = 3
    B = 5
    K = 3
    Z = 4
    shapes = {"dense1": (6, Z + K), "dense2": (3 * 2 * 2, 6), "conv1": (2, 3, 3, 3), "conv2": (1, 2, 3, 3)}
    # so small that EPS_NORM counts: else these gains have no gradient
    theta = make_weights(rng, shapes, True, 0.01)
    del theta["conv2.norm_scale"]
    theta["conv2.gain"] = onp.array([0.8])
    momentum = onp.array([0.5, 0.9, 0.75])
    theta |= {
        "z": rng.normal(size=(T, B, Z)),
        "lr_raw": rng.uniform(0.5, 1.5, T),
        "momentum_raw": -onp.log(0.99 / momentum - 1),
    }
    real = [(rng.normal(size=(4, 1, 8, 8)), onp.eye(K)[rng.integers(0, K, 4)]) for _ in range(n_real)]
    return theta, make_weights(rng, learner_shapes, False, 1.0), real, reference.fixed_labels(T, B, K)


@pytest.mark.parametrize(
    ("shapes", "every"), [(CONV, 1), (CONV, None), (DENSE, 2)], ids=["conv", "conv, last", "dense"]
)
def test_outer_step_is_the_unrolled_gradient(shapes: dict, every: int | None) -> None:
    steps = reference.readout_steps(3, every or 3)
    theta, w0, real, labels = tiny_gtn(shapes, len(steps))
    layout = Layout.of(w0)

    def loss(w, batch):
        return L.cross_entropy(L.learner(layout.unflatten(w), batch[0]), batch[1])

    def meta_loss(theta):
        x, lr, momentum = reference.curriculum(theta, labels, (8, 8))
        readouts = {t: lambda w, b=b: loss(w, b) / len(steps) for t, b in zip(steps, real, strict=True)}
        w = layout.flatten(w0)
        return unrolled(
            loss, readouts, w, onp.zeros_like(w), [(x[t], labels[t]) for t in range(3)], lr, momentum
        )

    value, d_theta = meta_gradient(theta, w0, real, labels, every=every)
    assert value == pytest.approx(meta_loss(theta), rel=1e-9)
    expected = grad(meta_loss)(theta)
    assert d_theta.keys() == expected.keys() == theta.keys()
    for name in theta:
        assert_same_gradient(d_theta[name], expected[name], 1e-7)


def test_curriculum_is_bounded_and_balanced() -> None:
    theta, _, _, labels = tiny_gtn(CONV, 1)
    extreme = theta | {
        "lr_raw": onp.array([-800.0, 0.0, 800.0]),
        "momentum_raw": onp.array([-800.0, 0.0, 800.0]),
    }
    x, lr, momentum = reference.curriculum(extreme, labels, (8, 8))
    assert x.shape == (3, 5, 1, 8, 8)
    assert onp.abs(x).max() < 2
    assert lr == pytest.approx(onp.array([1e-4, 10**-1.5, 10.0]))
    assert momentum == pytest.approx(onp.array([0.0, 0.495, 0.99]))
    assert labels.argmax(-1).tolist() == [[0, 1, 2, 0, 1]] * 3
    assert (reference.readout_steps(7, 3), reference.readout_steps(6, 3)) == ([3, 6, 7], [3, 6])


# ---- layers ----


def image(*shape: int) -> onp.ndarray:
    return onp.random.default_rng(9).normal(size=shape)


def test_convolution_against_scipy() -> None:
    x = image(2, 3, 5, 6)
    weight = image(4, 3, 3, 3)
    for padded, mode in ((L.pad(x, 0.0), "constant"), (L.reflect_pad(x), "reflect")):
        slow = onp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode=mode)
        assert (padded == slow).all()
        y = L.conv3x3(padded, weight)
        assert y.shape == (2, 4, 5, 6)
        for n in range(2):
            for out in range(4):
                expected = sum(correlate2d(slow[n, c], weight[out, c], mode="valid") for c in range(3))
                assert y[n, out] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (3, 2)])
def test_pools_and_upsampling_against_loops(height: int, width: int) -> None:
    x = image(2, 3, height, width)
    most = L.max_pool(x)
    mean = L.average_pool(x)
    assert most.shape == (2, 3, (height + 1) // 2, (width + 1) // 2)
    assert mean.shape == (2, 3, height // 2, width // 2)
    for i, j in onp.ndindex(most.shape[2:]):
        window = x[:, :, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
        assert (most[:, :, i, j] == window.max((2, 3))).all()
    for i, j in onp.ndindex(mean.shape[2:]):
        assert mean[:, :, i, j] == pytest.approx(x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)))
    big = L.upsample(x)
    for i, j in onp.ndindex(big.shape[2:]):
        assert (big[:, :, i, j] == x[:, :, i // 2, j // 2]).all()


def test_max_pool_gives_the_gradient_to_the_first_of_equals() -> None:
    d_x = grad(lambda x: np.sum(L.max_pool(x)))(onp.zeros((1, 1, 2, 2)))
    assert d_x.tolist() == [[[[1.0, 0.0], [0.0, 0.0]]]]


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2, 5)])
def test_normalization_per_channel(shape: tuple[int, ...]) -> None:
    x = 3 * image(*shape) + 1
    bias = onp.array([0.1, -0.2, 0.3])
    norm_scale = onp.array([2.0, 0.5, 1.5])
    params = {"L.bias": bias, "L.norm_scale": norm_scale}
    for channel in range(3):
        entries = x[:, channel]
        centred = entries - entries.mean()
        whitened = norm_scale[channel] * centred / onp.sqrt(entries.var() + 1e-5)
        for norm, expected in (("none", entries), ("mean-only", centred), ("batch", whitened)):
            assert L.normalize(params, "L", x, norm)[:, channel] == pytest.approx(expected + bias[channel])


def test_weight_normalization_sets_the_length() -> None:
    for shape in ((4, 7), (4, 2, 3, 3)):
        params = {"L.direction": image(*shape), "L.gain": onp.array([1.0, -2.0, 0.5, 3.0])}
        weight = L.weight(params, "L")
        assert onp.sqrt((weight.reshape(4, -1) ** 2).sum(1)) == pytest.approx(onp.abs(params["L.gain"]))
        cosine = (weight * params["L.direction"]).reshape(4, -1).sum(1)
        assert (onp.sign(cosine) == onp.sign(params["L.gain"])).all()
        at_zero = grad(lambda d, p=params: np.sum(L.weight(p | {"L.direction": d}, "L")))(onp.zeros(shape))
        assert onp.isfinite(at_zero).all()


def test_cross_entropy_and_leaky_relu() -> None:
    logits = image(4, 3)
    y = onp.random.default_rng(10).dirichlet(onp.ones(3), 4)
    softmax = onp.exp(logits) / onp.exp(logits).sum(1, keepdims=True)
    assert L.cross_entropy(logits, y) == pytest.approx(-onp.mean((y * onp.log(softmax)).sum(1)))
    assert L.cross_entropy(onp.array([[1e4, -1e4]]), onp.array([[0.0, 1.0]])) == pytest.approx(2e4)
    assert L.leaky_relu(onp.array([-2.0, 0.0, 3.0])).tolist() == [-0.2, 0.0, 3.0]


def test_flat_vector_keeps_names_and_shapes() -> None:
    params = {"a.gain": image(2), "b.direction": image(3, 2), "c.bias": image(1)}
    layout = Layout.of(params)
    w = layout.flatten(params)
    assert w.shape == (9,)
    assert all((back == params[name]).all() for name, back in layout.unflatten(w).items())
    assert [layout.name_of(i) for i in (0, 1, 2, 7, 8)] == [
        "a.gain",
        "a.gain",
        "b.direction",
        "b.direction",
        "c.bias",
    ]
