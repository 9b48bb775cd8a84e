"""One pass, three results: the pull-back of the gradient against whole Hessians, and the gradient keeps its
bits."""

from functools import cache

import pytest
import torch

from minigtn.inner.step import gradient, gradient_and_pull_back
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import Learner, LearnerConfig
from minigtn.studies.problems import relative_difference
from problems import PROBLEMS, problem

WANTED = ([True, True], [True, False], [False, False])


def second_order(loss, w, batch, nu, wanted):
    g, pull_back = gradient_and_pull_back(loss, w, batch, wanted)
    return g, *pull_back(nu)


def pieces(name):
    p = problem(name)
    batch = [p.inputs["images"][0], p.inputs["labels"][0]]
    w = p.inputs["weights"]
    return lambda w, b: p.loss(p.unflatten(w), b), w, batch, torch.randn_like(w)


@cache
def hessians(name):
    """d2l / dw d(w, images, labels), whole."""
    loss, w, batch, _ = pieces(name)
    return torch.autograd.functional.hessian(lambda w, *b: loss(w, b), (w, *batch))[0]


@pytest.mark.parametrize("wanted", WANTED, ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_against_whole_hessians(name, wanted):
    loss, w, batch, nu = pieces(name)
    g, h_nu, mixed = second_order(loss, w, batch, nu, wanted)
    blocks = hessians(name)
    assert relative_difference(g, gradient(loss, w, batch)) < 1e-12
    assert relative_difference(h_nu, nu @ blocks[0]) < 1e-12
    for term, block in zip(
        mixed, [block for block, want in zip(blocks[1:], wanted, strict=True) if want], strict=True
    ):
        assert relative_difference(term, torch.tensordot(nu, block, 1)) < 1e-12


def test_zero_where_nothing_depends():
    w = torch.randn(3)
    b = torch.randn(3)
    nu = torch.randn(3)
    for loss in (lambda w, b: b[0].sum(), lambda w, b: w.sum(), lambda w, b: torch.tensor(1.0)):
        g, h_nu, (mixed,) = second_order(loss, w, [b], nu, [True])
        assert torch.equal(g, gradient(loss, w, [b]))
        assert not h_nu.any()
        assert not mixed.any()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("pool", ["max", "average"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_gradient_of_the_way_back_has_the_bits_of_the_way_forward(device, pool, memory_format, threads):
    """Reversible stands on this."""
    learner = Learner(LearnerConfig(channels=(8, 16), pool=pool, hidden=(32,)), (1, 28, 28), 10)
    params = learner.init(0, device=device)
    sizes = [p.numel() for p in params.values()]

    def loss(w, batch):
        parts = {
            name: part.view(p.shape) for (name, p), part in zip(params.items(), w.split(sizes), strict=True)
        }
        return cross_entropy(learner(parts, batch[0]), batch[1])

    w = torch.cat([p.flatten() for p in params.values()])
    x = torch.randn(32, 1, 28, 28).to(device).contiguous(memory_format=memory_format)
    y = torch.randn(32, 10).softmax(-1).to(device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            g = gradient(loss, w, [x, y])
            assert torch.equal(g, gradient(loss, w, [x, y]))
            for wanted in WANTED:
                assert torch.equal(g, gradient_and_pull_back(loss, w, [x, y], wanted)[0])
    finally:
        torch.set_num_threads(before)
