"""What is computed again on the way back: the same, or refused; each kind of change, and none where there is
none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import minigtn
from minigtn import Adam, Checkpointed, Reversible, RMSprop, Unrolled
from minigtn.inner import again
from minigtn.inner.again import SAME, Again, Around
from minigtn.inner.step import InnerLoop, gradient, gradient_and_pull_back
from minigtn.studies.problems import relative_difference
from problems import QUADRATIC_W0, quadratic, quadratic_batches
from small_runs import KEPT, TAPED, Run, assert_agree, data, loss_of, network, refused, start

CHANGED = "came out differently when it was computed again on the way back"


# ---- both ways run the same code ----


@pytest.mark.parametrize("layer", [lambda: nn.GroupNorm(2, 4), nn.SiLU, nn.Mish, lambda: nn.RMSNorm(4)])
def test_what_torch_differentiates_otherwise_the_second_time_is_reversed(layer):
    module = network(layer())
    assert_agree(Run(module, Reversible()).gradients(), Run(module, Unrolled()).gradients())


def test_the_bits_of_the_two_ways_do_differ_there():
    """Else the test above shows nothing."""
    module = network(nn.GroupNorm(2, 4), nn.SiLU())
    params = start(module)
    shapes = [p.shape for p in params.values()]
    x, y = data()

    def loss(w, batch):
        parts = w.split([shape.numel() for shape in shapes])
        named = {name: part.view(shape) for name, part, shape in zip(params, parts, shapes, strict=True)}
        return loss_of(module)(named, batch)

    w = torch.cat([p.flatten() for p in params.values()])
    g = gradient(loss, w, [x[0], y[0]])
    other = gradient_and_pull_back(loss, w, [x[0], y[0]], [True, False])[0]
    assert not torch.equal(g, other)
    assert relative_difference(g, other) < 1e-12


def test_a_gradient_that_does_not_repeat_is_refused_before_the_second_step():
    own = torch.Generator().manual_seed(0)
    calls = []

    def noisy(params, batch):
        calls.append(1)
        return quadratic(params, batch) * (1 + 1e-9 * torch.rand((), dtype=torch.float64, generator=own))

    with refused("does not repeat bit for bit, which Reversible needs", RuntimeError):
        minigtn.sgd(noisy, QUADRATIC_W0, quadratic_batches(50), 0.1, 0.5, Reversible())
    assert len(calls) == 3


# ---- in another state ----


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
@pytest.mark.parametrize("readout", [False, True], ids=["", "readout"])
def test_dropout_draws_the_same_numbers_again(adjoint, readout):
    module = network(nn.Dropout(0.4))
    kwargs = {"readout": loss_of(module)} if readout else {}
    before = torch.random.get_rng_state()
    expected = Run(module, Unrolled(), **kwargs).gradients()
    after = torch.random.get_rng_state()
    run = Run(module, adjoint, **kwargs)
    torch.rand(7)
    here = torch.random.get_rng_state()
    assert_agree(run.gradients(), expected)
    assert torch.equal(torch.random.get_rng_state(), here)
    assert not torch.equal(before, after)
    assert relative_difference(run_without_dropout(module, adjoint)[1], expected[1]) > 0.01


def run_without_dropout(module, adjoint):
    module.eval()
    found = Run(module, adjoint).gradients()
    module.train()
    return found


@pytest.mark.parametrize(
    ("adjoint", "optimizer"),
    [(Reversible(), None), *((adjoint, o) for adjoint in KEPT for o in (None, Adam(), RMSprop()))],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_eval_between_there_and_back(adjoint, optimizer, dtype):
    module = network(nn.Dropout(0.4), dtype=dtype)
    run = Run(module, adjoint, optimizer=optimizer, dtype=dtype)
    module.eval()
    with refused("bit for bit" if adjoint == Reversible() else CHANGED, RuntimeError) as error:
        run.gradients()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
def test_a_readout_in_another_state(adjoint):
    """Taken there together with its gradient where every state is kept, and so right."""
    module = network()
    judge = network(nn.Dropout(0.4))

    def readout(params, batch):
        named = {name.replace("1.", "2."): p for name, p in params.items()}
        return loss_of(judge)(named, batch)

    expected = Run(module, Unrolled(), readout=readout).gradients()
    run = Run(module, adjoint, readout=readout)
    judge.eval()
    if adjoint == Checkpointed():
        assert_agree(run.gradients(), expected)
    else:
        with refused(f"reading 1 {CHANGED}", RuntimeError):
            run.gradients()


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
def test_a_loss_that_counts_its_calls(adjoint):
    calls = []

    def loss(params, batch):
        calls.append(1)
        return quadratic(params, batch) / len(calls)

    w0 = {name: w.clone().requires_grad_() for name, w in QUADRATIC_W0.items()}
    with refused("repeat bit for bit" if adjoint == Reversible() else CHANGED, RuntimeError):
        minigtn.sgd(loss, w0, quadratic_batches(4), 0.1, 0.5, adjoint)["a"].sum().backward()


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
def test_autocast_around_sgd_alone(adjoint):
    module = network(nn.Tanh(), dtype=torch.float32)

    def gradients(adjoint):
        with torch.autocast("cpu", torch.bfloat16):
            run = Run(module, adjoint, dtype=torch.float32)
        return run.gradients()

    expected = gradients(Unrolled())
    assert_agree(gradients(adjoint), expected, 1e-5 if adjoint != Reversible() else 2e-2)
    plain = Run(module, adjoint, dtype=torch.float32).gradients()
    assert relative_difference(plain[0], expected[0]) > 1e-3


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
def test_autocast_around_the_way_back_alone(adjoint):
    module = network(nn.Tanh(), dtype=torch.float32)
    run = Run(module, adjoint, dtype=torch.float32)
    expected = Run(module, Unrolled(), dtype=torch.float32).gradients()
    d_trained = torch.autograd.grad(
        loss_of(run.judge)(run.trained, [part[0] for part in data(torch.float32, 1)]),
        list(run.trained.values()),
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(list(run.trained.values()), run.leaves, d_trained)
    assert_agree(found, expected, 1e-4)


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
def test_a_lambda_over_a_loop_variable(adjoint):
    """On the way back every run would see the last network."""
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    total = torch.zeros(())
    for net in (network(nn.Tanh()), network(nn.SiLU())):
        trained = minigtn.sgd(lambda p, b: loss_of(net)(p, b), start(net), data(), lr, 0.5, adjoint)  # noqa: B023
        total = total + sum(w.square().sum() for w in trained.values())
    with refused("bit for bit" if adjoint == Reversible() else CHANGED, RuntimeError):
        total.backward()


@pytest.mark.parametrize("adjoint", KEPT, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_how_small_a_change_is_seen(adjoint, dtype):
    """Ten times what may be rounding."""

    def run(change):
        scale = [1.0]
        w0 = {name: w.to(dtype, copy=True).requires_grad_() for name, w in QUADRATIC_W0.items()}
        batches = [b.to(dtype) for b in quadratic_batches(6)]
        trained = minigtn.sgd(lambda p, b: scale[0] * quadratic(p, b), w0, batches, 0.1, 0.5, adjoint)
        scale[0] += change
        trained["a"].sum().backward()

    run(SAME[dtype] / 10)
    with refused(rf"inner step 5 {CHANGED}", RuntimeError):
        run(SAME[dtype] * 10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_how_small_a_change_of_a_reading_is_seen(dtype):
    module = network(nn.Tanh(), dtype=dtype)
    scale = [1.0]

    def readout(params, batch):
        return scale[0] * loss_of(module)(params, batch)

    for change in (SAME[dtype], 100 * SAME[dtype]):
        scale[0] = 1.0
        run = Run(module, Checkpointed(2), readout=readout, dtype=dtype)
        scale[0] += change
        if change > SAME[dtype]:
            with refused(f"reading 1 {CHANGED}", RuntimeError):
                run.gradients()
        else:
            run.gradients()


def test_formulas_that_round_otherwise_are_no_false_alarm(monkeypatch):
    """Group norm in float32 would be beyond a tolerance of zero; the way there, taken again, decides."""
    monkeypatch.setattr(again, "SAME", dict.fromkeys(SAME, 0.0))
    module = network(nn.GroupNorm(2, 4), nn.Mish())
    for adjoint in KEPT:
        assert_agree(Run(module, adjoint).gradients(), Run(module, Unrolled()).gradients())


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
def test_a_run_that_diverged_is_not_taken_for_one_that_changed(adjoint):
    w0 = {name: w.clone().requires_grad_() for name, w in QUADRATIC_W0.items()}
    if adjoint == Reversible():
        with pytest.raises(minigtn.FixedPointOverflow):
            minigtn.sgd(quadratic, w0, quadratic_batches(40), 1e12, 0.5, adjoint)
        return
    trained = minigtn.sgd(quadratic, w0, quadratic_batches(40), 1e12, 0.5, adjoint)
    trained["a"].sum().backward()
    assert not w0["a"].grad.isfinite().all()


def test_on_cuda_the_gradient_turns_to_nan():
    """What stands in for the error there, on numbers of the CPU."""
    loop = InnerLoop(lambda w, b: w.sum(), (), lambda w, b: w.sum(), (), 1, minigtn.SGD(), str)
    state = (torch.ones(3), torch.zeros(3))
    g = torch.tensor([1.0, 2.0, 3.0])
    sizes = (torch.tensor(0.1), torch.tensor(0.5))
    after = loop.optimizer.step(state, g, *sizes)
    for seen, finite in ((g, True), (g * 1.001, True), (g * 1.2, False)):
        guard = Again(loop, 5, Around(torch.device("cpu")), torch.device("cpu"))
        guard._unseen = torch.zeros((), dtype=torch.bool)
        guard.expect(4, state, after, ((), sizes))
        guard.saw(seen)
        gradients = [torch.ones(2), None]
        guard.refuse(gradients)
        assert bool(gradients[0].isfinite().all()) == finite


def test_graphs_refuse_random_numbers():
    with refused("the loss draws random numbers.*use graphs=False"):
        Run(network(nn.Dropout(0.4)), Checkpointed(graphs=True))


def test_what_is_left_uncompiled_draws_the_same_numbers_again():
    module = network(nn.Dropout(0.4))
    with pytest.warns(RuntimeWarning, match="draws random numbers"):
        run = Run(module, Checkpointed(compile=True))
    assert_agree(run.gradients(), Run(module, Unrolled()).gradients())


@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
def test_the_checks_change_no_bit(adjoint):
    module = network(nn.GroupNorm(2, 4), nn.SiLU())
    with_checks = Run(module, adjoint, readout=loss_of(module))
    without = Run(module, adjoint, readout=loss_of(module), checks=False)
    for a, b in zip(with_checks.gradients(), without.gradients(), strict=True):
        assert torch.equal(a, b)
