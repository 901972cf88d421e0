"""Where a run runs: rank, size and the collectives, each an identity in the world of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """One of `size` equal processes; every process runs the same loop on its share."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of what all ranks drew; a group never spans ranks."""
        return items[self.rank :: self.size]

    def sum(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """The values added over all ranks."""
        return values
