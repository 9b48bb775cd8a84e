"""Right or refused: what a loss must be for its meta-gradient to be right, found out in its first call; and
right ones that look alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import minigtn
from minigtn import Checkpointed, Readout, Unrolled
from minigtn.studies.problems import relative_difference
from problems import QUADRATIC_W0, quadratic, quadratic_batches
from small_runs import TAPED, Run, assert_agree, data, loss_of, network, refused, start

# ---- no derivative is not a derivative of zero ----


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


class Partly(Square):
    """A tenth of the derivative is missing."""

    @staticmethod
    def backward(ctx, d):
        (x,) = ctx.saved_tensors
        return (1.8 * x + 0.2 * x.detach()) * d


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
@pytest.mark.parametrize("function", [Square, Detached, Partly])
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
    expected = Run(module, Unrolled(), with_layer(function), dtype=dtype).gradients()
    assert_agree(found, expected, 1e-7 if dtype == torch.float64 else 1e-4)


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


# ---- attention ----


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


# ---- the first call ----


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
