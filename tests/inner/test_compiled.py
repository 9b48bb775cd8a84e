"""Compiled steps: the same meta-gradient, never believed unseen, and never missing in silence.

What needs no fused kernels runs the recorded graph as it is (``recorded``): the recording and its checks are
this project's, inductor is not.
"""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import minigtn
from minigtn import Adam, Checkpointed
from minigtn.inner import compiled
from minigtn.inner.compiled import CompiledMismatch
from minigtn.networks.learners import InBfloat16, Learner, LearnerConfig
from minigtn.outer.batched import SumOfLosses, stack
from minigtn.studies.problems import adam_problem, make_problem, relative_difference
from problems import problem

TOLERANCE = 1e-12


def normal(*shape):
    return 0.4 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def modern(params, x):
    """A strided convolution, GroupNorm, batch norm, one attention head with the math backend."""
    h = F.group_norm(F.conv2d(x, params["conv"], stride=2, padding=1), 2, params["scale"], params["shift"])
    h = F.batch_norm(F.silu(h), None, None, params["scale"], params["shift"], training=True)
    tokens = h.flatten(2).mT.unsqueeze(1)  # (N, 1, 4, channels)
    with sdpa_kernel(SDPBackend.MATH):
        tokens = F.scaled_dot_product_attention(tokens @ params["query"], tokens, tokens)
    return tokens.flatten(1) @ params["head"]


def modern_problem():
    sizes = {"conv": (4, 2, 3, 3), "scale": (4,), "shift": (4,), "query": (4, 4), "head": (16, 3)}
    return make_problem(
        "modern", modern, {name: normal(*size) for name, size in sizes.items()}, (2, 4, 4), steps=3, every=2
    )


def problems(name):
    made = {"adam": adam_problem, "modern": modern_problem}
    return made[name]() if name in made else problem(name, steps=3, every=2)


def worst(found, expected):
    return max(relative_difference(found[name], d) for name, d in expected.items())


@pytest.fixture
def recorded(monkeypatch):
    """No kernels are made: the recording is run operation by operation."""
    monkeypatch.setattr(compiled, "_compile", lambda graph, inputs: graph)


# ---- with inductor ----


def test_the_compiled_meta_gradient_is_that_of_the_uncompiled():
    p = problems("conv")
    adjoint = Checkpointed(compile=True)
    for _ in range(2):
        before = torch.get_rng_state()
        found = p.gradients(adjoint)
        assert torch.equal(torch.get_rng_state(), before)
        assert worst(found, p.gradients(Checkpointed())) < TOLERANCE
        p.inputs.update({key: x.roll(1, 0) for key, x in p.inputs.items() if key != "weights"})
    assert adjoint._captured.captures == 1


# ---- the recording ----


def test_stacked_learners_and_graphs_of_compiled_steps(recorded):
    learner = Learner(LearnerConfig((3,), (1,), (), norm="batch", pool="average"), (1, 4, 4), 2)
    params = stack([learner.init(seed, dtype=torch.float64) for seed in (1, 2)])
    x = normal(3, 5, 1, 4, 4)
    y = normal(3, 5, 2).softmax(-1)
    loss = SumOfLosses(learner)

    def gradients(adjoint):
        leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
        trained = minigtn.sgd(loss, params, leaves, 0.1, 0.5, adjoint)
        return torch.autograd.grad(loss(trained, (x[0], y[0])), leaves)

    for found, expected in zip(
        gradients(Checkpointed(graphs=True, compile=True)), gradients(Checkpointed()), strict=True
    ):
        assert relative_difference(found, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["adam", "conv", "tied", "modern"])
def test_the_recording_alone_is_exact(name, recorded):
    p = problems(name)
    assert worst(p.gradients(Checkpointed(2, compile=True)), p.gradients(Checkpointed(2))) < TOLERANCE


def test_a_tensor_given_twice_stays_two_inputs(recorded):
    """As examples() gives the state, and once more as the gradient by it."""
    x = torch.tensor([1.0, 2.0, 3.0])
    call = compiled.compiled(lambda a, b: ((a[0] * b[0].square(),),), ((x,), (x,)), "step")
    other = torch.tensor([5.0, 7.0, 9.0])
    assert torch.equal(call((x,), (other,))[0][0], x * other.square())


def test_closed_over_tensors_are_read_anew(recorded):
    scale = torch.tensor([1.0, 2.0])
    call = compiled.compiled(lambda a: ((a[0] * scale + scale * scale,),), ((torch.ones(2),),), "step")
    scale.copy_(torch.tensor([3.0, 5.0]))
    assert call((torch.ones(2),))[0][0].tolist() == [12.0, 30.0]


def test_other_layouts_are_copied_and_other_shapes_refused(recorded):
    call = compiled.compiled(lambda a: ((a[0] * 2,),), ((torch.ones(3),),), "step")
    assert call((torch.ones(()).expand(3),))[0][0].tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match=r"compiled for a tensor \(3,\) torch.float32, called with \(4,\)"):
        call((torch.ones(4),))


def test_a_learner_in_bfloat16(recorded):
    learner = InBfloat16(Learner(LearnerConfig((3,), (1,), ()), (1, 6, 6), 2))
    params = learner.init(0)
    x = normal(3, 5, 1, 6, 6).float().requires_grad_()
    y = normal(3, 5, 2).softmax(-1).float()

    def loss(p, batch):
        return minigtn.cross_entropy(learner(p, batch[0]), batch[1])

    found, expected = (
        torch.autograd.grad(
            minigtn.sgd(loss, params, (x, y), 0.1, 0.5, adjoint)["head.bias"].square().sum(), x
        )[0]
        for adjoint in (Checkpointed(compile=True), Checkpointed())
    )
    assert torch.equal(found, expected)


