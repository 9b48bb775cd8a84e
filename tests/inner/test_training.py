"""The training run itself: torch's SGD, in whatever form the arguments come, with one clear sentence where
they cannot be right."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import minigtn
from minigtn import Checkpointed, Readout, Reversible, Unrolled
from minigtn.inner.training import nan_unless_in_range
from problems import QUADRATIC_W0, quadratic, quadratic_batches

ADJOINTS = (Unrolled(), Checkpointed(), Checkpointed(3), Reversible())


def cross_entropy(module):
    return lambda params, batch: F.cross_entropy(
        torch.func.functional_call(module, params, batch[0]), batch[1]
    )


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
@pytest.mark.parametrize("lr", [0.2, (0.3, 0.2, 0.1, 0.05)])
@pytest.mark.parametrize("momentum", [0.0, 0.75, (0.5, 0.25, 0.0625, 0.875)])
def test_the_result_is_that_of_torch_optim_sgd(adjoint, lr, momentum):
    """An nn.Module through functional_call, with constant and with scheduled step sizes."""
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    y = torch.randint(3, (4, 6))
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    lr, momentum = (torch.tensor(value, dtype=torch.float64) for value in (lr, momentum))
    found = minigtn.sgd(cross_entropy(module), start, (x, y), lr, momentum, adjoint)

    optimizer = torch.optim.SGD(module.parameters())
    for t in range(4):
        optimizer.param_groups[0].update(lr=lr.expand(4)[t].item(), momentum=momentum.expand(4)[t].item())
        optimizer.zero_grad()
        F.cross_entropy(module(x[t]), y[t]).backward()
        optimizer.step()
    for name, p in module.named_parameters():
        torch.testing.assert_close(found[name], p.detach(), rtol=1e-12, atol=1e-14)
        assert (p - start[name]).abs().max() > 1e-3


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_a_float_a_scalar_and_a_schedule_are_the_same_run(adjoint):
    runs = [
        minigtn.sgd(quadratic, QUADRATIC_W0, quadratic_batches(5), make(0.125), make(0.5), adjoint)
        for make in (
            float,
            torch.tensor,
            lambda x: torch.full((1,), x).expand(5),
            lambda x: torch.full((5,), x, dtype=torch.float64),
        )
    ]
    for other in runs[1:]:
        assert all(torch.equal(other[name], w) for name, w in runs[0].items())


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
@pytest.mark.parametrize(("every", "after"), [(1, range(1, 8)), (3, (3, 6, 7)), (7, (7,)), (100, (7,))])
def test_readouts_are_losses_of_the_weights_so_far(every, after, adjoint):
    batches = quadratic_batches(7)
    real = (torch.randn(len(after), 3, dtype=torch.float64),)
    trained, losses = minigtn.sgd(
        quadratic, QUADRATIC_W0, batches, 0.1, 0.75, adjoint, Readout(quadratic, real, every)
    )
    assert losses.shape == (len(after),)
    for j, t in enumerate(after):
        shorter = minigtn.sgd(quadratic, QUADRATIC_W0, [b[:t] for b in batches], 0.1, 0.75)
        torch.testing.assert_close(losses[j], quadratic(shorter, [real[0][j]]), rtol=1e-12, atol=0)
    torch.testing.assert_close(trained["a"], shorter["a"], rtol=1e-12, atol=0)


def test_weights_keep_names_shapes_and_dtype():
    params = {"kernel": torch.randn(2, 3, 1), "bias": torch.randn(()), "table": torch.randn(4)}
    trained = minigtn.sgd(
        lambda p, b: sum((w * b[0]).sum() ** 2 for w in p.values()), params, (torch.ones(3),), 0.01
    )
    assert {name: (w.shape, w.dtype) for name, w in trained.items()} == {
        name: (w.shape, w.dtype) for name, w in params.items()
    }
    assert not torch.equal(trained["kernel"], params["kernel"])


GOOD = {
    "loss": quadratic,
    "params": QUADRATIC_W0,
    "batches": quadratic_batches(5),
    "lr": 0.1,
    "momentum": 0.5,
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"params": {}}, "params is empty"),
        ({"params": {"a": torch.ones(2, dtype=torch.int64)}}, "must be floating point"),
        ({"params": {"a": torch.ones(2), "b": torch.ones(1).double()}}, "of one dtype"),
        ({"batches": ()}, "share a leading dimension"),
        ({"batches": (torch.zeros(0, 3),)}, "of at least 1"),
        ({"batches": (torch.tensor(1.0),)}, "share a leading dimension"),
        ({"batches": (torch.zeros(5, 3), torch.zeros(4))}, r"given shapes \[\(5, 3\), \(4,\)\]"),
        ({"batches": torch.zeros(5, 3)}, "must be a tuple of tensors, not one tensor"),
        ({"lr": torch.full((4,), 0.1)}, "lr must be a float, a scalar tensor or a tensor of 5 values"),
        ({"lr": torch.full((5, 1), 0.1)}, "lr must be"),
        ({"momentum": torch.full((6,), 0.1)}, "momentum must be a float"),
        ({"momentum": 1.0}, "0 <= momentum < 1"),
        ({"momentum": -0.1}, "0 <= momentum < 1"),
        ({"momentum": float("nan")}, "0 <= momentum < 1"),
        ({"momentum": torch.tensor([0.5, 0.5, 1.5, 0.5, 0.5])}, "given values from 0.5 to 1.5"),
        ({"loss": lambda p, b: p["a"] * 2}, r"the loss must return a scalar.* returned shape \(2,\)"),
        ({"readout": Readout(lambda p, b: p["a"], quadratic_batches(5))}, "the readout must return a scalar"),
        (
            {"readout": Readout(quadratic, quadratic_batches(2), every=3), "batches": quadratic_batches(7)},
            "every 3 of 7 steps needs 3 b",
        ),
        ({"readout": Readout(quadratic, quadratic_batches(5), every=0)}, "every >= 1, not 0"),
        ({"readout": Readout(quadratic, ())}, "readout batches must"),
        ({"momentum": 1 - 2**-53, "adjoint": Reversible()}, "rounds to 1"),
        # what people bring
        (
            {"params": torch.nn.Linear(2, 1).parameters()},
            "a dict of tensors by name, not a generator: .*named_p",
        ),
        ({"params": list(torch.nn.Linear(2, 1).parameters())}, "not a list"),
        ({"params": torch.nn.Linear(2, 1)}, "not a Linear"),
        ({"params": {"a": [1.0, 2.0]}}, "params must be a dict of tensors"),
        ({"batches": {"c": quadratic_batches(5)[0]}}, r"not a dict: write tuple\(batches.values\(\)\)"),
        ({"batches": DataLoader(quadratic_batches(5)[0])}, r"not a DataLoader: .*islice\(batches, T\)"),
        ({"batches": iter(quadratic_batches(5))}, "not a tuple_iterator"),
        ({"batches": [(torch.ones(3), torch.ones(3))] * 5}, "one of these is a tuple: .*stack them"),
        ({"batches": [{"x": torch.ones(3)}] * 5}, "one of these is a dict"),
        ({"batches": (quadratic_batches(5)[0].numpy(),)}, r"is a ndarray: .*torch\.as_tensor"),
        ({"batches": (quadratic_batches(5)[0].to_sparse(),)}, "is torch.sparse_coo"),
        ({"readout": Readout(quadratic, quadratic_batches(5)[0])}, "readout batches must be a tuple"),
        (
            {"loss": lambda p, b: (quadratic(p, b), p["a"])},
            "the loss must return a scalar .*returned a tuple",
        ),
        ({"loss": lambda p, b: quadratic(p, b).item()}, "returned a float"),
        ({"loss": lambda p, b: (p["a"] > 0).sum()}, "returned torch.int64"),
        ({"adjoint": Checkpointed}, "adjoint must be one of minigtn's, such as minigtn.Checkpointed"),
        ({"adjoint": "reversible"}, "not 'reversible'"),
        ({"optimizer": torch.optim.SGD}, r"optimizer must be one of minigtn's, such as minigtn.Adam\(\)"),
    ],
)
def test_bad_inputs_are_refused_in_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        minigtn.sgd(**GOOD | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap, torch.func.jacrev])
def test_torch_func_transforms_are_named(transform, adjoint):
    def meta_loss(lr):
        return minigtn.sgd(quadratic, QUADRATIC_W0, quadratic_batches(3), lr, adjoint=adjoint)["a"].sum()

    lr = torch.tensor([0.1, 0.2]) if transform is torch.func.vmap else torch.tensor(0.1)
    with pytest.raises(ValueError, match=r"inside a torch\.func transform .* backward\(\)"):
        transform(meta_loss)(lr)


def test_inference_mode_has_no_gradients():
    with torch.inference_mode(), pytest.raises(ValueError, match=r"use torch\.no_grad\(\)"):
        minigtn.sgd(**GOOD)


def test_a_momentum_that_is_not_looked_at_turns_into_nan():
    """What CUDA gets in place of the error."""
    momentum = torch.tensor([0.0, 0.5, 1.0, -0.1, float("nan"), 1 - 2**-24], requires_grad=True)
    found = nan_unless_in_range(momentum)
    assert found.isnan().tolist() == [False, False, True, True, True, False]
    assert torch.equal(found.nan_to_num(7), torch.where(found.isnan(), 7, momentum))
    (d,) = torch.autograd.grad(found[[0, 1, 5]].sum(), momentum)
    assert d.tolist() == [1, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_trained_weights_own_their_memory(adjoint, tmp_path):
    """12 numbers beside 100,000 others are saved as 12, not as a view of all."""
    params = {"wide": torch.randn(1000, 100) / 30, "few": torch.randn(12, 1) / 3}

    def loss(p, batch):
        return (batch[0] @ p["wide"])[:, :12].mm(p["few"]).square().mean()

    trained = minigtn.sgd(loss, params, (torch.randn(2, 3, 1000),), 0.1, adjoint=adjoint)
    torch.save(trained["few"].detach(), tmp_path / "few.pt")
    assert (tmp_path / "few.pt").stat().st_size < 4000
