"""Learning-rate schedules: a factor for the peak rate, as a function of how far the run is."""

from __future__ import annotations

import math

from rlvr.registry import Share, register


@register("schedule", "constant")
def constant(progress: float) -> float:
    """The peak rate throughout."""
    return 1.0


@register("schedule", "linear")
def linear(progress: float, *, final: Share = 0.0) -> float:
    """A straight line from 1 to `final`."""
    return 1 + (final - 1) * progress


@register("schedule", "cosine")
def cosine(progress: float, *, final: Share = 0.0) -> float:
    """Half a cosine from 1 to `final` (SimpleRL v0 ends at 0.1)."""
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
