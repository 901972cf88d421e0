"""Plug-ins of a user's file fail in one line that names file, function and line, whatever their kind."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import tiny

import rlvr
from rlvr import registry
from rlvr.errors import RunError, UserError
from rlvr.foreign import ContainedCode, ForeignTimeout, GuardedFunction, guard
from rlvr.rewards.adapters import checked_reward
from rlvr.rollouts.generate import Rollouts
from rlvr.tasks.judge import judge_in_time, judge_safely, wait_all
from rlvr.types import (
    Context,
    Draw,
    Finish,
    Generation,
    Problem,
    Prompt,
    Rendered,
    Response,
    RewardedGroup,
    Sampling,
    Status,
    Verdict,
)

PROBLEM = Problem("p", "math", "1 + 1?", "2")
GROUP = SimpleNamespace(problem=PROBLEM, members=(1,))
GUARDED = [
    "prompt",
    "gather",
    "filter",
    "select",
    "ranking",
    "advantage",
    "loss",
    "reduction",
    "correction",
    "schedule",
    "engine",
    "tracker",
    "benchmark",
]

FILE = """
import os, sys

def leave(*given): sys.exit(0)
def fail(*given): return {}["key"]
def wander(*given):
    os.chdir("/")
    raise ValueError("far away\\nfrom home")
