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
    """How many problems were drawn in all, and from each source; saved in the checkpoint.

    Where a source adapts, `last` holds the accuracy of its problems at their last visit, with how
    often they were passed over since.
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
    """The problems of all sources with their weights and their order.

    `given` says which sources keep the order of their file, `resting` which adapt to accuracy.
    """

    problems: tuple[tuple[Problem, ...], ...]
    weights: tuple[float, ...]
    seed: int
    given: tuple[bool, ...] = ()
    resting: tuple[AdaptiveSampling | None, ...] = ()

    @property
    def key(self) -> int:
        """A number that names the problems of all sources and their order."""
        parts: list[int | str] = []
        for source, problems in enumerate(self.problems):
            parts.append(source)
            parts += [problem.id for problem in problems]
        return key_of(*parts)

    def start(self) -> SourceState:
        """Return the state before the first draw."""
        return SourceState(0, (0,) * len(self.problems))

    def draw(self, state: SourceState, count: int) -> tuple[list[Draw], SourceState]:
        """Return the next `count` problems and the state after them.

        No generator is consumed, so a resume repeats nothing.
        """
        bounds = list(accumulate(self.weights))
        positions = list(state.positions)
        last = dict(state.last)
        copies: Counter[str] = Counter()
        draws: list[Draw] = []
        for slot in range(state.drawn, state.drawn + count):
            source = self._choose_source(slot, bounds)
            problem = self._pick_problem(source, positions[source])
            while self._pass_over(source, problem, last):
                positions[source] += 1
                problem = self._pick_problem(source, positions[source])
            draws.append(Draw(problem, source, copies[problem.id]))
            positions[source] += 1
            copies[problem.id] += 1
        return draws, SourceState(state.drawn + count, tuple(positions), last)

    def note_accuracy(self, state: SourceState, groups: Sequence[RewardedGroup]) -> SourceState:
        """Return the state with the accuracy of the groups' problems, where a source adapts to it."""
        if not any(self.resting):
            return state
        last = dict(state.last)
        for group in groups:
            if group.samples:
                accuracy = fmean(sample.verdict.correct for sample in group.samples)
                last[group.problem.id] = (accuracy, 0)
        return replace(state, last=last)

    def _choose_source(self, slot: int, bounds: Sequence[float]) -> int:
        """Return the source of a draw, by the cumulated weights of the sources."""
        point = uniform(self.seed, "source", slot) * bounds[-1]
        return min(bisect_right(bounds, point), len(bounds) - 1)

    def _pass_over(self, source: int, problem: Problem, last: dict[str, tuple[float, int]]) -> bool:
        """Return whether the problem is passed over this time, and count that in `last`."""
        rule = self.resting[source] if self.resting else None
        if rule is None or problem.id not in last:
            return False
        accuracy, passed = last[problem.id]
        if rule.low < accuracy < rule.high or passed >= rule.cooldown:
            return False
        last[problem.id] = (accuracy, passed + 1)
        return True

    def _pick_problem(self, source: int, position: int) -> Problem:
        """Return the problem at a position of a source, whose epochs follow one another."""
        problems: Sequence[Problem] = self.problems[source]
        epoch, index = divmod(position, len(problems))
        if self.given and self.given[source]:
            return problems[index]
        return problems[permutation(len(problems), self.seed, "order", source, epoch)[index]]
