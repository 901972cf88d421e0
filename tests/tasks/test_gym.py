"""Data and task "gym", and the helper process: nothing that a model writes is executed or can stop
a run.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
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


@needs_gym
@pytest.mark.parametrize("dataset", ["gsm_symbolic", "complex_arithmetic", "maze", "word_sorting"])
def test_a_box_inside_the_tags_is_opened(dataset: str) -> None:
    for problem in gym(dataset=dataset, count=2):
        assert answer(problem, f"\\boxed{{{problem.answer}}}").correct
        assert answer(problem, f"so ${{}}$ \\boxed{{{problem.answer}}}").correct
        assert not answer(problem, "\\boxed{zzz}").correct
        assert not answer(problem, f"{problem.answer} \\boxed{{}}").correct


@pytest.mark.parametrize(
    ("dataset", "gold", "right", "wrong"),
    [
        ("complex_arithmetic", "48.0 + 36.0i", ["(48.0 + 36.0i)", "48+36j", "((48 + 36 J))"],
         ["36.0 + 48.0i", "48 - 36i", "48.0", "36i", "48.0 36.0i", "36.0i + 48.0", "48.0 + 36.0", "48.0 + 3 6i"]),
        ("complex_arithmetic", "0.0 - 1.0i", ["-i", "-1j", "0-j"], ["i", "-1", "0", "-", "()"]),
        ("string_insertion", "DACEDD", ["DACEDD", " DACEDD "], ["dacedd", "Dacedd", "D A C E D D", "DACED"]),
        ("spell_backward", "enilotipaC", ["enilotipac"], ["enilotipaC!", "enilotipa C", "Capitoline"]),
        ("letter_jumble", "You can", ["you can"], ["You can do", "can You", "Youcan"]),
        ("game_of_life_halting", "True", ["true", '"True"'], ["False", "True or False", "not True"]),
        ("number_sorting", "['-92.5', '-27.0', '3']", ["[-92.5, -27, 3]", '["-92.50","-27","3.0"]'],
         ["['-92.5', '-27.0', '3', '3']", "[-92.5, -26.1, 3]", "[3, -27, -92.5]", "-92.5, -27, 3", "[[-92.5, -27, 3]]",
          "[-92.5, -27, 3.001]", "[-92.5, -27, null]", "['-92.5', '-27.0', '3'] extra"]),
        ("binary_matrix", "1 0 1\n0 1 0", ["1 0 1\n0 1 0", "1  0 1 \n0 1 0"],
         ["1 0 1 0 1 0", "1 0\n1 0\n1 0", "1 0 1 1\n0 1 0 1", "1 0 1\n0 1 0\n0 1 0", "1.0 0 1\n0 1 0"]),
        ("spiral_matrix", "1 2 3", ["1 2 3"], ["1 2 3 4", "1\n2\n3", "1 2", "1 3 2", "1 2 3.4"]),
        ("coin_flip", "3.051757812e-05", ["1/32768", "0.000030517578125", "3.051757812e-05"],
         ["0.00003", "0.0000305175781251", "1/32767", "0", "3.06e-05"]),
        ("coin_flip", "0.109375", ["7/64", ".109375", "10.9375%"], ["0.10937", "0.1093751", "0.1094", "7/63"]),
        ("gsm_symbolic", "44", ["44", "44.0", "(44)"], ["-44", "44.4", "44 or 45", "440", "44%"]),
    ],
)  # fmt: skip
def test_our_comparisons_take_what_is_the_same_and_nothing_near_it(
    dataset: str, gold: str, right: list[str], wrong: list[str]
) -> None:
    """No library is needed: these compare the texts alone."""
    problem = Problem("p", "gym", "q", gold, {"dataset": dataset, "config": "{}", "index": 0})
    assert [text for text in [gold, *right] if not answer(problem, text).correct] == []
    assert [text for text in wrong if answer(problem, text).correct] == []


ANGLE = {"angle_ABC_degrees": 19.00598419603678}
CANDIDATES = {"formatted_candidates": ["303299282.587000", "947,865,419.169"]}


@pytest.mark.parametrize(
    ("dataset", "info", "gold", "right", "wrong"),
    [
        ("decimal_arithmetic", {}, "4.86090396050", ["4.8609039605", "4.86090396049"],
         ["4.86190396050", "4.861", "4.8609039", "4.86090396052", "4.860903960495", "4.8609039605 or so"]),
        ("decimal_arithmetic", {}, "25.413", ["25.4130"], ["25.414", "25.4130001", "25.41", "25.413 m"]),
        ("number_format", CANDIDATES, "947865419.1689999", ["947865419.169", "947,865,419.169", "9.47865419169e8"],
         ["947865419.1789999", "947865419.17", "947865419.1693", "303299282.587", "about 947865419.169"]),
        ("pool_matrix", {}, "5.75 6.25\n7.0 5.333333", ["5.75 6.25\n7 5.33", "5.750 6.25\n7.0 5.333"],
         ["5.80 6.25\n7.0 5.33", "5.75 6.25 7.0 5.33", "5.75 6.25\n7.0 5.3",
          "5.75 6.25 1\n7.0 5.33 1", "5.75 6.25\n7.0 x"]),
        ("codeio", {}, '{"number": 777}', ['{"number":777}'], ['{"number": 777.0000001}', '{"number": 777, "a": 1}']),
        ("pool_matrix", {}, "9 8", ["9.0 8.00"], ["9 8.001", "9\n8", "9 8.05", "9 8 # so", "9.081 8.072"]),
        ("advanced_geometry", ANGLE, "19.01°", ["19.01", "19.006°", "19.010"],
         ["19.011°", "19.014", "19.0101", "19", "20.01"]),
        ("advanced_geometry", {"ortho": ["132/17", "41"]}, "(7.765, 41.000)", ["(7.765, 41)", "7.76471,41.000"],
         ["(7.765, 41.000), extra", "(7.765, 41.000", "(7.765, 41, 3)", "(7.7652, 41)", "(7.765, 41.0000001)"]),
        ("advanced_geometry", {}, "1.186", ["1.186"], []),
        ("kakurasu", {}, "1 1 0\n0 1 1", ["110\n011"], ["1 1 0\n0 1 1 extra", "1 1 0\n0 1 -1", "1 1 0 7\n0 1 1 7"]),
        ("survo", {}, "7 1\n2 6", ["7  1\n2 6"], ["7 1\n2 6 extra", "so 7 1\n2 6", "7 1 2\n2 6 2", "7 1 2 6"]),
        ("game_of_life", {}, "[[0,1],[1,0]]", ["[[0, 1], [1, 0]]"],
         ["[[0,1,0],[1,0,1]]", "[[0,1],[1,0],[0,0]]", "[0,1,1,0]"]),
        ("word_sorting", {}, "KIND, bomb", ["KIND,bomb"], ["KIND, bomb, extra", "KIND, bomb, bomb", "KIND bomb"]),
        ("polynomial_equations", {}, "-0.5, 0.0", ["-0.5,0"], ["-0.5, 0.0, extra", "-0.5, 0.0, none", "x = -0.5, 0.0"]),
        ("knights_knaves", {}, "Lily is a knight, and Jack is a knave.",
         ["Jack is a knave and Lily is a knight", "lily knight, jack knave"],
         ["Lily is a knight, and Jack is a knave. extra", "Lily is not a knight, and Jack is a knave",
          "Lily is a knight, Jack is a knave, Lily is a knight", "Lily is a knave, and Jack is a knight"]),
        ("fraction_simplification", {}, r"$\dfrac{332}{971}$", ["332/971", r"\frac{332}{971}"],
         [r"$\dfrac{332}{971}$ extra", r"\frac{332}{971} or \frac{1}{2}", "332/971/1"]),
        ("time_intervals", {}, "01:45:29.840", ["1:45:29.840"],
         ["01:45:29.0840", "01:45:29.841", "01:45:29.84", "01:45:29.840 h"]),
        ("time_intervals", {}, "34 days", ["34", "34 Days", "034 days"],
         ["34 days extra", "34 weeks", "34 days 2", "35 days"]),
        ("time_intervals", {}, "59 days, 17:53:00", ["59 days, 17:53:00"],
         ["59 days, 17:53:00 or so", "59 days, 17:53"]),
        ("sokoban", {}, "LDUR", ["(LDUR)", "L D U R"], ["LDUR extra", "so LDUR", "LDUR 1", "ldur"]),
        ("quantum_lock", {}, "A → B", ["a,b", "(A → B)", "AB"], ["A → B 1", "press A → B", "A → B twice"]),
        ("rubiks_cube", {}, "U U R'", ["U U R'"], ["U2 R'", "U U R' 1"]),
    ],
)  # fmt: skip
def test_a_full_score_is_not_enough_where_the_question_excludes_the_answer(
    dataset: str, info: dict, gold: str, right: list[str], wrong: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A stand-in for the helper gives the full score to everything."""
    monkeypatch.setattr(gym_module, "_WORKER", _FullScore(info))
    problem = Problem("p", "gym", "q", gold, {"dataset": dataset, "config": "{}", "index": 0})
    assert [text for text in [gold, *right] if not answer(problem, text).correct] == []
    assert [text for text in wrong if answer(problem, text).correct] == []


