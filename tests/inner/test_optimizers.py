"""Inner optimizers: the steps of torch.optim, gradients that every adjoint agrees on, and nothing that is not
finite."""

import dataclasses
from functools import cache

import pytest
import torch

import minigtn
from minigtn import SGD, Adam, Checkpointed, MuAdam, Readout, Reversible, RMSprop, Unrolled
from minigtn.inner.optimizers import Optimizer, lr_ratio
from minigtn.studies.check import DIFFERENCE_TOLERANCE, TOLERANCE, difference_from_differences
from minigtn.studies.problems import adam_problem, relative_difference
from problems import DISTORTIONS, QUADRATIC_W0, problem, quadratic, quadratic_batches

OPTIMISERS = (
    *(SGD(), Adam(), Adam(beta2=0.9, eps=1e-3), RMSprop(), RMSprop(alpha=0.5, eps=1e-3)),
    *(MuAdam(base=2.0), MuAdam(beta2=0.9, eps=1e-3, base=3.0)),
)
# for central differences: no near-jump where a gradient passes zero
SMOOTH = (SGD(), Adam(eps=0.1), RMSprop(eps=0.1), MuAdam(eps=0.1, base=3.0))


@cache
def case(name, optimizer, every=3):
    p = problem(name, every=every)
    return dataclasses.replace(p, inputs=p.inputs | {"lr": p.inputs["lr"] / 10}, optimizer=optimizer)


# ---- the steps ----


def torchs(optimizer, params, lr, momentum):
    if isinstance(optimizer, SGD):
        return torch.optim.SGD(params, lr, momentum)
    if isinstance(optimizer, MuAdam):
        groups = [{"params": [p], "lr": lr * lr_ratio(p.shape, optimizer.base)} for p in params]
        return torch.optim.Adam(groups, lr, (momentum, optimizer.beta2), optimizer.eps)
    if isinstance(optimizer, Adam):
        return torch.optim.Adam(params, lr, (momentum, optimizer.beta2), optimizer.eps)
    return torch.optim.RMSprop(params, lr, optimizer.alpha, optimizer.eps, momentum=momentum)


@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed(3)], ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_the_result_is_that_of_torch_optim(dtype, tolerance, optimizer, momentum, adjoint):
    batches = tuple(b.to(dtype) for b in quadratic_batches(9))
    start = {name: w.to(dtype) for name, w in QUADRATIC_W0.items()}
    found = minigtn.sgd(quadratic, start, batches, 0.05, momentum, adjoint, optimizer=optimizer)

    params = {name: w.clone().requires_grad_() for name, w in start.items()}
    theirs = torchs(optimizer, params.values(), 0.05, momentum)
    for t in range(9):
        theirs.zero_grad()
        quadratic(params, [batches[0][t]]).backward()
        theirs.step()
    for name, w in params.items():
        assert relative_difference(found[name].detach(), w.detach()) < tolerance
        assert relative_difference(found[name].detach(), start[name]) > 1e-2


def test_bias_correction_with_a_schedule_of_momentum():
    """The corrected average of gradients that are all the same is that gradient, so every step is lr long,
    whatever the beta1."""
    momentum = torch.tensor([0.9, 0.0, 0.5, 0.99, 0.3], dtype=torch.float64)
    w0 = {"w": torch.zeros(2, dtype=torch.float64)}
    trained = minigtn.sgd(
        lambda p, b: (p["w"] * b[0]).sum(),
        w0,
        (torch.ones(5, 2).double(),),
        0.1,
        momentum,
        optimizer=Adam(eps=0),
    )
    torch.testing.assert_close(trained["w"], torch.full((2,), -0.5, dtype=torch.float64), rtol=1e-12, atol=0)


WIDE = {"kernel": (4, 2, 3, 3), "bias": (4,), "dense": (3, 16), "scale": (), "row": (1, 5)}


def test_ratios_follow_from_shapes():
    """Yang & Hu 2022, table 3: Adam's learning rate falls with fan_in for matrices and stays for vectors."""
    assert [lr_ratio(shape, 36.0) for shape in WIDE.values()] == [2.0, 1.0, 2.25, 1.0, 7.2]
    assert lr_ratio((128, 256)) == 0.5 * lr_ratio((128, 128)) == lr_ratio((7, 256))
    fitted = MuAdam(base=36.0).fitted(WIDE.values(), copies=2)
    assert fitted.ratios == ((144, 2.0), (8, 1.0), (96, 2.25), (2, 1.0), (10, 7.2))
    assert fitted.fitted([(3,)]) is fitted
    assert SGD().fitted([(3,)]) == SGD()


