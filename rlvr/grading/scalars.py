"""When two numbers or formulas mean the same: exact values, written decimals, units, percent."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from rlvr.grading.exact import evaluate_exactly
from rlvr.grading.numeric import evaluate_constant
from rlvr.grading.points import have_same_values
from rlvr.grading.precision import Number, Undecided, get_context
from rlvr.grading.traversal import contains, find_symbols, get_infinity_sign, is_decimal, walk
from rlvr.grading.tree import Node
from rlvr.grading.units import Units, is_optional, read_letters_as_units, split_units

MIN_DIGITS = 6  # a decimal with as many stands for what it approximates as well as they say
NEAR = Fraction(1, 10**6)
ABOUT = 100  # `\approx` is good to one part in so many
MAX_DECIMAL_BITS = 3000

YEN_OR_YUAN: Units = (("yenyuan", Fraction(1)),)
_YEN_AND_YUAN = {YEN_OR_YUAN, (("yen", Fraction(1)),), (("yuan", Fraction(1)),)}
_OMEGA = Node("symbol", (), "\\Omega")
_PREFIXES = frozenset("kMm")
MIN_COMPOUND = 2  # units, of which letters are read as such in a gold
MAX_PLACES = 20  # behind the point, of a rounded number


def is_same_scalar(gold: Node, answer: Node) -> bool:
    """Whether two formulas are worth the same; a unit may be missing but not different."""
    gold, answer = name_ohms(gold, answer)
    wanted, gold_units = split_units(gold)
    given, answer_units = split_units(answer)
    if wanted is None or given is None:
        return False
    if bool(gold_units) != bool(answer_units) and _is_same_in_letters(gold, answer):
        return True
    if not accept_units(gold_units, answer_units):
        return False
    if wanted.kind == "percent" and given.kind != "percent":
        if answer_units:
            return False
        return _is_same_number(wanted.parts[0], given) or _is_same_number(wanted, given)
    return _is_same_number(wanted, given)


def _is_same_in_letters(gold: Node, answer: Node) -> bool:
    numbers = split_letters_as_units(gold, answer)
    return numbers is not None and _is_same_number(*numbers)


def split_letters_as_units(gold: Node, answer: Node) -> tuple[Node, Node] | None:
    r"""Return both numbers where one side has the unit in letters: `9.8\frac{m}{s^2}` for `9.8\text{ m/s}^2`."""
    if not find_symbols(gold) and not find_symbols(answer):
        return None
    gold_has_text = split_units(gold)[1] != ()
    wanted, gold_units = split_units(read_letters_as_units(gold))
    given, answer_units = split_units(read_letters_as_units(answer))
    if wanted is None or given is None or gold_units != answer_units:
        return None
    # `2h` as a gold is a formula sooner than two hours.
    if not gold_has_text and len(gold_units) < MIN_COMPOUND:
        return None
    return wanted, given


def accept_units(gold_units: Units, answer_units: Units) -> bool:
    """Whether the unit of an answer is the gold's, missing, or one that may stand where the gold names none."""
    if not answer_units or gold_units == answer_units:
        return True
    if not gold_units:
        return is_optional(answer_units)
    # One sign is written for both currencies.
    return YEN_OR_YUAN in (gold_units, answer_units) and {gold_units, answer_units} <= _YEN_AND_YUAN


def name_ohms(gold: Node, answer: Node) -> tuple[Node, Node]:
    r"""Return both with `\Omega` behind a number as ohms, where the other side speaks of ohms or is a bare number.

    A gold that is nothing but a number times a variable of that name keeps it.
    """
    in_ohms = _read_ohms(answer)
    if in_ohms and (_has_unit_of(gold, in_ohms) or evaluate_exactly(gold) is not None):
        return gold, in_ohms
    in_ohms = _read_ohms(gold)
    if in_ohms and _has_unit_of(answer, in_ohms):
        return in_ohms, answer
    return gold, answer


