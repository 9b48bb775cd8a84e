"""The generator: latent vectors and labels in, synthetic images out, as a pure function of a dict of weights.

Source: Such et al. 2019 (arXiv 1912.07768) in the set-up of the authors' code. Departure: one call makes the
images of all inner steps, so its batch normalization sees the whole curriculum, not one inner batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minigtn.networks.layers import (
    EPS_NORM,
    Params,
    init_layer,
    leaky_relu_,
    linear,
    normalize,
    subpixel_upsample_conv3x3,
    upsample_conv3x3,
    upsampling_kernel,
    weight,
)

BLOCK = 32
"""Images computed at once on the CPU: their activations fit its caches, and fewer are slower."""
SHARE_OF_DEVICE = 8
"""On CUDA all images are computed at once if what that keeps fits into this part of the memory (1/8), or else
in blocks that do."""


def init_generator(
    image_shape: tuple[int, ...],
    inputs: int,
    dense: int,
    channels: tuple[int, int],
    rng: torch.Generator,
    *,
    weight_norm: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Params:
    """Fresh weights for images (C, H, W), H and W multiples of 4, from ``inputs`` numbers each; ``dense`` is
    the width of the first layer, ``channels`` are those at a quarter and at half of the image size.
    Reproducible from ``rng``. ValueError for other sizes."""
    colours, height, width = image_shape
    if height % 4 or width % 4:
        raise ValueError(
            "the generator doubles the image twice, so height and width must be multiples of 4, not "
            f"{height}x{width}"
        )
    c1, c2 = channels
    shapes: dict[str, tuple[int, ...]] = {
        "dense1": (dense, inputs),
        "dense2": (c1 * (height // 4) * (width // 4), dense),
        "conv1": (c2, c1, 3, 3),
        "conv2": (colours, c2, 3, 3),
    }
    params: Params = {}
    for name, shape in shapes.items():
        params |= init_layer(
            name,
            shape,
            rng,
            weight_norm=weight_norm,
            norm="none" if name == "conv2" else "batch",
            dtype=dtype,
        )
    return params


def generate(
    params: Params,
    inputs: Tensor,
    image_shape: tuple[int, ...],
    whole: Callable[..., Tensor] | None = None,
) -> Tensor:
    """``inputs`` (N, Z + K), latent vectors beside one-hot labels -> images (N, C, H, W) in standardized
    units within (-2, 2).

    On the CPU in blocks of images: memory of the three layers in front of a batch normalization, whole, and
    of one block of everything else (0.1 MiB an image at the sizes of the paper; 1.3 MiB without blocks); the
    way back runs the second half of each layer once more, and it can be differentiated once. On CUDA many
    small launches would cost far more than the memory: all at once, or in the largest blocks that fit.
    ``whole`` stands in for :func:`generate_whole`: a compiled one.
    """
    block = images_at_once(inputs, params)
    if inputs.is_cuda and len(inputs) <= block:
        return (whole or generate_whole)(params, inputs, image_shape[1])
    return _generate_in_blocks(params, inputs, image_shape[1], block)


def images_at_once(inputs: Tensor, params: Params) -> int:
    """Images whose activations may be kept at the same time: BLOCK on the CPU, and on CUDA what fits into a
    fixed part of the device's memory, so that it is the same whenever the device is."""
    if not inputs.is_cuda:
        return BLOCK
    of_layer = [params[f"{name}.bias"].numel() for name in ("dense1", "dense2")]
    pixels = of_layer[1] // _channels(params)  # at a quarter of the size
    numbers = 5 * (sum(of_layer) + 4 * pixels * params["conv1.bias"].numel())
    total = torch.cuda.get_device_properties(inputs.device).total_memory
    return max(BLOCK, total // SHARE_OF_DEVICE // (numbers * inputs.element_size()))


def generate_whole(params: Params, inputs: Tensor, height: int) -> Tensor:
    """:func:`generate` in one go, with torch's own gradients."""

    def normalized(name: str, x: Tensor) -> Tensor:
        scale = params[f"{name}.norm_scale"]
        return leaky_relu_(F.batch_norm(x, None, None, scale, params[f"{name}.bias"], True, eps=EPS_NORM))

    h = normalized("dense1", linear(params, "dense1", inputs))
    h = normalized("dense2", linear(params, "dense2", h))
    h = h.view(len(h), -1, height // 4, len(h[0]) // _channels(params) // (height // 4))
    h = h.contiguous(memory_format=torch.channels_last)
    h = normalized("conv1", upsample_conv3x3(h, upsampling_kernel(params, "conv1")))
    h = subpixel_upsample_conv3x3(params, "conv2", h)
    return 2 * torch.tanh(h + params["conv2.bias"].view(-1, 1, 1))


def _channels(params: Params) -> int:
    """Of the images at a quarter of the size."""
    return weight(params, "conv1").shape[1]


def _generate_in_blocks(params: Params, inputs: Tensor, height: int, block: int) -> Tensor:
    kernels = upsampling_kernel(params, "conv1"), upsampling_kernel(params, "conv2")

    def doubled(h: Tensor, kernel: Tensor) -> Tensor:
        h = h.view(len(h), len(kernel), height // 4, -1) if h.dim() == 2 else h
        return upsample_conv3x3(h.contiguous(memory_format=torch.channels_last), kernel)

    def image(h: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return 2 * torch.tanh(doubled(h, kernel) + bias.view(-1, 1, 1))

    def normalized(name: str, x: Tensor, f: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return _Normalized.apply(block, f, x, params[f"{name}.norm_scale"], params[f"{name}.bias"], *tensors)

    h = leaky_relu_(normalize(params, "dense1", linear(params, "dense1", inputs), "batch"))
    # a weight of 6 million
    h = checkpoint(lambda h: linear(params, "dense2", h), h, use_reentrant=False, preserve_rng_state=False)
    h = normalized("dense2", h, doubled, kernels[0])
    return normalized("conv1", h, image, kernels[1], params["conv2.bias"])


class _Normalized(torch.autograd.Function):
    """``f(leaky_relu_(batch_norm(x, scale, bias)), *tensors)``: the statistics over all of ``x`` (N,
    channels, ...), the rest in blocks.

    Only ``x`` is kept. The way back computes each block once more and differentiates it with the statistics
    held fixed; what flows through them, ``-scale / deviation * (mean of d_y + y * mean of d_y y)`` with y the
    normalized x, is added when all blocks are known.
    """

    @staticmethod
    def forward(ctx: Any, block: int, f: Callable[..., Tensor], x: Tensor, *tensors: Tensor) -> Tensor:
        ctx.f = f
        ctx.block = block
        statistics = torch.batch_norm_update_stats(x.detach(), None, None, 0.0)
        ctx.save_for_backward(x, *statistics, *tensors)
        first, *rest = x.split(block)
        part = _apply(f, statistics, first, *tensors)
        out = part.new_empty_strided((len(x), *part.shape[1:]), part.stride())  # of the same memory format
        out[: len(first)] = part
        for rows, out_rows in zip(rest, out[len(first) :].split(block), strict=bool(rest)):
            out_rows.copy_(_apply(f, statistics, rows, *tensors))
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the generator can be differentiated once, and create_graph=True asks for more; leave it out"
            )
        x, mean, variance, *tensors = ctx.saved_tensors
        block = ctx.block
        leaves = [t.detach().requires_grad_() for t in tensors]
        d_x = torch.empty_like(x)
        d_tensors = [torch.zeros_like(t) for t in tensors]
        for rows, d_rows, d_out_rows in zip(
            x.split(block), d_x.split(block), d_out.split(block), strict=True
        ):
            inputs = [rows.detach().requires_grad_(), *leaves]
            with torch.enable_grad():
                out = _apply(ctx.f, (mean, variance), *inputs)
            parts = torch.autograd.grad(out, inputs, d_out_rows)
            d_rows.copy_(parts[0])
            for d, part in zip(d_tensors, parts[1:], strict=True):
                d += part
        per_channel = (-1, *[1] * (x.dim() - 2))
        deviation = (variance + EPS_NORM).sqrt()
        n = x.numel() / len(mean)
        d_scale, d_bias = d_tensors[:2]
        slope = -tensors[0] / deviation / n * d_scale / deviation
        level = -tensors[0] / deviation / n * d_bias - slope * mean
        for rows, d_rows in zip(x.split(block), d_x.split(block), strict=True):
            d_rows.addcmul_(rows, slope.view(per_channel)).add_(level.view(per_channel))
        return None, None, d_x, *d_tensors


def _apply(
    f: Callable[..., Tensor],
    statistics: Sequence[Tensor],
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *tensors: Tensor,
) -> Tensor:
    mean, variance = statistics
    return f(leaky_relu_(F.batch_norm(x, mean, variance, scale, bias, eps=EPS_NORM)), *tensors)
