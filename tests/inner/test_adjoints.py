"""Every adjoint returns the gradient of ``Unrolled``, which returns that of central differences; and each
does the work it says it does."""

import pytest
import torch

import minigtn
from minigtn import Checkpointed, Readout, Reversible, Unrolled
from minigtn.inner.adjoints import Adjoint
from minigtn.inner.memory import memory_bytes
from minigtn.studies.check import (
    DIFFERENCE_TOLERANCE,
    REVERSIBLE_TOLERANCE,
    TOLERANCE,
    difference_from_differences,
    float32_tolerance,
)
from minigtn.studies.problems import relative_difference
from problems import PROBLEMS, QUADRATIC_W0, problem, quadratic, quadratic_batches, unrolled

EVERY = (None, 1, 3, 7)  # no readouts; after each step, each third and the last, only the last
TAPED = (Checkpointed(), Checkpointed(3), Checkpointed(100), Reversible())


def assert_agree(found, expected, tolerance):
    assert found.keys() == expected.keys()
    wrong = {
        name: difference
        for name in found
        if (difference := relative_difference(found[name], expected[name])) > tolerance
    }
    assert not wrong, wrong


# ---- one answer ----


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("name", PROBLEMS)
def test_unrolled_equals_central_differences(name, every):
    p = problem(name, every=every)
    for what, d in unrolled(name, every=every).items():
        assert difference_from_differences(p, what, d) < DIFFERENCE_TOLERANCE, what


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_adjoint_equals_unrolled(name, every, adjoint):
    found = problem(name, every=every).gradients(adjoint)
    assert_agree(
        found, unrolled(name, every=every), REVERSIBLE_TOLERANCE if adjoint == Reversible() else TOLERANCE
    )


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_other_lengths(steps, adjoint):
    found = problem("tied", steps=steps, every=4).gradients(adjoint)
    assert_agree(found, unrolled("tied", steps=steps, every=4), REVERSIBLE_TOLERANCE)


@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_float32_is_near_float64(name, device, adjoint):
    p = problem(name)
    expected = unrolled(name)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        found = p.to(torch.float32, device).gradients(adjoint)
    assert_agree({k: d.to(expected[k]) for k, d in found.items()}, expected, float32_tolerance(p.steps))


@pytest.mark.gpu
@pytest.mark.parametrize("adjoint", TAPED, ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_adjoint_equals_unrolled_on_cuda(name, adjoint):
    p = problem(name).to(torch.float64, "cuda")
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        assert_agree(p.gradients(adjoint), p.gradients(Unrolled()), REVERSIBLE_TOLERANCE)


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_problems_are_worth_differentiating(name, every):
    """Gradients that vanish or repeat would let a wrong adjoint pass."""
    for what, d in unrolled(name, every=every).items():
        sizes = d.abs().flatten()
        assert sizes.max() > 1e-4, what
        used = sizes[sizes > 1e-6 * sizes.max()]
        assert len(used) > 0.6 * len(sizes), what  # max pooling passes some pixels by
        assert len(used.unique()) > 0.95 * len(used), what


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
@pytest.mark.parametrize("momentum", [(0.0,), (0.5, 0.0, 0.0, 0.9, 0.0)], ids=["always", "at times"])
def test_momentum_zero(momentum, adjoint):
    """The velocity is forgotten, yet its gradient by momentum is not zero."""
    p = problem("dense")
    p.inputs["momentum"] = torch.tensor([momentum[t % len(momentum)] for t in range(7)], dtype=torch.float64)
    found = p.gradients(adjoint)
    expected = p.gradients(Unrolled())
    assert expected["momentum"][1:].abs().min() > 1e-4
    assert_agree(found, expected, REVERSIBLE_TOLERANCE)


def test_step_sizes_of_every_shape_get_their_gradient():
    """lr and momentum as (), against the sum over the gradients of (T,)."""
    p = problem("dense")
    for adjoint in (Unrolled(), Checkpointed(3), Reversible()):
        lr, momentum = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.1, 0.75))
        p.meta_loss(adjoint, {**p.inputs, "lr": lr, "momentum": momentum}).backward()
        many = {
            **p.inputs,
            "lr": lr.detach().repeat(7).requires_grad_(),
            "momentum": momentum.detach().repeat(7).requires_grad_(),
        }
        p.meta_loss(Unrolled(), many).backward()
        assert lr.grad.item() == pytest.approx(many["lr"].grad.sum().item(), rel=1e-9)
        assert momentum.grad.item() == pytest.approx(many["momentum"].grad.sum().item(), rel=1e-9)