class _FullScore:
    """Stands for the helper: every answer has the full score."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.info = info

    def ask(self, request: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        return {"score": 1.0} if request["do"] == "score" else self.info


@needs_gym
def test_an_entry_that_the_library_cannot_make_is_left_out_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    problems = gym(dataset="maze", count=50, seed=2)
    assert len(problems) == len({p.question for p in problems}) == 50
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.match(r"gym: 'maze': entries left out: [1-9]", said)
    assert answer(problems[-1], problems[-1].answer).correct
    gym(dataset="chain_sum", count=5)
    assert capsys.readouterr().err == ""


NO_GOLD = ("boxnet", "rush_hour")
# Kinds of near misses that are the gold in another writing for some data sets.
NEAR_MISSES: dict[str, Callable[[str], str]] = {
    "an extra word": lambda gold: f"{gold} extra",
    "an extra item": lambda gold: f"{gold}, extra",
    "a word in front": lambda gold: f"The answer is {gold}",
    "an extra column": lambda gold: "\n".join(f"{line} 7" for line in gold.split("\n")),
    "an extra row": lambda gold: f"{gold}\n7 7 7",
    "a number 0.9 % too large": lambda gold: FIRST_NUMBER.sub(_enlarge, gold, count=1),
    "all numbers 0.9 % too large": lambda gold: FIRST_NUMBER.sub(_enlarge, gold),
}
FIRST_NUMBER = re.compile(r"(?<![\w.])[1-9][0-9]*(?:\.[0-9]+)?(?![\w.])")


def _enlarge(number: re.Match[str]) -> str:
    return repr(float(number[0]) * 1.009)


@needs_gym
@pytest.mark.slow
def test_near_misses_of_every_data_set_are_wrong() -> None:
    from reasoning_gym.factory import DATASETS

    accepted = []
    for dataset in sorted(set(DATASETS) - (UNSAFE - set(OWN)) - set(NO_GOLD)):
        for problem in gym(dataset=dataset, count=2, seed=11):
            if not answer(problem, problem.answer).correct:
                accepted.append((dataset, "the gold is wrong", problem.answer))
            for kind, change in NEAR_MISSES.items():
                text = change(problem.answer)
                if text != problem.answer and answer(problem, text).correct:
                    accepted.append((dataset, kind, text))
    assert accepted == []
