"""Gathering owns the attempt loop: a gatherer asks for attempts until the step has its groups; filters mark groups.

A filter never deletes: a group that cannot change the weights is marked `trained=False`, is not computed, and stays
in the denominator of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rlvr.registry import register
from rlvr.source import SourceState
from rlvr.types import SampleGroup


@dataclass(frozen=True, slots=True)
class Gathered:
    """The groups of a step, the source after them, and how many attempts and groups it took."""

    groups: tuple[SampleGroup, ...]
    source: SourceState
    attempts: int
    drawn: int


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
    found: list[SampleGroup] = []
    drawn = attempts = 0
    while len(found) < wanted and attempts < max_attempts:
        groups, source = attempt(attempts, source)
        found += [group for group in groups if group.has_signal]
        drawn += len(groups)
        attempts += 1
    return Gathered(tuple(found[:wanted]), source, attempts, drawn)


@register("filter", "no_signal")
def no_signal(groups: Sequence[SampleGroup]) -> list[SampleGroup]:
    """Groups whose rewards are all equal are not computed: exact where every other loss term is zero on them."""
    return [replace(group, trained=group.trained and group.has_signal) for group in groups]
