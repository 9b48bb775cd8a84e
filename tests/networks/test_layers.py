"""Every layer against torch's own, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minigtn.networks import layers
from minigtn.networks.layers import conv3x3, init_layer, linear, normalize, pool, weight

SHAPES = {"dense": (4, 6), "conv": (4, 3, 3, 3)}
INPUTS = {"dense": (7, 6), "conv": (5, 3, 6, 7)}
APPLY = {"dense": linear, "conv": conv3x3}
KINDS = pytest.mark.parametrize("kind", SHAPES)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def torch_layer(kind: str) -> nn.Module:
    out, size, *_ = SHAPES[kind]
    return (nn.Linear(size, out) if kind == "dense" else nn.Conv2d(size, out, 3, padding=1)).double()


@KINDS
def test_plain_layer_is_torchs(kind: str) -> None:
    params = {"L.weight": random(*SHAPES[kind]), "L.bias": random(4)}
    theirs = torch_layer(kind)
    x = random(*INPUTS[kind])
    theirs.load_state_dict({"weight": params["L.weight"], "bias": params["L.bias"]})
    torch.testing.assert_close(normalize(params, "L", APPLY[kind](params, "L", x), "none"), theirs(x))


@KINDS
def test_weight_normalization_is_torchs_with_its_gradients(kind: str) -> None:
    params = {"L.direction": random(*SHAPES[kind]).requires_grad_(), "L.gain": random(4).requires_grad_()}
    theirs = nn.utils.parametrizations.weight_norm(torch_layer(kind))
    original = theirs.parametrizations.weight
    with torch.no_grad():
        original.original0.copy_(params["L.gain"].view_as(original.original0))
        original.original1.copy_(params["L.direction"])
        theirs.bias.zero_()
    x = random(*INPUTS[kind])
    ours = APPLY[kind](params, "L", x)
    expected = theirs(x)
    torch.testing.assert_close(ours, expected)
    ours.sin().sum().backward()
    expected.sin().sum().backward()
    assert params["L.direction"].grad.norm() > 0.1
    torch.testing.assert_close(params["L.direction"].grad, original.original1.grad)
    torch.testing.assert_close(params["L.gain"].grad, original.original0.grad.flatten())


def test_a_zero_direction_has_finite_first_and_second_derivatives() -> None:
    direction = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    params = {"L.direction": direction, "L.gain": torch.full((4,), 1e-6, dtype=torch.float64)}
    (first,) = torch.autograd.grad(
        linear(params, "L", random(7, 6)).square().sum() + weight(params, "L").sum(),
        direction,
        create_graph=True,
    )
    (second,) = torch.autograd.grad(first.square().sum(), direction)
    assert first.isfinite().all()
    assert second.isfinite().all()
    assert first.norm() > 0


@pytest.mark.parametrize("shape", [(9, 4), (9, 4, 3, 5)])
def test_batch_normalization_is_torchs(shape: tuple[int, ...]) -> None:
    theirs = (nn.BatchNorm1d(4) if len(shape) == 2 else nn.BatchNorm2d(4)).double()
    params = {"L.bias": random(4), "L.norm_scale": random(4)}
    theirs.load_state_dict({"weight": params["L.norm_scale"], "bias": params["L.bias"]}, strict=False)
    x = 3 * random(*shape) + 2
    torch.testing.assert_close(normalize(params, "L", x, "batch"), theirs(x))


@pytest.mark.parametrize("shape", [(9, 4), (9, 4, 3, 5)])
def test_mean_only_normalization_moves_each_channel_to_its_bias(shape: tuple[int, ...]) -> None:
    params = {"L.bias": random(4)}
    x = random(*shape)
    out = normalize(params, "L", x, "mean-only")
    torch.testing.assert_close(out.transpose(0, 1).flatten(1).mean(1), params["L.bias"])
    torch.testing.assert_close(out[0] - out[1], x[0] - x[1])


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_pooling_rounds_up_for_max_and_down_for_average(size: int) -> None:
    x = random(2, 3, size, size + 3)
    largest = pool(x, "max")
    assert largest.shape == (2, 3, (size + 1) // 2, (size + 4) // 2)
    torch.testing.assert_close(largest, nn.MaxPool2d(3, 2, 1)(x))
    if size > 1:
        mean = pool(x, "average")
        assert mean.shape == (2, 3, size // 2, (size + 3) // 2)
        torch.testing.assert_close(mean, nn.AvgPool2d(2)(x))


def test_the_other_layers_are_torchs() -> None:
    x = random(2, 3, 4, 5)
    logits = random(6, 3)
    y = torch.tensor([0, 2, 1, 1, 0, 2])
    torch.testing.assert_close(layers.leaky_relu_(x.clone()), nn.LeakyReLU(0.1)(x))
    torch.testing.assert_close(layers.cross_entropy(logits, y), nn.CrossEntropyLoss()(logits, y))
    torch.testing.assert_close(
        layers.cross_entropy(logits, y), layers.cross_entropy(logits, F.one_hot(y, 3).double())
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
def test_upsampling_padding_and_convolution_in_one(size: tuple[int, int]) -> None:
    x = random(2, 3, *size).requires_grad_()
    params = {"L.weight": random(4, 3, 3, 3).requires_grad_()}
    enlarge = nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1))
    found = layers.upsample_conv3x3(x, layers.upsampling_kernel(params, "L"))
    expected = F.conv2d(enlarge(x), params["L.weight"])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs = (x, params["L.weight"])
    cotangent = random(*expected.shape)
    for d, d_expected in zip(
        torch.autograd.grad(found, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(d, d_expected, rtol=1e-12, atol=1e-12)


@KINDS
def test_weight_normalized_and_plain_start_as_the_same_function(kind: str) -> None:
    plain, normalized = (
        init_layer("L", SHAPES[kind], rng(), weight_norm=w, dtype=torch.float64) for w in (False, True)
    )
    assert set(plain) == {"L.weight", "L.bias"}
    assert set(normalized) == {"L.direction", "L.gain", "L.bias"}
    torch.testing.assert_close(weight(normalized, "L"), weight(plain, "L"), rtol=1e-10, atol=0)


def test_initial_weights_are_he_normal_and_follow_from_the_seed() -> None:
    first, again, other = (
        init_layer("L", (200, 50, 3, 3), rng(seed), weight_norm=False, norm="batch", scale=0.5)
        for seed in (1, 1, 2)
    )
    assert first["L.weight"].std().item() == pytest.approx(0.5 * math.sqrt(2 / 450), rel=0.02)
    assert not first["L.bias"].any()
    assert first["L.norm_scale"].eq(1).all()
    assert all(first[name].equal(again[name]) for name in first)
    assert not first["L.weight"].equal(other["L.weight"])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
@pytest.mark.parametrize("out", [1, 4])
def test_four_pixels_from_a_plain_convolution_are_those_of_the_transposed_one(
    size: tuple[int, int], out: int
) -> None:
    x = random(2, 3, *size)
    w = random(out, 3, 3, 3)
    assert_same_with_gradients(
        lambda x, w: layers.subpixel_upsample_conv3x3({"L.weight": w}, "L", x),
        lambda x, w: layers.upsample_conv3x3(x, layers.upsampling_kernel({"L.weight": w}, "L")),
        x,
        w,
    )


@pytest.mark.parametrize("shape", [(5, 1, 6, 7), (2, 3, 5, 5), (1, 2, 1, 3)])
def test_a_convolution_as_a_product_of_patches(shape: tuple[int, ...]) -> None:
    assert_same_with_gradients(
        layers.conv3x3_of_patches,
        lambda x, w: F.conv2d(x, w, padding=1),
        random(*shape),
        random(4, shape[1], 3, 3),
    )


def test_the_border_is_replicated() -> None:
    """As on CUDA, where it is put together of parts, and as torch does it."""
    assert_same_with_gradients(
        layers.replicate_border, lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"), random(2, 3, 4, 5)
    )


def assert_same_with_gradients(found: Any, expected: Any, *tensors: torch.Tensor) -> None:
    """Two functions of these tensors: values, and gradients for a random direction."""
    results = []
    for f in (found, expected):
        leaves = [x.clone().requires_grad_() for x in tensors]
        y = f(*leaves)
        direction = torch.randn(y.shape, generator=rng(3), dtype=y.dtype)
        results.append((y, *torch.autograd.grad(y, leaves, direction)))
    for ours, theirs in zip(*results, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
