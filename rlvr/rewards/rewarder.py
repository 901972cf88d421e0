"""The weighted sum of a recipe's rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlvr.types import Context, Reward, RewardedGroup, Sample, VerifiedGroup


@dataclass(frozen=True, slots=True)
class Rewarder:
    """The weighted sum of the recipe's rewards, each part logged under the name of its reward."""

    rewards: Sequence[tuple[str, float, Callable[[VerifiedGroup, Context], Sequence[Reward]]]]

    def __call__(self, group: VerifiedGroup, context: Context) -> RewardedGroup:
        """Values for the members of one group.   [G] -> [G]"""
        if not group.members:
            return RewardedGroup(group.problem, (), trained=False, failed=group.failed)
        columns = [
            [self._scaled(name, weight, r) for r in call(group, context)]
            for name, weight, call in self.rewards
        ]
        rows = list(zip(*columns, strict=True))
        rewards = [
            Reward(sum(r.value for r in row), {k: v for r in row for k, v in r.parts.items()})
            for row in rows
        ]
        samples = [
            Sample(m.rollout, m.verdict, r) for m, r in zip(group.members, rewards, strict=True)
        ]
        return RewardedGroup(group.problem, tuple(samples), failed=group.failed)

    @staticmethod
    def _scaled(name: str, weight: float, reward: Reward) -> Reward:
        parts = {
            k if k.startswith(name) else f"{name}.{k}": weight * v for k, v in reward.parts.items()
        }
        return Reward(weight * reward.value, parts or {name: weight * reward.value})
