"""Task "math": the answer is a number or a short text, found in a box, in tags, after `####` or as the last number."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from rlvr.grading.extract import Form, after_thinking, final_turn, find_form
from rlvr.grading.numbers import read_quantity, same_quantity
from rlvr.registry import register
from rlvr.types import Problem, Response, Status, Verdict

Forms = Annotated[tuple[Form, ...], Field(min_length=1)]

_WRAPPED = re.compile(r"\\(?:text|mathrm|mbox|textrm|textbf|mathbf) *\{([^{}]*)\}")
_LETTER = re.compile(r"\\?[({\[]? *([A-Za-z]) *[)}\]]?[.:]?")
_WORDS = re.compile(r"[^\W0-9_]+(?:[ '’-][^\W0-9_]+)*")  # noqa: RUF001 - the typographic apostrophe is meant
_NAMED = re.compile(r"([A-Za-z]) *= *(?=\S)")


@register("task", "math")
def math(problem: Problem, response: Response, *, extract: Forms = ("box",), casefold: bool = True) -> Verdict:
    r"""Compare the answer of the first form that is present with the gold answer.

    >>> math(Problem("p", "math", "7 + 8?", "15"), Response(r"7 + 8 = \boxed{15}")).rule
    'box:number'
    """
    text = after_thinking(final_turn(response.text), response.prefill)
    found = {form: find_form(form, text) for form in extract}
    formatted = bool(found["box" if "box" in extract else extract[0]])
    form = next((form for form in extract if found[form] is not None), None)
    answer = found[form] if form else None
    if form is None or not answer:
        status = Status.TRUNCATED if response.truncated else Status.NO_ANSWER
        return Verdict(status, None, formatted, f"{form or 'none'}:empty" if form else "none")
    same, how = compare(problem.answer, answer, casefold=casefold)
    status = Status.CORRECT if same else Status.WRONG
    if response.truncated and not same and form in ("number", "hash"):
        status = Status.TRUNCATED  # the last number of a text that was cut is no answer, but it is right if it is right
    return Verdict(status, answer, formatted, f"{form}:{how}")


def compare(gold: str, answer: str, *, casefold: bool = True) -> tuple[bool, str]:
    """Whether the two are the same, and what decided.   compare("1/2", "0.5") -> (True, "number")"""
    gold, answer = _without_name(gold.strip(), answer.strip())
    left, right = read_quantity(gold), read_quantity(answer)
    if left and right:
        return same_quantity(left, right), "number"
    wanted = canonical(gold, casefold=casefold)
    return bool(wanted) and wanted == canonical(answer, casefold=casefold), "string"


def canonical(text: str, *, casefold: bool = True) -> str:
    r"""The text without what never carries meaning; case counts in formulas and not in words.

    >>> canonical(r"$\text{Monday}$."), canonical("(B)"), canonical(r"x + \left(R\right)")
    ('monday', 'b', 'x+(R)')
    """
    text = _WRAPPED.sub(r" \1 ", text).replace(r"\left", "").replace(r"\right", "").replace("$", "")
    text = " ".join(text.split()).removesuffix(".").strip()
    letter = _LETTER.fullmatch(text)
    if letter or _WORDS.fullmatch(text):
        text = letter[1] if letter else text
        return text.casefold() if casefold else text
    return "".join(text.split())


def _without_name(gold: str, answer: str) -> tuple[str, str]:
    """Both without `x =` where only one of them has it or both have the same.   ("5", "x = 5") -> ("5", "5")"""
    left, right = _NAMED.match(gold), _NAMED.match(answer)
    if left and right and left[1] != right[1]:
        return gold, answer
    return gold[left.end() :] if left else gold, answer[right.end() :] if right else answer
