"""Leave out or mark problems whose gold answer cannot be compared by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlvr import registry
from rlvr.types import Problem

Mode = Literal["mark", "drop", "off"]


@dataclass(frozen=True, slots=True)
class RejectedGold:
    """A problem whose gold cannot be compared by meaning, and why."""

    id: str
    gold: str
    reason: str


def check_golds(
    problems: Sequence[Problem], mode: Mode
) -> tuple[tuple[Problem, ...], tuple[RejectedGold, ...]]:
    """Return the problems after the gate of their task, and those whose gold it refused.

    A refused problem is marked as text only, or dropped. One without a gold is always dropped.
    """
    gated_tasks = set(registry.list_names("gate")) if mode != "off" else set()
    passed: list[Problem] = []
    refused: list[RejectedGold] = []
    for problem in problems:
        if not problem.answer.strip():
            refused.append(RejectedGold(problem.id, "", "its row has no gold, so it is left out"))
            continue
        reason = _find_fault(problem) if problem.task in gated_tasks else ""
        if not reason:
            passed.append(problem)
            continue
        refused.append(RejectedGold(problem.id, problem.answer, reason))
        if mode == "mark":
            passed.append(replace(problem, meta={**problem.meta, "string_only": reason}))
    return tuple(passed), tuple(refused)


def _find_fault(problem: Problem) -> str:
    """Return why the gold of a problem cannot be compared by meaning, or ""."""
    return registry.find("gate", problem.task, problem.id).function(problem)
