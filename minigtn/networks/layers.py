"""Layers as pure functions of a dict of weights.

A layer called ``L`` reads the entries ``L.<role>`` of ``params: dict[str, Tensor]``:

====================  ============================  =========================================================
role                  shape                         meaning
====================  ============================  =========================================================
``weight``            (out, in) or (out, in, 3, 3)  the weight itself, when the layer is not weight-normalized
``direction, gain``   as weight; (out,)             weight normalization: W = gain * direction / |direction|
``bias``              (out,)                        added after the normalization, so one bias serves both
``norm_scale``        (out,)                        only with ``norm="batch"``
====================  ============================  =========================================================

Sources: weight normalization and mean-only batch normalization, Salimans & Kingma 2016 (arXiv 1602.07868,
sections 2 and 3); their place in a GTN, Such et al. 2019 (arXiv 1912.07768). Departure: 1e-12 under the
square root of ``|direction|``, so that a zero direction has a finite second derivative. All statistics are
those of the batch at hand: no running state, so a learner is a pure function, and predictions depend
(slightly) on the batch an image is evaluated in.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from minigtn.inner.training import Params

Norm = Literal["none", "mean-only", "batch"]
Pool = Literal["max", "average"]

FEW_CHANNELS = 4
SLOPE = 0.1  # of every leaky ReLU, as in the authors' code
EPS_NORM = 1e-5
EPS_DIRECTION = 1e-12


def init_layer(
    name: str,
    shape: tuple[int, ...],
    rng: torch.Generator,
    *,
    weight_norm: bool,
    norm: Norm = "none",
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Params:
    """Fresh weights of one dense ``(out, in)`` or conv ``(out, in, 3, 3)`` layer, on the CPU, reproducible
    from ``rng``.

    Weights are normal with standard deviation ``scale * sqrt(2 / fan_in)`` (He et al. 2015); with weight
    normalization the initial ``gain`` is the length of the direction, so both kinds start as the same
    function. Biases start at zero.
    """
    out = shape[0]
    fan_in = math.prod(shape[1:])
    weight = torch.randn(shape, generator=rng, dtype=dtype) * (scale * math.sqrt(2.0 / fan_in))
    params: Params = {}
    if weight_norm:
        params[f"{name}.direction"] = weight
        params[f"{name}.gain"] = weight.flatten(1).norm(dim=1)
    else:
        params[f"{name}.weight"] = weight
    params[f"{name}.bias"] = torch.zeros(out, dtype=dtype)
    if norm == "batch":
        params[f"{name}.norm_scale"] = torch.ones(out, dtype=dtype)
    return params


def weight(params: Params, name: str) -> Tensor:
    """The weight of layer ``name``: ``(out, in[, 3, 3])``, weight-normalized if the layer has a direction and
    a gain."""
    plain = params.get(f"{name}.weight")
    if plain is not None:
        return plain
    direction = params[f"{name}.direction"]
    gain = params[f"{name}.gain"]
    length = (direction.flatten(1).square().sum(1) + EPS_DIRECTION).sqrt()  # (out,)
    return direction * (gain / length).view(-1, *[1] * (direction.dim() - 1))


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """``(N, in) -> (N, out)``, without the bias."""
    return x @ weight(params, name).T


def conv3x3(params: Params, name: str, x: Tensor) -> Tensor:
    """``(N, in, H, W) -> (N, out, H, W)``: 3x3, stride 1, zero padding, without the bias.

    The result is channels-last in memory, which max pooling is 4 to 15 times faster with on the CPU
    (docs/performance.md). The weight decides that, not ``x``: with one channel ``x`` has both formats at once
    (and so has a weight; that is why it is copied, in a way that torch.func.vmap knows).
    """
    w = weight(params, name)
    if x.is_cuda and x.shape[1] <= FEW_CHANNELS:
        return conv3x3_of_patches(x, w)
    channels_last = w.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)
    return F.conv2d(x, channels_last, padding=1)


def conv3x3_of_patches(x: Tensor, w: Tensor) -> Tensor:
    """The same convolution as a product of matrices: (N H W, 9 in) times (9 in, out). Where ``in`` is 1 to 3,
    cuDNN's kernels leave most of a GPU idle, the way back to the weights above all: a step of the paper's
    MNIST learner took 0.44 ms for 0.60, a step back 1.42 for 1.83 (one H200, TF32, compiled). Not on a
    CPU."""
    N, C, H, W = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    places = [padded[:, :, i : i + H, j : j + W] for i in range(3) for j in range(3)]
    patches = torch.stack(places, -1).permute(0, 2, 3, 1, 4).reshape(N * H * W, 9 * C)
    return (patches @ w.reshape(len(w), 9 * C).T).view(N, H, W, len(w)).permute(0, 3, 1, 2)


def normalize(params: Params, name: str, x: Tensor, norm: Norm) -> Tensor:
    """Normalize each channel over all other axes of ``x`` (N, channels, ...), then add the layer's bias. Same
    shape."""
    axes = [0, *range(2, x.dim())]
    per_channel = (1, -1, *[1] * (x.dim() - 2))
    if norm != "none":
        x = x - x.mean(axes, keepdim=True)
    if norm == "batch":
        deviation = (x.square().mean(axes, keepdim=True) + EPS_NORM).sqrt()
        x = x * (params[f"{name}.norm_scale"].view(per_channel) / deviation)
    return x + params[f"{name}.bias"].view(per_channel)


def leaky_relu_(x: Tensor) -> Tensor:
    """``max(x, 0.1 x)``, written over ``x``: what came before must not need its own result on the way
    back."""
    return F.leaky_relu(x, SLOPE, inplace=True)


def pool(x: Tensor, kind: Pool) -> Tensor:
    """Halve height and width: ``max`` is 3x3 stride 2 padding 1 (rounds up), ``average`` is 2x2 stride 2
    (rounds down)."""
    return F.max_pool2d(x, 3, 2, 1) if kind == "max" else F.avg_pool2d(x, 2)


def upsampling_kernel(params: Params, name: str) -> Tensor:
    """The 4x4 kernel ``(in, out, 4, 4)`` with which :func:`upsample_conv3x3` does the work of layer
    ``name``'s 3x3 kernel."""
    w = weight(params, name)
    place = torch.arange(4, device=w.device).view(4, 1) + torch.arange(3, device=w.device)
    spread = ((place == 2) | (place == 3)).to(w.dtype)  # where x[m] goes, 2m - 1 to 2m + 2, by w0, w1, w2
    return torch.einsum("ak,oikl,bl->ioab", spread, w, spread)


