"""Call a data function safely: what it raises or returns is reported in one line with its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlvr.errors import UserError
from rlvr.foreign import is_foreign, run_foreign
from rlvr.types import Problem

_TEXTS = ("id", "task", "question", "answer")


def read_given(function: Callable[[], Any], name: str) -> Sequence[Problem]:
    """Return the problems that a data function gives, in a list or one by one.

    Raises UserError that names the function, and the first row that is no problem.
    """
    if not is_foreign(function):
        return function()
    rows = run_foreign(lambda: list(_check_is_list(function(), name)), f"'{name}' raised")
    for number, row in enumerate(rows):
        _check_problem(row, number, name)
    return rows


def _check_is_list(given: Any, name: str) -> Iterable[Any]:
    """Return what can be gone through; raises UserError for a text, a mapping or anything else."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        kind = type(given).__name__
        close = getattr(given, "close", None)
        if kind == "coroutine" and close:
            close()
        raise UserError(f"'{name}' returned {kind}; it should return a list of Problems")
    return given


def _check_problem(row: Any, number: int, name: str) -> None:
    """Refuse a row that is no problem, or one whose texts are none; raises UserError."""
    if not isinstance(row, Problem):
        kind = type(row).__name__
        raise UserError(
            f"'{name}', row {number}: should be a Problem(id, task, question, answer), not {kind}"
        )
    for field in _TEXTS:
        value = getattr(row, field)
        if not isinstance(value, str):
            kind = type(value).__name__
            raise UserError(f"'{name}', row {number}: {field} should be a text, not {kind}")
