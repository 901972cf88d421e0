"""Code of a user's file: it cannot end the process, leave the working folder, or return something else unseen."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlvr import registry
from rlvr.errors import RunError, UserError
from rlvr.foreign import ContainedCode, ForeignExit
from rlvr.rewards.adapters import checked_reward
from rlvr.tasks.given import read_given
from rlvr.tasks.judge import judge_by_task, judge_safely
from rlvr.types import Context, Problem, Response, Status, Verdict

PROBLEM = Problem("p", "math", "1 + 1?", "2")
RESPONSE = Response("2")


def leave(*_: Any) -> Any:
    sys.exit(0)


def interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


def cancel(*_: Any) -> Any:
    raise asyncio.CancelledError


ENDINGS = [leave, interrupt, cancel]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_verifier_that_ends_the_process_is_the_status_error(ending: Callable[..., Any]) -> None:
    verdict = judge_safely(ending, PROBLEM, RESPONSE)
    assert isinstance(verdict, Verdict)
    assert verdict.status is Status.ERROR
    assert "ForeignExit" in verdict.rule


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_reward_that_ends_the_process_is_named(ending: Callable[..., Any]) -> None:
    group = SimpleNamespace(problem=PROBLEM, members=(1,))

    def mine(group: Any, context: Any) -> Any:
        ending()

    with pytest.raises(RunError, match=r"reward 'mine' raised ForeignExit: it .*problem 'p'"):
        checked_reward("mine", mine)(group, Context(0, 1, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_data_function_that_ends_the_process_is_named(ending: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"'u.py:rows' raised: ForeignExit"):
        read_given(ending, "u.py:rows")


@pytest.mark.parametrize("line", ["import sys; sys.exit(0)", "raise KeyboardInterrupt", "exit()"])
def test_a_file_that_ends_the_process_when_it_is_loaded_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "u.py"
    path.write_text(line + "\n\ndef f(response): return 1\n")
    with pytest.raises(UserError, match=r"reward: '.*u.py' does not load: ForeignExit"):
        registry.find("reward", f"{path}:f", "reward")


def test_the_ctrl_c_of_the_user_passes() -> None:
    """A signal is no exception of the code that it meets."""
    # a process that was started in the background ignores the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), ContainedCode():
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    with pytest.raises(ForeignExit), ContainedCode():
        interrupt()


def test_the_working_folder_is_restored(tmp_path: Path) -> None:
    before = os.getcwd()

    def wander(problem: Problem, response: Response) -> Verdict:
        os.chdir(tmp_path)
        return Verdict(Status.CORRECT, "2")

    verdict = judge_safely(wander, PROBLEM, RESPONSE)
    assert isinstance(verdict, Verdict) and verdict.correct
    assert os.getcwd() == before


async def promise(problem: Problem, response: Response) -> bool:
    return True


RETURNED: list[Callable[..., Any]] = [
    lambda *_: True,
    lambda *_: None,
    lambda *_: Verdict(Status.CORRECT, 2),  # type: ignore[arg-type]
    promise,
]


@pytest.mark.parametrize("judge", RETURNED)
def test_what_is_no_verdict_is_the_status_error(judge: Callable[..., Any]) -> None:
    verdict = judge_safely(judge, PROBLEM, RESPONSE)
    assert isinstance(verdict, Verdict)
    assert (verdict.status, verdict.correct) == (Status.ERROR, False)
    assert verdict.rule.startswith("TypeError: ")


def test_the_verifier_that_a_problem_names_is_contained(tmp_path: Path) -> None:
    (tmp_path / "v.py").write_text("import sys\n\ndef judge(problem, response): sys.exit(0)\n")
    problem = Problem("p", f"{tmp_path}/v.py:judge", "1 + 1?", "2")
    verdict = judge_safely(judge_by_task, problem, RESPONSE)
    assert isinstance(verdict, Verdict) and verdict.status is Status.ERROR


async def promised() -> list[Problem]:
    return [PROBLEM]


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "tuples": (lambda: [("q", "a")], "row 0: should be a Problem.* not tuple"),
    "number": (lambda: [PROBLEM, Problem("b", "math", "q", 2)], "row 1: answer .* text, not int"),  # type: ignore[arg-type]
    "none": (lambda: None, "returned NoneType; it should return a list"),
    "text": (lambda: "rows", "returned str"),
    "coroutine": (promised, "returned coroutine"),
    "raises": (lambda: 1 / 0, "raised: ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_data_function_that_gives_no_problems_is_named_with_its_row(kind: str) -> None:
    function, reason = WRONG[kind]
    with pytest.raises(UserError, match=f"'u.py:rows',? {reason}"):
        read_given(function, "u.py:rows")


def test_a_data_function_may_be_a_generator() -> None:
    assert read_given(lambda: (problem for problem in [PROBLEM]), "rows") == [PROBLEM]


def test_a_module_beside_the_file_of_a_reward_is_found(tmp_path: Path) -> None:
    (tmp_path / "helper_beside_it.py").write_text("def g(text): return len(text)\n")
    path = tmp_path / "r.py"
    path.write_text("from helper_beside_it import g\n\ndef f(response): return g(response)\n")
    assert registry.find("reward", f"{path}:f", "reward").function("abc") == 3