@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
def test_class_numbers_are_welcome_and_get_no_gradient(adjoint):
    p = problem("dense")
    x = p.inputs["images"].clone().requires_grad_()
    w = p.inputs["weights"].clone().requires_grad_()
    y = p.inputs["labels"].argmax(-1)  # (T, B) integers
    results = [
        minigtn.sgd(p.loss, p.unflatten(w), (x, labels), 0.1, 0.5, adjoint)
        for labels in (y, torch.eye(3).double()[y])
    ]
    d_int, d_one_hot = (torch.autograd.grad(p.loss(result, p.test), (w, x)) for result in results)
    assert_agree(dict(enumerate(d_int)), dict(enumerate(d_one_hot)), 1e-12)


def only(index):
    """A loss that reads one of the two parameters of the quadratic, squared."""
    return lambda params, batch: (params["ab"[index]] ** 2).sum() * batch[0][0]


@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
@pytest.mark.parametrize(
    "loss",
    [
        only(0),
        only(1),
        lambda params, batch: batch[0][:2] @ params["a"] + 3 * params["b"].sum(),
    ],
    ids=["a alone", "b alone", "linear"],
)
def test_parts_that_a_loss_does_not_depend_on(loss, adjoint):
    """Unused parameters, a zero Hessian: zeros, not errors."""
    inputs = {
        **QUADRATIC_W0,
        "c": quadratic_batches(5)[0] + 1,
        "lr": torch.full((5,), 0.125, dtype=torch.float64),
    }

    def gradients(adjoint):
        x = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        w = minigtn.sgd(loss, {"a": x["a"], "b": x["b"]}, (x["c"],), x["lr"], 0.5, adjoint)
        return torch.autograd.grad(
            (w["a"] ** 3).sum() + (w["b"] ** 2).sum(), list(x.values()), materialize_grads=True
        )

    for found, expected in zip(gradients(adjoint), gradients(Unrolled()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


# ---- the work it takes ----


class Spy(Adjoint):
    """``Checkpointed`` whose tape can be looked at from inside the loss."""

    def __init__(self, block_size):
        self.inner = Checkpointed(block_size)

    def __call__(self, *args):
        return Checkpointed.__call__(self, *args)

    def tape(self, *args):
        self.seen = self.inner.tape(*args)
        return self.seen


@pytest.mark.parametrize(
    ("steps", "block", "way_back", "states"),
    # on the way back: the step whose loss is evaluated, and how many states (w, v) are kept just then, the
    # one at hand not counted
    [
        (7, 3, [6, 3, 4, 5, 4, 3, 0, 1, 2, 1, 0], [2, 2, 3, 3, 2, 1, 1, 2, 2, 1, 0]),
        (7, 1, [6, 5, 4, 3, 2, 1, 0], [6, 5, 4, 3, 2, 1, 0]),
        (3, 100, [0, 1, 2, 1, 0], [1, 2, 2, 1, 0]),
        (1, 1, [0], [0]),
        (1, 3, [0], [0]),
    ],
)
def test_recompute_schedule_and_live_states(steps, block, way_back, states):
    spy = Spy(block)
    calls = []

    def loss(params, batch):
        calls.append((batch[1].item(), len(spy.seen.kept) if hasattr(spy, "seen") else 0))
        return quadratic(params, batch)

    w0 = {name: w.clone().requires_grad_() for name, w in QUADRATIC_W0.items()}
    trained = minigtn.sgd(loss, w0, (*quadratic_batches(steps), torch.arange(steps)), 0.1, 0.5, spy)
    forward = [*range(steps)]
    assert [t for t, _ in calls] == forward
    assert len(spy.seen.kept) == -(-steps // block)
    trained["a"].sum().backward()
    assert [t for t, _ in calls[len(forward) :]] == way_back
    assert [n for _, n in calls[len(forward) :]] == states
    assert not spy.seen.kept


@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed(), Reversible()], ids=str)
def test_number_of_loss_evaluations(adjoint):
    calls = []
    w0 = {name: w.clone().requires_grad_() for name, w in QUADRATIC_W0.items()}
    trained = minigtn.sgd(
        lambda p, b: (calls.append(1), quadratic(p, b))[1], w0, quadratic_batches(7), 0.1, 0.5, adjoint
    )
    trained["a"].sum().backward()
    # Reversible compares the bits of both ways at the first step
    assert len(calls) == {Unrolled(): 7, Checkpointed(): 2 * 7, Reversible(): 1 + 2 * 7}[adjoint]


# ---- what is refused ----


@pytest.mark.parametrize("where", ["loss", "readout"])
@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
def test_a_closure_over_a_tensor_that_requires_grad(adjoint, where):
    """Right with Unrolled, refused by the others: never silently without its gradient."""
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def run(scale):
        def scaled_loss(params, batch):
            return (2 * scale) * quadratic(params, batch)  # by way of a tensor that is not a leaf

        losses = (scaled_loss, quadratic) if where == "loss" else (quadratic, scaled_loss)
        batches = quadratic_batches(4)
        return minigtn.sgd(losses[0], QUADRATIC_W0, batches, 0.1, 0.5, adjoint, Readout(losses[1], batches))[
            1
        ].sum()

    if adjoint != Unrolled():
        with pytest.raises(ValueError, match=rf"the {where} uses a tensor .* use Unrolled\(\)"):
            run(scale)
        return
    (found,) = torch.autograd.grad(run(scale), scale)
    h = 1e-6
    with torch.no_grad():
        assert found.item() == pytest.approx((run(scale + h) - run(scale - h)).item() / (2 * h), rel=1e-6)


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
def test_a_run_is_walked_back_once(adjoint):
    w0 = {name: w.clone().requires_grad_() for name, w in QUADRATIC_W0.items()}
    trained = minigtn.sgd(quadratic, w0, quadratic_batches(3), 0.1, 0.5, adjoint)
    trained["a"].sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"already walked back.*call minigtn\.sgd again"):
        trained["a"].sum().backward()


