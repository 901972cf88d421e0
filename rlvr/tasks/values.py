"""Read single values of a row as texts: a missing one is none, and what is no text or number is refused."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from numbers import Number
from typing import Any

# `['4']` or `["4", "5"]`; without quotes it would be an interval or a list of numbers.
_LIST = re.compile(r"\[\s*(['\"]).*\1\s*\]", re.DOTALL)

# Half of a pair of UTF-16, which no tokenizer and no file takes.
_HALF_LETTER = re.compile("[\ud800-\udfff]")


class NoText(ValueError):
    """A value is no text; the message says what it is instead."""


# A union written in place would be made anew for each value.
_TEXTS = (str, bytes)


def is_missing(value: Any) -> bool:
    """Return whether a value is absent: null, blank, or the NaN by which tables mark it.

    >>> is_missing(float("nan")), is_missing(0)
    (True, False)
    """
    if isinstance(value, _TEXTS):
        return not value.strip()
    return value is None or (isinstance(value, Number) and value != value)


def read_value(value: Any) -> str:
    """Return a text, number or UTF-8 bytes as text; raises NoText for anything else.

    >>> read_value(b"5")
    '5'
    """
    if isinstance(value, str) and value.isascii():
        return value
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise NoText("holds bytes that are no UTF-8 text") from None
    if isinstance(value, bool):
        raise NoText(f"is {value}, neither a text nor a number; write it in quotes")
    try:
        text = str(value)
    except ValueError:  # Python writes out whole numbers up to a limit
        raise NoText("is a whole number of too many digits; write it in quotes") from None
    if isinstance(value, Number) and not _is_finite(value):
        raise NoText(f"is {text}, which is no number; write it in quotes")
    if _HALF_LETTER.search(text):
        raise NoText("holds half of a letter (a lone surrogate); repair the text")
    return text


def _is_finite(value: Any) -> bool:
    return value - value == 0


def unwrap_list(text: str) -> str:
    r"""Return the one element of a list that is written as text, any other text as it is.

    Raises NoText for a list of several.

    >>> unwrap_list("['4']"), unwrap_list("[1, 2]")
    ('4', '[1, 2]')
    """
    stripped = text.strip()
    match = _LIST.fullmatch(stripped)
    if match is None:
        return text
    quote = match[1]
    inner = stripped[1:-1].strip()[1:-1]
    parse: Callable[[str], Any] = json.loads if quote == '"' else ast.literal_eval
    try:
        elements = parse(stripped)
    # An unreadable list, such as one whose backslashes are not doubled.
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text if quote in inner else inner
    if len(elements) != 1:
        raise NoText(f"is a list of {len(elements)} answers written as text; a row has one")
    # `\frac` with a single backslash reads as a form feed and `rac`.
    if not str(elements[0]).isprintable():
        return inner
    return str(elements[0])
