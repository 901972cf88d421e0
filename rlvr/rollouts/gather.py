"""How many attempts fill a step with groups.

Sources draw problems, a gatherer asks for attempts until the step is full, filters mark groups.
Sources are mixed by weight; the order of each is a function of seed and epoch. A filter never
deletes. A group that cannot change the weights is marked `trained=False`: it is not computed, and
stays in the denominator of the loss. A sample so marked counts in its group and carries no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlvr.data.sources import SourceState
from rlvr.registry import register
from rlvr.types import RewardedGroup


@dataclass(frozen=True, slots=True)
class CollectedGroups:
    """The groups of a step, the source after them, and how many attempts and groups it took.

    Also of the groups left out the sources learn how hard their problems are.
    """

    groups: tuple[RewardedGroup, ...]
    source: SourceState
    attempts: int
    drawn: int
    left_out: tuple[RewardedGroup, ...] = ()


# One attempt: its number and the source's state give the groups drawn and the source's next state.
Attempt = Callable[[int, SourceState], tuple[Sequence[RewardedGroup], SourceState]]


@register("gather", "once")
def once(
    attempt: Attempt,
    source: SourceState,
    wanted: int,
) -> CollectedGroups:
    """One attempt, whatever it brings."""
    groups, after = attempt(0, source)
    return CollectedGroups(tuple(groups), after, 1, len(groups))


@register("gather", "refill")
def refill(
    attempt: Attempt,
    source: SourceState,
    wanted: int,
    *,
    max_attempts: int = 4,
) -> CollectedGroups:
    """Attempts until `wanted` groups have a signal, at most `max_attempts` (DAPO's dynamic
    sampling, 2025, section 3.2).
    """
    with_signal: list[RewardedGroup] = []
    without_signal: list[RewardedGroup] = []
    drawn = 0
    attempts = 0
    while len(with_signal) < wanted and attempts < max_attempts:
        groups, source = attempt(attempts, source)
        for group in groups:
            if group.has_signal:
                with_signal.append(group)
            else:
                without_signal.append(group)
        drawn += len(groups)
        attempts += 1
    surplus = with_signal[wanted:]
    return CollectedGroups(
        groups=tuple(with_signal[:wanted]),
        source=source,
        attempts=attempts,
        drawn=drawn,
        left_out=(*without_signal, *surplus),
    )
