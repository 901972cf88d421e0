"""Intervals, paired tests, pass@k and the difference that a held-out set can show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

Values = Sequence[float]

Z95 = 1.959963984540054  # of a normal distribution, 95 % lie within so many deviations
Z_POWER = 0.8416212335729143  # and 80 % below so many: the power of four times in five


class Interval(NamedTuple):
    """The bounds between which a value lies."""

    low: float
    high: float

    @staticmethod
    def around(centre: float, spread: float) -> Interval:
        return Interval(centre - spread, centre + spread)

    def clamp(self) -> Interval:
        """Return the part that a share can have, from 0 to 1."""
        return Interval(max(0.0, self.low), min(1.0, self.high))


class PairedGain(NamedTuple):
    """A mean gain over problems."""

    value: float
    ci95: Interval
    n: int  # problems


def estimate_interval(shares: Values) -> Interval:
    """Return the 95 % interval of the mean of per-problem shares.

    It is Wilson's (1927) where each share is 0 or 1, else a normal one.

    >>> [round(x, 3) for x in estimate_interval([1.0] * 5 + [0.0] * 5)]
    [0.237, 0.763]
    """
    if all(share in (0.0, 1.0) for share in shares):
        return _estimate_wilson(shares).clamp()
    return _estimate_normal(shares).clamp()


def _estimate_wilson(outcomes: Values) -> Interval:
    """Return Wilson's (1927) score interval of a share, from outcomes that are each 0 or 1."""
    count = len(outcomes)
    share = math.fsum(outcomes) / count
    variance = share * (1 - share) / count
    centre = share + Z95**2 / (2 * count)
    spread = Z95 * math.sqrt(variance + Z95**2 / (4 * count**2))
    scale = 1 + Z95**2 / count
    return Interval(
        low=(centre - spread) / scale,
        high=(centre + spread) / scale,
    )


def _estimate_normal(values: Values) -> Interval:
    """Return the 95 % interval of a mean from the deviation of the values."""
    count = len(values)
    mean = math.fsum(values) / count
    sum_of_squares = math.fsum((value - mean) ** 2 for value in values)
    variance = sum_of_squares / max(1, count - 1)
    return Interval.around(mean, Z95 * math.sqrt(variance / count))


def estimate_paired_gain(before: Values, after: Values) -> PairedGain:
    """Return the mean gain over the same problems with its 95 % interval.

    The interval is from the deviation of the per-problem differences.
    """
    differences: list[float] = []
    for share_before, share_after in zip(before, after, strict=True):
        differences.append(share_after - share_before)
    return PairedGain(
        value=fmean(differences),
        ci95=_estimate_normal(differences),
        n=len(differences),
    )


def estimate_crossed_interval(values: np.ndarray) -> Interval:
    """Return the 95 % interval of the mean of values [problems, seeds] where both are drawn from
    many.

    A two-way analysis of variance with problems and seeds at random: the variance of the mean is
    (MS_s + max(MS_p - MS_e, 0)) / (problems * seeds), with a t quantile at the degrees of freedom
    of Hillis (2007, Statistics in Medicine 26:596). Never narrower than the interval over problems
    alone, which one seed gives.
    """
    from scipy.special import stdtrit  # half a second to load, and only sweeps need it

    problems, seeds = values.shape
    mean = values.mean()
    problem_means = values.mean(axis=1)  # [problems]
    seed_means = values.mean(axis=0)  # [seeds]
    over_problems = _estimate_normal(problem_means.tolist())

    ss_seeds = problems * _sum_squares(seed_means - mean)
    ms_seeds = ss_seeds / max(1, seeds - 1)
    if ms_seeds <= 1e-15:  # one seed, or no seed that differs from another
        return over_problems
    ss_problems = seeds * _sum_squares(problem_means - mean)
    ms_problems = ss_problems / max(1, problems - 1)
    residuals = values - problem_means[:, None] - seed_means + mean  # [problems, seeds]
    freedom_of_error = (problems - 1) * (seeds - 1)
    ms_error = _sum_squares(residuals) / max(1, freedom_of_error)

    ms_mean = ms_seeds + max(ms_problems - ms_error, 0.0)
    freedom_of_mean = (seeds - 1) * (ms_mean / ms_seeds) ** 2
    t95 = float(stdtrit(freedom_of_mean, 0.975))
    spread_over_both = t95 * math.sqrt(ms_mean / values.size)
    spread_over_problems = (over_problems.high - over_problems.low) / 2
    spread = max(spread_over_both, spread_over_problems)
    return Interval.around(float(mean), spread)


