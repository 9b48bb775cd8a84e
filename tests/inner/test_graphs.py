"""Graphs of the steps: the same bits, from memory of their own that nothing else gets hold of. Without a GPU
all but the capture is run."""

import gc
import warnings
import weakref

import pytest
import torch

import minigtn
from minigtn import Adam, Checkpointed, Readout, Unrolled
from minigtn.inner.graphs import GraphPool, StaticCall, StepGraphs, signature
from minigtn.studies.check import TOLERANCE
from minigtn.studies.problems import relative_difference
from problems import PROBLEMS, QUADRATIC_W0, problem, quadratic_batches

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))


def assert_same(found, expected):
    """Bit for bit; on CUDA, where a captured product may get another workspace and so another kernel, to
    float64 accuracy."""
    assert found.keys() == expected.keys()
    for name, d in expected.items():
        assert torch.equal(found[name], d) or (
            d.is_cuda and relative_difference(found[name], d) < TOLERANCE
        ), name


def with_other_data(p):
    p.inputs.update({name: x.roll(1, 0) for name, x in p.inputs.items() if name != "weights"})
    return p


def bowl(params, batch):
    """A loss that a graph can hold: it brings no tensor over from the CPU."""
    a = params["a"]
    b = params["b"]
    return (
        a.square().sum() + 0.5 * (a * b).sum() + b.square().sum() - batch[0][:2] @ a - batch[0][2] * b.sum()
    )


# ---- one call ----


@pytest.mark.parametrize("device", DEVICES)
def test_a_static_call_owns_its_memory(device):
    seen = []

    def function(xs, ys):
        seen.append((xs[0].data_ptr(), xs[1].data_ptr(), ys[0].data_ptr()))
        return (xs[0] + xs[1], xs[0]), (ys[0] * 2,)  # one output is an input

    def given(k):
        return (k * torch.ones(3, device=device), torch.arange(3, device=device)), (
            torch.full((2, 2), k, device=device),
        )

    example = given(1.0)
    call = StaticCall(function, example, GraphPool(example[0][0].device))
    groups = given(5.0)
    first = call(*groups)
    for x in (*example[0], *example[1], *groups[0], *groups[1]):
        x.fill_(77)
    second = call(*given(6.0))
    for k, found in ((5.0, first), (6.0, second)):
        (total, same), (double,) = found
        torch.testing.assert_close(total, k + torch.arange(3.0, device=device))
        torch.testing.assert_close(same, torch.full((3,), k, device=device))
        torch.testing.assert_close(double, torch.full((2, 2), 2 * k, device=device))
    assert len(set(seen)) == 1  # always the same addresses
    assert len(seen) == (3 if device == "cpu" else 4)  # warm-up and capture, then never again


def test_the_number_of_tensors_is_checked():
    call = StaticCall(lambda xs: (xs,), ((torch.ones(2),),), GraphPool(torch.device("cpu")))
    with pytest.raises(ValueError, match="shorter"):
        call(())


def test_signature_tells_apart_what_a_capture_depends_on():
    x = torch.zeros(2, 3, 4, 4)
    same = torch.ones(2, 3, 4, 4)
    others = (x[:1], x.double(), x.to(memory_format=torch.channels_last), x.to("meta"), x.view(2, 3, 16))
    assert signature(((x,),)) == signature(((same,),))
    assert len({signature(((y,),)) for y in (x, *others)}) == 1 + len(others)


def test_the_oldest_goes_and_says_so():
    graphs = StepGraphs(limit=2)
    made = []

    def get(key):
        return graphs.get(key, lambda: made.append(key) or key)

    for key in ("a", "b", "a"):
        assert get(key) == key
    with pytest.warns(RuntimeWarning, match="pass the same loss function each time"):
        get("c")  # b is the one unused for longest
    get("a")
    assert made == ["a", "b", "c"]
    assert graphs.captures == 3


# ---- whole runs ----


@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("every", [None, 3])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("device", DEVICES)
def test_the_same_meta_gradient_with_graphs_as_without(device, name, every, block_size):
    p = problem(name, every=every).to(torch.float64, device)
    plain = Checkpointed(block_size)
    graphs = Checkpointed(block_size, graphs=True)
    for _ in range(3):
        assert_same(p.gradients(graphs), p.gradients(plain))
        p = with_other_data(p)
    assert graphs._captured.captures == 1


@pytest.mark.parametrize("device", DEVICES)
def test_other_optimizers(device):
    p = problem("tied").to(torch.float64, device)
    graphs = Checkpointed(2, graphs=True)
    object.__setattr__(p, "optimizer", Adam())
    for _ in range(2):
        assert_same(p.gradients(graphs), p.gradients(Checkpointed(2)))
        p = with_other_data(p)


