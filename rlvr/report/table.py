"""The table of before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.report.trends import gain_of
from rlvr.storage.run_data import RunData, Score, make_score, scores_of


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of before and after; `gain` is (difference, interval or None)."""

    name: str
    scores: list[Score | None]
    gain: tuple[float, Sequence[float] | None] | None
    part: bool = False  # a category of the benchmark above it

    @property
    def n(self) -> int | None:
        return next((score.n for score in self.scores if score and score.n), None)


def table(run: RunData, benchmark: str) -> list[Row]:
    """Before, after the cold start where there was one, and after: the benchmark, then its
    categories.
    """
    records = run.of(benchmark)
    scores = scores_of(run, benchmark)
    if not scores:
        return []
    middle = next((s for s in scores[1:-1] if run.cold and s.step == run.cold), None)
    last = scores[-1] if len(scores) > 1 else None
    shown = [scores[0], middle, last] if run.cold else [scores[0], last]
    rows = [Row(benchmark, shown, gain_of(run, benchmark, scores[0], last) if last else None)]
    at = {record["step"]: record.get("categories") or {} for record in records}
    for name in at.get(scores[0].step, {}):
        parts = [
            make_score(s.label, s.step, at[s.step].get(name) or {}) if s and s.step in at else None
            for s in shown
        ]
        first, end = parts[0], parts[-1]
        gain = (end.value - first.value, None) if first and end else None
        rows.append(Row(name, parts, gain, part=True))
    return rows
