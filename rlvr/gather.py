"""Gathering owns the attempt loop: a gatherer asks for attempts until the step has its groups; filters mark groups.

A filter never deletes: a group that cannot change the weights is marked `trained=False`, is not computed, and stays
in the denominator of the loss; a sample so marked counts in its group and carries no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rlvr.registry import register
from rlvr.rollouts import Rollouts
from rlvr.source import SourceState
from rlvr.types import Context, Finish, Prompt, SampleGroup, Sampling
from rlvr.verify import Rewarder, Verifier


@dataclass(frozen=True, slots=True)
class Gathered:
    """The groups of a step, the source after them, how many attempts and groups it took, and the groups left out, of
    which the sources learn how hard their problems are."""

    groups: tuple[SampleGroup, ...]
    source: SourceState
    attempts: int
    drawn: int
    left_out: tuple[SampleGroup, ...] = ()


# One attempt: its number and the source's state give the groups drawn and the source's next state.
Attempt = Callable[[int, SourceState], tuple[Sequence[SampleGroup], SourceState]]


@register("gather", "once")
def once(attempt: Attempt, source: SourceState, wanted: int) -> Gathered:
    """One attempt, whatever it brings."""
    groups, after = attempt(0, source)
    return Gathered(tuple(groups), after, 1, len(groups))


@register("gather", "refill")
def refill(attempt: Attempt, source: SourceState, wanted: int, *, max_attempts: int = 4) -> Gathered:
    """Attempts until `wanted` groups have a signal, at most `max_attempts` (DAPO's dynamic sampling, 2025, section
    3.2)."""
    found, silent = list[SampleGroup](), list[SampleGroup]()
    drawn = attempts = 0
    while len(found) < wanted and attempts < max_attempts:
        groups, source = attempt(attempts, source)
        found += [group for group in groups if group.has_signal]
        silent += [group for group in groups if not group.has_signal]
        drawn += len(groups)
        attempts += 1
    return Gathered(tuple(found[:wanted]), source, attempts, drawn, (*silent, *found[wanted:]))


@register("filter", "no_signal")
def no_signal(groups: Sequence[SampleGroup]) -> list[SampleGroup]:
    """Groups whose rewards are all equal are not computed: exact where the estimator compares within groups and every
    other loss term is zero on them, so not with a critic, a KL in the reward or `micro_token`. A step without any other
    group makes no optimiser step."""
    return [replace(group, trained=group.trained and group.has_signal) for group in groups]


@register("filter", "overlong")
def overlong(groups: Sequence[SampleGroup]) -> list[SampleGroup]:
    """Responses that were cut off at the limit carry no loss (DAPO, 2025, section 3.4; `remove_clip` of
    SimpleRL-Zoo)."""
    return [
        replace(
            group,
            samples=tuple(
                replace(s, trained=s.trained and s.rollout.finish is not Finish.LENGTH) for s in group.samples
            ),
        )
        for group in groups
    ]


def no_baseline(groups: Sequence[SampleGroup], prompts: Sequence[Prompt], context: Context) -> Sequence[SampleGroup]:
    """For estimators that take no baseline from the policy itself."""
    return groups


@dataclass(frozen=True, slots=True)
class GreedyBaseline:
    """The reward of the policy's greedy answer to each problem (ReMax, Li et al., 2023); it is never trained on."""

    rollouts: Rollouts
    verifier: Verifier
    reward: Rewarder
    max_tokens: int
    stop: tuple[str, ...]

    def __call__(
        self, groups: Sequence[SampleGroup], prompts: Sequence[Prompt], context: Context
    ) -> Sequence[SampleGroup]:
        """The groups with their baselines; a group whose greedy answer could not be verified is not trained on."""
        greedy = Sampling(1, self.max_tokens, temperature=0.0, stop=self.stop)
        answers = self.verifier.groups(self.rollouts(prompts, greedy, context.seed, context.step, "greedy"), 1)
        found = [self.reward(answer, context) for answer in answers]
        return [
            replace(group, baseline=one.samples[0].reward.value)
            if one.samples
            else replace(group, baseline=0.0, trained=False)
            for group, one in zip(groups, found, strict=True)
        ]
