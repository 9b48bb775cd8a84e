"""Choosing among the settings of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def at_edge(chosen: Mapping[str, Any], grid: Mapping[str, Sequence[float]]) -> bool:
    """Whether a chosen value is the least or the greatest that was tried, so that a wider grid may do better;
    the least momentum is no edge."""
    for name, values in grid.items():
        ends = (max(values),) if name == "momentum" else (min(values), max(values))
        if chosen[name] in ends and chosen[name] > 0:
            return True
    return False
