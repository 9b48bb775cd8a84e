"""The small problem on which the functions of lessons 1 to 3 are tried."""

from __future__ import annotations

from typing import Any

import autograd.numpy as anp
import numpy as np


def loss(w: Any, batch: Any) -> Any:
    """Neither quadratic nor symmetric, so that a forgotten term shows."""
    x, y = batch
    return anp.mean((anp.tanh(anp.dot(x, w)) - y) ** 2) + 0.1 * anp.sum(w**4)


def problem(T: int = 4) -> tuple[Any, ...]:
    """w0 (3,), v0 (3,), T batches x (5, 3), y (5,), lr (T,), a direction (3,). No zeros, nothing twice."""
    rng = np.random.default_rng(7)
    w0, v0, direction = rng.normal(size=(3, 3))
    batches = [(rng.normal(size=(5, 3)), rng.normal(size=5)) for _ in range(T)]
    return w0, v0, batches, np.linspace(0.1, 0.3, T), direction
