"""Data and task "gym", and the helper process: nothing that a model writes is executed or can stop
a run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import UserError
from rlvr.grading.worker import Died, Killable, Late
from rlvr.registry import find
from rlvr.tasks import gym as gym_module
from rlvr.tasks.gym import OWN, UNSAFE, check_gym, gym
from rlvr.types import Problem, Response, Status

MISSING = importlib.util.find_spec("reasoning_gym") is None
needs_gym = pytest.mark.skipif(MISSING, reason="reasoning-gym is not installed")

HELPER = """
import os, time
from rlvr.grading.worker import serve

def handle(request):
    if request == "spin":
        while time.process_time() < 30: pass
    if request == "sleep": time.sleep(30)
    if request == "die": os._exit(3)
    if request == "memory": bytearray(1 << 62)
    return [request, os.getpid()]

serve(handle)
"""


def answer(problem: Problem, text: str, **options):
    return check_gym(problem, Response(f"<answer>{text}</answer>"), **options)


@pytest.fixture
def helper(tmp_path: Path):
    script = tmp_path / "helper.py"
    script.write_text(HELPER, encoding="utf-8")
    process = Killable(str(script), {})
    yield process
    process.close()


@pytest.mark.parametrize(("request_", "raised"), [("spin", Late), ("sleep", Died)])
def test_a_late_and_a_silent_helper_are_ended_and_replaced(
    helper: Killable, request_: str, raised: type
) -> None:
    first = helper.ask("a", 20.0)
    assert helper.ask("b", 20.0) == ["b", first[1]]
    with pytest.raises(raised):  # processor time ends the first, the clock ends the second
        helper.ask(request_, 0.2, clock=600.0 if raised is Late else 0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(first[1], 0)
    after = helper.ask("c", 20.0)
    assert after[0] == "c" and after[1] != first[1]


@pytest.mark.parametrize("request_", ["die", "memory"])
def test_a_dead_helper_is_reported_and_replaced(helper: Killable, request_: str) -> None:
    with pytest.raises(Died):
        helper.ask(request_, 20.0)
    assert helper.ask("d", 20.0)[0] == "d"


def test_a_hanging_and_a_dying_scorer_are_failures_of_ours(
    helper: Killable, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem("p", "gym", "q", "5", {"dataset": "leg_counting", "config": "{}", "index": 0})
    monkeypatch.setattr(gym_module, "SECONDS", 0.2)
    for request, status in (("spin", Status.TIMEOUT), ("die", Status.ERROR)):
        monkeypatch.setattr(gym_module, "_WORKER", _Redirected(helper, request))
        assert answer(problem, "5").status is status


class _Redirected:
    """Sends the same request whatever it is asked."""

    def __init__(self, helper: Killable, request: str) -> None:
        self.helper, self.request = helper, request

    def ask(self, request: object, seconds: float) -> object:
        self.helper.ask("wake", 20.0)
        return self.helper.ask(self.request, seconds)


@pytest.mark.parametrize("dataset", sorted(UNSAFE - set(OWN)))
def test_data_sets_whose_scorer_executes_text_are_refused(dataset: str) -> None:
    with pytest.raises(UserError, match=f"'{dataset}' is refused: its scorer executes model text"):
        gym(dataset=dataset)
    with pytest.raises(UserError, match=r"refused"):
        answer(Problem("p", "gym", "q", "x", {"dataset": dataset, "config": "{}", "index": 0}), "1")


def test_a_problem_without_a_data_set_is_named() -> None:
    with pytest.raises(UserError, match=r"names no data set"):
        answer(Problem("p", "gym", "q", "5"), "5")


class _Recorder:
    """Stands for the helper, writes down what it is asked, and passes on all but answers."""

    def __init__(self) -> None:
        self.worker = gym_module._WORKER
        self.asked: list[Mapping[str, Any]] = []

    def ask(self, request: Mapping[str, Any], seconds: float) -> Any:
        self.asked.append(request)
        if request["do"] == "score":
            return {"score": 1.0}
        return self.worker.ask(request, seconds)


@needs_gym
@pytest.mark.parametrize("dataset", sorted(UNSAFE))
def test_payloads_do_not_run(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No text of a model gets to a scorer that would execute it."""
    helper = _Recorder()
    monkeypatch.setattr(gym_module, "_WORKER", helper)
    texts = ["words of a model", "[words of a model]", "[[words of a model]]", "1 + model"]
    problem = Problem("p", "gym", "q", "x", {"dataset": dataset, "config": "{}", "index": 0})
    if dataset in OWN:
        problem = gym(dataset=dataset, count=1)[0]
        assert answer(problem, problem.answer).correct
    for text in texts:
        if dataset in OWN:
            assert answer(problem, text).status is Status.WRONG
        else:
            with pytest.raises(UserError):
                answer(problem, text)
    assert not [asked for asked in helper.asked if "answer" in asked or "model" in str(asked)]