@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_at_once_share_the_graphs(device):
    """Both forward, then both back: what one run keeps must survive the other."""
    p = problem("tied").to(torch.float64, device)
    graphs = Checkpointed(3, graphs=True)
    runs = []
    for adjoint in (graphs, Checkpointed(3)):
        runs.append([])
        for scale in (1.0, 1.5):
            leaves = {
                name: (x * scale if name == "images" else x).clone().requires_grad_()
                for name, x in p.inputs.items()
            }
            runs[-1].append((p.meta_loss(adjoint, leaves), leaves))
    for (found, found_leaves), (expected, leaves) in zip(*runs, strict=True):
        found.backward()
        expected.backward()
        assert_same(
            {name: x.grad for name, x in found_leaves.items()}, {name: x.grad for name, x in leaves.items()}
        )


def handing_out_its_own_outputs(self, *groups):
    honest_call(self, *groups)
    return self._outputs


def reading_what_the_capture_read(self, *groups):
    return honest_call(self, *self.__dict__.setdefault("first", groups))


honest_call = StaticCall.__call__


@pytest.mark.parametrize("call", [handing_out_its_own_outputs, reading_what_the_capture_read])
def test_a_careless_call_is_found_out(call, monkeypatch):
    monkeypatch.setattr(StaticCall, "__call__", call)
    p = problem("tied")
    with pytest.raises(AssertionError):
        assert_same(p.gradients(Checkpointed(graphs=True)), p.gradients(Checkpointed()))


def run(
    adjoint, loss=bowl, steps=4, dtype=torch.float64, device="cpu", wanted=True, optimizer=None, readout=None
):
    """The gradients of a small run by weights, and by batches where ``wanted``."""
    w0 = {name: w.to(device, dtype, copy=True).requires_grad_() for name, w in QUADRATIC_W0.items()}
    (c,) = (b.to(device, dtype, copy=True).requires_grad_(wanted) for b in quadratic_batches(steps))
    trained = minigtn.sgd(loss, w0, (c,), 0.1, 0.5, adjoint, readout, optimizer)
    (trained["a"].sum() + trained["b"].sum()).backward()
    return {"a": w0["a"].grad, "b": w0["b"].grad, **({"c": c.grad} if wanted else {})}


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_captured_anew(device):
    graphs = Checkpointed(graphs=True)

    def other_loss(params, batch):
        return bowl(params, batch) + (params["a"] ** 4).sum()

    captures = []
    for kwargs in (
        {},
        {"steps": 6},
        {"loss": other_loss},
        {"optimizer": Adam()},
        {"wanted": False},
        {"dtype": torch.float32},
        {},
    ):
        found = run(graphs, device=device, **kwargs)
        for name, d in run(Unrolled(), device=device, **kwargs).items():
            torch.testing.assert_close(found[name], d)
        captures.append(graphs._captured.captures)
    assert captures == [1, 1, 2, 3, 4, 5, 5]


def test_the_same_function_of_differently_shaped_weights():
    """As many numbers, the same names, another network."""
    graphs = Checkpointed(graphs=True)

    def loss(params, batch):
        return (params["w"] @ batch[0]).square().sum()

    for shape in ((2, 3), (1, 6), (6, 1)):
        w0 = {"w": torch.arange(6.0).view(shape).requires_grad_()}
        x = (torch.arange(2.0 * shape[1]).view(2, -1),)
        found, expected = (
            torch.autograd.grad(minigtn.sgd(loss, w0, x, 0.01, 0.5, a)["w"].square().sum(), w0["w"])[0]
            for a in (graphs, Checkpointed())
        )
        assert torch.equal(found, expected)


def test_a_new_loss_function_each_time_is_noticed():
    graphs = Checkpointed(graphs=True)
    for _ in range(8):
        run(graphs, loss=lambda params, batch: bowl(params, batch))
    with pytest.warns(RuntimeWarning, match="more than 8 different training runs"):
        run(graphs, loss=lambda params, batch: bowl(params, batch))


def test_graphs_keep_no_data_of_a_run():
    graphs = Checkpointed(graphs=True)

    def loss(params, batch):
        return bowl(params, batch)

    batches = tuple(b.clone() for b in quadratic_batches(4))
    w0 = {name: w.clone().requires_grad_() for name, w in QUADRATIC_W0.items()}
    trained, readings = minigtn.sgd(loss, w0, batches, 0.1, 0.5, graphs, Readout(loss, batches))
    (trained["a"].sum() + readings.sum()).backward()
    seen = weakref.ref(batches[0])
    del batches, trained, readings, w0
    gc.collect()
    assert seen() is None
    assert graphs._captured.captures == 1