def subpixel_upsample_conv3x3(params: Params, name: str, x: Tensor) -> Tensor:
    """What :func:`upsample_conv3x3` computes, by a 3x3 convolution to the four pixels that each becomes:
    ``(N, in, H, W) -> (N, out, 2H, 2W)``. 9/4 of its products, but plain convolutions there and back: on a
    GPU faster where ``out`` is 1 to 3, for which cuDNN's transposed kernels are poor."""
    w = weight(params, name)
    phase = torch.arange(2, device=w.device).view(2, 1, 1)
    tap = torch.arange(3, device=w.device).view(1, 3, 1)  # of x[m-1], x[m], x[m+1]
    k = torch.arange(3, device=w.device).view(1, 1, 3)  # of w0, w1, w2
    spread = (tap == (phase + k + 1) // 2).to(w.dtype)  # output 2m + phase
    kernel = torch.einsum("atk,oikl,bul->oabitu", spread, w, spread).flatten(0, 2)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    return F.pixel_shuffle(F.conv2d(replicate_border(x), kernel), 2)


def upsample_conv3x3(x: Tensor, kernel: Tensor) -> Tensor:
    """Nearest upsampling to twice the size, reflection padding, a 3x3 convolution without its bias: ``(N, in,
    H, W) -> (N, out, 2H, 2W)``.

    Every second product of that meets the same pixel twice. Along one axis, output 2m is ``w0 x[m-1] + (w1 +
    w2) x[m]`` and output 2m + 1 is ``(w0 + w1) x[m] + w2 x[m+1]``, and the padding repeats the pixel at the
    border: a transposed convolution of stride 2 with the ``kernel`` of :func:`upsampling_kernel`, 4/9 of the
    products and no enlarged copy of ``x``.
    """
    return F.conv_transpose2d(replicate_border(x), kernel, stride=2, padding=3)


def replicate_border(x: Tensor) -> Tensor:
    """One more pixel on each side, that of the border: (N, C, H, W) -> (N, C, H + 2, W + 2).

    On CUDA by concatenation: torch's own padding has no deterministic way back there but one of some 20 ms at
    the paper's size. On the CPU torch's own is 4 to 7 times faster; the bits of both are the same.
    """
    if not x.is_cuda:
        return F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
    return torch.cat([x[:, :, :, :1], x, x[:, :, :, -1:]], 3)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross entropy of ``logits`` (N, K) against class probabilities ``y`` (N, K) or class numbers ``y``
    (N,), a scalar."""
    return F.cross_entropy(logits, y)
