"""The callee measures itself: `@timed("generate")` adds a stage's seconds to the clock that the outer loop reads."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_seconds: dict[str, float] = {}


def timed(stage: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Count the seconds of every call under the name of a stage."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                _seconds[stage] = _seconds.get(stage, 0.0) + time.perf_counter() - start

        return call

    return decorate


def take() -> dict[str, float]:
    """The seconds of each stage since the last call."""
    taken = dict(_seconds)
    _seconds.clear()
    return taken
