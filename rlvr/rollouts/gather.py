"""Where the groups of a step come from: sources draw problems, a gatherer asks for attempts until
the step is full, filters mark groups.

Sources are mixed by weight; the order of each is a function of seed and epoch. A filter never
deletes: a group that cannot change the weights is marked `trained=False`, is not computed, and
stays in the denominator of the loss; a sample so marked counts in its group and carries no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlvr.data.sources import SourceState
from rlvr.registry import register
from rlvr.types import RewardedGroup


@dataclass(frozen=True, slots=True)
class CollectedGroups:
    """The groups of a step, the source after them, how many attempts and groups it took, and the
    groups left out, of which the sources learn how hard their problems are.
    """

    groups: tuple[RewardedGroup, ...]
    source: SourceState
    attempts: int
    drawn: int
    left_out: tuple[RewardedGroup, ...] = ()


# One attempt: its number and the source's state give the groups drawn and the source's next state.
Attempt = Callable[[int, SourceState], tuple[Sequence[RewardedGroup], SourceState]]


@register("gather", "once")
def once(attempt: Attempt, source: SourceState, wanted: int) -> CollectedGroups:
    """One attempt, whatever it brings."""
    groups, after = attempt(0, source)
    return CollectedGroups(tuple(groups), after, 1, len(groups))


@register("gather", "refill")
def refill(
    attempt: Attempt, source: SourceState, wanted: int, *, max_attempts: int = 4
) -> CollectedGroups:
    """Attempts until `wanted` groups have a signal, at most `max_attempts` (DAPO's dynamic
    sampling, 2025, section 3.2).
    """
    found, silent = list[RewardedGroup](), list[RewardedGroup]()
    drawn = attempts = 0
    while len(found) < wanted and attempts < max_attempts:
        groups, source = attempt(attempts, source)
        found += [group for group in groups if group.has_signal]
        silent += [group for group in groups if not group.has_signal]
        drawn += len(groups)
        attempts += 1
    return CollectedGroups(
        tuple(found[:wanted]), source, attempts, drawn, (*silent, *found[wanted:])
    )