@needs_gym
def test_the_helper_records_what_a_safe_scorer_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    helper = _Recorder()
    monkeypatch.setattr(gym_module, "_WORKER", helper)
    answer(gym(dataset="chain_sum", count=1)[0], "words of a model")
    assert helper.asked[-1]["answer"] == "words of a model"


@needs_gym
def test_unsafe_names_every_scorer_that_calls_an_evaluator() -> None:
    spec = importlib.util.find_spec("reasoning_gym")
    assert spec and spec.submodule_search_locations
    found = set()
    for path in Path(spec.submodule_search_locations[0]).rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        scorer = source.partition("def score_answer")[2].partition("\nclass ")[0]
        if any(
            call in scorer
            for call in ("eval(answer", "parse_expr(answer", "sympify(", "exec(", "simplify(answer")
        ):
            found.add(path.stem)
    assert len(found) >= 5 and found <= UNSAFE


@needs_gym
def test_problems_are_reproducible_distinct_and_split() -> None:
    train = gym(dataset="chain_sum", count=40)
    assert train == gym(dataset="chain_sum", count=40)
    assert len({p.question for p in train}) == len({p.id for p in train}) == 40
    assert train[0].task == "gym" and train[0].meta["category"] == "chain_sum"
    test = gym(dataset="chain_sum", count=40, split="test", seed=1)
    assert not {p.question for p in train} & {p.question for p in test}
    assert {p.question for p in train} != {
        p.question for p in gym(dataset="chain_sum", count=40, seed=1)
    }
    easy = gym(dataset="chain_sum", count=5, config={"min_terms": 2, "max_terms": 2})
    assert all(len(p.question.split(" + ")) + len(p.question.split(" - ")) <= 4 for p in easy)


@needs_gym
@pytest.mark.parametrize(
    "dataset", ["chain_sum", "isomorphic_strings", "propositional_logic", "sudoku", "word_sorting"]
)
def test_the_scorer_of_the_library_decides(dataset: str) -> None:
    for problem in gym(dataset=dataset, count=3):
        right = answer(problem, problem.answer)
        assert right.correct and right.formatted and right.rule == "answer:scorer"
        assert not answer(problem, "zzz").correct
        assert check_gym(problem, Response("zzz")).status is Status.NO_ANSWER
        assert check_gym(problem, Response("zzz", truncated=True)).status is Status.TRUNCATED


@needs_gym
@pytest.mark.parametrize(
    ("dataset", "junk"),
    [
        ("game_of_life_halting", "perhaps"),
        ("coin_flip", "0"),
        ("complex_arithmetic", "nan"),
        ("gsm_symbolic", "not {}"),
        ("spell_backward", "{} and more"),
        ("number_sorting", "[NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN]"),
        ("spiral_matrix", "{} 1"),
        ("countdown", "{} + 0"),
        ("puzzle24", "24"),
        ("n_queens", "Q"),
    ],
)
def test_what_the_scorers_of_the_library_let_pass_does_not_pass(dataset: str, junk: str) -> None:
    for problem in gym(dataset=dataset, count=8):
        assert answer(problem, problem.answer).correct
        assert answer(problem, junk.format(problem.answer)).status is Status.WRONG


@needs_gym
def test_a_problem_of_another_version_is_an_error_and_not_a_wrong_answer() -> None:
    problem = gym(dataset="chain_sum", count=1)[0]
    changed = Problem(problem.id, "gym", problem.question + " ", problem.answer, problem.meta)
    assert answer(changed, problem.answer).status is Status.ERROR


@needs_gym
def test_faults_of_the_recipe_are_one_line() -> None:
    with pytest.raises(
        UserError, match=r"unknown data set 'chain_sun' \(did you mean 'chain_sum'\?\)"
    ):
        gym(dataset="chain_sun")
    with pytest.raises(UserError, match=r"'chain_sum' does not take this config: .*min_term'"):
        gym(dataset="chain_sum", config={"min_term": 2})
    with pytest.raises(
        UserError, match=r"count=3000 is too many: 'chain_sum' has only [0-9]+ questions"
    ):
        gym(
            dataset="chain_sum",
            count=3000,
            config={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
        )
    with pytest.raises(UserError, match=r"data.dataset: is required"):
        find("data", "gym", "data").bind({}, "data")
