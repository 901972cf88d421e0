"""The reward of a greedy answer as a baseline (ReMax, Li et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlvr.rewards.rewarder import Rewarder
from rlvr.rollouts.generate import Rollouts
from rlvr.rollouts.verify import Verifier
from rlvr.types import Context, Prompt, RewardedGroup, Sampling


def skip_baseline(
    groups: Sequence[RewardedGroup],
    prompts: Sequence[Prompt],
    context: Context,
) -> Sequence[RewardedGroup]:
    """Return the groups as they are: for estimators that take no baseline from the policy itself."""
    return groups


@dataclass(frozen=True, slots=True)
class GreedyBaseline:
    """The reward of the policy's greedy answer to each problem (ReMax, Li et al., 2023); it is
    never trained on.
    """

    rollouts: Rollouts
    verifier: Verifier
    reward: Rewarder
    max_tokens: int
    stop: tuple[str, ...]

    def __call__(
        self,
        groups: Sequence[RewardedGroup],
        prompts: Sequence[Prompt],
        context: Context,
    ) -> Sequence[RewardedGroup]:
        """Return the groups with their baselines; a group whose greedy answer could not be verified
        is not trained on.
        """
        greedy = Sampling(1, self.max_tokens, temperature=0.0, stop=self.stop)
        rollouts = self.rollouts(prompts, greedy, context.seed, context.step, "greedy")
        answers = self.verifier.verify(rollouts, samples=1)
        with_baselines: list[RewardedGroup] = []
        for group, answer in zip(groups, answers, strict=True):
            rewarded = self.reward(answer, context)
            if rewarded.samples:
                value = rewarded.samples[0].reward.value
                with_baselines.append(replace(group, baseline=value))
            else:
                with_baselines.append(replace(group, baseline=0.0, trained=False))
        return with_baselines
