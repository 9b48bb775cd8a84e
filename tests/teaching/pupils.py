"""A small curriculum that can be learned, and what its pupils must have learned."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigtn import Curriculum, teach

SIZE = 2 * 8 * 8


def of_four_classes() -> Curriculum:
    """Six batches of 12 images of 2x8x8, four classes with a mean image each, standardized."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(12).remainder(4).expand(6, 12)
    means = torch.randn(4, 2, 8, 8, generator=rng)
    x = 2 * means[y] + torch.randn(6, 12, 2, 8, 8, generator=rng)
    x = (x - x.mean((0, 1, 3, 4), keepdim=True)) / x.std((0, 1, 3, 4), keepdim=True)
    lr = torch.full((6,), 0.1)
    one_hot = F.one_hot(y, 4).float()
    return Curriculum(x, one_hot, lr, torch.full((6,), 0.5), tuple("abcd"), (0.0, 0.0), (1.0, 1.0))


def taught(module: nn.Module, curriculum: Curriculum, lr: str | float = "auto") -> nn.Module:
    """The module, which must have learned something and be finite."""
    result = teach(module, curriculum, lr=lr)
    assert result.losses[-1] < result.losses[0]
    assert all(t.isfinite().all() for t in (*module.parameters(), *module.buffers()))
    return module


def right(module: nn.Module, curriculum: Curriculum) -> float:
    """Share of the curriculum's own images that are classified as they should."""
    first = next(module.parameters())
    with torch.no_grad():
        logits = module(curriculum.x.flatten(0, 1).to(first))
    return (logits.argmax(1) == curriculum.y.flatten(0, 1).argmax(1)).float().mean().item()


def make(
    steps: int = 4,
    dtype: torch.dtype = torch.float32,
    momentum: tuple[float, ...] | None = None,
    lr: float = 0.3,
) -> Curriculum:
    """Batches of 6 images of 2x4x5, three classes, that can be told apart."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(steps, 6, 3, dtype=dtype, generator=rng).softmax(-1)
    x = torch.randn(steps, 6, 2, 4, 5, dtype=dtype, generator=rng) + y.argmax(-1)[:, :, None, None, None] - 1
    mu = torch.tensor(momentum, dtype=dtype) if momentum else torch.linspace(0.2, 0.8, steps, dtype=dtype)
    rates = torch.linspace(lr, lr / 6, steps, dtype=dtype)
    return Curriculum(x, y, rates, mu, ("a", "b", "c"), (0.25, 0.5), (0.5, 0.125))


def classifier(seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, classes))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(module: nn.Module, before: dict[str, Tensor]) -> bool:
    now = module.state_dict()
    return all(torch.equal(now[name].nan_to_num(7), before[name].nan_to_num(7)) for name in before)
