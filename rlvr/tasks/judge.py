"""Call a verifier safely: what it raises becomes the status `error`."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from rlvr import registry
from rlvr.foreign import ContainedCode, ForeignTimeout, describe_error, is_foreign, name_place
from rlvr.types import Problem, Response, Status, Verdict

# A verifier answers at once, or gives the future of its verdict where helper processes work on it.
Pending = Verdict | Future[Verdict]

Judge = Callable[[Problem, Response], Pending]

MAX_REASON_LENGTH = 200


def judge_by_task(problem: Problem, response: Response, seconds: float | None = None) -> Pending:
    """Return the verdict by the task that the problem itself names."""
    judge = registry.find("task", problem.task, problem.id).function
    return judge_in_time(judge, seconds, problem, response)


def judge_in_time(
    judge: Judge, seconds: float | None, problem: Problem, response: Response
) -> Pending:
    """Return what a verifier gives; one that is not ours is contained and its verdict checked.

    Raises ForeignTimeout where that one has not answered after so many seconds.
    """
    if not is_foreign(judge):
        return judge(problem, response)
    with ContainedCode(seconds, "verify.time_limit"):
        return _check_verdict(judge(problem, response))


def judge_safely(judge: Judge, problem: Problem, response: Response) -> Pending:
    """Return the verdict with its time, or the future of one.

    An exception of the verifier becomes the status `error`, and the end of its time `timeout`.
    """
    start = time.perf_counter()
    try:
        verdict = judge_in_time(judge, None, problem, response)
    except ForeignTimeout as error:
        verdict = Verdict(Status.TIMEOUT, rule=f"{error}{name_place(error)}")
    # A verifier may be anybody's code; it is counted, and stops the run when frequent.
    except Exception as error:
        verdict = _report_error(error)
    if isinstance(verdict, Future):
        return verdict
    return replace(verdict, ms=1000 * (time.perf_counter() - start))


def _check_verdict(verdict: Pending) -> Pending:
    """Return what a verifier gave; raises TypeError where that is no verdict, or one of other things than it holds."""
    if isinstance(verdict, Future):
        return verdict
    return _check_is_verdict(verdict)


def _check_is_verdict(verdict: Any) -> Verdict:
    if not isinstance(verdict, Verdict):
        name = type(verdict).__name__
        close = getattr(verdict, "close", None)
        if inspect.iscoroutine(verdict) and close:
            close()
            name = "coroutine (call it without async)"
        raise TypeError(f"a verifier returns a Verdict, not {name}")
    # A text such as "correct" equals no Status by identity, and would be counted as wrong in silence.
    if not isinstance(verdict.status, Status):
        raise TypeError(f"the status of a verdict is a Status, not {verdict.status!r}")
    if verdict.answer is not None and not isinstance(verdict.answer, str):
        name = type(verdict.answer).__name__
        raise TypeError(f"the answer of a verdict is a text or None, not {name}")
    if not isinstance(verdict.rule, str):
        raise TypeError(f"the rule of a verdict is a text, not {type(verdict.rule).__name__}")
    return verdict


def wait_all(pending: Sequence[Pending]) -> list[Verdict]:
    """Return the verdicts, waiting for those that are still worked on.

    All of them were begun before the first is awaited.
    """
    return [_wait(verdict) if isinstance(verdict, Future) else verdict for verdict in pending]


def _wait(future: Future[Verdict]) -> Verdict:
    try:
        # What ended a helper of a verifier, such as sys.exit in a thread, is raised again here.
        with ContainedCode():
            return _check_is_verdict(future.result())
    except Exception as error:  # as in judge_safely
        return _report_error(error)


def _report_error(error: Exception) -> Verdict:
    return Verdict(Status.ERROR, rule=describe_error(error)[:MAX_REASON_LENGTH])
