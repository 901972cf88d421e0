"""The clock of the stages: the callee measures itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

_seconds: dict[str, float] = {}


@contextlib.contextmanager
def timed(stage: str) -> Iterator[None]:
    """Count the seconds of a block, or of every call of a function, under the name of a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        _seconds[stage] = _seconds.get(stage, 0.0) + time.perf_counter() - start


def pop_timings() -> dict[str, float]:
    """The seconds of each stage since the last call."""
    taken = dict(_seconds)
    _seconds.clear()
    return taken
