"""Task "choice": multiple-choice questions, whose options have letters."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlvr.errors import UserError
from rlvr.grading.characters import unify_characters
from rlvr.grading.extract import cut_at_end_of_turn, extract_answers, strip_thinking
from rlvr.registry import register
from rlvr.tasks.answer_forms import Forms, get_unanswered_status, take_first
from rlvr.tasks.choice_answer import Choice, find_stated, read_choice, read_options
from rlvr.types import Problem, Response, Status, Verdict


@register("task", "choice")
def choice(problem: Problem, response: Response, *, extract: Forms = ("box", "answer")) -> Verdict:
    r"""Compare the letter of a multiple-choice answer, in a box, in tags, or after "the answer is",
    with the gold's.

    What an option of the question says counts as its letter; several letters are no answer.

    >>> choice(Problem("p", "choice", "A. red\nB. blue", "B"), Response(r"\boxed{\text{(B) blue}}")).status
    <Status.CORRECT: 'correct'>
    """
    # A turn may end in a marker with full-width signs, so that it is cut before they go.
    first_turn = cut_at_end_of_turn(response.text)
    response = replace(response, text=unify_characters(first_turn))
    form, answer = take_first(extract_answers(response.text, response.prefill, extract))
    found: Choice | None = None
    rule = form or "none"
    if answer:
        found = read_choice(answer, read_options(problem.question))
    # An answer line counts where no answer is marked, or what is marked names no option; an empty box is an answer
    # that was left out.
    if found is None and answer != "":
        found = _find_stated(response)
        if found is not None:
            form = None
            rule = "stated"
    if found is None:
        return Verdict(get_unanswered_status(response), None, False, rule)
    is_right = found.is_only and found.letter == problem.answer
    status = Status.CORRECT if is_right else Status.WRONG
    return Verdict(status, found.letter, form == extract[0], rule)


def _find_stated(response: Response) -> Choice | None:
    """Return the last choice that follows "the answer is", after the thinking."""
    text = strip_thinking(cut_at_end_of_turn(response.text), response.prefill)
    return find_stated(text)


def letter_options(options: Any, gold: str, where: str) -> tuple[str, str]:
    """Return the options as lines with letters, and the gold's letter.

    The gold is a label, a number from 0 or an option; raises UserError where it is none of them.

    >>> letter_options({"text": ["red", "blue"], "label": ["1", "2"]}, "2", "")
    ('A. red\\nB. blue', 'B')
    """
    texts = options
    labels = None
    if isinstance(options, Mapping):
        texts = options.get("text", options)
        labels = options.get("label")
    if not isinstance(texts, list | tuple) or not 1 < len(texts) <= len(string.ascii_uppercase):
        raise UserError(
            f"{where}: should be a list of options, or a mapping with the lists text and label"
        )
    letters = string.ascii_uppercase[: len(texts)]
    position = _find_gold(gold, texts, labels)
    if position is None:
        raise UserError(f"{where}: the answer '{gold}' is none of the options")
    lines = [f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True)]
    return "\n".join(lines), letters[position]


def _find_gold(gold: str, texts: Any, labels: Any) -> int | None:
    """Return the position of the option that a gold names, None where it names none."""
    if labels:
        namings = [list(labels)]
    else:
        letters = list(string.ascii_uppercase[: len(texts)])
        numbers = list(map(str, range(len(texts))))
        namings = [letters, numbers, list(texts)]
    for names in namings:
        if gold in names:
            return names.index(gold)
    return None
