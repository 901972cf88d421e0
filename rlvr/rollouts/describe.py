"""What the groups of a step look like in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlvr.metrics import text_quality
from rlvr.metrics.mergeable import Metrics
from rlvr.types import Finish, RewardedGroup, Sample, Status, VerifiedSample, flatten

if TYPE_CHECKING:
    from rlvr.rollouts.gather import CollectedGroups


def describe(groups: Sequence[RewardedGroup], gathered: CollectedGroups) -> Metrics:
    """Describe rewards by part, shares of correct, well-formed and truncated responses, lengths,
    and groups without signal.

    The groups are those of all ranks, so nothing is reduced here.
    """
    samples = flatten(groups)
    metrics = Metrics.sum(
        groups=len(groups),
        samples=len(samples),
        attempts=gathered.attempts,
        groups_drawn=gathered.drawn,
    )
    response_tokens = 0
    for sample in samples:
        metrics += _describe_sample(sample)
        response_tokens += len(sample.rollout.token_ids)
    without_signal = 0
    filtered = 0
    for group in groups:
        without_signal += not group.has_signal
        filtered += not group.trained
        for member in group.failed:
            metrics += _count_verdict(member)
    metrics += Metrics.mean("no_signal", without_signal, len(groups))
    metrics += Metrics.mean("filtered", filtered, len(groups))
    return metrics + Metrics.sum(response_tokens=response_tokens)


def _describe_sample(sample: Sample) -> Metrics:
    rollout = sample.rollout
    verdict = sample.verdict
    values: dict[str, float] = {
        "reward": sample.reward.value,
        "accuracy": verdict.correct,
        "formatted": verdict.formatted,
        "truncated": rollout.finish is Finish.LENGTH,
        "no_answer": verdict.status is Status.NO_ANSWER,
        "length": len(rollout.token_ids),
        "non_ascii": text_quality.measure_foreign(rollout.text),
        "repetition": text_quality.measure_repetition(rollout.text),
    }
    for name, value in sample.reward.parts.items():
        values[f"reward_parts/{name}"] = value
    means: dict[str, tuple[float, float]] = {}
    for name, value in values.items():
        means[name] = (float(value), 1.0)
    return Metrics(means) + _count_verdict(sample)


def _count_verdict(sample: Sample | VerifiedSample) -> Metrics:
    return Metrics.sum(**{f"verdicts/{sample.verdict.status}": 1.0})
