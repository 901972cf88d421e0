"""Figures as people read them: durations, percentages, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlvr.storage.run_data import number

MINUS = "\N{MINUS SIGN}"


def duration(seconds: float | None) -> str:
    """Minutes and seconds.

    >>> duration(62.4), duration(3723), duration(None)
    ('1:02', '1:02:03', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share as people read it.

    >>> percent(0.384), percent(0.384, 1), percent(None)
    ('38 %', '38.4 %', '?')
    """
    return "?" if share is None else f"{100 * share:.{digits}f} %"


def shorten(text: str, limit: int) -> str:
    """One line of at most `limit` letters that keeps the beginning and the end, where answers
    stand.

    >>> shorten("one two\\nthree four five", 16)
    'one tw … ur five'
    """
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    head = (limit - 3) // 2
    return f"{text[:head].rstrip()} … {text[len(text) - (limit - 3 - head) :].lstrip()}"


def signed(change: float) -> str:
    """A change in points with its sign.   0.125 -> "+12.5" """
    return f"{100 * change:+.1f}".replace("-", MINUS)


def interval_text(interval: Sequence[float]) -> str:
    """The ends of an interval in percent or points.   (0.1, 0.25) -> "[10.0, 25.0]" """
    low, high = (f"{100 * end:.1f}".replace("-", MINUS) for end in interval)
    return f"[{low}, {high}]"


def decimal(value: Any, digits: int) -> str | None:
    known = number(value)
    return None if known is None else f"{known:.{digits}f}"
