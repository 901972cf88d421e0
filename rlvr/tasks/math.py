"""Task "math": the answer is a number, an expression or a short text.

It is found in a box, in tags, after `####` or last.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from rlvr.grading import math_verify
from rlvr.grading.compare import Match, canonical, compare
from rlvr.grading.exact import evaluate_exactly
from rlvr.grading.extract import Form, extract_answers, find_last_box
from rlvr.grading.lexer import strip_punctuation
from rlvr.grading.parser import parse
from rlvr.grading.traversal import walk
from rlvr.grading.tree import Node
from rlvr.grading.worker import Died, Late
from rlvr.registry import register
from rlvr.tasks.answer_forms import Forms, get_unanswered_status, take_first
from rlvr.types import Problem, Response, Status, Verdict

Share = Annotated[float, Field(ge=0, lt=1)]
Seconds = Annotated[float, Field(gt=0)]

# Processor time of the symbolic library for one gold.
GATE_SECONDS = 0.5

# In a problem's meta: its gold has no meaning that could be compared.
STRING_ONLY = "string_only"

# What zero may be added to without changing its meaning.
_SCALAR = frozenset({"number", "add", "mul", "div", "pow", "call", "percent"})

_UNREADABLE = "it is no expression that can be read"


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
    answers = extract_answers(response.text, response.prefill, extract)
    formatted = bool(answers.get("box" if "box" in extract else extract[0]))
    form, answer = take_first(answers)
    if answer and form in ("answer", "hash"):
        answer = _strip_answer(answer)
    if form is None or not answer:
        rule = f"{form}:empty" if form else "none"
        return Verdict(get_unanswered_status(response), None, formatted, rule)

    given = _GivenAnswer(answer, form, formatted, response.truncated, start)
    match = _compare(problem, answer, tolerance)
    if match.same is not None:
        status = Status.UNPARSEABLE if match.rule == "unparseable" else Status.WRONG
        return given.judge(match.same, match.rule, status)
    refusal = math_verify.guard(problem.answer, answer)
    if refusal:
        return given.judge(False, f"guard:{refusal}", Status.UNPARSEABLE)
    verdict: Future[Verdict] = Future()
    symbolic = math_verify.ask(problem.answer, answer, seconds)
    symbolic.add_done_callback(lambda done: verdict.set_result(_settle(done, given)))
    return verdict


def _strip_answer(answer: str) -> str:
    """Return the content of the box in an answer, else the answer without emphasis."""
    boxed = find_last_box(answer)
    return answer.strip("* ") if boxed is None else boxed


@dataclass(frozen=True, slots=True)
class _GivenAnswer:
    """An answer before it is compared."""

    text: str
    form: Form
    formatted: bool
    truncated: bool
    start: float

    def judge(self, same: bool, rule: str, status: Status = Status.WRONG) -> Verdict:
        """Return the verdict: correct, or that status."""
        # The last number of a text that was cut is no answer, but right if it is right.
        if self.truncated and self.form in ("number", "hash"):
            status = Status.TRUNCATED
        if same:
            status = Status.CORRECT
        ms = 1000 * (time.perf_counter() - self.start)
        return Verdict(status, self.text, self.formatted, f"{self.form}:{rule}", ms)


def _settle(done: Future[bool], given: _GivenAnswer) -> Verdict:
    """Return the verdict by what the symbolic library said, or failed to say."""
    error = done.exception()
    if error is None:
        return given.judge(done.result(), "symbolic")
    if isinstance(error, Late):
        return given.judge(False, "symbolic:timeout", Status.TIMEOUT)
    return given.judge(False, f"symbolic:{error}", Status.ERROR)


def _compare(problem: Problem, answer: str, tolerance: float) -> Match:
    """Compare an answer with the gold, as texts where the gold has no meaning."""
    if problem.meta.get(STRING_ONLY):
        return Match(canonical(problem.answer) == canonical(answer), "string only")
    match = compare(problem.answer, answer)
    if match.same or not tolerance:
        return match
    gold_value = _evaluate(problem.answer)
    value = _evaluate(answer)
    if gold_value is None or value is None:
        return match
    is_near = abs(gold_value - value) <= Fraction(tolerance) * abs(gold_value)
    return Match(is_near, "tolerance")


def _evaluate(text: str) -> Fraction | None:
    node = parse(text)
    return None if node is None else evaluate_exactly(node)


@register("gate", "math")
def gate(problem: Problem) -> str:
    r"""Return why the gold of a problem cannot be compared by meaning, or "".

    It must equal itself and two rewrites: fractions spelt the long way with white space, and with
    zero added.
    """
    gold = problem.answer
    node = parse(gold)
    for rewrite in _rewrite(gold, node):
        if not compare(gold, rewrite).same:
            return "it does not equal its own rewrite"
    if node is not None:
        return ""
    if math_verify.guard(gold, gold):
        return _UNREADABLE
    try:
        equals_itself = math_verify.ask(gold, gold, GATE_SECONDS).result()
    except (Late, Died):
        return "reading it takes too long"
    return "" if equals_itself else _UNREADABLE


def _rewrite(gold: str, node: Node | None) -> list[str]:
    """Return spellings of a gold that mean the same, itself first."""
    spaced = gold.replace(r"\frac", r"\dfrac").replace("=", " = ")
    rewrites = [gold, rf" \displaystyle {spaced} "]
    if node is not None and _is_scalar(node):
        rewrites.append(f"{strip_punctuation(gold)}+0")
    return rewrites


def _is_scalar(node: Node) -> bool:
    if node.kind not in _SCALAR:
        return False
    return all(part.kind not in ("text", "pm") for part in walk(node))
