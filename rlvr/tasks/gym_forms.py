"""What an answer to a data set of reasoning-gym must be beside its full score, where the scorer of the
library gives that to more than the question allows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from rlvr.tasks.gym_comparisons import Comparison, Info, is_same_grid

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]{1,3})?", re.IGNORECASE)
_MAX_DIGITS = 60  # of a number

_SIGNIFICANT_DIGITS = 12  # that decimal_arithmetic asks for
_POOLED_PLACES = 2
_MEASURED_PLACES = 3

_FILLERS = frozenset({"and", "is", "a", "an"})
_FRACTION = re.compile(
    r"\$?\s*(?:\\d?frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}|\d+\s*/\s*\d+)\s*\$?", re.IGNORECASE
)
_PAIR = re.compile(r"\(\s*[-+.\d]+\s*,\s*[-+.\d]+\s*\)|[-+.\d]+\s*,\s*[-+.\d]+")
_WHOLE = re.compile(r"\d+")


def read_decimal(text: str) -> Decimal | None:
    """Return the number that a text is and nothing else.   read_decimal("1.20e3") -> Decimal("1.20E+3")"""
    text = text.strip()
    if len(text) > _MAX_DIGITS or not _NUMBER.fullmatch(text):
        return None
    return Decimal(text)


def has_twelve_digits(gold: str, answer: str, info: Info) -> bool:
    """Whether a decimal is the gold up to its twelfth significant digit, in which steps may round."""
    wanted = read_decimal(gold)
    given = read_decimal(answer)
    if wanted is None or given is None:
        return False
    if given == wanted:
        return True
    allowed = max(_SIGNIFICANT_DIGITS, len(wanted.as_tuple().digits))
    if len(given.normalize().as_tuple().digits) > allowed:
        return False
    return abs(given - wanted) <= Decimal(1).scaleb(wanted.adjusted() + 1 - _SIGNIFICANT_DIGITS)


def is_candidate(gold: str, answer: str, info: Info) -> bool:
    """Whether a number is the gold, or the candidate of the question that shows it."""
    given = read_decimal(answer.replace(",", ""))
    wanted = read_decimal(gold)
    if given is None or wanted is None:
        return False
    shown = [read_decimal(text.replace(",", "")) for text in info["formatted_candidates"]]
    distances = {number: abs(number - wanted) for number in shown if number is not None}
    return given == wanted or given == min(distances, key=distances.__getitem__, default=None)


def is_pooled(gold: str, answer: str, info: Info) -> bool:
    """Whether two matrices have the same rows and columns, and numbers that are equal to two places."""
    wanted = [line.split() for line in gold.strip().splitlines()]
    given = [line.split() for line in answer.strip().splitlines()]
    if [len(row) for row in wanted] != [len(row) for row in given]:
        return False
    for wanted_row, given_row in zip(wanted, given, strict=True):
        for wanted_cell, given_cell in zip(wanted_row, given_row, strict=True):
            if not _is_rounded(given_cell, Decimal(wanted_cell), _POOLED_PLACES):
                return False
    return True


def _is_rounded(text: str, wanted: Decimal, places: int) -> bool:
    """Whether all decimal places of a number are right, and at least so many."""
    number = read_decimal(text)
    if number is None:
        return False
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # no NaN was read
    return abs(number - wanted) <= Decimal("0.5").scaleb(min(-places, exponent))


def is_measure(gold: str, answer: str, info: Info) -> bool:
    """Whether an angle, or each coordinate of a point, is the gold's or right to all its places.

    A radius is compared as text by the library.
    """
    if "angle_ABC_degrees" in info:
        exact = [Decimal(str(info["angle_ABC_degrees"]))]
    elif "ortho" in info:
        exact = [_divide(Fraction(coordinate)) for coordinate in info["ortho"]]
        if not _PAIR.fullmatch(answer.strip()):
            return False
    else:
        return True
    wanted = gold.strip("()° ").split(",")
    given = answer.strip("()° ").split(",")
    if len(given) != len(exact):
        return False
    return all(map(_is_measured, given, wanted, exact))


def _divide(fraction: Fraction) -> Decimal:
    return Decimal(fraction.numerator) / fraction.denominator


def _is_measured(given: str, wanted: str, exact: Decimal) -> bool:
    number = read_decimal(given)
    is_gold = number is not None and number == read_decimal(wanted)
    return is_gold or _is_rounded(given, exact, _MEASURED_PLACES)


def has_bits_alone(gold: str, answer: str, info: Info) -> bool:
    """Whether nothing but zeros, ones and white space is there."""
    return re.fullmatch(r"[01\s]+", answer) is not None


def is_same_json(gold: str, answer: str, info: Info) -> bool:
    """Whether both are the same JSON, with no row or column more, or the same text."""
    if answer.strip() == gold.strip():
        return True
    try:
        return json.loads(answer) == json.loads(gold)
    except (ValueError, RecursionError):
        return False


def is_same_list(gold: str, answer: str, info: Info) -> bool:
    """Whether both have the same items between commas, none more."""
    return [item.strip() for item in answer.split(",")] == [
        item.strip() for item in gold.split(",")
    ]


def has_numbers_alone(gold: str, answer: str, info: Info) -> bool:
    """Whether there is a number between every two commas."""
    return all(read_decimal(item) is not None for item in answer.split(","))


def is_same_cast(gold: str, answer: str, info: Info) -> bool:
    """Whether both say the same of everybody, once, and nothing else."""
    return _list_roles(gold) == _list_roles(answer)


def _list_roles(text: str) -> list[tuple[str, ...]]:
    words = [word for word in re.findall(r"[^\s.,()]+", text.casefold()) if word not in _FILLERS]
    return sorted(tuple(words[start : start + 2]) for start in range(0, len(words), 2))


def is_fraction(gold: str, answer: str, info: Info) -> bool:
    """Whether nothing stands beside one fraction."""
    return _FRACTION.fullmatch(answer.strip()) is not None


def is_same_duration(gold: str, answer: str, info: Info) -> bool:
    """Whether both are the same days, hours, minutes and seconds, up to zeros in front."""
    wanted = _write_duration(gold)
    given = _write_duration(answer)
    return given == wanted or f"{given} day" == wanted


def _write_duration(text: str) -> str:
    whole, point, thousandths = " ".join(text.casefold().split()).partition(".")
    whole = _WHOLE.sub(lambda digits: str(int(digits[0])), whole.replace("days", "day"))
    return whole + point + thousandths


def has_keys_alone(gold: str, answer: str, info: Info) -> bool:
    """Whether the only letters are moves of the player, and there are no digits."""
    return re.fullmatch(r"[LRUD\W]+", answer) is not None


def has_buttons_alone(gold: str, answer: str, info: Info) -> bool:
    """Whether the only letters are names of buttons, and there are no digits."""
    return re.fullmatch(r"[A-Ca-c\W]+", answer) is not None


def has_single_turns(gold: str, answer: str, info: Info) -> bool:
    """Whether no step is combined, as in `U2`, which the question forbids."""
    return re.search(r"\d", answer) is None


# Asked of answers that have the full score already, so these may be stricter than a scorer, never laxer.
FORMS: Mapping[str, Comparison] = {
    "advanced_geometry": is_measure,
    "codeio": is_same_json,
    "decimal_arithmetic": has_twelve_digits,
    "fraction_simplification": is_fraction,
    "game_of_life": is_same_json,
    "kakurasu": has_bits_alone,
    "knights_knaves": is_same_cast,
    "number_format": is_candidate,
    "polynomial_equations": has_numbers_alone,
    "pool_matrix": is_pooled,
    "quantum_lock": has_buttons_alone,
    "rubiks_cube": has_single_turns,
    "sokoban": has_keys_alone,
    "survo": is_same_grid,
    "time_intervals": is_same_duration,
    "word_sorting": is_same_list,
}
