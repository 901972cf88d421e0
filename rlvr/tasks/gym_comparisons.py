"""Compare answers to data sets of reasoning-gym exactly, where its own scorer will not do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from rlvr.grading.exact import evaluate_exactly
from rlvr.grading.parser import parse
from rlvr.grading.traversal import walk
from rlvr.grading.units import read_number

MAX_CALCULATION = 200

# Data sets of reasoning-gym (0.1.25) whose scorers hand the text of the model to eval or to SymPy's
# parse_expr, which both execute it.
UNSAFE = frozenset(
    {
        "binary_matrix",
        "composite",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)

# What the metadata of an entry says that a comparison needs.
Info = Mapping[str, Any]
Comparison = Callable[[str, str, Info], bool]

_ZEROS_AND_QUOTES = re.compile(r"\.0+(?![0-9])|['\"]")
_SPACES_AROUND_SIGNS = re.compile(r" ?([^\w.]) ?")
_SQUARE_TO_ROUND = str.maketrans("[]", "()")
_OPERATIONS = frozenset({"number", "add", "mul", "div", "neg", "group"})


def is_same_text(gold: str, answer: str, info: Info) -> bool:
    """Whether two texts are equal up to case, quotes, `.0` and spaces around signs.

    >>> is_same_text("['1.0', '2.5']", "[1,2.5]", {})
    True
    """
    return _normalise(gold) == _normalise(answer)


def _normalise(text: str) -> str:
    text = _ZEROS_AND_QUOTES.sub("", " ".join(text.casefold().split()))
    return _SPACES_AROUND_SIGNS.sub(r"\1", text)


def is_same_number(gold: str, answer: str, info: Info) -> bool:
    """Whether both are exactly the same number.   is_same_number("3/8", "0.375", {}) -> True"""
    if is_same_text(gold, answer, info):
        return True
    number = read_number(answer)
    return number is not None and read_number(gold) == number


def is_valid_board(gold: str, answer: str, info: Info) -> bool:
    """Whether the answer is one of the boards that solve the puzzle."""
    return answer in [board.strip() for board in info["valid_answers"]]


def is_valid_calculation(gold: str, answer: str, info: Info) -> bool:
    """Whether the calculation uses each number once and gives the target.   "6 * 4 * (3 - 2)" """
    calculation = calculate(answer)
    if calculation is None:
        return False
    value, used = calculation
    return value == info.get("target", 24) and sorted(used) == sorted(info["numbers"])


# Our comparisons stand in place of scorers that execute text, and of those that accept answers
# which are not right (`True` and `False` alike, 0 for 3/8, any first number, a right beginning).
OWN: Mapping[str, Comparison] = {
    "n_queens": is_valid_board,
    "countdown": is_valid_calculation,
    "puzzle24": is_valid_calculation,
    "coin_flip": is_same_number,
    "gsm_symbolic": is_same_number,
    "binary_matrix": is_same_text,
    "spiral_matrix": is_same_text,
    "string_insertion": is_same_text,
    "game_of_life_halting": is_same_text,
    "spell_backward": is_same_text,
    "letter_jumble": is_same_text,
    "number_sorting": is_same_text,
    "complex_arithmetic": is_same_text,
}


def calculate(text: str) -> tuple[Fraction, list[int]] | None:
    """Return the value and the whole numbers used, None for anything but + - * / over such numbers.

    >>> calculate("(3 + 5) / 2")
    (Fraction(4, 1), [3, 5, 2])
    """
    if len(text) > MAX_CALCULATION:
        return None
    node = parse(text.translate(_SQUARE_TO_ROUND), thousands=False)
    if node is None:
        return None
    numbers: list[int] = []
    for part in walk(node):
        if part.kind not in _OPERATIONS or part.name not in ("", "()"):
            return None
        if part.value is not None:
            numbers.append(int(part.value))
    value = evaluate_exactly(node)
    return None if value is None else (value, numbers)
