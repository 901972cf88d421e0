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
    """The problems after the gate of their task, and those whose gold it refused: marked as text
    only, or dropped.

    A problem without a gold is always dropped.
    """
    gates = set(registry.names("gate")) if mode != "off" else set()
    kept: list[Problem] = []
    refused: list[RejectedGold] = []
    for problem in problems:
        if not problem.answer.strip():
            refused.append(RejectedGold(problem.id, "", "its row has no gold, so it is left out"))
            continue
        reason = (
            registry.find("gate", problem.task, problem.id).function(problem)
            if problem.task in gates
            else ""
        )
        if reason:
            refused.append(RejectedGold(problem.id, problem.answer, reason))
            problem = replace(problem, meta={**problem.meta, "string_only": reason})
        if not reason or mode == "mark":
            kept.append(problem)
    return tuple(kept), tuple(refused)
