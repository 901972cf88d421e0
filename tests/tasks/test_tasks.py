"""Data "arithmetic" and task "math"."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from rlvr.errors import UserError
from rlvr.grading.compare import compare
from rlvr.registry import find
from rlvr.tasks.arithmetic import ONE_STEP, TWO_STEP, arithmetic, split_of
from rlvr.tasks.gym_comparisons import calculate
from rlvr.tasks.math import math
from rlvr.types import Problem, Response, Status

PLAIN = re.compile(r"What is (.+)\?")


def verdict(text: str, gold: str = "15", *, truncated: bool = False, prefill: str = "", **options):
    return math(Problem("p", "math", "q", gold), Response(text, truncated, prefill), **options)


def test_arithmetic_is_a_function_of_its_arguments() -> None:
    assert arithmetic(count=50, seed=3) == arithmetic(count=50, seed=3)
    assert arithmetic(count=50, seed=3) != arithmetic(count=50, seed=4)
    assert arithmetic(count=50, seed=3) == arithmetic(count=80, seed=3)[:50]
    assert len({problem.id for problem in arithmetic(count=50)}) == 50


def test_answers_are_what_the_questions_ask() -> None:
    for problem in arithmetic(kinds=("add", "sub", "mul", "div", "two_step"), count=1500):
        match = PLAIN.fullmatch(problem.question)
        assert match
        found = calculate(match[1])
        assert found and found[0] == int(problem.answer), problem.question


def test_solutions_are_true_line_by_line_and_end_in_the_box() -> None:
    for problem in arithmetic(count=1500):
        assert problem.solution
        steps = re.findall(r"([^.=]+) = (-?[0-9]+)\.", problem.solution)
        assert len(steps) == (2 if "two_step" in problem.meta["kind"] else 1)
        for left, right in steps:
            found = calculate(left)
            assert found and found[0] == int(right)
        assert problem.solution.endswith(f"\\boxed{{{problem.answer}}}.")
        assert math(problem, Response(problem.solution)).correct


def test_word_problems_state_the_numbers_of_their_solution() -> None:
    for problem in arithmetic(kinds=("word", "word_two_step"), count=1500):
        assert int(problem.answer) >= 0
        stated = sorted(map(int, re.findall(r"[0-9]+", problem.question)))
        first, *rest = (problem.solution or "").split(". ")
        used = re.findall(r"[0-9]+", first.split("=")[0])
        if len(rest) == 2:
            result = first.split("= ")[1]
            later = re.findall(r"[0-9]+", rest[0].split("=")[0])
            later.remove(result)
            used += later
        assert stated == sorted(map(int, used)), problem.question
        assert "{" not in problem.question
    assert len(ONE_STEP) >= 12 and len(TWO_STEP) >= 6


def test_only_the_hardest_differences_are_negative() -> None:
    problems = arithmetic(count=3000)
    negative = [p for p in problems if p.answer.startswith("-")]
    assert negative and all(p.meta["kind"] == "sub" and p.meta["level"] == 3 for p in negative)


def test_levels_bound_the_numbers() -> None:
    limits = {1: 90, 2: 200, 3: 1300}
    for problem in arithmetic(count=2000):
        assert abs(int(problem.answer)) <= limits[problem.meta["level"]]
    easy = " ".join(
        problem.question for problem in arithmetic(kinds=("add",), levels=(1,), count=40)
    )
    assert max(map(int, re.findall("[0-9]+", easy))) <= 9


def test_kinds_and_levels_are_drawn_evenly() -> None:
    problems = arithmetic(kinds=("add", "two_step"), levels=(2, 3), count=1200)
    counts = Counter((problem.meta["kind"], problem.meta["level"]) for problem in problems)
    assert len(counts) == 4 and min(counts.values()) > 230


def test_questions_are_distinct_and_splits_disjoint_for_any_seeds() -> None:
    train = {p.question for seed in (0, 1) for p in arithmetic(count=1500, seed=seed)}
    test = {p.question for seed in (0, 5) for p in arithmetic(count=400, seed=seed, split="test")}
    assert not train & test and all(split_of(question) == "test" for question in test)
    assert len({p.question for p in arithmetic(count=1500)}) == 1500


def test_an_exhausted_cell_gives_way_to_the_others_and_then_says_so() -> None:
    problems = arithmetic(kinds=("div", "add"), levels=(1, 2), count=300)
    assert sum(p.meta == {"kind": "div", "level": 1, "category": "div"} for p in problems) <= 36
    with pytest.raises(
        UserError, match=r"count=100 is too many: kinds div at levels 1 have only [0-9]+ questions"
    ):
        arithmetic(kinds=("div",), levels=(1,), count=100)


def test_a_recipe_reaches_the_parameters_and_a_wrong_one_is_named() -> None:
    plugin = find("data", "arithmetic", "data")
    assert len(plugin.bind({"kinds": ["add"], "levels": [2], "count": 3}, "data")()) == 3
    with pytest.raises(UserError, match=r"data.kinds"):
        plugin.bind({"kinds": ["ad"]}, "data")
    with pytest.raises(UserError, match=r"data.levels"):
        plugin.bind({"levels": [4]}, "data")
    with pytest.raises(UserError, match=r"should not be empty"):
        find("task", "math", "task").bind({"extract": []}, "task")


@pytest.mark.parametrize(
    ("text", "status", "formatted", "rule"),
    [
        (r"so \boxed{15}", Status.CORRECT, True, "box:exact"),
        (r"so \boxed{15.0}", Status.CORRECT, True, "box:exact"),
        (r"so \boxed{x = 15}", Status.CORRECT, True, "box:exact"),
        (r"so \boxed{16}", Status.WRONG, True, "box:exact"),
        (r"so \boxed{fifteen}", Status.WRONG, True, "box:exact"),
        ("15", Status.NO_ANSWER, False, "none"),
        (r"\boxed{15} or \boxed{}", Status.NO_ANSWER, False, "box:empty"),
        (r"\boxed{15} or \boxed{15", Status.NO_ANSWER, False, "box:empty"),
        (r"\boxed{15}<|im_end|>\boxed{16}", Status.CORRECT, True, "box:exact"),
        (r"<think>\boxed{16}</think>\boxed{15}", Status.CORRECT, True, "box:exact"),
        (r"<think>\boxed{15}</think> done", Status.NO_ANSWER, False, "none"),
        (r"<think>\boxed{15}", Status.NO_ANSWER, False, "none"),
        (r"\boxed{15 or 16}", Status.WRONG, True, "box:exact"),
        (
            r"\boxed{1\u200b5}".replace("\\u200b", "\u200b"),
            Status.UNPARSEABLE,
            True,
            "box:unparseable",
        ),
    ],
)
def test_the_box_decides(text: str, status: Status, formatted: bool, rule: str) -> None:
    found = verdict(text)
    assert (found.status, found.formatted, found.rule) == (status, formatted, rule)


def test_the_first_form_present_decides_and_an_empty_box_never_falls_to_a_number() -> None:
    forms = ("box", "answer", "hash", "number")
    assert verdict("it is 15", extract=forms).rule == "number:exact"
    assert verdict("it is 15", extract=forms).correct
    assert verdict(r"\boxed{16} no 15", extract=forms).status is Status.WRONG
    assert verdict(r"\boxed{} 15", extract=forms).status is Status.NO_ANSWER
    assert verdict("<answer>15</answer> 16", extract=forms).correct
    assert verdict("#### 15\n16", extract=forms).rule == "hash:exact"


def test_formatted_is_about_the_box_or_the_first_form_named() -> None:
    assert not verdict("it is 15", extract=("box", "number")).formatted
    assert verdict(r"\boxed{16}", extract=("number", "box")).formatted
    assert verdict("<answer>16</answer>", extract=("answer", "number")).formatted
    assert not verdict("15", extract=("answer", "number")).formatted


def test_a_cut_response_counts_only_for_what_it_finished() -> None:
    assert verdict("so it", truncated=True).status is Status.TRUNCATED
    assert verdict(r"\boxed{15} and", truncated=True).correct
    assert verdict(r"\boxed{16} and", truncated=True).status is Status.WRONG
    assert verdict("first 16", truncated=True, extract=("number",)).status is Status.TRUNCATED
    assert verdict("3 4", truncated=True, prefill="<think>").status is Status.TRUNCATED


def test_thinking_that_the_prompt_opened_must_be_closed() -> None:
    assert verdict(r"\boxed{15}", prefill="<think>\n").status is Status.NO_ANSWER
    assert verdict(r"hm</think>\boxed{15}", prefill="<think>\n").correct


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("1/2", "0.5", True),
        ("1/2", r"\frac{2}{4}", True),
        ("1,000", "1000", True),
        ("x=5", "5", True),
        ("x=5", "y=5", False),
        ("Monday", r"\text{monday}.", True),
        ("B", "(b)", True),
        ("B", "C", False),
        ("x+R", "x + R", True),
        ("x+R", "x+r", False),
        ("of ten", "often", False),
        ("50", "0.5", False),
        ("20000", "20001", False),
        ("", "", False),
        ("118", "118=119", False),
        ("118", "not 118", False),
        ("east", "", False),
    ],
)
def test_comparison(gold: str, answer: str, same: bool) -> None:
    assert compare(gold, answer).same is same
