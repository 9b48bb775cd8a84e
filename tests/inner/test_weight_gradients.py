"""Weight gradients of convolutions in a recorded step back: asked for as such, and the same numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from minigtn.inner import compiled
from minigtn.inner.compiled import _as_weight_gradients
from minigtn.inner.step import gradient_and_pull_back
from minigtn.studies.problems import relative_difference

aten = torch.ops.aten


def normal(*shape):
    return 0.4 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def two_convolutions(**second):
    """Back through the gradient of a net of two convolutions: (w, u, x) -> (H u, d<g, u>/dx)."""
    sizes = (4, 2, 3, 3), (6, 4 // second.get("groups", 1), 3, 3)
    numbers = [torch.Size(size).numel() for size in sizes]

    def loss(w, batch):
        first, last = (part.view(size) for part, size in zip(w.split(numbers), sizes, strict=True))
        h = torch.tanh(F.conv2d(batch[0], first, padding=1))
        return torch.tanh(F.conv2d(h, last, padding=1, **second)).square().mean()

    def back(given):
        w, u, x = given
        _, pull_back = gradient_and_pull_back(loss, w, [x], [True])
        hessian_u, mixed = pull_back(u)
        return ((hessian_u,), mixed)

    w = normal(sum(numbers))
    return back, (w, w.roll(5), normal(5, 2, 7, 6))


def counts(graph):
    graph.graph.eliminate_dead_code()
    targets = [node.target for node in graph.graph.nodes]
    return targets.count(aten.convolution.default), targets.count(aten.convolution_backward.default)


def replaced(back, given):
    """How many convolutions fewer, and weight gradients more, the recording has than the function; the
    largest difference of their results."""
    plain = counts(make_fx(lambda *tensors: back(tensors))(*given))
    graph, closed_over = compiled._trace(back, (given,))
    expected = [x for group in back(given) for x in group]
    found = graph(*given, *closed_over)
    assert all(x.norm() > 1e-4 for x in expected)
    convolutions, backwards = counts(graph)
    worst = max(relative_difference(x, y) for x, y in zip(found, expected, strict=True))
    return plain[0] - convolutions, backwards - plain[1], worst


@pytest.mark.parametrize("second", [{}, {"dilation": 2}])
def test_a_step_back_asks_for_a_weight_gradient(second):
    fewer, more, worst = replaced(*two_convolutions(**second))
    assert (fewer, more) == (1, 1)
    assert worst < 1e-13


@pytest.mark.parametrize("second", [{"stride": 2}, {"stride": 3}, {"groups": 2}, {"stride": 2, "groups": 2}])
def test_other_convolutions_stay_what_they_are(second):
    assert replaced(*two_convolutions(**second)) == (0, 0, 0.0)


def exchanged(stride, padding):
    """A convolution in which the batch and the channels have changed places, as a loss may have it."""

    def function(given):
        image, kernel = given
        return ((F.conv2d(image.transpose(0, 1), kernel.transpose(0, 1), stride=stride, padding=padding),),)

    return function


@pytest.mark.parametrize(
    ("stride", "padding", "more"), [(1, 0, 1), (1, 2, 1), (2, 0, 1), (2, 1, 1), (3, 0, 0)]
)
def test_strides_that_leave_a_rest_of_the_image(stride, padding, more):
    """As a weight gradient the image would be too large."""
    fewer, found, worst = replaced(exchanged(stride, padding), (normal(5, 2, 7, 9), normal(5, 3, 3, 3)))
    assert (fewer, found) == (more, more)
    assert worst < 1e-13


def test_another_convolution_would_be_noticed(monkeypatch):
    def mistaken(graph):
        _as_weight_gradients(graph)
        for node in graph.nodes:
            if node.target is aten.convolution_backward.default:
                node.args = (node.args[0], node.args[0], *node.args[2:])

    monkeypatch.setattr(compiled, "_as_weight_gradients", mistaken)
    same = normal(4, 4, 5, 5)
    assert replaced(exchanged(1, 2), (same, same.roll(1, 0)))[2] > 0.1
