"""Problems that a script brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.build.problems import check_problems
from rlvr.errors import UserError
from rlvr.tasks.values import NoText, is_missing, read_value
from rlvr.types import Problem

GivenProblem = Problem | Mapping[str, Any] | tuple[str, str]
KEYS = ("question", "answer")


def parse_problems(rows: Sequence[GivenProblem]) -> list[Problem]:
    """Return problems from what a script has at hand.

    Each is a Problem, a pair (question, answer), or a mapping with these keys. Raises UserError.
    """
    if not rows:
        raise UserError("problems: there is no problem in the list")
    problems = [_parse_problem(row, number) for number, row in enumerate(rows)]
    check_problems(problems, "problems")
    return problems


def _parse_problem(row: GivenProblem, number: int) -> Problem:
    if isinstance(row, Problem):
        return row
    fields = _read_fields(row, number)
    if not fields.keys() >= {*KEYS}:
        raise UserError(f"problems, row {number}: needs the keys 'question' and 'answer'")
    if is_missing(fields.get("id")):
        fields["id"] = f"given/{number}"
    fields = {"task": "math", **fields}
    where = f"problems, row {number}"
    optional = {key: fields[key] for key in ("meta", "solution") if key in fields}
    return Problem(
        id=_read_text(fields["id"], f"{where}: 'id'"),
        task=str(fields["task"]),
        question=_read_question(fields["question"], where),
        answer=_read_text(fields["answer"], f"{where}: 'answer'"),
        **optional,
    )


def _read_question(value: Any, where: str) -> str:
    question = _read_text(value, f"{where}: 'question'")
    if not question and not isinstance(value, str):
        raise UserError(f"{where}: the problem has no question")
    return question


def _read_text(value: Any, where: str) -> str:
    """Return a value as text, "" where it is missing; raises UserError for what is no text."""
    if is_missing(value):
        return ""
    try:
        return read_value(value)
    except NoText as fault:
        raise UserError(f"{where} {fault}") from None


def _read_fields(row: Mapping[str, Any] | tuple[str, str], number: int) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, str) or len(row) != len(KEYS):
        raise UserError(
            f"problems, row {number}: a problem is a pair (question, answer) or a mapping with these keys"
        )
    return dict(zip(KEYS, row, strict=True))
