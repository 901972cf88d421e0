"""Task "math": the answer is a number, an expression or a short text, found in a box, in tags,
after `####` or last.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import Future
from fractions import Fraction
from typing import Annotated

from pydantic import Field
from rlvr.grading.values import exact, walk
from rlvr.grading.worker import Died, Late
from rlvr.registry import register
from rlvr.types import Problem, Response, Status, Verdict

from rlvr.grading import math_verify
from rlvr.grading.compare import Match, canonical, compare
from rlvr.grading.extract import (
    Form,
    cut_at_end_of_turn,
    extract_answers,
    find_last_box,
    strip_thinking,
)
from rlvr.grading.parser import parse

Forms = Annotated[tuple[Form, ...], Field(min_length=1)]


Share = Annotated[float, Field(ge=0, lt=1)]


Seconds = Annotated[float, Field(gt=0)]


GATE_SECONDS = 0.5


STRING_ONLY = "string_only"  # in a problem's meta: its gold has no meaning that could be compared


@register("task", "math")
def math(
    problem: Problem,
    response: Response,
    *,
    extract: Forms = ("box",),
    tolerance: Share = 0.0,
    seconds: Seconds = math_verify.SECONDS,
) -> Verdict | Future[Verdict]:
    r"""Compare the answer of the first form that is present with the gold answer.

    `tolerance` is a relative error that numbers may have (0.01 for physics), `seconds` the
    processor time of the symbolic library. The few answers that need it come as a future.

    >>> math(Problem("p", "math", "7 + 8?", "15"), Response(r"7 + 8 = \boxed{15}")).rule
    'box:exact'
    """
    start = time.perf_counter()
    found = extract_answers(response.text, response.prefill, extract)
    formatted = bool(found.get("box" if "box" in extract else extract[0]))
    form, answer = next(iter(found.items()), (None, None))
    if answer and form in ("answer", "hash"):
        answer = find_last_box(answer) if find_last_box(answer) is not None else answer.strip("* ")
    if form is None or not answer:
        status = Status.TRUNCATED if response.truncated else Status.NO_ANSWER
        return Verdict(status, None, formatted, f"{form or 'none'}:empty" if form else "none")

    def verdict(same: bool, rule: str, status: Status = Status.WRONG) -> Verdict:
        if response.truncated and form in ("number", "hash"):
            # the last number of a text that was cut is no answer, but right if it is right
            status = Status.TRUNCATED
        ms = 1000 * (time.perf_counter() - start)
        return Verdict(Status.CORRECT if same else status, answer, formatted, f"{form}:{rule}", ms)

    match = _matched(problem, answer, tolerance)
    if match.same is not None:
        return verdict(
            match.same,
            match.rule,
            Status.UNPARSEABLE if match.rule == "unparseable" else Status.WRONG,
        )
    refused = math_verify.guard(problem.answer, answer)
    if refused:
        return verdict(False, f"guard:{refused}", Status.UNPARSEABLE)
    future: Future[Verdict] = Future()
    asked = math_verify.ask(problem.answer, answer, seconds)
    asked.add_done_callback(lambda done: future.set_result(_settled(done, verdict)))
    return future


def _settled(done: Future[bool], verdict) -> Verdict:
    error = done.exception()
    if error is None:
        return verdict(done.result(), "symbolic")
    if isinstance(error, Late):
        return verdict(False, "symbolic:timeout", Status.TIMEOUT)
    return verdict(False, f"symbolic:{error}", Status.ERROR)


def _matched(problem: Problem, answer: str, tolerance: float) -> Match:
    if problem.meta.get(STRING_ONLY):
        return Match(canonical(problem.answer) == canonical(answer), "string only")
    match = compare(problem.answer, answer)
    if match.same or not tolerance:
        return match
    gold, given = (
        exact(node) if (node := parse(text)) else None for text in (problem.answer, answer)
    )
    if gold is None or given is None:
        return match
    return Match(abs(gold - given) <= Fraction(tolerance) * abs(gold), "tolerance")


_LETTER = re.compile(
    r"[\s$({\[]*(?:\\\\?(?:text|textbf|mathrm|mathbf)\s*\{)?[\s({\[]*([A-Za-z])(?![A-Za-z])"
)


_STATED = re.compile(
    r"(?i:answer)\W{0,4}(?i:is|:)\W{0,4}(?:option |choice )?\W{0,3}([A-Z])(?![A-Za-z])"
)


@register("task", "choice")
def choice(problem: Problem, response: Response, *, extract: Forms = ("box", "answer")) -> Verdict:
    r"""Compare the letter of a multiple-choice answer, in a box, in tags, or after "the answer is",
    with the gold's.

    >>> choice(Problem("p", "choice", "A. red\nB. blue", "B"), Response(r"\boxed{\text{(B) blue}}")).status
    <Status.CORRECT: 'correct'>
    """
    found = extract_answers(response.text, response.prefill, extract)
    form, answer = next(iter(found.items()), (None, ""))
    place = _LETTER.match(answer) if form else None
    stated = (
        []
        if form
        else _STATED.findall(strip_thinking(cut_at_end_of_turn(response.text), response.prefill))
    )
    letter = place[1].upper() if place else stated[-1] if stated else None
    rule = form or ("stated" if stated else "none")
    if letter is None:
        return Verdict(
            Status.TRUNCATED if response.truncated else Status.NO_ANSWER, None, False, rule
        )
    status = Status.CORRECT if letter == problem.answer else Status.WRONG
    return Verdict(status, letter, form == extract[0], rule)


@register("gate", "math")
def gate(problem: Problem) -> str:
    r"""Why the gold of a problem cannot be compared by meaning, or "".

    It must equal itself and two rewrites: fractions spelt the long way with white space, and with
    zero added.
    """
    gold = problem.answer
    node = parse(gold)
    rewrites = [gold, rf" \displaystyle {gold} ".replace(r"\frac", r"\dfrac").replace("=", " = ")]
    if (
        node is not None
        and node.kind in _SCALAR
        and not any(part.kind in ("text", "pm") for part in walk(node))
    ):
        rewrites.append(f"{gold}+0")
    if not all(compare(gold, rewrite).same for rewrite in rewrites):
        return "it does not equal its own rewrite"
    if node is not None:
        return ""
    if math_verify.guard(gold, gold):
        return "it is no expression that can be read"
    try:
        return (
            ""
            if math_verify.ask(gold, gold, GATE_SECONDS).result()
            else "it is no expression that can be read"
        )
    except (Late, Died):
        return "reading it takes too long"


_SCALAR = frozenset({"number", "add", "mul", "div", "pow", "call", "percent"})