def test_unrolled_can_be_differentiated_twice():
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    trained = minigtn.sgd(quadratic, QUADRATIC_W0, quadratic_batches(3), lr, 0.5)
    (first,) = torch.autograd.grad(trained["a"].sum(), lr, create_graph=True)
    (second,) = torch.autograd.grad(first, lr)
    assert second.abs() > 1e-3


def test_a_loss_that_does_not_repeat_is_found_out():
    w0 = {name: w.clone().requires_grad_() for name, w in QUADRATIC_W0.items()}

    noise = []

    def noisy(params, batch):
        noise.append(1e-9 if len(noise) == 8 else 0.0)
        return quadratic(params, batch) * (1 + noise[-1])

    trained = minigtn.sgd(noisy, w0, quadratic_batches(5), 0.1, 0.5, Reversible())
    with pytest.raises(RuntimeError, match="did not return to the initial weights bit for bit"):
        trained["a"].sum().backward()


@pytest.mark.parametrize("block_size", [0, -1])
def test_block_size(block_size):
    with pytest.raises(ValueError, match="block_size must be at least 1"):
        Checkpointed(block_size)


# ---- memory ----


@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
def test_nothing_is_kept_without_a_way_back(adjoint):
    """Under no_grad: the same numbers, and no graph."""
    p = problem("dense")
    args = (
        p.loss,
        p.unflatten(p.inputs["weights"]),
        (p.inputs["images"], p.inputs["labels"]),
        0.1,
        0.5,
        adjoint,
    )
    with torch.no_grad():
        free = minigtn.sgd(*args)
    taught = minigtn.sgd(*args)
    for name, w in free.items():
        assert not w.requires_grad
        assert torch.equal(w, taught[name])


def test_predicted_memory_orders_the_adjoints():
    T = 1000
    P = 10_000
    activations = 2_000_000
    unrolled, step, root, reverse = (
        memory_bytes(a, T, P, activations)
        for a in (Unrolled(), Checkpointed(), Checkpointed(32), Reversible())
    )
    assert unrolled > T * activations
    assert step == pytest.approx(2 * 4 * P * T + activations, rel=0.01)
    assert root == pytest.approx(2 * 4 * P * 64 + activations, rel=0.1)
    assert reverse == pytest.approx((24 + (T - 64) / 8 + 72) * P + activations, rel=0.01)
    assert memory_bytes(Reversible(), T, P, activations, momentum=0.9) < reverse