def test_a_closure_over_a_tensor_that_requires_grad():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=r"the loss uses a tensor .* use Unrolled\(\)"):
        run(Checkpointed(graphs=True), loss=lambda params, batch: scale * bowl(params, batch))


def test_a_loss_that_is_no_scalar():
    with pytest.raises(ValueError, match="the loss must return a scalar"):
        run(Checkpointed(graphs=True), loss=lambda params, batch: params["a"])


def test_adjoints_that_are_equal():
    """Captured graphs are no part of what an adjoint is."""
    used = Checkpointed(2, graphs=True)
    run(used)
    assert used == Checkpointed(2, graphs=True) != Checkpointed(2)
    assert hash(used) == hash(Checkpointed(2, graphs=True))
    assert str(used) == "Checkpointed(block_size=2, graphs=True, compile=False, max_captured=8)"


def test_the_sync_guard_silences_its_own_warning_alone_and_is_off_after_a_failure(monkeypatch, no_sync):
    modes = []

    def set_mode(mode):
        modes.append(mode)
        if mode == "error":
            warnings.warn(
                "Synchronization debug mode is a prototype feature and does not yet detect all",
                UserWarning,
                stacklevel=2,
            )

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with pytest.raises(UserWarning, match="something else"), no_sync():
        warnings.warn("something else", UserWarning, stacklevel=2)
    assert modes == ["error", "default"]


# ---- on a GPU ----


@pytest.mark.gpu
@pytest.mark.parametrize("momentum", [0.5, torch.tensor([0.5, 0.25, 0.75, 0.5])], ids=["float", "per step"])
@pytest.mark.parametrize(
    "adjoint", [Unrolled(), Checkpointed(), Checkpointed(3), Checkpointed(graphs=True)], ids=str
)
def test_an_outer_step_does_not_wait_for_the_device(adjoint, momentum, no_sync):
    p = problem("conv", steps=4, every=1).to(torch.float32, "cuda")
    leaves = {name: x.clone().requires_grad_() for name, x in p.inputs.items()}
    params = {name: w.clone().requires_grad_() for name, w in p.unflatten(p.inputs["weights"]).items()}
    momentum = momentum.cuda().requires_grad_() if isinstance(momentum, torch.Tensor) else momentum
    readout = Readout(p.loss, (leaves["real images"], p.test[1].expand(4, -1)), 1)

    def outer_step():
        trained, losses = minigtn.sgd(
            p.loss, params, (leaves["images"], leaves["labels"]), 0.1, momentum, adjoint, readout
        )
        (losses.mean() + p.loss(trained, p.test)).backward()

    outer_step()  # cuDNN and cuBLAS start; graphs are captured
    torch.cuda.synchronize()
    with no_sync():
        outer_step()
    assert leaves["images"].grad.isfinite().all()


@pytest.mark.gpu
def test_replays_call_no_python_and_draw_no_random_numbers():
    calls = []
    graphs = Checkpointed(graphs=True)

    def loss(params, batch):
        calls.append(1)
        return bowl(params, batch)

    before = torch.cuda.get_rng_state()
    first = run(graphs, loss, device="cuda")
    n = len(calls)
    assert_same(run(graphs, loss, device="cuda"), first)
    assert len(calls) == n
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.gpu
def test_outer_steps_with_graphs_do_not_pile_up_memory():
    p = problem("conv").to(torch.float32, "cuda")
    graphs = Checkpointed(graphs=True)
    allocated = []
    for _ in range(5):
        p.gradients(graphs)
        gc.collect()
        allocated.append(torch.cuda.memory_allocated())
    assert len(set(allocated[1:])) == 1


@pytest.mark.gpu
def test_a_run_on_a_stream_of_its_own():
    graphs = Checkpointed(graphs=True)
    expected = run(Checkpointed(), device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = [run(graphs, device="cuda") for _ in range(2)]
    torch.cuda.current_stream().wait_stream(stream)
    for each in found:
        assert_same(each, expected)


@pytest.mark.gpu
def test_a_momentum_out_of_range_is_nan_on_cuda():
    momentum = torch.tensor([0.5, 1.0, 0.5], device="cuda")
    w0 = {name: w.cuda() for name, w in QUADRATIC_W0.items()}
    trained = minigtn.sgd(bowl, w0, tuple(b.cuda() for b in quadratic_batches(3)), 0.1, momentum)
    assert trained["a"].isnan().all()