@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed(2)], ids=str)
def test_width_aware_steps_are_those_of_torch_optim_with_groups(adjoint):
    rng = torch.Generator().manual_seed(0)
    start = {name: torch.randn(s, generator=rng, dtype=torch.float64) for name, s in WIDE.items()}
    targets = tuple(torch.randn(6, *s, generator=rng, dtype=torch.float64) for s in WIDE.values())
    optimizer = MuAdam(beta2=0.99, base=10.0)

    def loss(params, batch):
        return sum(((w - c) ** 2).sum() for w, c in zip(params.values(), batch, strict=True))

    found = minigtn.sgd(loss, start, targets, 0.05, 0.8, adjoint, optimizer=optimizer)
    params = {name: w.clone().requires_grad_() for name, w in start.items()}
    theirs = torchs(optimizer, params.values(), 0.05, 0.8)
    for t in range(6):
        theirs.zero_grad()
        loss(params, [c[t] for c in targets]).backward()
        theirs.step()
    plain = minigtn.sgd(loss, start, targets, 0.05, 0.8, optimizer=Adam(beta2=0.99))
    for name, w in params.items():
        assert relative_difference(found[name].detach(), w.detach()) < 1e-12
        differs = relative_difference(found[name].detach(), plain[name].detach()) > 1e-2
        assert differs == (len(WIDE[name]) > 1)


def test_steps_for_other_weights_are_refused():
    for optimizer in (MuAdam(), MuAdam().fitted([(2, 3)])):
        with pytest.raises(ValueError, match=r"fitted to (0|6) weights and was given 5; call fitted"):
            optimizer.start(torch.zeros(5))


# ---- the gradients ----


@pytest.mark.parametrize("every", [None, 1, 3])
@pytest.mark.parametrize("optimizer", SMOOTH, ids=str)
def test_unrolled_equals_central_differences(optimizer, every):
    p = case("tied", optimizer, every)
    for what, d in p.gradients(Unrolled()).items():
        assert difference_from_differences(p, what, d) < DIFFERENCE_TOLERANCE, what


@pytest.mark.parametrize(
    "kwargs", [{}, {"block_size": 3}, {"block_size": 100}, {"block_size": 2, "graphs": True}], ids=str
)
@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=str)
@pytest.mark.parametrize("name", ["conv", "tied"])
def test_checkpointed_equals_unrolled(name, optimizer, kwargs):
    p = case(name, optimizer)
    expected = p.gradients(Unrolled())
    for what, d in p.gradients(Checkpointed(**kwargs)).items():
        assert d.isfinite().all()
        assert relative_difference(d, expected[what]) < TOLERANCE, what


@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=str)
def test_pull_back_is_the_gradient_of_the_step(optimizer):
    """SGD's closed form against autograd, and autograd's against central differences of the step."""
    w, g, u = torch.randn(3, 6, dtype=torch.float64)
    lr, momentum = torch.tensor([0.1, 0.75], dtype=torch.float64)
    optimizer = optimizer.fitted([(3,), (1, 3)])
    state = optimizer.step(optimizer.start(w), u, lr, momentum)
    d_next = tuple(map(torch.randn_like, state))
    found = optimizer.pull_back(state, g, lr, momentum, d_next)
    by_autograd = Optimizer.pull_back(optimizer, state, g, lr, momentum, d_next)
    for x, y in zip((*found[0], *found[1:]), (*by_autograd[0], *by_autograd[1:]), strict=True):
        assert relative_difference(x, y) < 1e-14
    inputs = (*state, g, lr, momentum)

    def value(*inputs):
        *state, g, lr, momentum = inputs
        return sum(
            (x * d).sum() for x, d in zip(optimizer.step(tuple(state), g, lr, momentum), d_next, strict=True)
        )

    assert torch.autograd.gradcheck(value, tuple(x.clone().requires_grad_() for x in inputs))


@dataclasses.dataclass(frozen=True)
class Slipping(Adam):
    """Adam with a slip on the way back: the gradient by what ``what`` names is distorted."""

    what: int = 0
    distort: object = None

    def pull_back(self, *args):
        found = list(super().pull_back(*args))
        if self.what < 5:
            state = list(found[0])
            state[self.what] = self.distort(state[self.what])
            found[0] = tuple(state)
        else:
            found[self.what - 4] = self.distort(found[self.what - 4])
        return tuple(found)


@pytest.mark.parametrize("distort", DISTORTIONS)
@pytest.mark.parametrize("what", range(8), ids=["w", "m", "s", "c1", "c2", "g", "lr", "momentum"])
def test_a_pull_back_that_is_slightly_wrong_is_found_out(what, distort):
    """c2 depends on nothing that is differentiated, so nobody could tell."""
    p = adam_problem()
    expected = p.gradients(Unrolled())
    found = dataclasses.replace(p, optimizer=Slipping(eps=0.1, what=what, distort=distort)).gradients(
        Checkpointed()
    )
    worst = max(relative_difference(found[name], d) for name, d in expected.items())
    assert worst < TOLERANCE if what == 4 else worst > 1000 * TOLERANCE


class Forgetful(MuAdam):
    """MuAdam that takes all weights for vectors on the way back."""

    def pull_back(self, state, *args):
        return super().pull_back((*state[:-1], torch.ones_like(state[-1])), *args)


