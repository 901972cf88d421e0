"""Where the groups of a step come from: sources draw problems, a gatherer asks for attempts until
the step is full, filters mark groups.

Sources are mixed by weight; the order of each is a function of seed and epoch. A filter never
deletes: a group that cannot change the weights is marked `trained=False`, is not computed, and
stays in the denominator of the loss; a sample so marked counts in its group and carries no loss.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import fmean

from rlvr.recipe import Adaptive
from rlvr.registry import register
from rlvr.rollouts import Rollouts
from rlvr.seeds import key_of, permutation, uniform
from rlvr.types import Context, Draw, Finish, Problem, Prompt, Sample, SampleGroup, Sampling
from rlvr.verify import Rewarder, Verifier


@dataclass(frozen=True, slots=True)
class SourceState:
    """How many problems were drawn in all, and from each source, and where a source adapts the
    accuracy of its problems at their last visit with how often they were passed over since; saved
    in the checkpoint.
    """

    drawn: int
    positions: tuple[int, ...]
    last: Mapping[str, tuple[float, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sources:
    """The problems of all sources with their weights, their order, and the rests of those that
    adapt.
    """

    problems: tuple[tuple[Problem, ...], ...]
    weights: tuple[float, ...]
    seed: int
    given: tuple[bool, ...] = ()  # whether a source keeps the order of its file
    resting: tuple[Adaptive | None, ...] = ()

    @property
    def key(self) -> int:
        """A number that names the problems of all sources and their order."""
        return key_of(
            *(part for i, rows in enumerate(self.problems) for part in (i, *(p.id for p in rows)))
        )

    def start(self) -> SourceState:
        return SourceState(0, (0,) * len(self.problems))

    def draw(self, state: SourceState, count: int) -> tuple[list[Draw], SourceState]:
        """The next `count` problems and the state after them; no generator is consumed, so a resume
        repeats nothing.
        """
        bounds = list(accumulate(self.weights))
        positions, copies, draws, last = list(state.positions), Counter[str](), [], dict(state.last)
        for slot in range(state.drawn, state.drawn + count):
            source = min(
                bisect_right(bounds, uniform(self.seed, "source", slot) * bounds[-1]),
                len(bounds) - 1,
            )
            while self._rests(source, self._at(source, positions[source]), last):
                positions[source] += 1
            problem = self._at(source, positions[source])
            draws.append(Draw(problem, source, copies[problem.id]))
            positions[source] += 1
            copies[problem.id] += 1
        return draws, SourceState(state.drawn + count, tuple(positions), last)

    def seen(self, state: SourceState, groups: Sequence[SampleGroup]) -> SourceState:
        """The state with the accuracy of the groups' problems, where a source adapts to it."""
        if not any(self.resting):
            return state
        found = {
            g.problem.id: (fmean(s.verdict.correct for s in g.samples), 0)
            for g in groups
            if g.samples
        }
        return replace(state, last={**state.last, **found})

    def _rests(self, source: int, problem: Problem, last: dict[str, tuple[float, int]]) -> bool:
        """Whether the problem is passed over this time, which is counted."""
        rule = self.resting[source] if self.resting else None
        if rule is None or problem.id not in last:
            return False
        accuracy, passed = last[problem.id]
        if rule.low < accuracy < rule.high or passed >= rule.rest:
            return False
        last[problem.id] = (accuracy, passed + 1)
        return True

    def _at(self, source: int, position: int) -> Problem:
        problems: Sequence[Problem] = self.problems[source]
        epoch, index = divmod(position, len(problems))
        if self.given and self.given[source]:
            return problems[index]
        return problems[permutation(len(problems), self.seed, "order", source, epoch)[index]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """The groups of a step, the source after them, how many attempts and groups it took, and the
    groups left out, of which the sources learn how hard their problems are.
    """

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
def refill(
    attempt: Attempt, source: SourceState, wanted: int, *, max_attempts: int = 4
) -> Gathered:
    """Attempts until `wanted` groups have a signal, at most `max_attempts` (DAPO's dynamic
    sampling, 2025, section 3.2).
    """
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
    """Groups whose rewards are all equal are not computed: exact where the estimator compares
    within groups and every other loss term is zero on them, so not with a critic, a KL in the
    reward or `micro_token`. A step without any other group makes no optimiser step.
    """
    return [replace(group, trained=group.trained and group.has_signal) for group in groups]


@register("filter", "overlong")
def overlong(groups: Sequence[SampleGroup]) -> list[SampleGroup]:
    """Responses that were cut off at the limit carry no loss (DAPO, 2025, section 3.4;
    `remove_clip` of SimpleRL-Zoo).
    """

    def marked(sample: Sample) -> Sample:
        return replace(
            sample, trained=sample.trained and sample.rollout.finish is not Finish.LENGTH
        )

    return [replace(group, samples=tuple(map(marked, group.samples))) for group in groups]


def no_baseline(
    groups: Sequence[SampleGroup], prompts: Sequence[Prompt], context: Context
) -> Sequence[SampleGroup]:
    """For estimators that take no baseline from the policy itself."""
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
        self, groups: Sequence[SampleGroup], prompts: Sequence[Prompt], context: Context
    ) -> Sequence[SampleGroup]:
        """The groups with their baselines; a group whose greedy answer could not be verified is not
        trained on.
        """
        greedy = Sampling(1, self.max_tokens, temperature=0.0, stop=self.stop)
        answers = self.verifier.groups(
            self.rollouts(prompts, greedy, context.seed, context.step, "greedy"), 1
        )
        found = [self.reward(answer, context) for answer in answers]
        return [
            replace(group, baseline=one.samples[0].reward.value)
            if one.samples
            else replace(group, baseline=0.0, trained=False)
            for group, one in zip(groups, found, strict=True)
        ]
