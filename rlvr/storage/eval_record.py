"""What a line of `evals.jsonl` holds, or an object of `results.json`: a benchmark asked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rlvr.storage import fields
from rlvr.storage.estimate import Estimate, parse_estimate
from rlvr.storage.fields import Row, WrongShape, keep_finite
from rlvr.storage.records import dump_each


@dataclass(frozen=True, slots=True)
class EvalCounts:
    """The counts of an evaluation; 0 where the line does not say."""

    problems: int = 0
    """Problems of the benchmark."""

    samples: int = 0
    """Samples of all problems."""

    correct: int = 0
    """Samples that are right."""

    formatted: int = 0
    """Samples whose answer stands where the task asks for it."""

    no_answer: int = 0
    """Samples in which no answer was found."""

    truncated: int = 0
    """Samples that ran into the token limit."""

    error: int = 0
    """Samples whose verifier failed or ran out of time."""

    second_verifier: int = 0
    """Samples that math-verify judged too."""

    only_ours_accepts: int = 0
    """Samples that only our verifier accepts, of those that both judged."""

    only_second_accepts: int = 0
    """Samples that only math-verify accepts, of those that both judged."""

    response_tokens: int = 0
    """Tokens of all responses."""

    @classmethod
    def parse_row(cls, row: Row) -> EvalCounts:
        """Read an object of a line; raises WrongShape."""
        return cls(**{name: fields.read_count(row, name) for name in cls.__slots__})

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the files have it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """How the accuracies of several seeds lie apart."""

    accuracies: Mapping[str, float]
    """Accuracy of each seed; `pass@1` in the files."""

    mean: float
    """Mean over the seeds."""

    deviation: float
    """Standard deviation over the seeds."""

    @classmethod
    def parse_row(cls, row: Row) -> SeedSpread:
        """Read an object of a line; raises WrongShape."""
        return cls(
            accuracies=fields.read_mapping(row, "pass@1"),
            mean=fields.read_number(row, "mean"),
            deviation=fields.read_number(row, "deviation"),
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the object as the files have it."""
        return {
            "pass@1": dict(self.accuracies),
            "mean": self.mean,
            "deviation": self.deviation,
        }


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """One line of `evals.jsonl`, one object of `results.json`: a benchmark asked once."""

    step: int
    """Number of updates that the weights had seen, 0 before training."""

    benchmark: str
    """Name of the held-out set."""

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Shares and means by name, such as `pass@1`, `maj@8`, `formatted`; None for a mean of nothing."""

    counts: EvalCounts = EvalCounts()
    """What the shares are shares of."""

    ci95: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """95 % intervals of metrics over problems, and `pass@1_samples` over samples."""

    detectable: float | None = None
    """Smallest difference between two models that would mostly show (80 % power)."""

    categories: Mapping[str, Estimate] = field(default_factory=dict)
    """Accuracy of the problems of each category."""

    levels: Mapping[str, Estimate] = field(default_factory=dict)
    """Accuracy of the problems of each level."""

    seconds: float = 0.0
    """How long it took; `time` in the files."""

    seeds: SeedSpread | None = None
    """The accuracies of several seeds; None for one seed."""

    @classmethod
    def parse_row(cls, row: Row) -> EvalRecord:
        """Read a line; `step` and `benchmark` have to be there. Raises WrongShape."""
        benchmark = fields.read_text(row, "benchmark")
        if not benchmark:
            raise WrongShape("has no 'benchmark'")
        seeds = fields.read_mapping(row, "seeds")
        return cls(
            step=fields.read_int(row, "step"),
            benchmark=benchmark,
            metrics=fields.read_mapping(row, "metrics"),
            counts=EvalCounts.parse_row(fields.read_mapping(row, "counts")),
            ci95=_parse_intervals(row),
            detectable=fields.read_optional_number(row, "detectable"),
            categories=_parse_parts(row, "categories"),
            levels=_parse_parts(row, "levels"),
            seconds=fields.read_number(fields.read_mapping(row, "time"), "seconds"),
            seeds=SeedSpread.parse_row(seeds) if seeds else None,
        )

    def dump_row(self) -> dict[str, Any]:
        """Return the line as the file has it."""
        row: dict[str, Any] = {
            "step": self.step,
            "benchmark": self.benchmark,
            "metrics": dict(self.metrics),
            "counts": self.counts.dump_row(),
            "ci95": {name: list(ends) for name, ends in self.ci95.items()},
            "detectable": self.detectable,
            "categories": dump_each(self.categories),
            "levels": dump_each(self.levels),
        }
        if self.seeds is not None:
            row["seeds"] = self.seeds.dump_row()
        row["time"] = {"seconds": self.seconds}
        return row

    def metric(self, name: str) -> float | None:
        """Return a metric; None where it was not measured or was not finite."""
        return keep_finite(self.metrics.get(name))

    @property
    def accuracy(self) -> Estimate | None:
        """The share of problems solved, `pass@1`, with its interval; None where it is not there."""
        value = self.metric("pass@1")
        if value is None:
            return None
        return Estimate(value, self.ci95.get("pass@1"), self.counts.problems or None)


def _parse_intervals(row: Row) -> dict[str, Sequence[float]]:
    intervals = {}
    by_name = fields.read_mapping(row, "ci95")
    for name in by_name:
        ends = fields.read_interval(by_name, name)
        if ends is not None:
            intervals[name] = ends
    return intervals


def _parse_parts(row: Row, key: str) -> dict[str, Estimate]:
    estimates = {}
    parts = fields.read_mapping(row, key)
    for name in parts:
        estimate = parse_estimate(parts, name)
        if estimate is not None:
            estimates[name] = estimate
    return estimates
