"""What the groups of a step look like in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlvr.metrics import text_quality
from rlvr.metrics.mergeable import Metrics
from rlvr.types import Finish, RewardedGroup, Sample, Status, flatten

if TYPE_CHECKING:
    from rlvr.rollouts.gather import CollectedGroups


def describe(groups: Sequence[RewardedGroup], gathered: CollectedGroups) -> Metrics:
    """Rewards by part, shares of correct, well-formed and truncated responses, lengths, and groups
    without signal.
    """
    samples, tokens = flatten(groups), 0
    metrics = Metrics.sum(
        groups=len(groups), samples=len(samples), attempts=gathered.attempts, drawn=gathered.drawn
    )
    for sample in samples:
        metrics += _of(sample)
        tokens += len(sample.rollout.token_ids)
    for member in (member for group in groups for member in group.failed):
        metrics += Metrics.sum(**{f"verdicts/{member.verdict.status}": 1.0})
    silent = sum(not group.has_signal for group in groups)
    left_out = sum(not group.trained for group in groups)
    metrics += Metrics.mean("no_signal", silent, len(groups)) + Metrics.mean(
        "filtered", left_out, len(groups)
    )
    return metrics + Metrics.sum(response_tokens=tokens)


def _of(sample: Sample) -> Metrics:
    verdict, rollout = sample.verdict, sample.rollout
    facts = {
        "reward": sample.reward.value,
        "accuracy": verdict.correct,
        "formatted": verdict.formatted,
        "truncated": rollout.finish is Finish.LENGTH,
        "no_answer": verdict.status is Status.NO_ANSWER,
        "length": len(rollout.token_ids),
        "foreign": text_quality.foreign(rollout.text),
        "repetition": text_quality.repetition(rollout.text),
    }
    parts = {f"reward_parts/{name}": value for name, value in sample.reward.parts.items()}
    means = {name: (float(value), 1.0) for name, value in {**facts, **parts}.items()}
    return Metrics(means, {f"verdicts/{verdict.status}": 1.0})
