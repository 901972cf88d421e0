"""Numbers of fifty digits, in an arithmetic of each thread's own."""

from __future__ import annotations

import threading
from typing import Any, TypeAlias

import mpmath

DIGITS = 50
EXTRA_DIGITS = 10  # computed beyond those, so that the last of fifty is right
GUARD_DIGITS = 20  # that rounding may cost
MAX_BITS = 20_000  # of a number: 2^1009 is fine, a tower of powers may not be
REAL_TOLERANCE = 1e-30  # size of an imaginary part, beside the number, that is only rounding

# A real (mpf) or complex (mpc) number of a context; mpmath makes both classes at run time.
Number: TypeAlias = Any

_LOCAL = threading.local()


class Undecided(Exception):
    """The value is too large, not defined, or of a kind that has no number."""


def get_context() -> Any:
    """Return the precise arithmetic of this thread."""
    # mpmath's global context keeps its precision in one place for all threads.
    if not hasattr(_LOCAL, "context"):
        _LOCAL.context = mpmath.MPContext()
        _LOCAL.context.dps = DIGITS + EXTRA_DIGITS
    return _LOCAL.context


def require_finite(value: Number) -> Number:
    """Return the number; raises Undecided where it is infinite or none."""
    if not get_context().isfinite(value):
        raise Undecided
    return value


def require_moderate(value: Number) -> Number:
    """Return the number; raises Undecided where it has more than MAX_BITS before or behind the point."""
    if value != 0 and abs(get_context().mag(value)) > MAX_BITS:
        raise Undecided
    return value


def is_real(value: Number) -> bool:
    """Whether the imaginary part is nothing but rounding."""
    return abs(get_context().im(value)) <= abs(value) * REAL_TOLERANCE


def agree_in_digits(left: Number, right: Number, digits: int) -> bool:
    """Whether two numbers are equal in all but the last GUARD_DIGITS of so many digits."""
    largest = max(abs(left), abs(right))
    tolerance = get_context().mpf(10) ** (GUARD_DIGITS - digits)
    return bool(abs(left - right) <= largest * tolerance)
