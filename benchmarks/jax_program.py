"""The outer step as a JAX user writes it: jit, lax.scan over inner steps, jax.checkpoint of each, NHWC.

Run by ``jax_peer.py`` in a process of its own, which torch is not loaded into:  python jax_program.py FOLDER

FOLDER holds problem.json (settings) and arrays.npz (weights and data in JAX's layout). The first line on the
standard output, JSON, says what compiling and the first step took; the gradient of that step goes to
FOLDER/gradient.npz. Then every line on the standard input asks for one more step, and gets one line: its
seconds and its loss.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from resident import forget_resident_peak, give_back_memory, resident_bytes

Arrays = dict[str, jax.Array]
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32"}
EPS_NORM = 1e-5


# ---- the networks ------------------------------------------------------------------------------------------


def convolution(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    """3x3, stride 1: (N, H, W, in) with (3, 3, in, out)."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=layout)


def convolution_by_products(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    """The same from the nine shifted images side by side and one matrix product."""
    if padding == "SAME":
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height = x.shape[1] - 2
    width = x.shape[2] - 2
    shifted = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(-1, kernel.shape[-1])


CONVOLUTIONS = {"native": convolution, "products": convolution_by_products}


def max_pool(x: jax.Array) -> jax.Array:
    """3x3, stride 2, padding 1."""
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def weight_normalized(direction: jax.Array, gain: jax.Array) -> jax.Array:
    """The output channel is the last axis."""
    return direction * (gain / jnp.sqrt(jnp.square(direction).sum(tuple(range(direction.ndim - 1)))))


def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) * lax.rsqrt(x.var(axes) + EPS_NORM) * scale + bias


def upsampled(x: jax.Array) -> jax.Array:
    """Nearest neighbours to twice the size, then reflection padding by one."""
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Mean over the images; ``y`` (N, K) are class probabilities."""
    return -(y * jax.nn.log_softmax(logits)).sum(-1).mean()


# ---- the outer step ----------------------------------------------------------------------------------------


def make_meta_loss(settings: dict[str, Any]) -> Callable[[Arrays, Arrays, Arrays], jax.Array]:
    """``meta_loss(teacher, learner, data)``, a scalar, for the sizes and constants in ``settings``."""
    conv = CONVOLUTIONS[settings["convolution"]]
    channels, height, width = settings["image"]

    def active(x: jax.Array) -> jax.Array:
        return jax.nn.leaky_relu(x, settings["slope"])

    def logits(w: Arrays, x: jax.Array) -> jax.Array:
        for i in range(1, len(settings["channels"]) + 1):
            x = conv(x, w[f"conv{i}.weight"], "SAME") + w[f"conv{i}.bias"]
            x = active(max_pool(x) if i in settings["pool_after"] else x)
        if not settings["hidden"]:
            return x.mean((1, 2)) @ w["head.weight"] + w["head.bias"]
        x = active(x.reshape(len(x), -1) @ w["dense1.weight"] + w["dense1.bias"])
        return x @ w["head.weight"] + w["head.bias"]

    def images(teacher: Arrays, classes: jax.Array) -> jax.Array:
        if settings["pixels"]:
            return 2 * jnp.tanh(teacher["pixels"])

        def weight(name: str) -> jax.Array:
            return weight_normalized(teacher[f"{name}-direction"], teacher[f"{name}-gain"])

        def normalized(name: str, x: jax.Array) -> jax.Array:
            return active(batch_norm(x, teacher[f"{name}-norm_scale"], teacher[f"{name}-bias"]))

        x = jnp.concatenate([teacher["z"], classes], -1).reshape(classes.shape[0] * classes.shape[1], -1)
        x = normalized("dense1", x @ weight("dense1"))
        x = normalized("dense2", x @ weight("dense2"))
        x = x.reshape(len(x), height // 4, width // 4, -1)
        x = normalized("conv1", conv(upsampled(x), weight("conv1"), "VALID"))
        x = 2 * jnp.tanh(conv(upsampled(x), weight("conv2"), "VALID") + teacher["conv2-bias"])
        return x.reshape(*classes.shape[:2], height, width, channels)

    @jax.checkpoint
    def inner_step(
        state: tuple[Arrays, Arrays], inputs: tuple[jax.Array, ...]
    ) -> tuple[tuple[Arrays, Arrays], None]:
        w, v = state
        x, y, lr, momentum = inputs
        g = jax.grad(lambda w: cross_entropy(logits(w, x), y))(w)
        v = jax.tree.map(lambda v, g: momentum * v + g, v, g)
        w = jax.tree.map(lambda w, v: w - lr * v, w, v)
        return (w, v), None

    def meta_loss(teacher: Arrays, learner: Arrays, data: Arrays) -> jax.Array:
        low, high = settings["lr_range"]
        lr = low * (high / low) ** jax.nn.sigmoid(teacher["lr_raw"])
        momentum = settings["momentum_max"] * jax.nn.sigmoid(teacher["momentum_raw"])
        inputs = images(teacher, data["classes"]), data["classes"], lr, momentum
        start = learner, jax.tree.map(jnp.zeros_like, learner)
        (trained, _), _ = lax.scan(inner_step, start, inputs)
        return cross_entropy(logits(trained, data["real_x"]), data["real_y"])

    return meta_loss


# ---- the process -------------------------------------------------------------------------------------------


def memory_bytes() -> tuple[int, int]:
    """In use now, and the peak: of JAX's allocator on CUDA, of this process on the CPU."""
    stats = jax.devices()[0].memory_stats()
    if stats is None or "peak_bytes_in_use" not in stats:
        return resident_bytes()
    return stats["bytes_in_use"], stats["peak_bytes_in_use"]


def main() -> None:
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "problem.json").read_text())
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: settings["threads"]])  # XLA starts as many threads as it may use cores
    jax.config.update("jax_enable_x64", settings["dtype"] == "float64")
    jax.config.update("jax_default_matmul_precision", PRECISIONS[settings["precision"]])
    groups: dict[str, Arrays] = {"teacher": {}, "learner": {}, "data": {}}
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        for name in arrays.files:
            group, key = name.split("/")
            groups[group][key] = jnp.asarray(arrays[name])
    inputs = tuple(groups.values())

    start = time.perf_counter()
    step = jax.jit(jax.value_and_grad(make_meta_loss(settings))).lower(*inputs).compile()
    compiling = time.perf_counter() - start

    def timed() -> tuple[float, float, Arrays]:
        start = time.perf_counter()
        loss, gradient = jax.block_until_ready(step(*inputs))
        return time.perf_counter() - start, float(loss), gradient

    give_back_memory()
    forget_resident_peak()
    before, earlier_peak = memory_bytes()
    _, loss, gradient = timed()
    peak = memory_bytes()[1]
    np.savez(folder / "gradient.npz", **{name: np.asarray(g) for name, g in gradient.items()})
    first = {
        "compile_seconds": compiling,
        "loss": loss,
        "peak_bytes": peak - before,
        "peak_is_of_the_step": peak > earlier_peak,  # CUDA: compiling tries algorithms, in the same allocator
        "temporary_bytes": step.memory_analysis().temp_size_in_bytes,
        "device": jax.devices()[0].device_kind,
        "precision": jax.config.jax_default_matmul_precision,
    }
    print(json.dumps(first), flush=True)
    del gradient
    for _ in sys.stdin:
        seconds, loss, _ = timed()
        print(json.dumps({"seconds": seconds, "loss": loss}), flush=True)


if __name__ == "__main__":
    main()
