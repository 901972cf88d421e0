"""A verdict that nobody waits for any more is given up without a word."""

from __future__ import annotations

import logging
from concurrent.futures import Future

import pytest

from rlvr.grading import math_verify
from rlvr.tasks.math import math
from rlvr.types import Problem, Response, Status, Verdict

PROBLEM = Problem("p", "math", "q", r"\prod_{k=1}^{n} f(k)")
RESPONSE = Response(r"\boxed{\prod_{j=1}^{n} g(j)}")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Future[bool]:
    """Stands for the answer of the symbolic library."""
    answer: Future[bool] = Future()
    monkeypatch.setattr(math_verify, "guard", lambda *_: "")
    monkeypatch.setattr(math_verify, "ask", lambda *_: answer)
    return answer


def test_a_cancelled_verdict_raises_nothing(
    asked: Future[bool], caplog: pytest.LogCaptureFixture
) -> None:
    verdict = math(PROBLEM, RESPONSE)
    assert isinstance(verdict, Future) and verdict.cancel()
    with caplog.at_level(logging.ERROR):
        asked.set_result(True)
    assert not caplog.records


def test_a_question_that_was_given_up_is_an_error(asked: Future[bool]) -> None:
    verdict = math(PROBLEM, RESPONSE)
    assert isinstance(verdict, Future) and asked.cancel()
    asked.set_running_or_notify_cancel()
    settled = verdict.result(1)
    assert isinstance(settled, Verdict) and settled.status is Status.ERROR
