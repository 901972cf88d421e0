"""Reach into a row by the dotted path of a column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rlvr.errors import UserError, suggest

Row = Mapping[str, Any]


def lookup(row: Row, column: str, where: str) -> Any:
    """Return the value at a dotted path; raises UserError where there is none.

    lookup({"prompt": [{"content": "2+2"}]}, "prompt.0.content", "") -> "2+2"
    """
    value, missing = _reach(row, column)
    if missing is None:
        return value
    known = list_names(value)
    hint = suggest(missing, known) if known else ""
    raise UserError(f"{where}: no column '{column}'{hint}")


def get_value(row: Row, column: str) -> Any:
    """Return the value at a dotted path, None where there is none."""
    value, missing = _reach(row, column)
    return value if missing is None else None


def find_first_column(row: Row, columns: Iterable[str], field: str, where: str) -> str:
    """Return the first of these columns that the row has; raises UserError where it has none."""
    for column in columns:
        _, missing = _reach(row, column)
        if missing is None:
            return column
    raise UserError(
        f"{where}: no {field} column; name it in columns: {{{field}: …}} (known: {', '.join(row)})"
    )


def list_names(value: Any) -> list[str]:
    """Return the names by which a path may go on from a value."""
    if isinstance(value, Mapping):
        return list(map(str, value))
    if isinstance(value, list | tuple):
        return list(map(str, range(len(value))))
    return []


def _reach(row: Row, column: str) -> tuple[Any, str | None]:
    """Return the value at a dotted path, or the last one on the way and the part that it lacks."""
    # A column whose name has a dot in it is found before a path is.
    if column in row:
        return row[column], None
    # Most known columns are in no row of a file: say so before a path is taken apart.
    first, dot, rest = column.partition(".")
    if not dot or first not in row:
        return row, first
    value: Any = row[first]
    for part in rest.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and _is_index(part, len(value)):
            value = value[int(part)]
        else:
            return value, part
    return value, None


def _is_index(part: str, length: int) -> bool:
    return part.isascii() and part.isdigit() and int(part) < length
