"""Metrics that merge exactly, the clock of the stages, and what a step's groups look like in
numbers.

Totals and counts are kept until the end, so no average of averages can arise. The callee measures
itself: `@timed("generate")` adds a stage's seconds to the clock that the outer loop reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlvr.distributed.world import World


@dataclass(frozen=True, slots=True)
class Metrics:
    """Means as (total, count), sums, and shares of variance explained, by name.

    Example: Metrics.mean("kl", 3.0, 10) + Metrics.mean("kl", 1.0, 2) reads kl = 4/12.
    """

    means: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sums: Mapping[str, float] = field(default_factory=dict)
    moments: Mapping[str, float] = field(
        default_factory=dict
    )  # "name|count", "name|error", "name|error2", …

    @staticmethod
    def mean(name: str, total: float, count: float) -> Metrics:
        return Metrics(means={name: (total, count)})

    @staticmethod
    def sum(**values: float) -> Metrics:
        return Metrics(sums=values)

    @staticmethod
    def explained(name: str, errors: Sequence[float], values: Sequence[float]) -> Metrics:
        """1 - variance(errors) / variance(values), as sums that merge exactly."""
        found = {
            "count": float(len(values)),
            "error": math.fsum(errors),
            "value": math.fsum(values),
        }
        found |= {
            "error2": math.fsum(e * e for e in errors),
            "value2": math.fsum(v * v for v in values),
        }
        return Metrics(moments={f"{name}|{key}": value for key, value in found.items()})

    def __add__(self, other: Metrics) -> Metrics:
        means = dict(self.means)
        for name, (total, count) in other.means.items():
            mine = means.get(name, (0.0, 0.0))
            means[name] = (mine[0] + total, mine[1] + count)
        return Metrics(means, _added(self.sums, other.sums), _added(self.moments, other.moments))

    def over(self, world: World) -> Metrics:
        """The metrics of all ranks together, where each has those of its share."""
        totals = world.all_reduce_dict({name: total for name, (total, _) in self.means.items()})
        counts = world.all_reduce_dict({name: count for name, (_, count) in self.means.items()})
        means = {name: (total, counts[name]) for name, total in totals.items()}
        return Metrics(means, world.all_reduce_dict(self.sums), world.all_reduce_dict(self.moments))

    def record(self) -> dict[str, float | dict[str, float]]:
        """Plain numbers for a log; `losses/clip` becomes `{"losses": {"clip": …}}`, a mean of
        nothing is left out.
        """
        flat = {name: total / count for name, (total, count) in self.means.items() if count}
        record: dict[str, float | dict[str, float]] = {}
        for name, value in {**flat, **self.sums, **self._explained()}.items():
            outer, _, inner = name.partition("/")
            if inner:
                nested = record.setdefault(outer, {})
                assert isinstance(nested, dict)
                nested[inner] = value
            else:
                record[name] = value
        return record

    def _explained(self) -> dict[str, float]:
        found = {}
        for name in {key.partition("|")[0] for key in self.moments}:
            n = max(self.moments[f"{name}|count"], 1.0)
            error, value = (
                self.moments[f"{name}|{kind}2"] / n - (self.moments[f"{name}|{kind}"] / n) ** 2
                for kind in ("error", "value")
            )
            if value > 0:  # nothing to explain where all returns are equal
                found[name] = 1 - error / value
        return found


def _added(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    return {name: left.get(name, 0.0) + right.get(name, 0.0) for name in {**left, **right}}
