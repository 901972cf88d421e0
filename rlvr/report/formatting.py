"""Figures as people read them: durations, percentages, intervals."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.storage.fields import keep_finite

MINUS = "\N{MINUS SIGN}"


def format_duration(seconds: float | None) -> str:
    """Return minutes and seconds.

    >>> format_duration(62.4), format_duration(3723), format_duration(None)
    ('1:02', '1:02:03', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}"


def format_percent(share: float | None, digits: int = 0) -> str:
    """Return a share in percent.

    >>> format_percent(0.384), format_percent(0.384, 1), format_percent(None)
    ('38 %', '38.4 %', '?')
    """
    if share is None:
        return "?"
    return f"{100 * share:.{digits}f} %"


def shorten(text: str, limit: int) -> str:
    """Return one line of at most `limit` letters that keeps the beginning and the end.

    Answers stand at the end.

    >>> shorten("one two\\nthree four five", 16)
    'one tw … ur five'
    """
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    head = (limit - 3) // 2
    tail = limit - 3 - head
    return f"{line[:head].rstrip()} … {line[len(line) - tail :].lstrip()}"


def format_change(change: float) -> str:
    """Return a change in points with its sign.   0.125 -> "+12.5" """
    return f"{100 * change:+.1f}".replace("-", MINUS)


def format_interval(interval: Sequence[float]) -> str:
    """Return the ends of an interval in percent or points.   (0.1, 0.25) -> "[10.0, 25.0]" """
    low, high = interval
    return f"[{_format_end(low)}, {_format_end(high)}]"


def _format_end(end: float) -> str:
    return f"{100 * end:.1f}".replace("-", MINUS)


def make_printable(text: str) -> str:
    r"""Return one line without control codes, which data may hold and a terminal would obey.

    >>> make_printable("one\n\x1b[31mtwo")
    'one  [31mtwo'
    """
    letters = [letter if letter.isprintable() else " " for letter in text]
    return "".join(letters)


def format_decimal(value: float | None, digits: int) -> str | None:
    """Return a number with so many digits; None where it is none or not finite."""
    known = keep_finite(value)
    if known is None:
        return None
    return f"{known:.{digits}f}"
