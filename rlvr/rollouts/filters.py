"""Marks on groups and samples that are not trained on."""

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
    marked: list[RewardedGroup] = []
    for group in groups:
        trained = group.trained and group.has_signal
        marked.append(replace(group, trained=trained))
    return marked


@register("filter", "overlong")
def overlong(groups: Sequence[RewardedGroup]) -> list[RewardedGroup]:
    """Responses that were cut off at the limit carry no loss (DAPO, 2025, section 3.4;
    `remove_clip` of SimpleRL-Zoo).
    """
    marked: list[RewardedGroup] = []
    for group in groups:
        samples = tuple(map(_mark_overlong, group.samples))
        marked.append(replace(group, samples=samples))
    return marked


def _mark_overlong(sample: Sample) -> Sample:
    if sample.rollout.finish is Finish.LENGTH:
        return replace(sample, trained=False)
    return sample
