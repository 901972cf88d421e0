"""What a run shows: its folder read, a headline, alarms and phenomena, in plain words with the
numbers.
"""

from __future__ import annotations

from typing import Any

from rlvr.report.phenomena import Said
from rlvr.report.rendering import render_words
from rlvr.report.trends import Trend, gain_of, trend
from rlvr.storage.run_data import RunData, number


def headline(run: RunData) -> tuple[str, str]:
    """What happened, in one sentence, and its tone: good, bad, flat or none."""
    found: dict[str, Any] = {"run": run, "scores": run.scores, "tone": "none"}
    if len(run.scores) > 1:
        (first, *others, last), name = run.scores, run.benchmarks[0]
        before, after, paired = first.interval, last.interval, gain_of(run, name, first, last)[1]
        apart = bool(before and after and (after[0] > before[1] or after[1] < before[0]))
        clear = apart or bool(paired and (paired[0] > 0 or paired[1] < 0))
        tone = "flat" if not clear else "good" if last.value > first.value else "bad"
        middle = next((score for score in others if run.cold and score.step == run.cold), None)
        since = gain_of(run, name, middle, last)[1] if middle else None
        found |= {"tone": tone, "apart": apart, "paired": paired, "middle": middle, "since": since}
    return found["tone"], render_words("headline", **found)[1]


def alarms(run: RunData) -> list[tuple[str, str]]:
    """Signs that the figures of training do not mean what they seem to: (heading, explanation with
    the numbers).
    """
    found = [_hacking(run), _reward_alone(run), _truncation(run), _exhausted(run), _skipped(run)]
    return [alarm for alarm in found if alarm]


def _hacking(run: RunData) -> Said:
    scores = [score for score in run.scores if score.step >= run.cold]
    reward, form = trend(run.rl, "reward"), trend(run.rl, "formatted")
    held = run.measured("formatted")
    if len(held) > 1 and run.cold == 0:
        form = Trend(held[0], held[-1], True)
    pays = reward if reward and reward.clear and reward.change > 0.1 else None
    form = form if form and form.clear and form.change > 0.2 else None
    if len(scores) < 2 or not (pays or form):
        return None
    first, last = scores[0], scores[-1]
    gain = gain_of(run, run.benchmarks[0], first, last)
    fell = last.value < first.value - 0.02
    rose = gain[1][0] > 0 if gain[1] else last.value - first.value > 0.03
    if (rose or first.value > 0.97) and not fell:
        return None
    facts = {"reward": pays, "form": form, "fell": fell, "first": first.value, "last": last.value}
    accuracy, empty = trend(run.rl, "accuracy"), trend(run.rl, "no_answer")
    if not fell and accuracy and accuracy.clear and accuracy.change > 0.05:
        return render_words("not_held_out", **facts, accuracy=accuracy)
    return render_words("hacked", **facts, empty=empty)


def _reward_alone(run: RunData) -> Said:
    reward, accuracy = trend(run.last_stage, "reward"), trend(run.last_stage, "accuracy")
    if not (reward and accuracy and reward.clear and accuracy.clear):
        return None
    apart = reward.change > 0.05 and accuracy.change <= -0.05
    return render_words("reward_alone", reward=reward, accuracy=accuracy) if apart else None


def _truncation(run: RunData) -> Said:
    cut = trend(run.last_stage, "truncated")
    return render_words("truncation", cut=cut) if cut and cut.clear and cut.change > 0.15 else None


def _exhausted(run: RunData) -> Said:
    equal, entropy = trend(run.last_stage, "no_signal"), trend(run.last_stage, "entropy")
    if not equal or equal.end < 0.9 or (entropy and entropy.end > 0.5 * entropy.start):
        return None
    accuracy = trend(run.last_stage, "accuracy")
    return render_words(
        "exhausted", equal=equal, entropy=entropy, solved=accuracy and accuracy.end > 0.95
    )


def _skipped(run: RunData) -> Said:
    critic = [record.get("critic") or {} for record in run.metrics]
    of_policy, of_critic = (
        sum(int(number(part.get("skipped_updates")) or 0) for part in parts)
        for parts in (run.metrics, critic)
    )
    updates = of_policy + of_critic
    return render_words("skipped", updates=updates, of_critic=of_critic) if updates else None
