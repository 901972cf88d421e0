"""The weighted sum of a recipe's rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.rewards.adapters import GroupReward
from rlvr.types import Context, Reward, RewardedGroup, Sample, VerifiedGroup


@dataclass(frozen=True, slots=True)
class Rewarder:
    """The weighted sum of the recipe's rewards, each part logged under the name of its reward."""

    rewards: Sequence[tuple[str, float, GroupReward]]  # name, weight, function

    def __call__(self, group: VerifiedGroup, context: Context) -> RewardedGroup:
        """Give values to the members of one group.   [G] -> [G]"""
        if not group.members:
            return RewardedGroup(group.problem, (), trained=False, failed=group.failed)
        columns: list[list[Reward]] = []
        for name, weight, call in self.rewards:
            rewards = call(group, context)
            columns.append([_scale(reward, name, weight) for reward in rewards])
        rows = zip(*columns, strict=True)
        samples: list[Sample] = []
        for member, row in zip(group.members, rows, strict=True):
            samples.append(Sample(member.rollout, member.verdict, _add_up(row)))
        return RewardedGroup(group.problem, tuple(samples), failed=group.failed)


def _add_up(rewards: Sequence[Reward]) -> Reward:
    """Return the sum of all rewards of one response, with the parts of each."""
    parts: dict[str, float] = {}
    for reward in rewards:
        parts.update(reward.parts)
    return Reward(sum(reward.value for reward in rewards), parts)


def _scale(reward: Reward, name: str, weight: float) -> Reward:
    """Return the weighted reward, whose parts begin with its name.

    >>> _scale(Reward(2.0, {"steps": 2.0}), "step_count", 0.5).parts
    {'step_count.steps': 1.0}
    """
    value = weight * reward.value
    parts: dict[str, float] = {}
    for part, part_value in reward.parts.items():
        key = part if part.startswith(name) else f"{name}.{part}"
        parts[key] = weight * part_value
    return Reward(value, parts or {name: value})
