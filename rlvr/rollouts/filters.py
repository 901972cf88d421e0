"""Mark groups and samples that are not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlvr.registry import register
from rlvr.types import Finish, RewardedGroup, Sample


@register("filter", "no_signal")
def no_signal(groups: Sequence[RewardedGroup]) -> list[RewardedGroup]:
    """Groups whose rewards are all equal are not computed: exact where the estimator compares
    within groups and every other loss term is zero on them, so not with a critic, a KL in the
    reward or `micro_token`. A step without any other group makes no optimiser step.
    """
    return [replace(group, trained=group.trained and group.has_signal) for group in groups]


@register("filter", "overlong")
def overlong(groups: Sequence[RewardedGroup]) -> list[RewardedGroup]:
    """Responses that were cut off at the limit carry no loss (DAPO, 2025, section 3.4;
    `remove_clip` of SimpleRL-Zoo).
    """

    def marked(sample: Sample) -> Sample:
        return replace(
            sample, trained=sample.trained and sample.rollout.finish is not Finish.LENGTH
        )

    return [replace(group, samples=tuple(map(marked, group.samples))) for group in groups]
