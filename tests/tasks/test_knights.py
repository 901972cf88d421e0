"""Knights and Knaves: the puzzles, their written solutions, and the reading of answers."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter

import pytest
from support.places import GRADING

from rlvr.errors import UserError
from rlvr.tasks.knights import check_knights, knights, split_of
from rlvr.tasks.knights_answer import read_assignment, read_gold_roles
from rlvr.tasks.knights_puzzle import NAMES, find_solutions, word_statement
from rlvr.types import Problem, Response, Status

GOLD = "(1) Zoey is a knight\n(2) Oliver is a knave"
ROLES = {"Zoey": True, "Oliver": False}


def holds(statement: list, roles: tuple[bool, ...]) -> bool:
    """The truth of a statement, written the slow and plain way."""
    form, *parts = statement
    if form in ("knight", "knave"):
        return roles[parts[0]] is (form == "knight")
    first, *rest = (holds(part, roles) for part in parts)
    if form == "not":
        return not first
    return {
        "and": first and rest[0],
        "or": first or rest[0],
        "if": not first or rest[0],
        "iff": first == rest[0],
    }[form]


def evaluated(statement: list, roles: tuple[bool, ...]) -> str:
    """The statement in words with every claim replaced by its truth, then the truth of the whole."""
    truth = str(holds(statement, roles)).lower()
    form, *parts = statement
    if form in ("knight", "knave"):
        return truth
    values = [str(holds(part, roles)).lower() for part in parts]
    joined = {
        "not": "not {}",
        "and": "{} and {}",
        "or": "{} or {}",
        "if": "if {}, then {}",
        "iff": "{} exactly when {}",
    }
    return f"{joined[form].format(*values)}, {truth}"


def check(text: str, *, prefill: str = "", truncated: bool = False, gold: str = GOLD, **options):
    return check_knights(
        Problem("p", "knights", "q", gold), Response(text, truncated, prefill), **options
    )


@pytest.mark.parametrize("people", range(2, 9))
def test_every_puzzle_has_exactly_the_solution_given(people: int) -> None:
    for problem in knights(people=people, count=30, seed=people):
        statements = problem.meta["statements"]
        worlds = itertools.product((True, False), repeat=people)
        fitting = [
            w
            for w in worlds
            if all(holds(s, w) is role for s, role in zip(statements, w, strict=True))
        ]
        assert fitting == [tuple(problem.meta["roles"])]
        assert len(set(problem.meta["names"])) == people
        assert read_gold_roles(problem.answer) == dict(
            zip(problem.meta["names"], problem.meta["roles"], strict=True)
        )


def test_the_question_says_what_the_statements_are() -> None:
    for problem in knights(people=(2, 3, 5), count=60):
        position = 0
        for statement in problem.meta["statements"]:
            text = word_statement(statement, problem.meta["names"])
            position = problem.question.lower().index(text.lower(), position)
        assert problem.question.endswith("Who is a knight and who is a knave?")


def test_nobody_calls_himself_a_knave_outright() -> None:
    statements = [
        (i, s) for p in knights(people=2, count=600) for i, s in enumerate(p.meta["statements"])
    ]
    assert not [s for i, s in statements if s in (["knave", i], ["not", ["knight", i]])]
    assert {s[0] for _, s in statements} == {"knight", "knave", "not", "and", "or", "if", "iff"}


def test_puzzles_are_distinct_reproducible_and_splits_disjoint() -> None:
    train = [p.question for seed in (0, 1) for p in knights(people=2, count=500, seed=seed)]
    test = [p.question for p in knights(people=2, count=300, split="test")]
    assert len(set(train[:500])) == 500 and not set(train) & set(test)
    for split in ("train", "test"):
        keys = [
            f"{p.meta['names']} {p.meta['statements']}"
            for p in knights(people=2, count=50, split=split)
        ]
        assert {split_of(key) for key in keys} == {split}
    assert knights(people=2, count=20) == knights(people=2, count=40)[:20]
    assert [p.meta["people"] for p in knights(people=(2, 4), count=4)] == [2, 4, 2, 4]
    assert len(NAMES) == len(set(NAMES)) >= 50


def test_every_assignment_is_drawn_equally_often_so_that_no_constant_answer_beats_chance() -> None:
    counts = Counter(tuple(p.meta["roles"]) for p in knights(people=2, count=2000))
    # 500 each, three standard deviations are 58
    assert len(counts) == 4 and max(counts.values()) < 560


def test_statements_are_of_the_forms_asked_for() -> None:
    problems = knights(people=2, count=200, forms=("leaf", "and", "or"))
    assert {s[0] for p in problems for s in p.meta["statements"]} == {
        "knight",
        "knave",
        "and",
        "or",
    }
    with pytest.raises(UserError, match="forms should name at least one of leaf"):
        knights(people=2, count=1, forms=())
    with pytest.raises(UserError, match="no further puzzle of 2 people with forms leaf, not"):
        knights(people=2, count=1, forms=("leaf", "not"))


@pytest.mark.parametrize("people", [1, 9, (2, 9), ()])
def test_two_to_eight_people(people) -> None:
    with pytest.raises(UserError, match=r"2 to 8"):
        knights(people=people)


@pytest.mark.parametrize(("people", "working"), [(2, "all"), (2, "first"), (3, "all"), (5, "all")])
def test_every_clause_of_a_written_solution_is_true(people: int, working) -> None:
    for problem in knights(people=people, count=40, working=working):
        names, statements = problem.meta["names"], problem.meta["statements"]
        thinking = re.fullmatch(
            r"<think>(.+)</think><answer>.+</answer>", problem.solution or "", re.DOTALL
        )
        assert thinking
        lines = thinking[1].removesuffix(".").split(". ")
        for line in lines:
            head, _, tail = line.partition(": ")
            roles = tuple(part.split()[1] == "knight" for part in head.split(", "))
            end = tail.rsplit(", ", 1)[1]
            said = re.findall(r"(?:^|, )(\w+ says .+?)(?=, \w+ says |, yes$|, no$)", tail)
            assert ", ".join([*said, end]) == tail
            for i, clause in enumerate(said):
                assert clause == f"{names[i]} says {evaluated(statements[i], roles)}"
                last_and_wrong = i == len(said) - 1 and end == "no"
                assert (holds(statements[i], roles) is roles[i]) is not last_and_wrong
            assert end == "no" or (len(said) == people and list(roles) == problem.meta["roles"])
        assert [line.endswith("yes") for line in lines].count(True) == 1
        if working == "all" and people <= 3:
            assert len(lines) == 2**people
        else:
            assert lines[-1].endswith("yes")


def test_a_written_solution_is_correct_and_well_formed_with_and_without_a_prefilled_tag() -> None:
    for problem in knights(people=(2, 3), count=40):
        solution = problem.solution or ""
        for response in (
            Response(solution),
            Response(solution.removeprefix("<think>"), prefill="<think>"),
        ):
            verdict = check_knights(problem, response)
            assert verdict.correct and verdict.formatted


def test_a_wrong_role_is_found_by_meta_and_by_text() -> None:
    problem = knights(people=3, count=1)[0]
    wrong = re.sub(
        "knight|knave", lambda m: "knave" if m[0] == "knight" else "knight", problem.answer, count=1
    )
    text = f"<think>x</think><answer>{wrong}</answer>"
    assert check_knights(problem, Response(text)).status is Status.WRONG
    assert check(text, gold=problem.answer).status is Status.WRONG


@pytest.mark.parametrize(
    ("text", "status", "formatted"),
    [
        (f"<think>a</think><answer>{GOLD}</answer>", Status.CORRECT, True),
        (f"<answer>{GOLD}</answer>", Status.CORRECT, False),
        (f"<think>a</think>so <answer>{GOLD}</answer>", Status.CORRECT, False),
        ("<think>a</think><answer>Zoey: knave, Oliver: knave</answer>", Status.WRONG, True),
        ("<think>a</think><answer>Zoey: knight</answer>", Status.UNPARSEABLE, True),
        (f"<think>a</think>{GOLD}", Status.NO_ANSWER, False),
        (f"<think>a</think><answer>{GOLD}", Status.NO_ANSWER, False),
        (f"<think><answer>{GOLD}</answer>", Status.NO_ANSWER, False),
        (f"<think>a</think><answer>x</answer><answer>{GOLD}</answer>", Status.UNPARSEABLE, False),
        (
            f"<think>a</think><answer>{GOLD}</answer><|im_end|>\n<answer>x</answer>",
            Status.CORRECT,
            True,
        ),
    ],
)
def test_status_and_format_are_separate_facts(text: str, status: Status, formatted: bool) -> None:
    verdict = check(text)
    assert (verdict.status, verdict.formatted) == (status, formatted)


def test_cut_responses_and_bad_golds() -> None:
    assert check("<think>hm", truncated=True).status is Status.TRUNCATED
    assert check("<think>hm</think><answer>Zo", truncated=True).status is Status.TRUNCATED
    assert not check(f"<think>a</think><answer>{GOLD}</answer>", truncated=True).formatted
    assert not check(f"<think>a</think><answer>{GOLD}</answer>", min_think=2).formatted
    with pytest.raises(UserError, match=r"problem p: answer should be lines such as"):
        check("x", gold="Zoey and Oliver are knights")


def test_the_verdict_names_everybody_in_the_order_of_the_puzzle() -> None:
    found = check("<think>a</think><answer>Oliver is a knave and Zoey is not a knave.</answer>")
    assert found.answer == "Zoey: knight, Oliver: knave" and found.correct


@pytest.mark.parametrize(
    "text",
    [
        "Zoey is a knight, and Oliver is a knave.",
        "**Zoey** is a **knight**\n**Oliver** is a **knave**",
        "1. Zoey: Knight 2. Oliver: Knave",
        "- Zoey - knight\n- Oliver - knave",
        "zoey = knight; oliver = knave",
        "Zoey \u2192 knight; Oliver \u2192 knave",
        "The answer is: Zoey is the knight. So Oliver is the knave.",
        "Therefore, Zoey is not a knave, Oliver is not a knight",
    ],
)
def test_many_ways_to_say_it(text: str) -> None:
    assert read_assignment(text, list(ROLES))[0] == ROLES


@pytest.mark.parametrize(
    "text",
    [
        "If Zoey is a knight then Oliver is a knave",
        "It is false that Zoey is a knight and that Oliver is a knave",
        "It is not true. Zoey is a knight. Oliver is a knave. Wrong.",
        "Either Zoey is a knight or Oliver is a knave",
        "Zoey is a knight or a knave, Oliver is a knave",
        "Zoey is a knight, Zoey is a knave, Oliver is a knave",
        'Oliver said "Zoey is a knight"; Zoey said "Oliver is a knave"',
        "Zoey is a knight, Oliver is a knave, Bob is a knave",
        "Zoey is a knight? Oliver is a knave?",
        "Maybe Zoey is a knight, Oliver is a knave",
        "Zoey is a knight",
        "The only knight is Oliver. Zoey is a knight. Oliver is a knave",
        "",
        "Zoey knight Oliver knave",
        "Zoey is a knight\nOliver is a knave" + " " * 2000,
    ],
)
def test_what_is_not_a_plain_full_assignment_is_refused(text: str) -> None:
    assert read_assignment(text, list(ROLES))[0] is None


def test_names_are_whole_names() -> None:
    names = ["Mary", "Mary-Ann", "Mary Ann", "O'Neil", "Zoë"]
    text = "Mary Ann is a knave\nMary is a knight\nMary-Ann is a knight\nO\u2019Neil is a knave\nZoe\u0308 is a knight"
    expected = {"Mary": True, "Mary-Ann": True, "Mary Ann": False, "O'Neil": False, "Zoë": True}
    assert read_assignment(text, names)[0] == expected
    assert read_assignment("Annabel is a knight", ["Ann"])[0] is None


def test_solver_finds_all_worlds_and_none() -> None:
    assert find_solutions([["knight", 0], ["knight", 1]]) == [0, 1, 2, 3]
    assert find_solutions([["knave", 0], ["knight", 1]]) == []


def _completion(response: str) -> tuple[str, str]:
    """The response without the header, and what the prompt pre-filled (see the README of the
    labelled answers).
    """
    for header in ("<|im_start|>assistant", "Assistant:"):
        if header in response:
            return response.split(header, 1)[1].lstrip().removeprefix("<think>"), "<think>"
    return response, ""


def test_every_labelled_answer_gets_the_score_it_should() -> None:
    rows = [
        json.loads(line)
        for line in (GRADING / "knights_answers.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    scores = {}
    for row in rows:
        text, prefill = _completion(row["response"])
        found = check(text, prefill=prefill, gold=row["solution_text_format"])
        read = found.status in (Status.CORRECT, Status.WRONG)
        part = -2.0 if not (found.formatted and read) else 2.0 if found.correct else -1.5
        scores[row["name"]] = (1 if found.formatted else -1) + part
    assert len(rows) >= 36
    assert scores == {row["name"]: row["desired_kk_score"] for row in rows}
