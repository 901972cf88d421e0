"""Problems that a script brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.build.problems import check_problems
from rlvr.errors import UserError
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
    fields = {"id": f"given/{number}", "task": "math", **fields}
    optional = {key: fields[key] for key in ("meta", "solution") if key in fields}
    return Problem(
        id=str(fields["id"]),
        task=str(fields["task"]),
        question=str(fields["question"]),
        answer=str(fields["answer"]),
        **optional,
    )


def _read_fields(row: Mapping[str, Any] | tuple[str, str], number: int) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, str) or len(row) != len(KEYS):
        raise UserError(
            f"problems, row {number}: a problem is a pair (question, answer) or a mapping with these keys"
        )
    return dict(zip(KEYS, row, strict=True))
