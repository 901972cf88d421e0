"""Metrics that merge exactly: totals and counts are kept until the end, so no average of averages can arise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlvr.world import World


@dataclass(frozen=True, slots=True)
class Metrics:
    """Means as (total, count) and sums, by name.

    Example: Metrics.mean("kl", 3.0, 10) + Metrics.mean("kl", 1.0, 2) reads kl = 4/12.
    """

    means: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sums: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def mean(name: str, total: float, count: float) -> Metrics:
        return Metrics(means={name: (total, count)})

    @staticmethod
    def sum(**values: float) -> Metrics:
        return Metrics(sums=values)

    def __add__(self, other: Metrics) -> Metrics:
        means = dict(self.means)
        for name, (total, count) in other.means.items():
            mine = means.get(name, (0.0, 0.0))
            means[name] = (mine[0] + total, mine[1] + count)
        sums = dict(self.sums)
        for name, value in other.sums.items():
            sums[name] = sums.get(name, 0.0) + value
        return Metrics(means, sums)

    def over(self, world: World) -> Metrics:
        """The metrics of all ranks together."""
        totals = world.sum({name: total for name, (total, _) in self.means.items()})
        counts = world.sum({name: count for name, (_, count) in self.means.items()})
        return Metrics({name: (totals[name], counts[name]) for name in self.means}, world.sum(self.sums))

    def record(self) -> dict[str, float | dict[str, float]]:
        """Plain numbers for a log; `losses/clip` becomes `{"losses": {"clip": …}}`, a mean of nothing is left out."""
        flat = {name: total / count for name, (total, count) in self.means.items() if count}
        record: dict[str, float | dict[str, float]] = {}
        for name, value in {**flat, **self.sums}.items():
            outer, _, inner = name.partition("/")
            if inner:
                nested = record.setdefault(outer, {})
                assert isinstance(nested, dict)
                nested[inner] = value
            else:
                record[name] = value
        return record
