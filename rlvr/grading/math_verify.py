r"""The symbolic library, for the few answers whose gold the rules of `compare` cannot read: sums,
integrals, systems.

The library (math-verify over latex2sympy2_extended) runs only in helper processes that can be
killed. Before a text gets there, its size and nesting are bounded: parsing alone can hang on 20
nested fractions.

The helpers answer JSON lines and are killed when late. A limit is processor time, kept by the
kernel inside the helper, so that a busy machine never makes a helper late; a much longer limit on
the clock catches one that sleeps, and counts as a failure of ours.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rlvr.grading.worker import Died, HelperPool, Late, serve
from rlvr.types import Problem

MAX_LENGTH = 600
MAX_DEPTH = 10  # of brackets
MAX_POWERS = 12
MAX_FRACTIONS = 16  # and roots
MAX_CELLS = 64  # of a matrix
MAX_DELIMITERS = 2  # `$` around one formula
MAX_HELPERS = 8
SECONDS = 1.0  # of processor time

# of every helper
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"}

# What the library sets up with its first sums and integrals takes longer than a limit.
_WARM_UP_PAIRS = (
    (r"F_n = \sum_{k=0}^{n-1} F_k", r"F_n = \sum_{k=0}^{n-1} F_{k+1}"),
    (r"\int_0^1 x^2 dx", r"\frac{1}{3}"),
)

_OPENING = "{(["
_CLOSING = "})]"
_BRACKET = re.compile(r"[{(\[]|[})\]]")
_FRACTION = re.compile(r"\\[dt]?frac|\\sqrt")
# Layout that the library does not know, and the side of a limit, which it knows in braces alone.
_LAYOUT = re.compile(r"\\(?:limits|nolimits)(?![A-Za-z])")
_SIDE = re.compile(r"\^ *(?:\{ *([+-]) *\}|([+-])(?= *\}))")
# The ends of sums and integrals, whose marks are no powers and whose sign makes no equation.
_ENDS = re.compile(
    r"(\\(?:int|iint|oint|sum|prod)(?![A-Za-z])) *"
    r"((?:[_^] *(?:\{[^{}^]{0,40}\}|[A-Za-z0-9]|\\[A-Za-z]{1,10}) *){1,2})"
)
_OPERATOR = re.compile(r"\\(int|iint|oint|sum|prod|lim|Gamma|zeta|det|cases|begin)(?![A-Za-z])")
# Long exponents, factorials of factorials or of long numbers, and long numbers.
_HUGE = re.compile(r"\^ *\{? *[0-9]{5,}|![^=]*!|[0-9]{4,} *!|[0-9]{60,}")
# An exponent that is one token, and another behind it.
_STACKED = re.compile(r"\^ *(?:\\[A-Za-z]+|[0-9]+|[^\\{(\[\s]) *\^")
_PIECE = re.compile(r"\\left|\\right|\s+|.", re.DOTALL)
_DOTS = re.compile(r"\\[lc]?dots|\.\.\.|…")
_WORDS = re.compile(r"\\(?:text|mbox|mathrm|textbf|textrm) *\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_HEDGE = re.compile(
    r"\\(?:text|mbox|mathrm|textbf) *\{|\bor\b|\\vee|\\lor|\\approx|\\pm", re.IGNORECASE
)


def second_opinions(pairs: Sequence[tuple[Problem, str]]) -> list[bool | None]:
    """Return what math-verify alone says of whole responses to problems of the task math; None
    where it did not answer.
    """
    futures: list[Future[bool] | None] = []
    for problem, text in pairs:
        if problem.task == "math" and text:
            futures.append(ask_about_response(problem.answer, text))
        else:
            futures.append(None)
    return [_wait_for_opinion(future) for future in futures]


def _wait_for_opinion(future: Future[bool] | None) -> bool | None:
    if future is None:
        return None
    try:
        return future.result()
    except (Late, Died):
        return None


def guard(gold: str, answer: str) -> str:
    r"""Return why the pair is not handed to the library, or "".

    >>> guard("x", r"\int_0^1 x\,dx")
    'operators'
    """
    gold = _spell(gold)
    answer = _spell(answer)
    if _is_too_large(gold) or _is_too_large(answer):
        return "size"
    if not set(_OPERATOR.findall(answer)) <= set(_OPERATOR.findall(gold)):
        return "operators"
    if _has_other_words(gold, answer):
        return "words"
    if _is_read_in_part(gold):
        return "parts"
    if _count_equations(answer) != _count_equations(gold):
        return "shape"
    if _DOTS.search(answer) and not _DOTS.search(gold):
        return "shape"
    if _has_letter_in_both_cases(gold):
        return "case"
    return ""


def _is_read_in_part(text: str) -> bool:
    r"""Whether the library would read one of several formulas, or what stands before a sign that it does not know."""
    return text.count("$") - text.count("\\$") > MAX_DELIMITERS or "\\bullet" in text


def _has_other_words(gold: str, answer: str) -> bool:
    """Whether an answer hedges, or has words that the gold has not: the library passes over them, units among them."""
    if _HEDGE.search(answer) and not _HEDGE.search(gold):
        return True
    return not _list_words(answer) <= _list_words(gold)


def _list_words(text: str) -> set[str]:
    return {" ".join(words.split()).casefold() for words in _WORDS.findall(text)}


def _is_too_large(text: str) -> bool:
    """Whether a text could hang the library."""
    return (
        len(text) > MAX_LENGTH
        or _measure_depth(text) > MAX_DEPTH
        or text.count("^") > MAX_POWERS
        or len(_FRACTION.findall(text)) > MAX_FRACTIONS
        or text.count("&") > MAX_CELLS
        or _HUGE.search(text) is not None
        or _has_tower(text)
    )


def _count_equations(text: str) -> int:
    """Return how many signs of equality there are, without those that begin a sum."""
    return _ENDS.sub(r"\1 ", text).count("=")


def _has_tower(text: str) -> bool:
    """Whether a power stands in an exponent, is raised again, or has a second exponent."""
    text = _ENDS.sub(r"\1 ", text)
    if _STACKED.search(text):
        return True
    brackets = _Brackets()
    before = " "
    for piece in _PIECE.findall(text):
        if piece.isspace() or len(piece) > 1:  # \left and \right
            continue
        if piece == "^" and brackets.raise_power(before):
            return True
        if piece in _OPENING:
            brackets.open(before)
        elif piece in _CLOSING:
            brackets.close()
        before = piece
    return False


class _Brackets:
    """The brackets that are open: of each whether it is an exponent, and whether a power stands in it."""

    def __init__(self) -> None:
        self.exponents: list[bool] = []
        self.powers: list[bool] = []
        self.closed_power = False
        self.has_power = False

    def open(self, before: str) -> None:
        """Open a bracket behind that character."""
        self.exponents.append(before == "^")
        # Groups side by side are one thing: \frac{2^3}{4}.
        self.powers.append(self.closed_power and before in _CLOSING)

    def close(self) -> None:
        """Close the innermost bracket, which is one that has a power where it is an exponent itself."""
        if self.powers:
            is_exponent = self.exponents.pop()
            self.closed_power = self.powers.pop() or is_exponent

    def raise_power(self, before: str) -> bool:
        """Note a power behind that character, and tell whether it stands on or in another."""
        if any(self.exponents) or (self.closed_power and before in _CLOSING):
            return True
        # Behind anything else than a letter, a digit or a bracket it is not clear what is raised.
        is_unclear = not before.isalnum() and before not in _CLOSING
        if is_unclear and self.has_power:
            return True
        self.has_power = True
        self.powers = [True] * len(self.powers)
        return False


def _measure_depth(text: str) -> int:
    """Return how deep brackets of any kind nest."""
    depth = 0
    deepest = 0
    for bracket in _BRACKET.findall(text):
        if bracket in "{([":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _has_letter_in_both_cases(text: str) -> bool:
    """Whether a letter occurs in both cases, such as K and k, which the library takes for one."""
    letters = set(_COMMAND.sub(" ", text))
    return any(letter.isupper() and letter.lower() in letters for letter in letters)


def ask(gold: str, answer: str, seconds: float = SECONDS) -> Future[Any]:
    """Return whether the library takes the two for the same, as a future; its exception is Late or
    Died.
    """
    return _get_helpers().ask([_spell(gold), _spell(answer)], seconds)


def _spell(text: str) -> str:
    """Return a text as the library spells limits."""
    return _SIDE.sub(r"^{\1\2}", _LAYOUT.sub("", text))


def ask_about_response(gold: str, response: str, seconds: float = SECONDS) -> Future[Any]:
    """Return the verdict of the library alone on a whole response, for comparison; its exception is
    Late or Died.
    """
    return _get_helpers().ask({"gold": gold, "response": response}, seconds)


@functools.cache
def _get_helpers() -> HelperPool:
    cores = len(os.sched_getaffinity(0))
    size = max(1, min(MAX_HELPERS, cores))
    return HelperPool(str(Path(__file__)), ENVIRONMENT, size)


# From here on: what runs in the helper.


def _handle(request: Any) -> Any:
    """Return the verdict of math-verify, False where it reads one of the two as nothing."""
    # Outside of the try: a library that is missing is a failure of ours and no verdict.
    importlib.import_module("math_verify")
    # What the library sets up first is paid for here, not by the first answer.
    if request == "ready?":
        for gold, answer in _WARM_UP_PAIRS:
            _handle([gold, answer])
        return "ready"
    try:
        if isinstance(request, dict):
            return _verify_response(request["gold"], request["response"])
        gold, answer = request
        return _verify_answer(gold, answer)
    # The library may stumble in any way over a text, which then is not the answer.
    except Exception:
        return False


def _verify_response(gold: str, response: str) -> bool:
    """Return the verdict on a whole response, whose answer the library finds itself."""
    from math_verify import verify

    parse = _get_untimed_parser()
    parsed_gold = parse(_box(gold))
    parsed_response = parse(response)
    return bool(verify(parsed_gold, parsed_response, timeout_seconds=None))


def _verify_answer(gold: str, answer: str) -> bool:
    """Return whether two bare answers are the same, read as mathematics and as nothing else."""
    from math_verify import LatexExtractionConfig, verify

    parse = functools.partial(
        _get_untimed_parser(),
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
    )
    parsed_gold = parse(_box(gold))
    parsed_answer = parse(_box(answer))
    if not parsed_gold or not parsed_answer:
        return False
    if verify(parsed_gold, parsed_answer, strict=True, timeout_seconds=None):
        return True
    # A product over the first n numbers is equal to n! only once it is computed.
    computed = _compute(parsed_gold)
    return computed is not None and bool(
        verify(computed, parsed_answer, strict=True, timeout_seconds=None)
    )


def _compute(parsed: Sequence[Any]) -> list[Any] | None:
    """Return what was parsed with its sums, products and limits computed; None where it has none."""
    from sympy import Basic, Integral, Limit, Product, Sum

    expressions = [part for part in parsed if isinstance(part, Basic)]
    if any(part.has(Sum, Product, Limit, Integral) for part in expressions):
        return [part.doit() for part in expressions]
    return None


def _get_untimed_parser() -> Callable[..., Any]:
    """Return the parser of the library without its own time limit: `serve` keeps ours."""
    from math_verify import parse

    return functools.partial(parse, parsing_timeout=None)  # pyright: ignore[reportArgumentType]


def _box(text: str) -> str:
    return f"\\boxed{{{text}}}"


if __name__ == "__main__":
    serve(_handle)
