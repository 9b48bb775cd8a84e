"""Right or refused: each way in which a loss can be another function than the one that was meant, and each
guard on right and on slightly wrong losses."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import minigtn
from minigtn import Adam, Checkpointed, Readout, Reversible, RMSprop, Unrolled
from minigtn.inner import again
from minigtn.inner.again import SAME, Again, Around
from minigtn.inner.step import InnerLoop
from minigtn.studies.problems import relative_difference
from problems import QUADRATIC_W0, quadratic, quadratic_batches

TAPED = (Checkpointed(), Checkpointed(2), Reversible())
KEPT = (Checkpointed(), Checkpointed(2))
CHANGED = "came out differently when it was computed again on the way back"


def network(*layers, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 2)).to(dtype)


def data(dtype=torch.float64, steps=4):
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(steps, 5, 3, dtype=torch.float64, generator=rng).to(dtype)
    return x, torch.arange(5).remainder(2).expand(steps, 5)


def loss_of(module):
    def loss(params, batch):
        return F.cross_entropy(torch.func.functional_call(module, params, (batch[0],)), batch[1])

    return loss


def start(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class Run:
    """A run, from the start to the gradient by its images and lr."""

    def __init__(
        self, module, adjoint, loss=None, readout=None, optimizer=None, dtype=torch.float64, **kwargs
    ):
        torch.manual_seed(5)
        x, y = data(dtype)
        self.leaves = [x.requires_grad_(), torch.full((4,), 0.5, dtype=dtype).requires_grad_()]
        self.judge = copy.deepcopy(module).eval()
        reading = None if readout is None else Readout(readout, data(dtype, 2), 2)
        loss = loss or loss_of(module)
        (x, lr) = self.leaves
        result = minigtn.sgd(loss, start(module), (x, y), lr, 0.5, adjoint, reading, optimizer, **kwargs)
        self.trained, self.readings = (result, x[:0]) if readout is None else result

    def gradients(self):
        x, y = data(self.leaves[0].dtype, 1)
        value = loss_of(self.judge)(self.trained, (x[0], y[0])) + self.readings.sum()
        return torch.autograd.grad(value, self.leaves)


def assert_agree(found, expected, tolerance=1e-7):
    for d, right in zip(found, expected, strict=True):
        assert right.abs().max() > 1e-6
        assert relative_difference(d, right) < tolerance


def refused(match, kind=ValueError):
    return pytest.raises(kind, match=match)


# ---- 1: both ways run the same code ----


@pytest.mark.parametrize("layer", [lambda: nn.GroupNorm(2, 4), nn.SiLU, nn.Mish, lambda: nn.RMSNorm(4)])
def test_what_torch_differentiates_otherwise_the_second_time_is_reversed(layer):
    module = network(layer())
    assert_agree(Run(module, Reversible()).gradients(), Run(module, Unrolled()).gradients())


def test_the_bits_of_the_two_ways_do_differ_there():
    """Else the test above shows nothing."""
    from minigtn.inner.step import gradient, gradient_and_pull_back

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


# ---- 2: recomputed in another state ----


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


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
@pytest.mark.parametrize("optimizer", [None, Adam(), RMSprop()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_eval_between_there_and_back(adjoint, optimizer, dtype):
    if optimizer and adjoint == Reversible():
        pytest.skip("SGD alone")
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


@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
@pytest.mark.parametrize("where", ["loss", "readout"])
def test_a_loss_that_changes_its_batch(adjoint, where):
    module = network()

    def in_place(params, batch):
        batch[0].div_(255)
        return loss_of(module)(params, batch)

    x, y = data()
    losses = {where: in_place}
    with refused(f"the {where} changes its batch in place"):
        minigtn.sgd(losses.get("loss", loss_of(module)), start(module), (x, y), 0.1, 0.5, adjoint,
                    Readout(losses.get("readout", loss_of(module)), data(), 1))  # fmt: skip


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


# ---- 3: no derivative is not a derivative of zero ----


class Square(torch.autograd.Function):
    """x * x, whose backward cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d):
        return 2 * ctx.saved_tensors[0] * d


class Detached(Square):
    @staticmethod
    def backward(ctx, d):
        return 2 * ctx.saved_tensors[0].detach() * d


class Right(Square):
    @staticmethod
    def backward(ctx, d):
        return 2 * ctx.saved_tensors[0] * d


class Double(torch.autograd.Function):
    """2 x: once differentiable, and nothing is missing."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, d):
        return 2 * d


def with_layer(function):
    """Linear in the function's result, so that torch itself says nothing."""

    def loss(params, batch):
        h = torch.tanh(batch[0] @ params["0.weight"].T) @ params["1.weight"].T
        return function.apply(h).mean() + h.sum() / 9

    return loss


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
@pytest.mark.parametrize("function", [Square, Detached])
def test_a_layer_that_is_differentiable_once(function, adjoint, dtype):
    module = network(dtype=dtype)
    with refused(
        f"the loss uses {function.__name__}Backward, whose second derivatives are not those"
    ) as error:
        Run(module, adjoint, with_layer(function), dtype=dtype)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
@pytest.mark.parametrize("function", [Right, Double])
def test_a_layer_that_is_differentiable_twice(function, adjoint, dtype):
    module = network(dtype=dtype)
    found = Run(module, adjoint, with_layer(function), dtype=dtype).gradients()
    expected = Run(
        module, Unrolled(), with_layer(lambda: None) if False else with_layer(function), dtype=dtype
    )
    assert_agree(found, expected.gradients(), 1e-7 if dtype == torch.float64 else 1e-4)


