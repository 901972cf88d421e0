"""Judge answers from a file, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from rlvr import registry
from rlvr.tasks.judge import judge_safely, wait_all
from rlvr.types import Problem, Response, Status, Verdict

CHUNK = 1024


def grade(lines: Iterable[str], task: str = "math") -> Iterator[dict[str, Any]]:
    """A verdict for each line `{"gold", "prediction", "id"}`, in order; a malformed line has the
    status `error`.
    """
    judge = registry.find("task", task, "--task").function
    numbered = enumerate(lines)
    while chunk := list(islice(numbered, CHUNK)):
        rows = [parse_line(number, line, task) for number, line in chunk]
        pending = [judge_safely(judge, *pair) if pair else _MALFORMED for _, pair in rows]
        for (name, _), verdict in zip(rows, wait_all(pending), strict=True):
            more = {"formatted": verdict.formatted} if task == "knights" else {}
            yield {
                "id": name, "status": verdict.status, "correct": verdict.correct, "answer": verdict.answer,
                **more, "ms": round(verdict.ms, 3),
            }  # fmt: skip


_MALFORMED = Verdict(Status.ERROR, rule="malformed line")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def parse_line(number: int, line: str, task: str) -> tuple[Any, tuple[Problem, Response] | None]:
    """The id of a line, and its problem with the response where it is well formed."""
    try:
        row = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return number, None
    if not isinstance(row, dict):
        return number, None
    name, gold, text = row.get("id", number), row.get("gold"), row.get("prediction")
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        gold = str(gold)
    if not isinstance(gold, str) or not isinstance(text, str):
        return name, None
    return name, (Problem(str(name), task, "", gold), Response(text, prefill=opened_thinking(text)))


def opened_thinking(text: str) -> str:
    """What the prompt of such a response had opened."""
    return "<think>" if "</think>" in text and "<think>" not in text else ""
