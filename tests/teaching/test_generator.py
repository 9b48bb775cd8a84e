"""The generator in blocks against the same formula written plainly, whole, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minigtn.networks.layers import Params, leaky_relu_, linear, normalize, weight
from minigtn.studies.problems import relative_difference
from minigtn.teaching import generator
from minigtn.teaching.generator import BLOCK, generate, generate_whole, images_at_once, init_generator

SHAPE = (3, 8, 12)
BLOCKS = pytest.mark.parametrize("block", [1, 4, 7, 11, 64])


def plain(params: Params, inputs: Tensor) -> Tensor:
    """Upsampling, reflection padding and 3x3 convolution one after the other, torch's own gradients."""

    def upsampled(name: str, h: Tensor) -> Tensor:
        return F.conv2d(
            F.pad(F.interpolate(h, scale_factor=2), (1, 1, 1, 1), mode="reflect"), weight(params, name)
        )

    h = leaky_relu_(normalize(params, "dense1", linear(params, "dense1", inputs), "batch"))
    h = leaky_relu_(normalize(params, "dense2", linear(params, "dense2", h), "batch"))
    h = h.view(len(h), -1, SHAPE[1] // 4, SHAPE[2] // 4)
    h = leaky_relu_(normalize(params, "conv1", upsampled("conv1", h), "batch"))
    return 2 * torch.tanh(normalize(params, "conv2", upsampled("conv2", h), "none"))


def case(dtype: torch.dtype = torch.float64) -> tuple[Params, Tensor]:
    """Weights that are not fresh ones, gains so small that the epsilon of batch normalization counts, and
    inputs for 11 images."""
    params = init_generator(SHAPE, 6, 9, (5, 4), torch.Generator().manual_seed(1), dtype=dtype)
    params = {name: w + 0.1 * torch.randn_like(w) for name, w in params.items()}
    for name in ("dense1.gain", "dense2.gain", "conv1.gain"):
        params[name] *= 0.01
    return {name: w.requires_grad_() for name, w in params.items()}, torch.randn(
        11, 6, dtype=dtype, requires_grad=True
    )


def images_and_gradients(f, params: Params, inputs: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    images = f(params, inputs)
    names, tensors = zip(*params.items(), ("inputs", inputs), strict=True)
    return {
        "images": images.detach(),
        **dict(zip(names, torch.autograd.grad(images, tensors, cotangent), strict=True)),
    }


@BLOCKS
def test_blocks_give_the_images_and_gradients_of_the_plain_formula(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(generator, "BLOCK", block)
    (params, inputs) = case()
    cotangent = torch.randn(11, *SHAPE, dtype=torch.float64)
    found = images_and_gradients(lambda p, x: generate(p, x, SHAPE), params, inputs, cotangent)
    for name, expected in images_and_gradients(plain, params, inputs, cotangent).items():
        assert expected.abs().max() > 1e-6, name
        assert relative_difference(found[name], expected) < 1e-12, name


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_float32_in_any_memory_format_repeats_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(generator, "BLOCK", 4)
    (params, inputs) = case(torch.float32)
    cotangent = torch.randn(11, *SHAPE)
    expected = images_and_gradients(
        plain, {k: w.double() for k, w in params.items()}, inputs.double(), cotangent.double()
    )
    params = {k: w.detach().to(device).requires_grad_() for k, w in params.items()}
    inputs = inputs.detach().to(device).requires_grad_()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        runs = [
            images_and_gradients(lambda p, x: generate(p, x, SHAPE), params, inputs, cotangent.to(device))
            for _ in range(2)
        ]
    for name, d in runs[0].items():
        assert d.equal(runs[1][name]), name
        assert relative_difference(d.double().cpu(), expected[name]) < 1e-4, name


def test_statistics_of_one_block_alone_would_be_noticed() -> None:
    params, inputs = case()
    whole = generate(params, inputs, SHAPE).detach()
    apart = torch.cat([generate(params, rows, SHAPE) for rows in inputs.split(4)]).detach()
    assert relative_difference(apart, whole) > 1e-3


def test_a_second_derivative_is_refused() -> None:
    params, inputs = case()
    images = generate(params, inputs, SHAPE)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(images.sum(), inputs, create_graph=True)


def test_without_grad_nothing_is_kept_and_the_images_are_the_same() -> None:
    params, inputs = case()
    with torch.no_grad():
        images = generate(params, inputs, SHAPE)
    assert not images.requires_grad
    assert images.equal(generate(params, inputs, SHAPE))


@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 8, 9)])
def test_images_that_do_not_halve_twice_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        init_generator(shape, 6, 9, (5, 4), torch.Generator())


# ---- in one go ----


def test_in_one_go_it_is_the_same_function() -> None:
    params, inputs = case()
    cotangent = torch.randn(11, *SHAPE, dtype=torch.float64)
    whole = images_and_gradients(lambda p, x: generate_whole(p, x, SHAPE[1]), params, inputs, cotangent)
    blocks = images_and_gradients(lambda p, x: generate(p, x, SHAPE), params, inputs, cotangent)
    for name, expected in blocks.items():
        assert expected.abs().max() > 1e-6, name
        assert relative_difference(whole[name], expected) < 1e-8, name


def test_on_a_cpu_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where somebody has a compiled one to offer."""
    params, inputs = case()

    def never(*_: object) -> Tensor:
        raise AssertionError("made in one go")

    monkeypatch.setattr(generator, "generate_whole", never)
    assert generate(params, inputs, SHAPE, never).shape == (11, *SHAPE)
    assert images_at_once(inputs, params) == BLOCK


@pytest.mark.parametrize(("gib", "least"), [(0, True), (80, False)])
def test_images_at_once_on_cuda_follow_from_its_memory(
    monkeypatch: pytest.MonkeyPatch, gib: int, least: bool
) -> None:
    """The same on each call, whatever is free; never fewer than BLOCK."""

    class OnCuda:
        is_cuda = True
        device = "cuda:0"

        @staticmethod
        def element_size() -> int:
            return 8

    params, _ = case()
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: type("P", (), {"total_memory": gib * 2**30})
    )
    found = images_at_once(OnCuda(), params)
    of_one = 8 * 5 * (9 + params["dense2.bias"].numel() + 4 * 6 * params["conv1.bias"].numel())
    assert found == (BLOCK if least else 10 * 2**30 // of_one)
