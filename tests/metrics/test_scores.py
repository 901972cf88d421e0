"""Counts over answers: by hand, and as the reference's evaluation gives them."""

from __future__ import annotations

import doctest
from itertools import combinations

import pytest
from support.rollouts import make_prompt, make_rollout

from rlvr.evaluation.summary import summarise
from rlvr.metrics import statistics, text_quality, votes
from rlvr.storage.sample_record import make_sample
from rlvr.types import Problem, Rollout, Status, Verdict


def test_the_examples_in_the_docstrings_are_true() -> None:
    found = [doctest.testmod(module) for module in (text_quality, statistics, votes)]
    assert sum(one.attempted for one in found) >= 3
    assert all(one.failed == 0 for one in found)


def test_pass_at_k_is_the_share_of_the_subsets_that_hold_a_right_answer() -> None:
    for n, c in ((6, 2), (5, 0), (4, 4), (7, 1)):
        answers = [i < c for i in range(n)]
        for k in range(1, n + 1):
            subsets = list(combinations(answers, k))
            assert statistics.pass_at_k(n, c, k) == pytest.approx(
                sum(map(any, subsets)) / len(subsets)
            )


def rollout(name: str, index: int, text: str) -> Rollout:
    return make_rollout(make_prompt(Problem(name, "math", "?", "5")), index, text=text)


def test_an_evaluation_with_several_samples_has_pass_at_k_and_the_majority() -> None:
    """p is right in two of four and the right answer is seen first, q in one of four."""
    answers = {"p": ["5", "5", "6", "6"], "q": ["6", "5", "6", None]}
    rows = [
        (rollout(name, i, "Wait, recheck 是"), a)
        for name, given in answers.items()
        for i, a in enumerate(given)
    ]
    verdicts = [
        Verdict(
            Status.CORRECT if answer == "5" else Status.WRONG if answer else Status.NO_ANSWER,
            answer,
        )
        for _, answer in rows
    ]
    lines = [make_sample(0, row, verdict) for (row, _), verdict in zip(rows, verdicts, strict=True)]
    problems = [rows[0][0].prompt.problem, rows[-1][0].prompt.problem]
    found = summarise(0, "pq", lines, problems).metrics
    assert found["pass@1"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert found["pass@2"] == pytest.approx(((1 - 1 / 6) + 1 / 2) / 2) and found["pass@4"] == 1
    assert found["maj@4"] == 0.5
    assert found["reflection"] == 1 and found["non_ascii"] == pytest.approx(1 / 12)
    single = summarise(0, "pq", lines[:1], problems).metrics
    assert "pass@2" not in single and not any(name.startswith("maj") for name in single)


def test_signs_in_a_text() -> None:
    assert text_quality.count_keywords("However, let me try again. Waiting") == 3
    assert not text_quality.has_reflection("I wait") and text_quality.has_reflection(
        "let us ReCheck it"
    )
    assert text_quality.measure_repetition("one two three four five") == 0
    assert text_quality.measure_repetition("a b c d a b c d", 4) == pytest.approx(1 - 4 / 5)
    assert (
        text_quality.measure_repetition("short") == 0
        and text_quality.measure_foreign("12 + 3") == 0
    )
