"""Intervals, paired tests, pass@k and the difference that a held-out set can show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from scipy.special import stdtrit


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of per-problem shares: Wilson's (1927) where each is 0 or 1,
    else a normal one.

    >>> [round(x, 3) for x in interval([1.0] * 5 + [0.0] * 5)]
    [0.237, 0.763]
    """
    n, mean = len(shares), math.fsum(shares) / len(shares)
    if all(share in (0.0, 1.0) for share in shares):
        centre, spread = (
            mean + Z95**2 / (2 * n),
            Z95 * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n**2)),
        )
        low, high = (centre - spread) / (1 + Z95**2 / n), (centre + spread) / (1 + Z95**2 / n)
    else:
        low, high = _normal(shares)
    return max(0.0, low), min(1.0, high)


def paired_gain(before: Sequence[float], after: Sequence[float]) -> dict[str, object]:
    """The mean gain over the same problems with its 95 % interval, from the deviation of the
    per-problem differences.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return {"pass@1": fmean(differences), "ci95": list(_normal(differences)), "n": len(differences)}


def crossed_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of values [problems, seeds] where both are drawn from many.

    A two-way analysis of variance with problems and seeds at random: the variance of the mean is
    (MS_s + max(MS_p - MS_e, 0)) / (problems * seeds), with a t quantile at the degrees of freedom
    of Hillis (2007, Statistics in Medicine 26:596). Never narrower than the interval over problems
    alone, which one seed gives.
    """
    problems, seeds = values.shape
    mean, of_problem, of_seed = values.mean(), values.mean(axis=1), values.mean(axis=0)
    low, high = _normal(of_problem.tolist())
    ms_seed = problems * float(((of_seed - mean) ** 2).sum()) / max(1, seeds - 1)
    if ms_seed <= 1e-15:  # one seed, or no seed that differs from another
        return low, high
    ms_problem = seeds * float(((of_problem - mean) ** 2).sum()) / max(1, problems - 1)
    rest = float(((values - of_problem[:, None] - of_seed + mean) ** 2).sum())
    ms_rest = rest / max(1, (problems - 1) * (seeds - 1))
    total = ms_seed + max(ms_problem - ms_rest, 0.0)
    freedom = (seeds - 1) * (total / ms_seed) ** 2
    spread = max(float(stdtrit(freedom, 0.975)) * math.sqrt(total / values.size), (high - low) / 2)
    return float(mean) - spread, float(mean) + spread


def _normal(values: Sequence[float]) -> tuple[float, float]:
    n, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / max(1, n - 1)
    spread = Z95 * math.sqrt(variance / n)
    return mean - spread, mean + spread


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that one of k samples drawn from these is right, 1 - C(n-c, k) / C(n, k) (Chen et
    al., 2021, eq. 1).

    >>> round(pass_at_k(8, 4, 2), 4)
    0.7857
    """
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def tries(samples: int) -> list[int]:
    """The k of pass@k for so many samples: powers of two, and all of them.   tries(6) -> [1, 2, 4,
    6]
    """
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})


Z95 = 1.959963984540054


Z_POWER = 0.8416212335729143  # four times in five


def sampling_interval(rows: Sequence[Sequence[bool]]) -> tuple[float, float] | None:
    """The 95 % interval of accuracy on these very problems: only the samples are taken as drawn,
    not the problems.

    None where a problem has a single sample, which says nothing about its spread.
    """
    if min(map(len, rows)) < 2:
        return None
    shares = [sum(row) / len(row) for row in rows]
    variance = (
        sum(p * (1 - p) / (len(row) - 1) for p, row in zip(shares, rows, strict=True))
        / len(rows) ** 2
    )
    mean, spread = math.fsum(shares) / len(shares), Z95 * math.sqrt(variance)
    return max(0.0, mean - spread), min(1.0, mean + spread)


def detectable(values: Sequence[float], *, paired: bool = False) -> float:
    """The smallest true difference of means that a test at 5 % finds four times in five.

    `values` are the shares of one model, another of the same spread being thought beside it, or,
    where `paired`, the differences of two models problem by problem. So that a few problems that
    are all alike do not look certain, the spread is that with four more, two of them solved
    (Agresti and Coull, 1998), or one more for either model.

    >>> round(detectable([1.0] * 10 + [0.0] * 20), 2)
    0.35
    """
    n, more = len(values), [1.0, -1.0] if paired else [1.0, 1.0, 0.0, 0.0]
    variance = statistics.variance([*values, *more])
    return (Z95 + Z_POWER) * math.sqrt((1 if paired else 2) * variance / n)


def sign_flip(differences: Sequence[int]) -> float:
    """The exact two-sided p-value that differences, problem by problem, have a sign by chance;
    whole numbers.

    Each difference keeps its size and has either sign with the same chance (Fisher, 1935). Where
    they are -1, 0 and 1 this is McNemar's exact test.

    >>> sign_flip([1, 1, 1, 1, 1, 0, 0])
    0.0625
    """
    unit = math.gcd(*differences) or 1
    sizes = [abs(d) // unit for d in differences if d]
    chance = np.ones(1)  # of each sum, from minus all to all in steps of two
    for size in sizes:
        chance = np.convolve(chance, np.bincount([0, size]) / 2)
    sums = 2 * np.arange(len(chance)) - sum(sizes)
    return min(1.0, float(chance[np.abs(sums) >= abs(sum(differences)) // unit].sum()))
