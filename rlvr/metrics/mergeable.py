"""Metrics that merge exactly.

Totals and counts are kept until the end, so no average of averages can arise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlvr.distributed.world import World

Values = Sequence[float]


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums from which the variance of values follows, and which merge exactly."""

    count: float
    total: float
    squares: float

    @staticmethod
    def collect(values: Values) -> Moments:
        """Return the moments of some values, each sum rounded once."""
        return Moments(
            count=float(len(values)),
            total=math.fsum(values),
            squares=math.fsum(value * value for value in values),
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
        )

    @property
    def variance(self) -> float:
        """The mean of the squares less the square of the mean; 0 of no values."""
        count = max(self.count, 1.0)
        return self.squares / count - (self.total / count) ** 2


NO_VALUES = Moments(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ExplainedVariance:
    """What a prediction leaves over (its errors) beside what it predicts."""

    errors: Moments = NO_VALUES
    values: Moments = NO_VALUES

    def __add__(self, other: ExplainedVariance) -> ExplainedVariance:
        return ExplainedVariance(self.errors + other.errors, self.values + other.values)

    @property
    def share(self) -> float | None:
        """1 - variance(errors) / variance(values); None where all values are equal."""
        error = self.errors.variance
        value = self.values.variance
        if value > 0:
            return 1 - error / value
        return None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Means as (total, count), sums, and shares of variance explained, by name.

    Example: Metrics.mean("kl", 3.0, 10) + Metrics.mean("kl", 1.0, 2) reads kl = 4/12.
    """

    means: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sums: Mapping[str, float] = field(default_factory=dict)
    explained_variances: Mapping[str, ExplainedVariance] = field(default_factory=dict)

    @staticmethod
    def mean(name: str, total: float, count: float) -> Metrics:
        return Metrics(means={name: (total, count)})

    @staticmethod
    def sum(**values: float) -> Metrics:
        return Metrics(sums=values)

    @staticmethod
    def explain_variance(name: str, errors: Values, values: Values) -> Metrics:
        """Return 1 - variance(errors) / variance(values), as sums that merge exactly."""
        explained = ExplainedVariance(Moments.collect(errors), Moments.collect(values))
        return Metrics(explained_variances={name: explained})

    def __add__(self, other: Metrics) -> Metrics:
        means = dict(self.means)
        for name, (total, count) in other.means.items():
            own_total, own_count = means.get(name, (0.0, 0.0))
            means[name] = (own_total + total, own_count + count)
        sums: dict[str, float] = {}
        for name in {**self.sums, **other.sums}:
            # counts become floats on either side, so a record has them as such
            sums[name] = self.sums.get(name, 0.0) + other.sums.get(name, 0.0)
        explained = dict(self.explained_variances)
        for name, moments in other.explained_variances.items():
            explained[name] = explained.get(name, ExplainedVariance()) + moments
        return Metrics(means, sums, explained)

    def all_reduce(self, world: World) -> Metrics:
        """Add up the metrics of all ranks, where each has those of its share."""
        if world.size == 1:
            return self
        total = Metrics()
        for metrics in world.all_gather([self]):
            total += metrics
        return total

    def record(self) -> dict[str, float | dict[str, float]]:
        """Return plain numbers for a log; a mean of nothing is left out.

        `losses/clip` becomes `{"losses": {"clip": …}}`.
        """
        record: dict[str, float | dict[str, float]] = {}
        for name, value in self._flat().items():
            outer, _, inner = name.partition("/")
            if not inner:
                record[name] = value
                continue
            nested = record.setdefault(outer, {})
            assert isinstance(nested, dict)
            nested[inner] = value
        return record

    def _flat(self) -> dict[str, float]:
        flat: dict[str, float] = {}
        for name, (total, count) in self.means.items():
            if count:
                flat[name] = total / count
        flat.update(self.sums)
        for name, explained in self.explained_variances.items():
            share = explained.share
            if share is not None:
                flat[name] = share
        return flat
