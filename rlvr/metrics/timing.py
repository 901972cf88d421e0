"""The clock of the stages: each callee measures itself, the outer loop reads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

# The stopwatches that run now. Callees are timed without knowing who listens, if anybody does.
_running: list[Stopwatch] = []


class Stopwatch:
    """The seconds of each stage between its start and its stop, over all calls of the stage, and
    what else was counted.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def __enter__(self) -> Stopwatch:
        _running.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _running.remove(self)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def count(name: str, amount: float) -> None:
    """Add to what is counted under a name."""
    for stopwatch in _running:
        stopwatch.counts[name] = stopwatch.counts.get(name, 0.0) + amount


@contextlib.contextmanager
def timed(stage: str) -> Iterator[None]:
    """Count the seconds of a block, or of every call of a function, under the name of a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        elapsed = time.perf_counter() - start
        for stopwatch in _running:
            stopwatch.add(stage, elapsed)
