"""What stands in the place of a letter: words, formulas, several letters, an answer line, what an option says."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.tasks.choice import choice
from rlvr.tasks.choice_answer import read_options
from rlvr.types import Problem, Response, Status, Verdict

OPTIONS = "Which?\nA. a dog\nB. 5 m\nC. a cat\nD. $\\frac{1}{2}$"


def judge(gold: str, text: str, question: str = "?") -> Verdict:
    return choice(Problem("p", "choice", question, gold), Response(text))


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("A", r"\boxed{\text{a cat}}"), ("A", r"\boxed{A cat}"), ("I", r"\boxed{\text{I think so}}"),
        ("C", r"\boxed{c = 3}"), ("C", r"\boxed{C = 3}"), ("X", r"\boxed{x=3}"), ("B", r"\boxed{B^2}"),
        ("B", r"\boxed{B+1}"), ("A", r"\boxed{A \cup B}"), ("C", r"\boxed{\mathbf{C} = 3}"),
        ("F", r"\boxed{F(x)}"), ("E", r"\boxed{E\ 5}"), ("B", r"\boxed{b blue}"),
        ("B", "Answer: B = 3"), ("B", "Answer: B^2"),
    ],
)  # fmt: skip
def test_a_letter_that_stands_as_a_word_or_in_a_formula_is_no_choice(gold: str, text: str) -> None:
    assert judge(gold, text).status is Status.NO_ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        "A, B", "A or B", r"A \text{ or } B", "A B C D", "A and B", "A/B", "A,B,C,D", "(A) or (B)", "AB", "A & B",
        r"\text{A or B}", r"\textbf{(A)} red or \textbf{(B)} blue", "(A) red, (B) blue", "A. red or B", r"A\quad B",
        r"\text{A}, \text{B}", "A; B", "A-D", "all of A, B, C",
    ],
)  # fmt: skip
@pytest.mark.parametrize("gold", ["A", "B"])
def test_several_letters_are_no_answer(gold: str, answer: str) -> None:
    assert judge(gold, rf"\boxed{{{answer}}}").status in (Status.WRONG, Status.NO_ANSWER)
    assert not judge(gold, f"Answer: {answer}").correct
    assert not judge(gold, f"The answer is {answer}.").correct


@pytest.mark.parametrize(
    "answer",
    [
        "B", "b", "(B)", "B.", "B) blue", "(B) blue", "B: blue", "B. blue", r"\text{B}", r"\textbf{(B) }5", "$B$",
        r"\textbf{(B)}\ \frac{5}{36}", r"\mathrm{B}", "Option B", "option (B)", r"\text{Answer: B}", "**B**", "B blue",
        r"\\text{B}", "B. Vitamin C", r"\text{B. }blue", "[B]", "{B}", r"\text{(B) blue}", "B. x = 3", r"\textbf{B}\ 5",
        "B - blue", '"B"', r"\mathbf{(B)}", r"\fbox{B}",
    ],
)  # fmt: skip
def test_one_letter_in_all_its_dress_is_the_choice(answer: str) -> None:
    verdict = judge("B", rf"so \boxed{{{answer}}}")
    assert (verdict.status, verdict.answer) == (Status.CORRECT, "B")
    assert judge("C", rf"so \boxed{{{answer}}}").status is Status.WRONG


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        (r"\boxed{x=3} so. Answer: D", True), (r"\boxed{\langle H\rangle \ll \Delta E} **Answer: D**", True),
        (r"Answer: D, since \boxed{x=3}", True), (r"\boxed{7} The answer is (D).", True),
        (r"\boxed{x=3} Answer: A", False), (r"\boxed{A} Answer: D", False), (r"\boxed{} Answer: D", False),
        (r"\boxed{A, D} Answer: D", False), (r"\boxed{x=3} Answer: D or A", False),
    ],
)  # fmt: skip
def test_an_answer_line_beats_a_box_of_mathematics_and_no_letter(text: str, correct: bool) -> None:
    assert judge("D", text).correct is correct


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("C", r"\text{a cat}", True), ("C", "A cat.", True), ("A", r"\text{a cat}", False), ("A", "a dog", True),
        ("D", r"\frac{1}{2}", True), ("D", r"\dfrac{1}{2}", True), ("B", r"5\text{ m}", True),
        ("B", r"5\text{ cm}", False), ("B", "5 m", True),
        ("C", "a cat and a dog", False), ("C", "cat", False), ("A", "A", True), ("A", "A a dog", True),
        ("C", "C a cat", True), ("D", r"D\ \frac{1}{2}", True),
    ],
)  # fmt: skip
def test_what_an_option_says_is_its_letter(gold: str, answer: str, correct: bool) -> None:
    assert judge(gold, rf"\boxed{{{answer}}}", OPTIONS).correct is correct


def test_options_are_read_from_the_question() -> None:
    assert read_options("Which?\nA. red\nB. blue") == {"A": "red", "B": "blue"}
    assert read_options("Which?\n(A) red\n(B) blue\n") == {"A": "red", "B": "blue"}
    assert read_options("A. Smith asked\nwhich?") == {}
    twice = "A. red\nB. red\nC. blue"
    assert judge("A", r"\boxed{red}", twice).status is Status.NO_ANSWER


LETTERS = st.sampled_from(string.ascii_uppercase[:8])
DRESS = st.sampled_from(
    ["{}", "({})", r"\text{{{}}}", r"\textbf{{({})}}", "{}.", "{}) blue", "({}) blue", "Option {}"]
)


@settings(max_examples=200, deadline=None)
@given(gold=LETTERS, other=LETTERS, dress=DRESS)
def test_another_letter_is_wrong_however_it_is_dressed(gold: str, other: str, dress: str) -> None:
    box = rf"\boxed{{{dress.format(other)}}}"
    assert judge(gold, box).correct is (gold == other)


@settings(max_examples=200, deadline=None)
@given(
    letters=st.lists(LETTERS, min_size=2, max_size=8, unique=True),
    join=st.sampled_from([", ", " or ", " and ", " ", "/", r" \text{ or } ", "; ", "", " & "]),
    dress=st.sampled_from(["{}", "({})", r"\text{{{}}}", "{}."]),
)
def test_two_letters_and_more_are_never_right(letters: list[str], join: str, dress: str) -> None:
    listed = join.join(dress.format(letter) for letter in letters)
    for gold in letters:
        assert not judge(gold, rf"\boxed{{{listed}}}").correct
        assert not judge(gold, f"Answer: {listed}").correct


def test_long_runs_of_anything_are_read_in_no_time() -> None:
    for filler in (" ", ")", "(", ",", "or A ", r"\text{", "A, ", "$", "A) "):
        text = "A" + filler * (18_000 // len(filler)) + "?"
        boxed = judge("B", rf"\boxed{{{text}}}")
        stated = judge("B", f"Answer: {text}")
        assert not boxed.correct and not stated.correct
