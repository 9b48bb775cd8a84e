"""The generator: latent vectors and labels in, synthetic images out, as a pure function of a dict of weights.

Source: Such et al. 2019 (arXiv 1912.07768) in the set-up of the authors' code. Departure: one call makes the images of all inner steps, so
its batch normalisation sees the whole curriculum, not one inner batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minigtn.layers import EPS_NORM, Params, init_layer, leaky_relu_, linear, normalise, upsample_conv3x3, upsampling_kernel

BLOCK = 32  # images: few enough that their activations do not count, enough that fewer are slower on the CPU


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
    """Fresh weights for images (C, H, W), H and W multiples of 4, from ``inputs`` numbers each; ``dense`` is the width of the first layer,
    ``channels`` are those at a quarter and at half of the image size. Reproducible from ``rng``. ValueError for other sizes."""
    colours, height, width = image_shape
    if height % 4 or width % 4:
        raise ValueError(f"the generator doubles the image twice, so height and width must be multiples of 4, not {height}x{width}")
    c1, c2 = channels
    shapes: dict[str, tuple[int, ...]] = {
        "dense1": (dense, inputs),
        "dense2": (c1 * (height // 4) * (width // 4), dense),
        "conv1": (c2, c1, 3, 3),
        "conv2": (colours, c2, 3, 3),
    }
    params: Params = {}
    for name, shape in shapes.items():
        params |= init_layer(name, shape, rng, weight_norm=weight_norm, norm="none" if name == "conv2" else "batch", dtype=dtype)
    return params


def generate(params: Params, inputs: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """``inputs`` (N, Z + K), latent vectors beside one-hot labels -> images (N, C, H, W) in standardised units within (-2, 2).

    Memory: the three layers in front of a batch normalisation, whole, and one block of everything else (0.1 MiB an image at the sizes of
    the paper; 1.3 MiB without blocks). Time: the way back runs the second half of each layer once more. It can be differentiated once.
    """
    height = image_shape[1]
    kernels = upsampling_kernel(params, "conv1"), upsampling_kernel(params, "conv2")

    def doubled(h: Tensor, kernel: Tensor) -> Tensor:
        h = h.view(len(h), len(kernel), height // 4, -1) if h.dim() == 2 else h
        return upsample_conv3x3(h.contiguous(memory_format=torch.channels_last), kernel)

    def image(h: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return 2 * torch.tanh(doubled(h, kernel) + bias.view(-1, 1, 1))

    def normalised(name: str, x: Tensor, f: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return _Normalised.apply(f, x, params[f"{name}.norm_scale"], params[f"{name}.bias"], *tensors)

    h = leaky_relu_(normalise(params, "dense1", linear(params, "dense1", inputs), "batch"))
    h = checkpoint(lambda h: linear(params, "dense2", h), h, use_reentrant=False, preserve_rng_state=False)  # a weight of 6 million
    h = normalised("dense2", h, doubled, kernels[0])
    return normalised("conv1", h, image, kernels[1], params["conv2.bias"])


class _Normalised(torch.autograd.Function):
    """``f(leaky_relu_(batch_norm(x, scale, bias)), *tensors)``: the statistics over all of ``x`` (N, channels, ...), the rest in blocks.

    Only ``x`` is kept. The way back computes each block once more and differentiates it with the statistics held fixed; what flows through
    them, ``-scale / deviation * (mean of d_y + y * mean of d_y y)`` with y the normalised x, is added when all blocks are known.
    """

    @staticmethod
    def forward(ctx: Any, f: Callable[..., Tensor], x: Tensor, *tensors: Tensor) -> Tensor:
        ctx.f, statistics = f, torch.batch_norm_update_stats(x.detach(), None, None, 0.0)
        ctx.save_for_backward(x, *statistics, *tensors)
        first, *rest = x.split(BLOCK)
        part = _apply(f, statistics, first, *tensors)
        out = part.new_empty_strided((len(x), *part.shape[1:]), part.stride())  # of the same memory format
        out[: len(first)] = part
        for rows, out_rows in zip(rest, out[len(first) :].split(BLOCK), strict=bool(rest)):
            out_rows.copy_(_apply(f, statistics, rows, *tensors))
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the generator can be differentiated once, and create_graph=True asks for more; leave it out")
        x, mean, variance, *tensors = ctx.saved_tensors
        leaves = [t.detach().requires_grad_() for t in tensors]
        d_x, d_tensors = torch.empty_like(x), [torch.zeros_like(t) for t in tensors]
        for rows, d_rows, d_out_rows in zip(x.split(BLOCK), d_x.split(BLOCK), d_out.split(BLOCK), strict=True):
            inputs = [rows.detach().requires_grad_(), *leaves]
            with torch.enable_grad():
                out = _apply(ctx.f, (mean, variance), *inputs)
            parts = torch.autograd.grad(out, inputs, d_out_rows)
            d_rows.copy_(parts[0])
            for d, part in zip(d_tensors, parts[1:], strict=True):
                d += part
        per_channel = (-1, *[1] * (x.dim() - 2))
        deviation, n = (variance + EPS_NORM).sqrt(), x.numel() / len(mean)
        d_scale, d_bias = d_tensors[:2]
        slope = -tensors[0] / deviation / n * d_scale / deviation
        level = -tensors[0] / deviation / n * d_bias - slope * mean
        for rows, d_rows in zip(x.split(BLOCK), d_x.split(BLOCK), strict=True):
            d_rows.addcmul_(rows, slope.view(per_channel)).add_(level.view(per_channel))
        return None, d_x, *d_tensors


def _apply(f: Callable[..., Tensor], statistics: Sequence[Tensor], x: Tensor, scale: Tensor, bias: Tensor, *tensors: Tensor) -> Tensor:
    mean, variance = statistics
    return f(leaky_relu_(F.batch_norm(x, mean, variance, scale, bias, eps=EPS_NORM)), *tensors)
