"""Make problems of the rows of a data file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlvr.errors import UserError
from rlvr.grading.extract import find_last_box
from rlvr.tasks.choice import letter_options
from rlvr.tasks.columns import Row, list_names, lookup
from rlvr.tasks.formats import (
    FIELDS,
    find_columns,
    from_json,
    is_own_row,
    is_puzzle,
    is_unsolved,
    keep_known,
    split_turns,
)
from rlvr.tasks.row_files import PlacedRow
from rlvr.tasks.values import NoText, is_missing, read_value, unwrap_list
from rlvr.types import Problem

# One for all problems that have none, since a dict for each of a million takes 64 MB.
_NO_META: Mapping[str, Any] = {}

# What becomes of a row whose answer is empty; dropping renumbers no other.
Unanswered = Literal["refuse", "drop"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields of a row stand, and how the gold is taken from its column."""

    columns: Mapping[str, str]
    after: str | None = None  # the gold is what follows this
    within: Literal["box"] | None = None  # the gold is the content of the last box
    choices: str | None = None  # the column of the options, of which the gold becomes a letter
    task: str | None = None

    @property
    def is_silent(self) -> bool:
        """Whether it says nothing of the rows, which then may be of a known format."""
        return self == Layout({}, task=self.task)


def build_problems(
    rows: Iterable[PlacedRow],
    name: str,
    stem: str,
    layout: Layout,
    unanswered: Unanswered | None = None,
) -> list[Problem]:
    """Return the problems of the rows of a file; a fault is a UserError that names its place.

    `name` is the file or data set in messages, `stem` the beginning of the ids of its problems.
    """
    problems: list[Problem] = []
    ids: set[str] | None = None  # filled once a row brings its own; numbers cannot repeat
    for where, number_id, problem in _read_rows(rows, name, stem, layout, unanswered):
        if ids is None and problem.id != number_id:
            ids = {earlier.id for earlier in problems}
        if ids is not None:
            _add_id(ids, problem.id, layout, where)
        problems.append(problem)
    if not problems:
        raise UserError(f"{name}: holds no problem")
    return problems


def _read_rows(
    rows: Iterable[tuple[str, Any]],
    name: str,
    stem: str,
    layout: Layout,
    unanswered: Unanswered | None,
) -> Iterator[tuple[str, str, Problem]]:
    """Yield the problem of each row that is not left out, with its place and the id of its number."""
    silent = layout.is_silent
    for index, (place, row) in enumerate(rows):
        where = f"{name}, {place}"
        if not isinstance(row, Mapping):
            raise UserError(
                f"{where}: should be an object with named fields, not {type(row).__name__}"
            )
        if unanswered is not None and _is_left_out(row, layout, unanswered, where):
            continue
        number_id = f"{stem}/{index}"
        if silent and is_own_row(row):
            yield where, number_id, _read_own_row(row, where)
        else:
            yield where, number_id, _build_problem(row, where, number_id, layout)


def _add_id(ids: set[str], added: str, layout: Layout, where: str) -> None:
    """Add the id of a problem to those before it; raises UserError where it is one of them."""
    if added in ids:
        fix = ""
        if "id" in layout.columns:
            fix = "; leave 'id' out of columns, and the rows are numbered"
        raise UserError(f"{where}: the id '{added}' occurs twice{fix}")
    ids.add(added)


def _is_left_out(row: Row, layout: Layout, unanswered: Unanswered, where: str) -> bool:
    """Return whether a row is dropped since its answer is empty; raises UserError to refuse it."""
    _, answer_column = find_columns(row, layout.columns, where)
    if not is_missing(lookup(row, answer_column, where)):
        return False
    if unanswered == "refuse" and not is_unsolved(row, answer_column):
        raise UserError(
            f"{where}: the problem has no answer ('{answer_column}' is empty);"
            " unanswered: drop leaves such rows out"
        )
    return unanswered == "drop"


def _read_own_row(row: Row, where: str) -> Problem:
    problem = from_json(row)
    for field in ("id", "question", "answer"):
        _read_text(getattr(problem, field), field, field, where)
    return problem


def _build_problem(row: Row, where: str, default_id: str, layout: Layout) -> Problem:
    columns = layout.columns
    question_column, answer_column = find_columns(row, columns, where)
    answer = ""
    if not is_unsolved(row, answer_column):
        answer = _take_gold(row, answer_column, layout, where)
    before, last_turn = split_turns(lookup(row, question_column, where), question_column, where)
    question = _read_text(last_turn, "question", question_column, where)
    if layout.choices is not None:
        options = lookup(row, layout.choices, where)
        lines, answer = letter_options(options, answer, f"{where}, '{layout.choices}'")
        question = f"{question}\n{lines}"
    meta = keep_known(row, columns)
    if before:
        meta["before"] = before
    for key, column in columns.items():
        if key not in FIELDS:
            meta[key] = lookup(row, column, where)
    solution = _read_solution(row, columns, where)
    return Problem(
        id=_read_id(row, columns, where, default_id),
        task=layout.task or _choose_task(layout, answer_column),
        question=question,
        answer=sys.intern(answer.strip()),  # golds repeat, and a million of them take 64 MB
        meta=meta or _NO_META,
        solution=solution,
    )


def _take_gold(row: Row, column: str, layout: Layout, where: str) -> str:
    """Return the gold of a row, taken from its column as the layout says."""
    value = lookup(row, column, where)
    if layout.task in (None, "math") and not layout.choices:
        text = _read_one_of_list(value, column, where)
    else:
        text = _read_text(value, "answer", column, where)
    if layout.after is not None:
        _, mark, text = text.rpartition(layout.after)
        if not mark or not text.strip():
            raise UserError(f"{where}: no answer after '{layout.after}' in '{column}'")
    if layout.within is not None:
        boxed = find_last_box(text)
        if not boxed:
            raise UserError(f"{where}: no answer in a box in '{column}'")
        text = boxed
    return text


def _read_text(value: Any, field: str, column: str, where: str) -> str:
    if not isinstance(value, str) and isinstance(value, Mapping | list | tuple):
        part = next(iter(list_names(value)), "0")
        raise UserError(
            f"{where}: '{column}' is not a text; reach into it with a column such as '{column}.{part}'"
        )
    if is_missing(value):
        raise UserError(f"{where}: the problem has no {field} ('{column}' is empty)")
    try:
        return read_value(value)
    except NoText as fault:
        raise UserError(f"{where}: '{column}' {fault}") from None


def _read_one_of_list(value: Any, column: str, where: str) -> str:
    """Return an answer that may stand alone in a list, or in one that is written as text."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    text = _read_text(value, "answer", column, where)
    try:
        return unwrap_list(text)
    except NoText as fault:
        raise UserError(f"{where}: '{column}' {fault}") from None


def _read_solution(row: Row, columns: Mapping[str, str], where: str) -> str | None:
    if "solution" not in columns:
        return None
    column = columns["solution"]
    solution = lookup(row, column, where)
    if is_missing(solution):
        return None
    if isinstance(solution, Mapping | list | tuple):
        return str(solution)
    return _read_text(solution, "solution", column, where)


def _read_id(row: Row, columns: Mapping[str, str], where: str, default: str) -> str:
    column = columns.get("id", "id")
    value = row.get("id")
    if "id" in columns:
        value = lookup(row, column, where)
    if is_missing(value):
        return default
    return _read_text(value, "id", column, where)


def _choose_task(layout: Layout, answer_column: str) -> str:
    """Return the task of a problem whose source names none."""
    if layout.choices:
        return "choice"
    if is_puzzle(answer_column):
        return "knights"
    return "math"
