"""The table of before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlvr.report.trends import find_cold_start_score, measure_gain
from rlvr.storage.estimate import Estimate
from rlvr.storage.run_data import RunData, Score, score_evaluations


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: before, after the cold start where there was one, and after."""

    name: str
    scores: list[Score | None]
    gain: Estimate | None
    part: bool = False  # a category of the benchmark above it

    @property
    def n(self) -> int | None:
        """Number of problems, None where no score says it."""
        for score in self.scores:
            if score and score.n:
                return score.n
        return None


def tabulate(run: RunData, benchmark: str) -> list[Row]:
    """Return the rows of a benchmark and of its categories."""
    scores = score_evaluations(run.evals_of(benchmark))
    if not scores:
        return []
    first = scores[0]
    last = None
    gain = None
    if len(scores) > 1:
        last = scores[-1]
        gain = measure_gain(run, benchmark, first, last)
    shown: list[Score | None] = [first, last]
    if run.cold_start_steps:
        shown = [first, find_cold_start_score(run, scores), last]
    rows = [Row(benchmark, shown, gain)]
    categories = {record.step: record.categories for record in run.evals_of(benchmark)}
    for name in categories[first.step]:
        parts = [_score_category(categories, name, score) for score in shown]
        rows.append(Row(name, parts, _subtract(parts[0], parts[-1]), part=True))
    return rows


def _subtract(first: Score | None, last: Score | None) -> Estimate | None:
    """Return the change from one score to another, without interval."""
    if first is None or last is None:
        return None
    return Estimate(last.value - first.value)


def _score_category(
    categories: Mapping[int, Mapping[str, Estimate]], name: str, score: Score | None
) -> Score | None:
    """Return the accuracy of a category at the evaluation of a score."""
    if score is None or name not in categories[score.step]:
        return None
    category = categories[score.step][name]
    return Score(score.label, score.step, category.value, category.ci95, category.n)
