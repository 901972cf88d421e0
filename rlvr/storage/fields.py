"""Typed reading of the values of one JSON object.

A key that is absent and one that holds null read alike: older runs lack keys that newer ones have,
and a number that was not finite is stored as null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


class WrongShape(ValueError):
    """A value is of another kind than its record holds; the message begins with its key."""


def read_int(row: Row, key: str) -> int:
    """Return a whole number that has to be there; raises WrongShape."""
    value = row.get(key)
    if value is None:
        raise WrongShape(f"has no '{key}'")
    return read_count(row, key)


def read_count(row: Row, key: str) -> int:
    """Return a whole number, 0 where there is none; raises WrongShape."""
    value = row.get(key)
    if value is None:
        return 0
    if not isinstance(value, int):
        raise _wrong_kind(key, "a whole number", value)
    return value


def read_optional_int(row: Row, key: str) -> int | None:
    """Return a whole number, None where there is none; raises WrongShape."""
    return None if row.get(key) is None else read_count(row, key)


def read_number(row: Row, key: str) -> float:
    """Return a number as it stands, 0 where there is none; raises WrongShape."""
    value = read_optional_number(row, key)
    return 0.0 if value is None else value


def read_optional_number(row: Row, key: str) -> float | None:
    """Return a number as it stands, None where there is none; raises WrongShape."""
    value = row.get(key)
    if value is not None and not isinstance(value, int | float):
        raise _wrong_kind(key, "a number", value)
    return value


def read_text(row: Row, key: str) -> str:
    """Return a text, "" where there is none; raises WrongShape."""
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong_kind(key, "a text", value)
    return value


def read_optional_text(row: Row, key: str) -> str | None:
    """Return a text, None where there is none; raises WrongShape."""
    return None if row.get(key) is None else read_text(row, key)


def read_flag(row: Row, key: str) -> bool:
    """Return a truth value, False where there is none; raises WrongShape."""
    return bool(read_optional_flag(row, key))


def read_optional_flag(row: Row, key: str) -> bool | None:
    """Return a truth value, None where there is none; raises WrongShape."""
    value = row.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong_kind(key, "true or false", value)
    return value


def read_mapping(row: Row, key: str) -> Mapping[str, Any]:
    """Return an object, an empty one where there is none; raises WrongShape."""
    value = row.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong_kind(key, "an object", value)
    return value


def read_list(row: Row, key: str) -> Sequence[Any]:
    """Return a list, an empty one where there is none; raises WrongShape."""
    value = row.get(key)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise _wrong_kind(key, "a list", value)
    return value


def read_interval(row: Row, key: str) -> Sequence[float] | None:
    """Return the two ends of an interval, None where there is none; raises WrongShape."""
    ends = read_list(row, key)
    if not ends:
        return None
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
        raise _wrong_kind(key, "the two ends of an interval", ends)
    return ends


def _wrong_kind(key: str, expected: str, value: Any) -> WrongShape:
    return WrongShape(f"{key}: should be {expected}, not {value!r:.60}")


def keep_finite(value: Any) -> float | None:
    """Return the value where it is a finite number, else None."""
    if isinstance(value, int | float) and abs(value) < float("inf"):
        return float(value)
    return None
