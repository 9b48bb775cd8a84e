"""Numbers as the pages say them."""

from __future__ import annotations

import math


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"


def short(number: float) -> str:
    """Two digits that count, thousands as k: 0.012, 1.3, 640, 16k."""
    if number >= 10_000:
        return f"{number / 1000:.0f}k"
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def duration(seconds: float) -> tuple[str, str]:
    """A time and its unit, the largest of which there are two or more: ("0.043", "s"), ("5.7", "min")."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f}", unit
    return short(seconds), "s"


def points(difference: float) -> str:
    """A difference of two fractions in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def interval_of_difference(std: float, other_std: float, n: int) -> float:
    """Half the width of the 95 % interval of a difference of two means, each of n >= 2 draws with these
    standard deviations (n - 1), by Welch's t: the spreads may differ."""
    from scipy.stats import t  # late: imports slowly

    one = std**2 / n
    other = other_std**2 / n
    if one + other == 0:
        return 0.0
    freedom = (one + other) ** 2 * (n - 1) / (one**2 + other**2)
    return float(t.ppf(0.975, freedom)) * math.sqrt(one + other)
