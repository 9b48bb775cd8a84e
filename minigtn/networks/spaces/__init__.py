"""Search spaces: an architecture is a string, and a space turns it into a torch module.

    space = minigtn.networks.spaces.get("nas-bench-macro")
    arch = space.sample(seed=0)  # "21100220", say
    net = space.build(arch)  # an nn.Module: images (B, 3, 32, 32) -> logits (B, 10)
    space.params(arch), space.flops(arch)

| name | architectures | sizes that :func:`get` takes | table |
| --- | --- | --- | --- |
| `nas-bench-macro` | 8 layers of 3 blocks: 6,561 | `channels` (32) | Su et al. 2021 |
| `nas-bench-201` | 6 edges of 5 operations: 15,625 | `cells_per_stage` (5), `channels` (16) | Dong 2020 |
| `cells` | a normal and a reduction cell, 5 nodes each | `cells_per_stage` (N, 3), `channels` (F, 32) | |
"""

from __future__ import annotations

from typing import Any

from minigtn.networks.spaces.base import Space
from minigtn.networks.spaces.cells import Cells
from minigtn.networks.spaces.nas_bench_201 import NasBench201
from minigtn.networks.spaces.nas_bench_macro import NasBenchMacro

__all__ = ["SPACES", "Cells", "NasBench201", "NasBenchMacro", "Space", "get"]

SPACES: dict[str, Any] = {space.name: space for space in (NasBenchMacro, NasBench201, Cells)}


def get(name: str, **sizes: int) -> Space:
    """The space of that name; ``sizes`` as in the table above, 0 for the space's own. ValueError, in one
    sentence, for an unknown name or size."""
    if name not in SPACES:
        raise ValueError(f"there is no search space {name!r}; the spaces are {', '.join(SPACES)}")
    known = SPACES[name].sizes
    sizes = {size: value for size, value in sizes.items() if value}
    unknown = [size for size in sizes if size not in known]
    if unknown:
        raise ValueError(
            f"the space {name} has no size {unknown[0]!r}; it has {' and '.join(known) or 'none'}"
        )
    return SPACES[name](**sizes)
