"""Call a verifier safely: what it raises becomes the status `error`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from rlvr import registry
from rlvr.types import Problem, Response, Status, Verdict

# A verifier answers at once, or gives the future of its verdict where helper processes work on it.
Pending = Verdict | Future[Verdict]


Judge = Callable[[Problem, Response], Pending]


def by_task(problem: Problem, response: Response) -> Pending:
    """The verdict by the task that the problem itself names."""
    return registry.find("task", problem.task, problem.id).function(problem, response)


def judge_safely(judge: Judge, problem: Problem, response: Response) -> Pending:
    """The verdict with its time, or the future of one; an exception of the verifier becomes the
    status `error`.
    """
    start = time.perf_counter()
    try:
        verdict = judge(problem, response)
    # a verifier may be anybody's code; it is counted, and stops the run when frequent
    except Exception as error:
        verdict = _failed(error)
    return (
        verdict
        if isinstance(verdict, Future)
        else replace(verdict, ms=1000 * (time.perf_counter() - start))
    )


def wait_all(pending: Sequence[Pending]) -> list[Verdict]:
    """The verdicts, waiting for those that are still worked on; all of them were begun before the
    first is awaited.
    """
    return [_result(verdict) if isinstance(verdict, Future) else verdict for verdict in pending]


def _result(future: Future[Verdict]) -> Verdict:
    try:
        return future.result()
    except Exception as error:  # as in judge_safely
        return _failed(error)


def _failed(error: Exception) -> Verdict:
    return Verdict(Status.ERROR, rule=f"{type(error).__name__}: {error}"[:200])