async def promise(*given): return 1
def nothing(*given): return None
"""


@pytest.fixture
def place(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return str(path)


def bind(kind: str, name: str) -> Callable[..., Any]:
    return registry.find(kind, name, kind).bind({}, kind)


SAID = {
    "leave": r"raised: ForeignExit: it ended the process by sys\.exit\(0\) \(mine\.py, line 4\)",
    "fail": r"raised: KeyError: 'key' \(mine\.py, line 5\)",
    "wander": r"raised: ValueError: far away \(mine\.py, line 8\)",
}


@pytest.mark.parametrize("kind", GUARDED)
@pytest.mark.parametrize("name", SAID)
def test_every_kind_is_named_with_its_file_and_line(kind: str, name: str, place: str) -> None:
    before = os.getcwd()
    with pytest.raises(RunError, match=rf"^{kind} '.*mine\.py:{name}' {SAID[name]}$"):
        bind(kind, f"{place}:{name}")(1, 2, 3)
    assert os.getcwd() == before


@pytest.mark.parametrize("kind", sorted({*GUARDED} - {"ranking", "correction"}))
def test_what_is_not_what_the_kind_returns_is_said(kind: str, place: str) -> None:
    with pytest.raises(RunError, match=rf"^{kind} '.*:nothing'.* NoneType"):
        bind(kind, f"{place}:nothing")(1, 2, 3)
    with pytest.raises(
        RunError, match=rf"^{kind} '.*:promise'.* coroutine \(call it without async"
    ):
        bind(kind, f"{place}:promise")(1, 2, 3)


SCORED = SimpleNamespace(mask=torch.ones(6), reward=torch.ones(2))
WRONG: dict[str, tuple[str, Any, str]] = {
    "a text as prompt": ("prompt", "text", r"returned str; it should return a Rendered"),
    "tuples as groups": ("filter", [(1, 2)], r"returned list of tuple; .* RewardedGroups"),
    "ids as problems": ("select", ["a"], r"returned list of str; .* Problems"),
    "one number a sample": (
        "advantage",
        torch.ones(2),
        r"returned Tensor of the shape \[2\]; .* each token",
    ),
    "a number as loss": ("loss", 1.0, r"returned float; it should return a tensor"),
    "three of a loss": ("loss", (torch.ones(6), {}, 1), r"returned tuple of Tensor"),
    "a text as schedule": ("schedule", "1", r"returned str; it should return a number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_told_with_what_it_should_be(case: str) -> None:
    kind, value, said = WRONG[case]
    guarded = GuardedFunction(lambda *_: value, kind, "mine.py:f")
    with pytest.raises(RunError, match=rf"^{kind} 'mine.py:f' {said}"):
        guarded(SCORED, SCORED)


RIGHT: dict[str, tuple[str, Any]] = {
    "prompt": ("prompt", Rendered("1 + 1?")),
    "problems": ("select", (PROBLEM,)),
    "no problem": ("select", []),
    "advantage": ("advantage", torch.ones(6)),
    "loss": ("loss", torch.ones(6)),
    "loss that broadcasts": ("loss", torch.tensor(1.0)),
    "loss with measures": ("loss", (torch.ones(6), {"gap": torch.ones(6)})),
    "no correction": ("correction", None),
    "schedule": ("schedule", 1),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_value_passes_as_it_is(case: str) -> None:
    kind, value = RIGHT[case]
    assert GuardedFunction(lambda *_: value, kind, "mine.py:f")(SCORED, SCORED) is value


class Diary:
    """A tracker that fails where it is told to."""

    def __init__(self, run_name: str, config: object, folder: object) -> None:
        self.kept = 3

    def log(self, record: Any, kind: str) -> None:
        if record is None:
            raise SystemExit(0)
        self.kept += record

    def close(self) -> None:
        raise ConnectionError("no network")


def test_each_method_of_an_object_is_guarded() -> None:
    made = GuardedFunction(Diary, "tracker", "mine.py:Diary")("run", {}, ".")
    made.log(2, "step")
    assert made.kept == 5
    with pytest.raises(RunError, match=r"^tracker 'mine.py:Diary': log raised: ForeignExit: "):
        made.log(None, "step")
    with pytest.raises(RunError, match=r"^tracker 'mine.py:Diary': close raised: Connection.*line"):
        made.close()
    with pytest.raises(AttributeError):
        _ = made.missing


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError


class Loose:
    """Its methods are no methods of an object."""

    def __init__(self) -> None:
        self.generate = partial(int, "x")

    @staticmethod
    def load(*given: Any) -> None:
        raise Mute


@pytest.mark.parametrize(("method", "said"), [("load", "Mute: "), ("generate", "ValueError: ")])
def test_a_method_that_is_a_plain_function_is_guarded(method: str, said: str) -> None:
    made = GuardedFunction(Loose, "engine", "mine.py:Loose")()
    with pytest.raises(RunError, match=rf"^engine 'mine.py:Loose': {method} raised: {said}"):
        getattr(made, method)()


def end_in_a_thread(problem: Problem, response: Response) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(sys.exit, 0)


def say_in_words(problem: Problem, response: Response) -> Any:
    return Verdict("correct")  # type: ignore[arg-type]


def promise_nothing(problem: Problem, response: Response) -> Any:
    future: Future[Any] = Future()
    future.set_result(None)
    return future


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (end_in_a_thread, r"ForeignExit: it ended the process by sys.exit\(0\)"),
        (say_in_words, "TypeError: the status of a verdict is a Status, not 'correct'"),
        (promise_nothing, "TypeError: a verifier returns a Verdict, not NoneType"),
    ],
)
def test_a_verifier_that_gives_something_else_is_an_error_that_is_counted(
    judge: Callable[..., Any], said: str
) -> None:
    (verdict,) = wait_all([judge_safely(judge, PROBLEM, Response("2"))])
    assert verdict.status is Status.ERROR
    assert re.match(said, verdict.rule)


async def promise(response: str) -> float:
    return 1.0


def mute(response: str) -> float:
    raise Mute


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            lambda response: None,
            r"it returned None \(does it end without return\?\) where a number",
        ),
        (lambda response: {"why": "good"}, "it returned str as 'why' where a number is wanted"),
        (promise, r"it returned a coroutine \(call it without async\) where a number is wanted"),
        (mute, "raised Mute: "),
    ],
)
def test_a_reward_that_gives_no_number_is_told_so(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(RunError, match=rf"^reward 'mine' raised .*{said}|^reward 'mine' {said}"):
        call(function, None)


def test_an_object_without_a_method_is_refused_when_it_is_made() -> None:
    with pytest.raises(RunError, match=r"engine 'mine.py:Diary': Diary has no method 'load'"):
        GuardedFunction(Diary, "engine", "mine.py:Diary")("run", {}, ".")


def test_a_user_error_of_a_plugin_keeps_its_own_words() -> None:
    def refuse(*_: object) -> None:
        raise UserError("prompt 'mine': the row has no hint")

    with pytest.raises(UserError, match=r"^prompt 'mine': the row has no hint$"):
        GuardedFunction(refuse, "prompt", "mine.py:refuse")(PROBLEM, None)


def test_our_own_plugins_are_not_wrapped() -> None:
    for kind, name in [("prompt", "plain"), ("filter", "overlong"), ("schedule", "constant")]:
        assert not isinstance(bind(kind, name), GuardedFunction)


# --- The time limit


def sleep(response: str) -> float:
    time.sleep(30)
    return 1.0


def turn(response: str) -> float:
    while True:
        pass


def swallow(response: str) -> float:
    """Catch what wakes it once, and go on."""
    try:
        time.sleep(30)
    except BaseException:
        time.sleep(30)
    return 1.0


def call(function: Callable[..., Any], seconds: float | None) -> Any:
    member = SimpleNamespace(
        verdict=None,
        rollout=SimpleNamespace(text="2", prompt=SimpleNamespace(problem=PROBLEM)),
    )
    group: Any = SimpleNamespace(problem=PROBLEM, members=(member,))
    return checked_reward("mine", function, seconds)(group, Context(0, 1, 1))


@pytest.mark.parametrize("function", [sleep, turn, swallow])
def test_a_reward_that_hangs_ends_the_run_with_its_name(function: Callable[..., Any]) -> None:
    start = time.monotonic()
    said = r"^reward 'mine' raised ForeignTimeout: it has not answered for 0.1 seconds \(reward_timeout\).*problem 'p'"
    with pytest.raises(RunError, match=said):
        call(function, 0.1)
    assert time.monotonic() - start < 10


def test_a_reward_in_time_is_taken_and_leaves_nothing_behind() -> None:
    threads = threading.active_count()
    for _ in range(50):
        assert call(lambda response: 1.0, 0.05)[0].value == 1.0
    assert call(lambda response: 1.0, None)[0].value == 1.0
    time.sleep(0.2)  # no late signal ends what comes after
    assert threading.active_count() <= threads


def test_an_alarm_of_the_reward_s_own_still_rings() -> None:
    def ring(number: int, frame: object) -> None:
        raise TimeoutError

    def alarmed(response: str) -> float:
        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            time.sleep(5)
        except TimeoutError:
            return 0.5
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return 1.0

    assert call(alarmed, 30.0)[0].value == 0.5


def hang(problem: Problem, response: Response) -> Verdict:
    time.sleep(20)
    return Verdict(Status.CORRECT)


def test_a_verifier_that_hangs_is_a_timeout_that_is_counted() -> None:
    start = time.monotonic()
    verdict = judge_safely(partial(judge_in_time, hang, 0.1), PROBLEM, Response("2"))
    assert isinstance(verdict, Verdict)
    assert verdict.status is Status.TIMEOUT
    said = r"it has not answered for 0\.1 seconds \(verify\.time_limit\) \(test_user_code\.py, line \d+\)"
    assert re.fullmatch(said, verdict.rule)
    assert time.monotonic() - start < 10


def test_a_filter_that_drops_groups_is_told_how_to_leave_them_out() -> None:
    group = RewardedGroup(PROBLEM, ())
    guarded = GuardedFunction(lambda groups: list(groups)[1:], "filter", "mine.py:f")
    with pytest.raises(
        RunError, match=r"^filter 'mine.py:f' returned 1 of 2 groups; .* trained=False$"
    ):
        guarded([group, group])


def test_a_tracker_of_ours_that_fails_is_one_line() -> None:
    class Full:
        def log(self, record: object, kind: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    tracker = guard(Full, "tracker", "tensorboard")()
    with pytest.raises(RunError, match=r"^tracker 'tensorboard': log raised: OSError: .*No space"):
        tracker.log({}, "step")


class Short:
    """Gives one generation less than asked, or one log-probability less."""

    version = 0

    def __init__(self, samples: int, logprobs: int) -> None:
        self.generation = Generation((1, 2), (0.0,) * logprobs, Finish.STOP)
        self.samples = samples

    def generate(self, requests: object, sampling: object) -> list[Generation]:
        return [self.generation] * self.samples


@pytest.mark.parametrize(
    ("samples", "logprobs", "said"),
    [
        (1, 2, r"engine 'Short' gave 1 generations for 2 samples"),
        (3, 2, r"engine 'Short' gave 3 generations for 2 samples"),
        (2, 1, r"engine 'Short' gave 1 log-probabilities for 2 tokens \(sample 0\)"),
    ],
)
def test_an_engine_that_gives_too_little_is_named(samples: int, logprobs: int, said: str) -> None:
    prompt = Prompt(Draw(PROBLEM, 0), (1,), "1 + 1?")
    with pytest.raises(RunError, match=f"^{said}$"):
        Rollouts(Short(samples, logprobs), None)([prompt], Sampling(2, 4))


def test_a_limit_inside_a_limit_is_its_own() -> None:
    with ContainedCode(30.0):
        with pytest.raises(ForeignTimeout, match=r"0\.05 seconds"), ContainedCode(0.05):
            time.sleep(5)
        time.sleep(0.01)


def test_in_another_thread_there_is_no_limit_and_nothing_breaks() -> None:
    values: list[float] = []
    thread = threading.Thread(target=lambda: values.append(call(lambda response: 1, 0.01)[0].value))
    thread.start()
    thread.join()
    assert values == [1.0]


def test_a_syntax_error_of_a_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(textwrap.dedent("def f(:\n    pass\n"))
    with pytest.raises(
        UserError, match=r"prompt: '.*broken.py' does not load: SyntaxError: "
    ) as error:
        registry.find("prompt", f"{path}:f", "prompt")
    assert "\n" not in str(error.value)


def test_a_run_whose_reward_hangs_names_it_and_goes_on_with_more_time(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "slow.py"
    path.write_text(
        "import os, time\n\ndef f(response):\n    time.sleep(float(os.environ['SLOW']))\n    return len(response)\n"
    )
    recipe = {**tiny.recipe(tiny_model), "reward": f"{path}:f"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLOW", "30")
    said = r"reward 'f' .* 0\.2 seconds .*slow\.py, line 4\) \(problem '"
    with pytest.raises(RunError, match=said):
        rlvr.train(recipe, run__folder="runs", reward_timeout=0.2)
    monkeypatch.setenv("SLOW", "0")
    summary = rlvr.train(recipe, run__folder="runs", reward_timeout=60, resume=True)
    assert summary["recipe"]
