"""Statistics of evaluations: shares with 95 % intervals, and gains paired by problem."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of per-problem shares: Wilson's (1927) where each is 0 or 1, else a normal one.

    >>> [round(x, 3) for x in interval([1.0] * 5 + [0.0] * 5)]
    [0.237, 0.763]
    """
    n, mean = len(shares), math.fsum(shares) / len(shares)
    if all(share in (0.0, 1.0) for share in shares):
        centre, spread = mean + Z95**2 / (2 * n), Z95 * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n**2))
        low, high = (centre - spread) / (1 + Z95**2 / n), (centre + spread) / (1 + Z95**2 / n)
    else:
        low, high = _normal(shares)
    return max(0.0, low), min(1.0, high)


def paired_gain(before: Sequence[float], after: Sequence[float]) -> dict[str, object]:
    """The mean gain over the same problems with its 95 % interval, from the deviation of the per-problem
    differences."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return {
        "pass@1": math.fsum(differences) / len(differences),
        "ci95": list(_normal(differences)),
        "n": len(differences),
    }


def _normal(values: Sequence[float]) -> tuple[float, float]:
    n, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / max(1, n - 1)
    spread = Z95 * math.sqrt(variance / n)
    return mean - spread, mean + spread
