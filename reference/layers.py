"""The learner and the generator, as pure functions of named weights (autograd.numpy, float64, images NCHW).

A layer L has ``L.weight``, or with weight normalization ``L.direction`` (same shape) and ``L.gain`` (out,);
``L.bias`` (out,), added after the activations are normalized; with batch norm also ``L.norm_scale`` (out,).
Weights are (out, in) for a dense layer and (out, in, 3, 3) for a convolution.

Sources: weight normalization and mean-only batch norm, Salimans & Kingma 2016 (arXiv 1602.07868), sections 2
and 3; the networks, Such et al. 2019 (arXiv 1912.07768). All norms use the batch at hand: no running
averages, nothing hidden.

Letters: N images, C channels, H by W pixels, K classes, Z length of the generator's input, P weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import autograd.numpy as np
import numpy as onp

Array = Any  # an ndarray, or autograd's box around one
Params = Mapping[str, Array]
Norm = Literal["none", "mean-only", "batch"]
Pool = Literal["max", "average"]

SLOPE = 0.1  # of the leaky ReLU
EPS_NORM = 1e-5
EPS_DIRECTION = 1e-12  # keeps the derivative of a length finite at zero


@dataclass(frozen=True)
class Layout:
    """Where each named array lives in one flat vector w (P,). ``unflatten`` can be differentiated."""

    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, params: Params) -> "Layout":
        return cls({name: onp.shape(array) for name, array in params.items()})

    def slices(self) -> Iterator[tuple[str, slice]]:
        start = 0
        for name, shape in self.shapes.items():
            stop = start + int(onp.prod(shape))
            yield name, slice(start, stop)
            start = stop

    def flatten(self, params: Params) -> Array:
        return np.concatenate([np.ravel(params[name]) for name in self.shapes])

    def unflatten(self, w: Array) -> dict[str, Array]:
        return {name: np.reshape(w[where], self.shapes[name]) for name, where in self.slices()}

    def name_of(self, index: int) -> str:
        """The name of the array that entry ``index`` of the flat vector belongs to."""
        return next(name for name, where in self.slices() if index < where.stop)


def weight(params: Params, layer: str) -> Array:
    """``L.weight``, or ``gain * direction / |direction|`` with the length taken per output."""
    if f"{layer}.weight" in params:
        return params[f"{layer}.weight"]
    direction = params[f"{layer}.direction"]
    axes = tuple(range(1, direction.ndim))
    length = np.sqrt(np.sum(direction**2, axis=axes, keepdims=True) + EPS_DIRECTION)
    return _per_output(params[f"{layer}.gain"], direction.ndim, axis=0) * direction / length


def dense(x: Array, weight: Array) -> Array:
    """(N, in), (out, in) -> (N, out)."""
    return np.dot(x, weight.T)


def conv3x3(x: Array, weight: Array) -> Array:
    """(N, C, H+2, W+2) padded already, (out, C, 3, 3) -> (N, out, H, W): a sum over the nine places of the
    window."""
    H, W = x.shape[2:]
    y = 0.0
    for i in range(3):
        for j in range(3):
            y = y + np.einsum("nchw,oc->nohw", x[:, :, i : i + H - 2, j : j + W - 2], weight[:, :, i, j])
    return y


def pad(x: Array, value: float) -> Array:
    """One pixel of ``value`` on each side: (N, C, H, W) -> (N, C, H + 2, W + 2)."""
    return np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="constant", constant_values=value)


def reflect_pad(x: Array) -> Array:
    """One mirrored pixel on each side (the border pixel is not repeated)."""
    x = np.concatenate([x[:, :, 1:2], x, x[:, :, -2:-1]], axis=2)
    return np.concatenate([x[:, :, :, 1:2], x, x[:, :, :, -2:-1]], axis=3)


def upsample(x: Array) -> Array:
    """Nearest neighbour: (N, C, H, W) -> (N, C, 2H, 2W)."""
    return np.repeat(np.repeat(x, 2, axis=2), 2, axis=3)


def max_pool(x: Array) -> Array:
    """Window 3, stride 2, padding 1: (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2)).

    Where entries are equal, the first of them has the gradient.
    """
    H, W = x.shape[2:]
    x = pad(x, -np.inf)
    best = x[:, :, 0:H:2, 0:W:2]
    for i in range(3):
        for j in range(3):
            entry = x[:, :, i : i + H : 2, j : j + W : 2]
            best = np.where(entry > best, entry, best)
    return best


def average_pool(x: Array) -> Array:
    """Window 2, stride 2: (N, C, H, W) -> (N, C, H//2, W//2); an odd last row or column is left out."""
    N, C, H, W = x.shape
    windows = (N, C, H // 2, 2, W // 2, 2)
    return np.mean(np.reshape(x[:, :, : H - H % 2, : W - W % 2], windows), axis=(3, 5))


POOLS = {"max": max_pool, "average": average_pool}


def normalize(params: Params, layer: str, x: Array, norm: Norm) -> Array:
    """Normalize each channel of x (N, C) or (N, C, H, W) over all other axes (biased variance), then add the
    bias."""
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    if norm != "none":
        x = x - np.mean(x, axis=axes, keepdims=True)
    if norm == "batch":
        x = x / np.sqrt(np.mean(x**2, axis=axes, keepdims=True) + EPS_NORM)
        x = x * _per_output(params[f"{layer}.norm_scale"], x.ndim)
    return x + _per_output(params[f"{layer}.bias"], x.ndim)


def leaky_relu(x: Array) -> Array:
    return np.where(x > 0, x, SLOPE * x)


def cross_entropy(logits: Array, y: Array) -> Array:
    """Mean over N of ``-sum_k y log softmax(logits)``; logits and y (one-hot or soft) are (N, K)."""
    shifted = logits - np.max(logits, axis=1, keepdims=True)
    return np.mean(np.sum(y * (np.log(np.sum(np.exp(shifted), axis=1, keepdims=True)) - shifted), axis=1))


def learner(params: Params, x: Array, norm: Norm = "mean-only", pool: Pool = "max") -> Array:
    """Logits (N, K) of images (N, C, H, W): conv1, conv2, ..., dense1, ... (as many as ``params`` names), and
    the head.

    conv: zero padding, 3x3, pool, normalize and bias, leaky ReLU. dense: normalize and bias, leaky ReLU.
    head: bias.
    """
    for layer in _numbered(params, "conv"):
        x = POOLS[pool](conv3x3(pad(x, 0.0), weight(params, layer)))
        x = leaky_relu(normalize(params, layer, x, norm))
    x = np.reshape(x, (x.shape[0], -1))
    for layer in _numbered(params, "dense"):
        x = leaky_relu(normalize(params, layer, dense(x, weight(params, layer)), norm))
    return normalize(params, "head", dense(x, weight(params, "head")), "none")


def generator(params: Params, z: Array, y: Array, size: tuple[int, int]) -> Array:
    """Images (N, C, H, W) in (-2, 2) from inputs z (N, Z) and labels y (N, K); ``size`` is (H, W), multiples
    of 4."""
    if size[0] % 4 or size[1] % 4:
        raise ValueError(f"height and width must be multiples of 4, to be doubled to twice, not {size}")
    x = np.concatenate([z, y], axis=1)
    for layer in ("dense1", "dense2"):
        x = leaky_relu(normalize(params, layer, dense(x, weight(params, layer)), "batch"))
    x = np.reshape(x, (x.shape[0], -1, size[0] // 4, size[1] // 4))
    x = conv3x3(reflect_pad(upsample(x)), weight(params, "conv1"))
    x = leaky_relu(normalize(params, "conv1", x, "batch"))
    x = conv3x3(reflect_pad(upsample(x)), weight(params, "conv2"))
    return 2.0 * np.tanh(normalize(params, "conv2", x, "none"))


def _numbered(params: Params, kind: str) -> Iterator[str]:
    """``kind1, kind2, ...`` as long as ``params`` has them."""
    number = 1
    while f"{kind}{number}.bias" in params:
        yield f"{kind}{number}"
        number += 1


def _per_output(x: Array, ndim: int, axis: int = 1) -> Array:
    """(out,) as an array of ``ndim`` axes that lies along ``axis``."""
    return np.reshape(x, [-1 if a == axis else 1 for a in range(ndim)])
