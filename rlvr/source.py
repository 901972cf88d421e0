"""Which problems are trained on and in what order: selection rules, and sources mixed by weight.

The order of a source is a function of seed and epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from rlvr.errors import UserError, suggest
from rlvr.registry import register
from rlvr.seeds import permutation, uniform
from rlvr.types import Draw, Problem


@register("select", "all")
def everything(problems: Sequence[Problem]) -> list[Problem]:
    """Every problem, once."""
    return list(problems)


@register("select", "ids")
def by_id(problems: Sequence[Problem], *, ids: tuple[str, ...], repeat: int = 1) -> list[Problem]:
    """The named problems, each `repeat` times; repeats drawn in one step are groups of their own (One-Shot-RLVR)."""
    known = {problem.id: problem for problem in problems}
    missing = next((name for name in ids if name not in known), None)
    if missing is not None:
        raise UserError(f"select.ids: no problem '{missing}'{suggest(missing, list(known)[:50])}")
    return [known[name] for name in ids for _ in range(repeat)]


@register("select", "random")
def at_random(problems: Sequence[Problem], *, take: int, seed: int = 0, repeat: int = 1) -> list[Problem]:
    """`take` problems at random, each `repeat` times."""
    if take > len(problems):
        raise UserError(f"select.take: {take} problems asked for, the source has {len(problems)}")
    return [problems[i] for i in permutation(len(problems), seed, "select")[:take] for _ in range(repeat)]


@dataclass(frozen=True, slots=True)
class SourceState:
    """How many problems were drawn in all, and from each source; saved in the checkpoint."""

    drawn: int
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """The problems of all sources with their weights."""

    problems: tuple[tuple[Problem, ...], ...]
    weights: tuple[float, ...]
    seed: int

    def start(self) -> SourceState:
        return SourceState(0, (0,) * len(self.problems))

    def draw(self, state: SourceState, count: int) -> tuple[list[Draw], SourceState]:
        """The next `count` problems and the state after them; no generator is consumed, so a resume repeats nothing."""
        bounds = list(accumulate(self.weights))
        positions, copies, draws = list(state.positions), Counter[str](), []
        for slot in range(state.drawn, state.drawn + count):
            source = min(bisect_right(bounds, uniform(self.seed, "source", slot) * bounds[-1]), len(bounds) - 1)
            problem = self._at(source, positions[source])
            draws.append(Draw(problem, source, copies[problem.id]))
            positions[source] += 1
            copies[problem.id] += 1
        return draws, SourceState(state.drawn + count, tuple(positions))

    def _at(self, source: int, position: int) -> Problem:
        problems: Sequence[Problem] = self.problems[source]
        epoch, index = divmod(position, len(problems))
        return problems[permutation(len(problems), self.seed, "order", source, epoch)[index]]
