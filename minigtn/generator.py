"""The generator: latent vectors and labels in, synthetic images out, as a pure function of a dict of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from minigtn.layers import Params, init_layer, leaky_relu, linear, normalise, upsample_conv3x3


def init_generator(image_shape, inputs, dense, channels, rng, *, weight_norm=True, dtype=torch.float32) -> Params:
    colours, height, width = image_shape
    if height % 4 or width % 4:
        raise ValueError(f"the generator doubles the image twice, so height and width must be multiples of 4, not {height}x{width}")
    c1, c2 = channels
    shapes = {
        "dense1": (dense, inputs),
        "dense2": (c1 * (height // 4) * (width // 4), dense),
        "conv1": (c2, c1, 3, 3),
        "conv2": (colours, c2, 3, 3),
    }
    params: Params = {}
    for name, shape in shapes.items():
        params |= init_layer(name, shape, rng, weight_norm=weight_norm, norm="none" if name == "conv2" else "batch", dtype=dtype)
    return params


def generate(params: Params, inputs: Tensor, image_shape) -> Tensor:
    _, height, width = image_shape
    h = leaky_relu(normalise(params, "dense1", linear(params, "dense1", inputs), "batch"))
    h = leaky_relu(normalise(params, "dense2", linear(params, "dense2", h), "batch"))
    h = h.view(len(inputs), -1, height // 4, width // 4)
    h = leaky_relu(normalise(params, "conv1", upsample_conv3x3(params, "conv1", h), "batch"))
    return 2 * torch.tanh(normalise(params, "conv2", upsample_conv3x3(params, "conv2", h), "none"))
