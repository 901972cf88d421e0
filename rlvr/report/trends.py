"""How a metric moved: its mean at the beginning and at the end, and what a gain consists of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.metrics.statistics import paired_gain
from rlvr.storage.run_data import Record, RunData, Score, evaluated, number, solved_shares


@dataclass(frozen=True, slots=True)
class Trend:
    """Mean of the first and of the last steps; `clear` where they differ by more than the noise
    between steps.
    """

    start: float
    end: float
    clear: bool

    @property
    def change(self) -> float:
        return self.end - self.start


def saturation(run: RunData) -> int | None:
    """The first step from which training accuracy stays at 95 % or more in the mean of five steps."""
    values = [(r["step"], number(r.get("accuracy"))) for r in run.rl]
    known = [(step, value) for step, value in values if value is not None]
    means = [
        (known[i][0], statistics.fmean(v for _, v in known[i : i + 5]))
        for i in range(len(known) - 4)
    ]
    below = [place for place, (_, mean) in enumerate(means) if mean < 0.95]
    start = below[-1] + 1 if below else 0
    return means[start][0] if start < len(means) else None


def split_gain(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """A gain as what more answers in the asked form brought, what better answers in that form did,
    and the rest, outside it; each side is (accuracy, share well-formed, accuracy among the
    well-formed).

    >>> [round(part, 3) for part in split_gain((0.3, 0.5, 0.6), (0.5, 0.7, 0.7))]
    [0.13, 0.06, 0.01]
    """
    (a0, f0, p0), (a1, f1, p1) = before, after
    form, content = (f1 - f0) * (p0 + p1) / 2, (p1 - p0) * (f0 + f1) / 2
    return form, content, (a1 - a0) - form - content


def trend(records: Sequence[Record], key: str) -> Trend | None:
    values = [value for record in records if (value := number(record.get(key))) is not None]
    if len(values) < 4:
        return None
    size = max(2, min(5, len(values) // 3))
    first, last = values[:size], values[-size:]
    noise = math.sqrt((statistics.variance(first) + statistics.variance(last)) / size)
    start, end = statistics.fmean(first), statistics.fmean(last)
    return Trend(start, end, abs(end - start) > 2 * noise + 1e-9)


def gain_of(
    run: RunData, benchmark: str, first: Score, last: Score
) -> tuple[float, Sequence[float] | None]:
    """Difference with its paired interval: as summed up, else computed from the samples of both
    evaluations.
    """
    summed = (((run.summary.get("evals") or {}).get(benchmark)) or {}).get("gain") or {}
    if number(summed.get("pass@1")) is not None and (first.label, last.label) == (
        "before",
        "after",
    ):
        return summed["pass@1"], summed.get("ci95")
    before, after = (
        solved_shares(evaluated(run, benchmark, score.step)) for score in (first, last)
    )
    shared = [key for key in before if key in after]
    if len(shared) < 2:
        return last.value - first.value, None
    gain = paired_gain([before[key] for key in shared], [after[key] for key in shared])
    return gain["pass@1"], gain["ci95"]  # type: ignore[return-value]