# ---- wrong kernels ----


def wrong_by_a_thousandth(graph, inputs):
    """A compiler that makes the last output of each graph a thousandth too large."""
    return lambda *tensors: (*(out := graph(*tensors))[:-1], out[-1] * 1.001)


def one_wrong_entry(graph, inputs):
    def run(*tensors):
        first, *rest = graph(*tensors)
        first = first.clone()
        first.view(-1)[first.abs().argmax()] *= 1.01
        return first, *rest

    return run


def swapped_inputs(graph, inputs):
    """The state for the gradient by the next state, as a recording with one tensor for both would have it."""
    return lambda *tensors: graph(*tensors[:-2], *tensors[:2]) if len(tensors) == 8 else graph(*tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("compiler", [wrong_by_a_thousandth, one_wrong_entry])
def test_a_wrong_kernel_is_caught_before_it_is_used(compiler, dtype, monkeypatch):
    monkeypatch.setattr(compiled, "_compile", compiler)
    with pytest.raises(
        CompiledMismatch, match=r"step: output \d of group 0, .* differs from the uncompiled one"
    ):
        problems("conv").to(dtype, "cpu").gradients(Checkpointed(compile=True))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, "1.0e-06"), (torch.float32, "1.0e-02")])
def test_what_rounding_moves_far_is_not_allowed_everything(dtype, limit, monkeypatch):
    """A unit in the last place of the input turns this output by a radian's tenth."""

    def steep(a):
        return ((torch.sin(a[0] * (0.1 / torch.finfo(dtype).eps)),),)

    example = ((torch.tensor([1.0, 2.0, 3.0], dtype=dtype),),)
    monkeypatch.setattr(compiled, "_compile", lambda graph, inputs: graph)
    compiled.compiled(steep, example, "step")
    wrong = lambda graph, inputs: lambda *tensors: [1.05 * x for x in graph(*tensors)]  # noqa: E731
    monkeypatch.setattr(compiled, "_compile", wrong)
    with pytest.raises(CompiledMismatch, match=rf"differs .* by 5.0e-02 \(relative; {limit} is allowed\)"):
        compiled.compiled(steep, example, "step")


def test_mistaken_inputs_are_caught_though_the_example_has_them_equal(monkeypatch):
    monkeypatch.setattr(compiled, "_compile", swapped_inputs)
    with pytest.raises(CompiledMismatch, match="step_back: output"):
        problems("conv").gradients(Checkpointed(compile=True))


# ---- what stays uncompiled ----


def reads(params, batch):
    loss = (params["w"] * batch[0]).square().sum()
    return loss if loss.item() < 1e9 else loss.sqrt()


def selects(params, batch):
    h = params["w"] * batch[0]
    return h[h > 0].square().sum()


def draws(params, batch):
    return (params["w"] * batch[0]).square().sum() + 0 * torch.rand(())


def gradient(loss, adjoint, optimizer=None):
    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    batches = (torch.tensor([[1.0, 2.0], [0.5, 1.5]], dtype=torch.float64),)
    trained = minigtn.sgd(loss, {"w": w}, batches, 0.1, 0.5, adjoint, optimizer=optimizer)
    return torch.autograd.grad(trained["w"].square().sum(), w)[0]


def failing(graph, inputs):
    raise AssertionError("LoweringException: no such kernel\nand a long traceback")


def assert_uncompiled(loss, match):
    adjoint = Checkpointed(compile=True)
    with pytest.warns(RuntimeWarning, match=match) as caught:
        found = gradient(loss, adjoint)
    assert len(caught) == 1
    assert torch.equal(found, gradient(loss, Checkpointed()))
    with warnings.catch_warnings():  # one warning a run, not one a step
        warnings.simplefilter("error")
        assert torch.equal(gradient(loss, adjoint), found)


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (reads, "step reads a tensor on the host"),
        (selects, "step makes a tensor whose shape depends on numbers"),
        (draws, "step draws random numbers"),
    ],
)
def test_what_cannot_be_recorded_runs_as_it_is_and_says_so(loss, match, recorded):
    assert_uncompiled(loss, match)


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert_uncompiled(stretched, "no C\\+\\+ compiler 'no-such-compiler'; install one")


def test_a_compiler_that_fails(monkeypatch):
    monkeypatch.setattr(compiled, "_compile", failing)
    assert_uncompiled(
        stretched, r"could not be traced or compiled \(AssertionError: LoweringException: no such kernel\)"
    )


def stretched(params, batch):
    return (params["w"] * batch[0]).square().sum()


def test_an_error_of_the_loss_is_not_taken_for_one_of_the_compiler(recorded):
    with pytest.raises(ValueError, match="the loss must return a scalar"):
        gradient(lambda params, batch: params["w"], Checkpointed(compile=True))


def test_another_optimizer_is_compiled_anew(recorded):
    adjoint = Checkpointed(compile=True)
    for optimizer in (None, Adam(eps=0.1), None):
        found = gradient(stretched, adjoint, optimizer)
        expected = gradient(stretched, Checkpointed(), optimizer)
        assert relative_difference(found, expected) < TOLERANCE
    assert adjoint._captured.captures == 2