@pytest.mark.parametrize(("kind", "right"), [(MuAdam, True), (Forgetful, False)])
def test_a_way_back_without_the_ratios_is_found_out(kind, right):
    p = dataclasses.replace(adam_problem(), optimizer=kind(eps=0.1, base=20.0))
    expected = p.gradients(Unrolled())
    found = p.gradients(Checkpointed())
    worst = max(relative_difference(found[name], d) for name, d in expected.items())
    assert worst < TOLERANCE if right else worst > 1000 * TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed(3)], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=str)
def test_a_gradient_of_exactly_zero(optimizer, adjoint, dtype):
    """At w = 0 and c = 0 the loss is flat: torch.optim's root of zero has no derivative there (higher, issue
    125)."""
    w0 = {
        "a": torch.zeros(2, dtype=dtype, requires_grad=True),
        "b": torch.ones(1, dtype=dtype, requires_grad=True),
    }
    c = torch.zeros(4, 2, dtype=dtype, requires_grad=True)
    lr = torch.full((4,), 0.1, dtype=dtype, requires_grad=True)
    momentum = torch.full((4,), 0.5, dtype=dtype, requires_grad=True)

    def loss(params, batch):
        return 0.5 * (params["a"] ** 2).sum() + (params["b"] ** 2).sum() - batch[0] @ params["a"]

    trained = minigtn.sgd(loss, w0, (c,), lr, momentum, adjoint, optimizer=optimizer)
    assert not trained["a"].any()
    inputs = [*w0.values(), c, lr, momentum]
    value = (trained["a"] + trained["b"]).sum()
    for d in torch.autograd.grad(value, inputs):
        assert d.isfinite().all()
        assert d.any()


@pytest.mark.parametrize("optimizer", OPTIMISERS[1:], ids=str)
def test_without_the_floor_zero_would_be_nan(optimizer, monkeypatch):
    monkeypatch.setattr("minigtn.inner.optimizers.ROOT_FLOOR", 0.0)
    optimizer = optimizer.fitted([(3,)])
    state = optimizer.start(torch.ones(3))
    g = torch.zeros(3)
    assert optimizer.pull_back(state, g, torch.tensor(0.1), torch.tensor(0.5), state)[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=str)
def test_a_step_along_zero_can_be_differentiated_twice(optimizer, dtype):
    lr, momentum = torch.tensor([0.1, 0.5], dtype=dtype)
    optimizer = optimizer.fitted([(3,)])
    state = optimizer.start(torch.randn(3, dtype=dtype))
    g = torch.zeros(3, dtype=dtype)
    *state, g, lr, momentum = inputs = [x.clone().requires_grad_() for x in (*state, g, lr, momentum)]
    after = optimizer.step(tuple(state), g, lr, momentum)
    first = torch.autograd.grad(after, inputs, tuple(map(torch.randn_like, after)), create_graph=True)
    again = [d for d in first if d.requires_grad]
    second = torch.autograd.grad(again, inputs, tuple(map(torch.randn_like, again)), materialize_grads=True)
    for d in (*first, *second):
        assert d.isfinite().all()


# ---- what is refused ----


@pytest.mark.parametrize("optimizer", [Adam(), RMSprop()], ids=str)
def test_reversible_reverses_sgd_alone(optimizer):
    with pytest.raises(
        ValueError, match=r"Reversible can only reverse SGD, not (Adam|RMSprop).*; use"
    ) as error:
        minigtn.sgd(
            quadratic, QUADRATIC_W0, quadratic_batches(3), 0.1, 0.5, Reversible(), optimizer=optimizer
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Adam(beta2=1), "0 <= beta2 < 1, not 1"),
        (lambda: Adam(eps=-1e-8), "eps >= 0"),
        (lambda: MuAdam(base=0), "positive base, not 0"),
        (lambda: MuAdam(beta2=1), "0 <= beta2 < 1, not 1"),
        (lambda: RMSprop(alpha=-0.1), "0 <= alpha < 1"),
        (lambda: RMSprop(eps=float("nan")), "eps >= 0, not nan"),
    ],
)
def test_settings(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_memory_counts_what_the_optimizer_keeps():
    for adjoint, ratio in ((Unrolled(), 4 / 3), (Checkpointed(), 3 / 2)):
        sgd, adam = (minigtn.memory_bytes(adjoint, 1000, 10_000, 0, optimizer=o) for o in (SGD(), Adam()))
        assert adam == pytest.approx(ratio * sgd, rel=0.02)


def test_readouts_along_the_way():
    batches = quadratic_batches(4)
    trained, losses = minigtn.sgd(
        quadratic, QUADRATIC_W0, batches, 0.1, 0.5, Checkpointed(), Readout(quadratic, batches), Adam()
    )
    torch.testing.assert_close(losses[-1], quadratic(trained, [batches[0][3]]), rtol=1e-12, atol=0)