def _read_ohms(node: Node) -> Node | None:
    r"""Return a number times `\Omega`, or times a prefix and it, as ohms; None for anything else."""
    if node.kind != "mul" or node.parts[1] != _OMEGA:
        return None
    number = node.parts[0]
    prefix = ""
    if number.kind == "mul" and number.parts[1].name in _PREFIXES:
        number, letter = number.parts
        prefix = letter.name
    if evaluate_exactly(number) is None:
        return None
    return replace(node, parts=(number, Node("text", (), f"{prefix}ohm")))


def _has_unit_of(node: Node, in_ohms: Node) -> bool:
    if node.kind != "mul" or node.parts[1].kind != "text":
        return False
    _, units = split_units(node)
    return units == split_units(in_ohms)[1]


def _is_same_number(wanted: Node, given: Node) -> bool:
    exact_wanted = evaluate_exactly(wanted)
    exact_given = evaluate_exactly(given)
    if exact_wanted is None or exact_given is None:
        return _is_same_irrational(wanted, given)
    if exact_wanted == exact_given:
        return True
    if is_decimal(given) and is_approximation(exact_given, exact_wanted):
        return True
    return is_decimal(wanted) and is_approximation(exact_wanted, exact_given)


def _is_same_irrational(wanted: Node, given: Node) -> bool:
    """Whether two formulas agree, of which one at least is no fraction."""
    if have_same_values(wanted, given):
        return True
    if find_symbols(wanted) or find_symbols(given):
        return False
    if is_decimal(wanted) == is_decimal(given):
        return False
    if is_decimal(wanted):
        decimal = wanted
        constant = given
    else:
        decimal = given
        constant = wanted
    value = evaluate_exactly(decimal)
    return value is not None and is_approximation(value, evaluate_constant(constant))


def is_approximation(decimal: Fraction, value: Fraction | Number) -> bool:
    """Whether a written decimal stands for a number that has no exact decimal: six digits, and as
    near as they say.
    """
    if decimal.numerator.bit_length() + decimal.denominator.bit_length() > MAX_DECIMAL_BITS:
        return False
    shifted = decimal.numerator * 10**400 // decimal.denominator
    significant_digits = str(shifted).lstrip("-").strip("0")
    if len(significant_digits) < MIN_DIGITS:
        return False
    if isinstance(value, Fraction):
        return not has_finite_decimal(value) and abs(decimal - value) <= NEAR * abs(value)
    wanted = get_context().mpf(decimal.numerator) / decimal.denominator
    return abs(wanted - value) <= abs(value) * 1e-6


def has_finite_decimal(value: Fraction) -> bool:
    """Whether a decimal with finitely many digits is exactly this."""
    # The denominator divides a power of ten.
    return pow(10, value.denominator.bit_length(), value.denominator) == 0


def is_about(gold: Node, rounded: Node) -> bool:
    """Whether a decimal is the gold to one part in a hundred, or to the place where it ends."""
    try:
        value = evaluate_exactly(rounded)
        wanted = evaluate_constant(gold)
    except Undecided:
        return False
    if value is None:
        return False
    error = abs(value.numerator / value.denominator - wanted)
    written = max(node.places for node in walk(rounded))
    return bool(error <= abs(wanted) / ABOUT or error <= _halve_last_place(value, written))


def _halve_last_place(decimal: Fraction, places: int) -> float:
    """Return how far a number may be from what it was rounded from: 0.05 for 2.3, 0.005 for 2.30.

    places: how many are written at least
    """
    while places < MAX_PLACES and (decimal * 10**places).denominator != 1:
        places += 1
    return 0.5 * 10.0**-places * (1 + 1e-9)


def compare_special(gold: Node, answer: Node) -> bool | None:
    """Compare what has no value: ellipses, digits in a base, infinity; None for what has one."""
    if contains(gold, "ellipsis") or contains(answer, "ellipsis"):
        return False
    if contains(gold, "based") != contains(answer, "based"):
        return False
    if "based" in (gold.kind, answer.kind):
        # 204_5 is neither 204_6 nor 54: only the same digits in the same base.
        return gold == answer
    gold_infinity = get_infinity_sign(gold)
    answer_infinity = get_infinity_sign(answer)
    if gold_infinity == answer_infinity == 0:
        return None
    return gold_infinity == answer_infinity