def _sum_squares(deviations: np.ndarray) -> float:
    return float((deviations**2).sum())


def estimate_sampling_interval(rows: Sequence[Sequence[bool]]) -> Interval | None:
    """Return the 95 % interval of accuracy on these very problems.

    Only the samples are taken as drawn, not the problems. None where a problem has a single sample,
    which says nothing about its spread.
    """
    if min(map(len, rows)) < 2:
        return None
    shares: list[float] = []
    variances: list[float] = []  # of the share of each problem
    for row in rows:
        share = sum(row) / len(row)
        variance = share * (1 - share) / (len(row) - 1)
        shares.append(share)
        variances.append(variance)
    mean = math.fsum(shares) / len(shares)
    variance_of_mean = sum(variances) / len(rows) ** 2
    return Interval.around(mean, Z95 * math.sqrt(variance_of_mean)).clamp()


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the chance that one of k samples drawn from these is right.

    It is 1 - C(n-c, k) / C(n, k) (Chen et al., 2021, eq. 1).

    >>> round(pass_at_k(8, 4, 2), 4)
    0.7857
    """
    all_wrong = math.comb(samples - correct, k)
    draws = math.comb(samples, k)
    return 1.0 - all_wrong / draws


def choose_ks(samples: int) -> list[int]:
    """Return the k of pass@k for so many samples: powers of two, and all of them.

    >>> choose_ks(6)
    [1, 2, 4, 6]
    """
    powers: list[int] = []
    power = 1
    while power < samples:
        powers.append(power)
        power *= 2
    return [*powers, samples]


def estimate_detectable(values: Values, *, paired: bool = False) -> float:
    """Return the smallest true difference of means that a test at 5 % finds four times in five.

    `values` are the shares of one model, another of the same spread being thought beside it, or,
    where `paired`, the differences of two models problem by problem. So that a few problems that
    are all alike do not look certain, the spread is that with four more, two of them solved
    (Agresti and Coull, 1998), or one more for either model.

    >>> round(estimate_detectable([1.0] * 10 + [0.0] * 20), 2)
    0.35
    """
    if paired:
        pseudo_values = [1.0, -1.0]
        means_compared = 1
    else:
        pseudo_values = [1.0, 1.0, 0.0, 0.0]
        means_compared = 2
    variance = statistics.variance([*values, *pseudo_values])
    standard_error = math.sqrt(means_compared * variance / len(values))
    return (Z95 + Z_POWER) * standard_error


def compute_sign_flip(differences: Sequence[int]) -> float:
    """Return the exact two-sided p-value that differences, problem by problem, have a sign by
    chance; they are whole numbers.

    Each difference keeps its size and has either sign with the same chance (Fisher, 1935). Where
    they are -1, 0 and 1 this is McNemar's exact test.

    >>> compute_sign_flip([1, 1, 1, 1, 1, 0, 0])
    0.0625
    """
    import numpy as np  # which no page of a run needs

    unit = math.gcd(*differences) or 1
    sizes = [abs(difference) // unit for difference in differences if difference]
    chance = np.ones(1)  # of each sum, from minus all to all in steps of two
    for size in sizes:
        either_sign = np.bincount([0, size]) / 2
        chance = np.convolve(chance, either_sign)
    sums = 2 * np.arange(len(chance)) - sum(sizes)
    observed = abs(sum(differences)) // unit
    as_extreme = np.abs(sums) >= observed
    p_value = float(chance[as_extreme].sum())
    return min(1.0, p_value)  # the sum may round to just above 1
