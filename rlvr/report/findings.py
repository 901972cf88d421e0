"""The headline of a run with its alarms, in plain words with the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from rlvr.report.rendering import render_finding
from rlvr.report.trends import (
    Trend,
    find_cold_start_score,
    measure_gain,
    measure_trend,
)
from rlvr.storage.run_data import RunData, Score

Tone = Literal["good", "bad", "flat", "none"]
Finding = tuple[str, str]  # heading, text with the numbers


class Headline(NamedTuple):
    """What happened, in one sentence, with its tone."""

    tone: Tone
    sentence: str


def write_headline(run: RunData) -> Headline:
    """Return what happened in one sentence."""
    scores = run.scores
    figures: dict[str, Any] = {
        "run": run,
        "scores": scores,
        "tone": "none",
        "apart": False,
        "paired": None,
        "middle": None,
        "since": None,
    }
    if len(scores) > 1:
        figures |= _compare_ends(run, scores)
    _, sentence = render_finding("findings/headline.j2", **figures)
    return Headline(figures["tone"], sentence)


def _compare_ends(run: RunData, scores: Sequence[Score]) -> dict[str, Any]:
    """Return the figures of the headline where there is a first and a last evaluation."""
    first = scores[0]
    last = scores[-1]
    benchmark = run.benchmarks[0]
    paired = measure_gain(run, benchmark, first, last).ci95
    apart = _are_apart(first, last)
    middle = find_cold_start_score(run, scores)
    since = None
    if middle:
        since = measure_gain(run, benchmark, middle, last).ci95
    return {
        "tone": _choose_tone(first, last, clear=apart or _excludes_zero(paired)),
        "apart": apart,
        "paired": paired,
        "middle": middle,
        "since": since,
    }


def _are_apart(first: Score, last: Score) -> bool:
    """Tell whether the intervals of two scores do not overlap."""
    before = first.interval
    after = last.interval
    if not before or not after:
        return False
    return after[0] > before[1] or after[1] < before[0]


def _excludes_zero(interval: Sequence[float] | None) -> bool:
    if not interval:
        return False
    low, high = interval
    return low > 0 or high < 0


def _choose_tone(first: Score, last: Score, clear: bool) -> Tone:
    if not clear:
        return "flat"
    return "good" if last.value > first.value else "bad"


def find_alarms(run: RunData) -> list[Finding]:
    """Return signs that the figures of training do not mean what they seem to."""
    found = [
        _warn_of_hacking(run),
        _warn_of_reward_alone(run),
        _warn_of_truncation(run),
        _warn_of_exhaustion(run),
        _warn_of_skipped_updates(run),
    ]
    return list(filter(None, found))


def _warn_of_hacking(run: RunData) -> Finding | None:
    """Warn where reward or form clearly rises and held-out accuracy does not."""
    reward = _keep_clear_rise(measure_trend(run.rl_steps, "reward"), least=0.1)
    form = _keep_clear_rise(_measure_form(run), least=0.2)
    scores = [score for score in run.scores if score.step >= run.cold_start_steps]
    if len(scores) < 2 or not (reward or form):
        return None
    first = scores[0]
    last = scores[-1]
    fell = last.value < first.value - 0.02
    if not fell and _has_risen(run, first, last):
        return None
    figures = {
        "reward": reward,
        "form": form,
        "fell": fell,
        "first": first.value,
        "last": last.value,
    }
    accuracy = _keep_clear_rise(measure_trend(run.rl_steps, "accuracy"), least=0.05)
    if accuracy and not fell:
        return render_finding("findings/not_held_out.j2", **figures, accuracy=accuracy)
    empty = measure_trend(run.rl_steps, "no_answer")
    return render_finding("findings/hacked.j2", **figures, empty=empty)


def _measure_form(run: RunData) -> Trend | None:
    """Return how the share of well-formed answers moved: on held-out problems where that is known.

    After a cold start the held-out figures begin before it, so those of training are taken.
    """
    held_out = run.list_held_out("formatted")
    if len(held_out) > 1 and run.cold_start_steps == 0:
        return Trend(held_out[0], held_out[-1], clear=True)
    return measure_trend(run.rl_steps, "formatted")


def _keep_clear_rise(trend: Trend | None, least: float) -> Trend | None:
    """Return the trend where it clearly rises by more than so much."""
    if trend and trend.clear and trend.change > least:
        return trend
    return None


def _has_risen(run: RunData, first: Score, last: Score) -> bool:
    """Tell whether held-out accuracy rose, or had no room to."""
    if first.value > 0.97:
        return True
    interval = measure_gain(run, run.benchmarks[0], first, last).ci95
    if interval:
        return interval[0] > 0
    return last.value - first.value > 0.03


def _warn_of_reward_alone(run: RunData) -> Finding | None:
    """Warn where the reward rises while training accuracy falls."""
    reward = _keep_clear_rise(measure_trend(run.last_stage, "reward"), least=0.05)
    accuracy = measure_trend(run.last_stage, "accuracy")
    if not reward or not accuracy or not accuracy.clear or accuracy.change > -0.05:
        return None
    return render_finding("findings/reward_alone.j2", reward=reward, accuracy=accuracy)


def _warn_of_truncation(run: RunData) -> Finding | None:
    cut = _keep_clear_rise(measure_trend(run.last_stage, "truncated"), least=0.15)
    if cut is None:
        return None
    return render_finding("findings/truncation.j2", cut=cut)


def _warn_of_exhaustion(run: RunData) -> Finding | None:
    """Warn where most groups have equal rewards and the policy no longer varies."""
    equal = measure_trend(run.last_stage, "no_signal")
    entropy = measure_trend(run.last_stage, "entropy")
    if not equal or equal.end < 0.9:
        return None
    if entropy and entropy.end > 0.5 * entropy.start:
        return None
    accuracy = measure_trend(run.last_stage, "accuracy")
    return render_finding(
        "findings/exhausted.j2",
        equal=equal,
        entropy=entropy,
        solved=accuracy is not None and accuracy.end > 0.95,
    )


def _warn_of_skipped_updates(run: RunData) -> Finding | None:
    updates = 0
    of_critic = 0
    for record in run.metrics:
        updates += record.skipped_updates + record.skipped_critic_updates
        of_critic += record.skipped_critic_updates
    if not updates:
        return None
    return render_finding("findings/skipped.j2", updates=updates, of_critic=of_critic)
