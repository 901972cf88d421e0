"""Draw problems from weighted sources, in an order that is a function of seed and epoch."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import fmean

from rlvr.seeds import key_of, permutation, uniform
from rlvr.types import Draw, Problem, RewardedGroup


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
class AdaptiveSampling:
    """When a problem is passed over: its accuracy at its last visit was not between the bounds.

    It is passed over `cooldown` times, then asked again.
    """

    low: float = 0.0
    high: float = 1.0
    cooldown: int = 1


@dataclass(frozen=True, slots=True)
class Sources:
    """The problems of all sources with their weights, their order, and the rests of those that
    adapt.
    """

    problems: tuple[tuple[Problem, ...], ...]
    weights: tuple[float, ...]
    seed: int
    given: tuple[bool, ...] = ()  # whether a source keeps the order of its file
    resting: tuple[AdaptiveSampling | None, ...] = ()

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

    def seen(self, state: SourceState, groups: Sequence[RewardedGroup]) -> SourceState:
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
        if rule.low < accuracy < rule.high or passed >= rule.cooldown:
            return False
        last[problem.id] = (accuracy, passed + 1)
        return True

    def _at(self, source: int, position: int) -> Problem:
        problems: Sequence[Problem] = self.problems[source]
        epoch, index = divmod(position, len(problems))
        if self.given and self.given[source]:
            return problems[index]
        return problems[permutation(len(problems), self.seed, "order", source, epoch)[index]]