class Rounded(torch.autograd.Function):
    """Straight through: no derivative of the forward, and meant so."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, d):
        return d


@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
def test_a_surrogate_gradient(adjoint):
    """On the images its first derivative is all that counts; on the weights it must be said."""
    module = network(nn.Tanh())

    def of_images(params, batch):
        return loss_of(module)(params, [Rounded.apply(4 * batch[0]) / 4, batch[1]])

    def of_weights(params, batch):
        return loss_of(module)({name: Rounded.apply(4 * p) / 4 for name, p in params.items()}, batch)

    assert_agree(Run(module, adjoint, of_images).gradients(), Run(module, Unrolled(), of_images).gradients())
    with refused("RoundedBackward.*if that is meant, as in surrogate gradients, pass checks=False"):
        Run(module, adjoint, of_weights)
    Run(module, adjoint, of_weights, checks=False).gradients()


def test_torch_itself_finds_it_behind_something_that_bends():
    def loss(params, batch):
        return Square.apply(batch[0] @ params["0.weight"].T).square().mean()

    with refused("cannot be differentiated twice.*SquareBackward.*no derivative of its backward"):
        Run(network(), Checkpointed(), loss)


def test_checks_can_be_left_out():
    module = network()
    found = Run(module, Checkpointed(), with_layer(Detached), checks=False).gradients()
    right = Run(module, Unrolled(), with_layer(Right)).gradients()
    assert relative_difference(found[0], right[0]) > 0.01


@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED, Checkpointed(graphs=True)], ids=str)
@pytest.mark.parametrize("where", ["loss", "readout"])
def test_a_loss_that_ignores_params(adjoint, where):
    """The usual slip: the module's own weights, in place of those that are trained."""
    module = network()
    frozen = network().requires_grad_(False)

    def own(params, batch):
        return F.cross_entropy(frozen(batch[0]), batch[1])

    losses = {where: own}
    with refused(f"the {where} does not depend on params.*functional_call"):
        Run(module, adjoint, losses.get("loss"), losses.get("readout"))


def test_a_loss_that_ignores_params_under_no_grad():
    with torch.no_grad(), refused("the loss does not depend on params"):
        minigtn.sgd(lambda p, b: b[0].sum(), QUADRATIC_W0, quadratic_batches(3), 0.1)


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
def test_second_derivatives_of_a_run(adjoint):
    def meta_loss(lr, adjoint):
        return minigtn.sgd(quadratic, QUADRATIC_W0, quadratic_batches(3), lr, 0.5, adjoint)["a"].sum()

    lr = torch.tensor(0.1, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian
    assert hessian(lambda lr: meta_loss(lr, Unrolled()), lr).abs() > 0.1
    with refused(r"cannot do: use Unrolled\(\) for second derivatives", RuntimeError):
        hessian(lambda lr: meta_loss(lr, adjoint), lr)
    lr.requires_grad_()
    once = torch.autograd.grad(meta_loss(lr, adjoint), lr, create_graph=True)[0]  # the first are fine
    torch.testing.assert_close(once, torch.autograd.grad(meta_loss(lr, Unrolled()), lr)[0])


# ---- 4: attention ----


def attending(params, batch):
    q = (batch[0] @ params["0.weight"].T)[None, None]
    return F.scaled_dot_product_attention(q, q, q).square().mean()


@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
def test_kernels_without_a_double_backward(adjoint):
    with refused(r"cannot be differentiated twice.*sdpa_kernel\(SDPBackend.MATH\)"):
        Run(network(), adjoint, attending)


@pytest.mark.parametrize("adjoint", TAPED, ids=str)
def test_kernels_are_those_of_the_way_there(adjoint):
    """The remedy around sgd is as good as inside the loss."""

    def run(adjoint):
        with sdpa_kernel(SDPBackend.MATH):
            return Run(network(), adjoint, attending)

    assert_agree(run(adjoint).gradients(), run(Unrolled()).gradients())


def test_training_alone_needs_no_second_derivative():
    with torch.no_grad():
        trained = minigtn.sgd(attending, start(network()), data(), 0.1)
    again = minigtn.sgd(attending, start(network()), data(), 0.1)
    assert torch.equal(trained["0.weight"], again["0.weight"])


# ---- what the guards themselves do ----


@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed(), Checkpointed(2)], ids=str)
def test_the_first_look_is_no_call_of_its_own(adjoint):
    """Running statistics move, and random numbers are drawn, as in a training loop."""
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.4), nn.Linear(4, 2)).double()
    torch.manual_seed(6)
    minigtn.sgd(loss_of(module), start(module), data(), 0.1, 0.5, adjoint)
    state = torch.get_rng_state()
    torch.manual_seed(6)
    for _ in range(4):
        torch.nn.functional.dropout(torch.ones(5, 4, dtype=torch.float64), 0.4)
    assert module[1].num_batches_tracked == 4
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("adjoint", [Unrolled(), *TAPED], ids=str)
def test_the_checks_change_no_bit(adjoint):
    module = network(nn.GroupNorm(2, 4), nn.SiLU())
    with_checks = Run(module, adjoint, readout=loss_of(module))
    without = Run(module, adjoint, readout=loss_of(module), checks=False)
    for a, b in zip(with_checks.gradients(), without.gradients(), strict=True):
        assert torch.equal(a, b)
