"""Compare answers to data sets of reasoning-gym exactly, where its own scorer will not do."""

from __future__ import annotations

import json
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

_DECIMAL = re.compile(r"[-+]?(?:[0-9]{1,60}\.?[0-9]{0,60}|\.[0-9]{1,60})")
_IMAGINARY = re.compile(rf"(?:{_DECIMAL.pattern}|[-+]?)[ij]")
_COMPLEX = re.compile(
    rf"(?P<real>{_DECIMAL.pattern}(?=[-+]|$))?(?P<imaginary>{_IMAGINARY.pattern})?"
)
_GAP = re.compile(r"[0-9.]\s+[0-9.]")  # between the digits of one number
_COIN_DIGITS = 10  # that the golds of coin_flip have
_SQUARE_TO_ROUND = str.maketrans("[]", "()")
_OPERATIONS = frozenset({"number", "add", "mul", "div", "neg", "group"})


def is_exact_text(gold: str, answer: str, info: Info) -> bool:
    """Whether two texts are equal to the letter, where capitals are the puzzle."""
    return gold.strip() == answer.strip()


def is_same_text(gold: str, answer: str, info: Info) -> bool:
    """Whether two texts are equal up to case and white space.   is_same_text("True", "true", {}) -> True"""
    return gold.casefold().split() == answer.casefold().split()


def is_same_truth(gold: str, answer: str, info: Info) -> bool:
    """Whether both are True, or both False, in brackets or quotes or not."""
    return gold.casefold() == answer.casefold().strip(" .'\"()")


def is_same_grid(gold: str, answer: str, info: Info) -> bool:
    r"""Whether two grids have the same rows of the same cells.

    >>> is_same_grid("1 0\n0 1", " 1  0\n0 1", {}), is_same_grid("1 0\n0 1", "1 0 0 1", {})
    (True, False)
    """
    return _read_grid(gold) == _read_grid(answer)


def _read_grid(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def is_same_number(gold: str, answer: str, info: Info) -> bool:
    """Whether both are exactly the same number.   is_same_number("3/8", "0.375", {}) -> True"""
    if is_same_text(gold, answer, info):
        return True
    number = read_number(answer)
    return number is not None and read_number(gold) == number


def is_same_chance(gold: str, answer: str, info: Info) -> bool:
    """Whether both are the same number, or the answer is the chance of fair coins that the gold rounds.

    >>> is_same_chance("3.051757812e-05", "1/32768", {})
    True
    """
    if is_same_number(gold, answer, info):
        return True
    number = read_number(answer)
    if number is None or not 0 <= number <= 1:
        return False
    halves = number.denominator.bit_count() == 1
    return halves and f"{float(number):.{_COIN_DIGITS}g}" == gold


def is_same_number_list(gold: str, answer: str, info: Info) -> bool:
    """Whether both are lists of exactly the same numbers in the same order.

    >>> is_same_number_list("['1.0', '2.5']", "[1, 2.5]", {})
    True
    """
    wanted = _read_number_list(gold)
    return wanted is not None and wanted == _read_number_list(answer)


def _read_number_list(text: str) -> list[Fraction] | None:
    try:
        items = json.loads(text.replace("'", '"'), parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list):
        return None
    texts = [item.strip() for item in items if isinstance(item, str)]
    if len(texts) < len(items) or not all(map(_DECIMAL.fullmatch, texts)):
        return None
    return [Fraction(text) for text in texts]


def is_same_complex(gold: str, answer: str, info: Info) -> bool:
    """Whether both are exactly the same complex number, in brackets or not, with `i` or `j`.

    >>> is_same_complex("48.0 + 36.0i", "(48+36j)", {})
    True
    """
    wanted = _read_complex(gold)
    return wanted is not None and wanted == _read_complex(answer)


def _read_complex(text: str) -> tuple[Fraction, Fraction] | None:
    if _GAP.search(text):
        return None
    text = "".join(text.lower().split())
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    match = _COMPLEX.fullmatch(text)
    if match is None or not text:
        return None
    return Fraction(match["real"] or 0), _read_coefficient(match["imaginary"])


def _read_coefficient(imaginary: str | None) -> Fraction:
    """Return what stands before the letter; a sign alone is one.   -i -> -1"""
    if imaginary is None:
        return Fraction(0)
    digits = imaginary[:-1]
    return Fraction(f"{digits}1") if digits in ("", "+", "-") else Fraction(digits)


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
    "coin_flip": is_same_chance,
    "gsm_symbolic": is_same_number,
    "binary_matrix": is_same_grid,
    "spiral_matrix": is_same_grid,
    "string_insertion": is_exact_text,
    "game_of_life_halting": is_same_truth,
    "spell_backward": is_same_text,
    "letter_jumble": is_same_text,
    "number_sorting": is_same_number_list,
    "complex_arithmetic": is_same_complex,
}

# Data sets whose comparison, or form beside the full score, needs what the metadata says.
NEED_INFO = frozenset({"n_queens", "countdown", "puzzle24", "number_format", "advanced_geometry"})


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
