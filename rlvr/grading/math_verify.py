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
import os
import re
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import accumulate
from pathlib import Path
from typing import Any

from rlvr.grading.worker import Died, Helpers, Late, serve
from rlvr.types import Problem


def second_opinions(pairs: Sequence[tuple[Problem, str]]) -> list[bool | None]:
    """What math-verify alone says of whole responses to problems of the task math; None where it
    did not answer.
    """
    asked = [whole(p.answer, text) if p.task == "math" and text else None for p, text in pairs]
    return [_answered(future) for future in asked]


def _answered(future: Future[bool] | None) -> bool | None:
    try:
        return future.result() if future is not None else None
    except (Late, Died):
        return None


MAX_LENGTH = 600


MAX_DEPTH = 10


SECONDS = 1.0  # of processor time


# of every helper
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"}


WARMING = (
    (r"F_n = \sum_{k=0}^{n-1} F_k", r"F_n = \sum_{k=0}^{n-1} F_{k+1}"),
    (r"\int_0^1 x^2 dx", r"\frac{1}{3}"),
)


_DEPTH = re.compile(r"[{(\[]|[})\]]")


_SPECIAL = re.compile(r"\\(int|iint|oint|sum|prod|lim|Gamma|zeta|det|cases|begin)(?![A-Za-z])")


_STACKED = re.compile(r"\^ *\{?[^{}]{0,40}\^|\^ *\{? *[0-9]{5,}|![^=]*!|[0-9]{4,} *!|[0-9]{60,}")


_DOTS = re.compile(r"\\[lc]?dots|\.\.\.|…")


_COMMAND = re.compile(r"\\[A-Za-z]+")


_HEDGE = re.compile(
    r"\\(?:text|mbox|mathrm|textbf) *\{|\bor\b|\\vee|\\lor|\\approx|\\pm", re.IGNORECASE
)


def guard(gold: str, answer: str) -> str:
    r"""Why the pair is not handed to the library, or "".   guard("x", r"\int_0^1 x\,dx") -> "operators" """
    for text in (gold, answer):
        depths = accumulate(1 if bracket in "{([" else -1 for bracket in _DEPTH.findall(text))
        crowded = (
            text.count("^") > 12
            or len(re.findall(r"\\[dt]?frac|\\sqrt", text)) > 16
            or text.count("&") > 64
        )
        if (
            len(text) > MAX_LENGTH
            or max(depths, default=0) > MAX_DEPTH
            or crowded
            or _STACKED.search(text)
        ):
            return "size"
    if not set(_SPECIAL.findall(answer)) <= set(_SPECIAL.findall(gold)):
        return "operators"
    if _HEDGE.search(answer) and not _HEDGE.search(gold):
        return "words"
    if answer.count("=") != gold.count("=") or (_DOTS.search(answer) and not _DOTS.search(gold)):
        return "shape"
    letters = set(_COMMAND.sub(" ", gold))
    if any(letter.isupper() and letter.lower() in letters for letter in letters):
        return "case"  # the library takes K and k for one
    return ""


def ask(gold: str, answer: str, seconds: float = SECONDS) -> Future[Any]:
    """Whether the library takes the two for the same, as a future; its exception is Late or Died."""
    return _helpers().ask([gold, answer], seconds)


def whole(gold: str, response: str, seconds: float = SECONDS) -> Future[Any]:
    """The verdict of the library alone on a whole response, for comparison; its exception is Late
    or Died.
    """
    return _helpers().ask({"gold": gold, "response": response}, seconds)


@functools.cache
def _helpers() -> Helpers:
    return Helpers(str(Path(__file__)), ENVIRONMENT, max(1, min(8, len(os.sched_getaffinity(0)))))


def _answer(request: Any) -> Any:
    """In the helper: the verdict of math-verify, False where it reads one of the two as nothing."""
    from math_verify import LatexExtractionConfig, parse, verify

    # what the library sets up with its first sums is paid for here, not by the first answer
    if request == "ready?":
        for pair in WARMING:
            _answer(list(pair))
        return "ready"
    untimed: Any = functools.partial(parse, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    read = functools.partial(
        untimed,
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
    )
    try:
        if isinstance(request, dict):
            gold, answer = untimed(f"\\boxed{{{request['gold']}}}"), untimed(request["response"])
            return bool(verify(gold, answer, timeout_seconds=None))
        gold, answer = (read(f"\\boxed{{{text}}}") for text in request)
        return (
            bool(gold)
            and bool(answer)
            and bool(verify(gold, answer, strict=True, timeout_seconds=None))
        )
    # the library may stumble in any way over a text, which then is not the answer
    except Exception:
        return False


if __name__ == "__main__":
    serve(_answer)
