"""How a metric moved over a run, and what a gain consists of."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.metrics.statistics import estimate_paired_gain
from rlvr.storage.estimate import Estimate
from rlvr.storage.run_data import RunData, Score, list_known, read_eval_samples, solve_rates
from rlvr.storage.step_record import StepRecord

MOST_STEPS = 5  # at either end, of which a mean is taken
FEWEST_VALUES = 4  # that a trend can be seen in
SATURATED = 0.95  # training accuracy in the mean of so many steps:
SATURATION_WINDOW = 5


@dataclass(frozen=True, slots=True)
class Trend:
    """Mean of the first and of the last steps.

    `clear` where they differ by more than the noise between steps.
    """

    start: float
    end: float
    clear: bool

    @property
    def change(self) -> float:
        return self.end - self.start


def measure_trend(steps: Sequence[StepRecord], metric: str) -> Trend | None:
    """Return how a metric moved; None where too few steps have it."""
    values = list_known(steps, metric)
    if len(values) < FEWEST_VALUES:
        return None
    size = max(2, min(MOST_STEPS, len(values) // 3))
    first = values[:size]
    last = values[-size:]
    noise = math.sqrt((statistics.variance(first) + statistics.variance(last)) / size)
    start = statistics.fmean(first)
    end = statistics.fmean(last)
    return Trend(start, end, clear=abs(end - start) > 2 * noise + 1e-9)


def find_saturation(run: RunData) -> int | None:
    """Return the first step from which training accuracy stays at 95 % or more.

    It is taken in the mean of five steps.
    """
    saturated_since = None
    window: deque[tuple[int, float]] = deque(maxlen=SATURATION_WINDOW)  # step, accuracy
    for record in run.rl_steps:
        if record.accuracy is None:
            continue
        window.append((record.step, record.accuracy))
        if len(window) < SATURATION_WINDOW:
            continue
        if statistics.fmean(accuracy for _, accuracy in window) < SATURATED:
            saturated_since = None
        elif saturated_since is None:
            saturated_since = window[0][0]
    return saturated_since


def split_gain(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Return a gain as what more answers in the asked form brought, what better answers in that
    form did, and the rest, outside it.

    Each side is (accuracy, share well-formed, accuracy among the well-formed).

    >>> [round(part, 3) for part in split_gain((0.3, 0.5, 0.6), (0.5, 0.7, 0.7))]
    [0.13, 0.06, 0.01]
    """
    accuracy_before, formatted_before, among_before = before
    accuracy_after, formatted_after, among_after = after
    form = (formatted_after - formatted_before) * (among_before + among_after) / 2
    content = (among_after - among_before) * (formatted_before + formatted_after) / 2
    rest = (accuracy_after - accuracy_before) - form - content
    return form, content, rest


def measure_gain(run: RunData, benchmark: str, first: Score, last: Score) -> Estimate:
    """Return the difference of two evaluations with its paired interval.

    It is that of the summary, else computed from the samples of both evaluations.
    """
    if (first.label, last.label) == ("before", "after"):
        summed_up = _read_summed_up(run, benchmark)
        if summed_up is not None:
            return summed_up
    before = solve_rates(read_eval_samples(run, benchmark, first.step))
    after = solve_rates(read_eval_samples(run, benchmark, last.step))
    paired_before = []
    paired_after = []
    for problem, rate in before.items():
        if problem in after:
            paired_before.append(rate)
            paired_after.append(after[problem])
    if len(paired_before) < 2:
        return Estimate(last.value - first.value)
    return Estimate(*estimate_paired_gain(paired_before, paired_after))


def _read_summed_up(run: RunData, benchmark: str) -> Estimate | None:
    if run.summary is None or benchmark not in run.summary.evals:
        return None
    return run.summary.evals[benchmark].gain


def find_cold_start_score(run: RunData, scores: Sequence[Score]) -> Score | None:
    """Return the score between the first and the last that closes the cold start."""
    for score in scores[1:-1]:
        if run.cold_start_steps and score.step == run.cold_start_steps:
            return score
    return None
