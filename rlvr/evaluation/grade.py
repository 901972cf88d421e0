"""Judge answers from a file, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from rlvr import registry
from rlvr.tasks.judge import Judge, Pending, judge_safely, wait_all
from rlvr.types import Problem, Response, Status, Verdict

CHUNK = 1024  # lines whose verdicts are worked on at the same time
_MALFORMED = Verdict(Status.ERROR, rule="malformed line")


class Answer(NamedTuple):
    """A response that is to be judged, with its problem."""

    problem: Problem
    response: Response


class Line(NamedTuple):
    """A line of the file: the id it names, or its number, and its answer where it is well formed."""

    id: Any
    answer: Answer | None = None


def grade(lines: Iterable[str], task: str = "math") -> Iterator[dict[str, Any]]:
    """Yield a verdict for each line `{"gold", "prediction", "id"}`, in order.

    A malformed line has the status `error`.
    """
    judge = registry.find("task", task, "--task").function
    numbered = enumerate(lines)
    while chunk := list(islice(numbered, CHUNK)):
        parsed = [parse_line(number, line, task) for number, line in chunk]
        verdicts = _judge_all(judge, parsed)
        for line, verdict in zip(parsed, verdicts, strict=True):
            yield _describe(line, verdict, task)


def _judge_all(judge: Judge, lines: Sequence[Line]) -> list[Verdict]:
    pending: list[Pending] = []
    for line in lines:
        if line.answer is None:
            pending.append(_MALFORMED)
            continue
        problem, response = line.answer
        pending.append(judge_safely(judge, problem, response))
    return wait_all(pending)


def _describe(line: Line, verdict: Verdict, task: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": line.id,
        "status": verdict.status,
        "correct": verdict.correct,
        "answer": verdict.answer,
    }
    if task == "knights":  # its form is a part of the task
        described["formatted"] = verdict.formatted
    described["ms"] = round(verdict.ms, 3)
    return described


def parse_line(number: int, line: str, task: str) -> Line:
    """Return the id of a line, and its problem with the response where it is well formed."""
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return Line(number)
    if not isinstance(row, dict):
        return Line(number)
    name = row.get("id", number)
    gold = row.get("gold")
    text = row.get("prediction")
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        gold = str(gold)
    if not isinstance(gold, str) or not isinstance(text, str):
        return Line(name)
    problem = Problem(str(name), task, "", gold)
    response = Response(text, prefill=opened_thinking(text))
    return Line(name, Answer(problem, response))


def _refuse_constant(constant: str) -> None:
    """Raise ValueError for NaN and infinities, which JSON does not have."""
    raise ValueError(f"{constant} is no JSON")


def opened_thinking(text: str) -> str:
    """Return what the prompt of such a response had opened."""
    if "</think>" in text and "<think>" not in text:
        return "<think>"
    return ""
