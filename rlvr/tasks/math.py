"""Task "math": the answer is a number, an expression or a short text.

It is found in a box, in tags, after `####` or last.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlvr.grading import math_verify
from rlvr.grading.compare import Match, canonical, compare, same
from rlvr.grading.exact import evaluate_exactly
from rlvr.grading.extract import Form, extract_answers, find_last_box
from rlvr.grading.lexer import strip_punctuation
from rlvr.grading.logarithms import Base, write_bases
from rlvr.grading.parser import parse
from rlvr.grading.tolerance import is_near
from rlvr.grading.traversal import walk
from rlvr.grading.tree import Node
from rlvr.grading.units import drop_counted_noun
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

# What every noun has, in any script.
_LETTER = re.compile(r"[^\W\d_]")

_UNREADABLE = "it is no expression that can be read"


@register("task", "math")
def math(
    problem: Problem,
    response: Response,
    *,
    extract: Forms = ("box",),
    tolerance: Share = 0.0,
    counted: bool = True,
    logarithm: Base = "field",
    seconds: Seconds = math_verify.SECONDS,
) -> Verdict | Future[Verdict]:
    r"""Compare the answer of the first form that is present with the gold answer.

    `tolerance` is a relative error that each number may have (0.01 for physics), `counted` takes
    `12 red apples` for 12 where the gold is a bare number, `logarithm` is the base of `\log 100` (`field`: e where
    question or gold are calculus, else 10), `seconds` is the processor time of the symbolic library. The few answers
    that need it come as a future.

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
    gold, answer = write_bases(logarithm, problem.question, problem.answer, answer)
    match = _compare(problem, gold, answer, tolerance, counted=counted)
    if match.same is not None:
        status = Status.UNPARSEABLE if match.rule == "unparseable" else Status.WRONG
        return given.judge(match.same, match.rule, status)
    refusal = math_verify.guard(gold, answer)
    if refusal:
        return given.judge(False, f"guard:{refusal}", Status.UNPARSEABLE)
    verdict: Future[Verdict] = Future()
    symbolic = math_verify.ask(gold, answer, seconds)
    symbolic.add_done_callback(lambda done: _pass_on(done, verdict, given))
    return verdict


def _pass_on(done: Future[bool], verdict: Future[Verdict], given: _GivenAnswer) -> None:
    """Settle the verdict, unless whoever waited for it has given it up."""
    if verdict.set_running_or_notify_cancel():
        verdict.set_result(_settle(done, given))


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
    if done.cancelled():
        return given.judge(False, "symbolic:cancelled", Status.ERROR)
    error = done.exception()
    if error is None:
        return given.judge(done.result(), "symbolic")
    if isinstance(error, Late):
        return given.judge(False, "symbolic:timeout", Status.TIMEOUT)
    return given.judge(False, f"symbolic:{error}", Status.ERROR)


def _compare(problem: Problem, gold: str, answer: str, tolerance: float, *, counted: bool) -> Match:
    """Compare an answer with the gold, as texts where the gold has no meaning."""
    if problem.meta.get(STRING_ONLY):
        return Match(canonical(gold) == canonical(answer), "string only")
    match = compare(gold, answer)
    if match.same is not False:
        return match
    # Nearly all wrong answers end here, before their tree is asked for again.
    may_count = counted and _LETTER.search(answer) is not None
    if may_count or tolerance:
        return _compare_leniently(gold, answer, match, may_count, tolerance)
    return match


def _compare_leniently(
    gold: str, answer: str, match: Match, may_count: bool, tolerance: float
) -> Match:
    """Compare the number in an answer that says what it counts, and numbers up to the tolerance."""
    gold_tree = parse(gold)
    answer_tree = parse(answer)
    if gold_tree is None or answer_tree is None:
        return match
    number = _read_count(gold_tree, answer_tree) if may_count else None
    if number is not None:
        answer_tree = number
        match = Match(same(gold_tree, number), "counted")
    if match.same or not tolerance:
        return match
    return _compare_near(gold_tree, answer_tree, tolerance, match)


def _read_count(gold: Node, answer: Node) -> Node | None:
    """Return the number in an answer that also says what was counted; None for anything else, or where the gold
    has a unit.
    """
    if not _is_bare_number(gold):
        return None
    number = drop_counted_noun(answer)
    if number is None or evaluate_exactly(number) is None:
        return None
    return number


def _is_bare_number(gold: Node) -> bool:
    """Whether a gold is a number without a unit, which leaves open what was counted."""
    return gold.kind not in ("percent", "based") and evaluate_exactly(gold) is not None


def _compare_near(gold: Node, answer: Node, tolerance: float, match: Match) -> Match:
    """Compare numbers up to the tolerance, wherever they stand."""
    try:
        near = is_near(gold, answer, tolerance)
    except RecursionError:
        return match
    if near:
        return Match(True, "tolerance")
    if evaluate_exactly(gold) is None or evaluate_exactly(answer) is None:
        return match
    return Match(False, "tolerance")


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
    return all(part.kind not in ("text", "pm", "rows") for part in walk(node))
