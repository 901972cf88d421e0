r"""Exact rational values of expressions.

Every size is bounded before it is computed, so no expression is slow; one that would be too large
has no value.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from fractions import Fraction

from rlvr.grading.precision import MAX_BITS, Undecided, get_context
from rlvr.grading.traversal import groups_only
from rlvr.grading.tree import Node

MAX_FACTORIAL = 1500
MAX_DEGREE = 64  # of a root
MAX_RADICAND_BITS = 2000  # of other than square roots
MAX_BASED_DIGITS = 200

_TWO_ARGUMENTS = frozenset({"root", "binom", "log_", "mod"})
_ANY_ARGUMENTS = frozenset({"max", "min", "gcd", "lcm"})
_ROUNDINGS = {"abs": abs, "floor": math.floor, "ceil": math.ceil}
_COMBINATORICS = {"factorial": math.factorial, "binom": math.comb}
_DIVISORS = {"gcd": math.gcd, "lcm": math.lcm, "mod": operator.mod}


@functools.lru_cache(maxsize=20_000)
def evaluate_exactly(node: Node) -> Fraction | None:
    r"""Return the rational value of a constant expression, None where it has variables, roots, or
    too many digits.

    >>> from rlvr.grading.parser import parse
    >>> evaluate_exactly(parse(r"2^{-3}+\frac{3}{4}"))
    Fraction(7, 8)
    """
    try:
        return _evaluate(node)
    except (Undecided, ZeroDivisionError):
        return None


# One frame a level, so that what is nested deeply still fits Python's limit of recursion.
def _evaluate(node: Node) -> Fraction:
    parts = node.parts
    match node.kind:
        case "number" if node.value is not None:
            return node.value
        case "neg":
            return -_evaluate(parts[0])
        case "add":
            return _add(parts)
        case "mul" | "div" | "pow":
            left = _evaluate(parts[0])
            right = _evaluate(parts[1])
            return _OPERATIONS[node.kind](left, right)
        case "percent":
            return _evaluate(parts[0]) / 100
        case "group" if groups_only(node):
            return _evaluate(parts[0])
        case "based":
            return Fraction(read_based(node))
        case "call":
            return _call(node.name, [_evaluate(part) for part in parts])
    raise Undecided


def read_based(node: Node) -> int:
    """Return the value of digits in a base; raises Undecided where a digit is not of the base.

    204_5 -> 54
    """
    digits = str(node.parts[0].value)
    base = int(node.name)
    if not 2 <= base <= 36 or len(digits) > MAX_BASED_DIGITS:
        raise Undecided
    for digit in digits:
        if digit.isdigit() and int(digit) >= base:
            raise Undecided
    return int(digits, base)


def _bound(value: Fraction) -> Fraction:
    if _count_bits(value) > MAX_BITS:
        raise Undecided
    return value


def _count_bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _add(parts: Sequence[Node]) -> Fraction:
    total = Fraction(0)
    for part in parts:
        total = _bound(total + _evaluate(part))
    return total


def _multiply(left: Fraction, right: Fraction) -> Fraction:
    return _bound(left * right)


def _divide(left: Fraction, right: Fraction) -> Fraction:
    return _bound(left / right)


def _raise_to(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        root = _take_root(base, exponent.denominator)
        return _raise_to(root, Fraction(exponent.numerator))
    if abs(exponent) * _count_bits(base) > MAX_BITS:
        raise Undecided
    if base == 0 and exponent <= 0:
        raise Undecided
    return base ** int(exponent)


_OPERATIONS = {"mul": _multiply, "div": _divide, "pow": _raise_to}


def _take_root(base: Fraction, degree: int) -> Fraction:
    """Return the rational root; raises Undecided where there is none."""
    if base < 0 or degree > MAX_DEGREE:
        raise Undecided
    numerator = _take_integer_root(base.numerator, degree)
    denominator = _take_integer_root(base.denominator, degree)
    return Fraction(numerator, denominator)


def _take_integer_root(number: int, degree: int) -> int:
    bits = number.bit_length()
    if degree != 2 and bits > MAX_RADICAND_BITS:
        raise Undecided
    mp = get_context()
    # Twenty bits more than the root has: its nearest integer is the root, if there is one.
    with mp.workprec(bits // degree + 20):
        root = int(mp.nint(mp.root(number, degree)))
    if root**degree != number:
        raise Undecided
    return root


def check_argument_count(name: str, count: int) -> None:
    """Raise Undecided where a function has another number of arguments than it takes."""
    if name in _ANY_ARGUMENTS:
        return
    expected = 2 if name in _TWO_ARGUMENTS else 1
    if count != expected:
        raise Undecided


def _call(name: str, arguments: list[Fraction]) -> Fraction:
    check_argument_count(name, len(arguments))
    match name:
        case "sqrt":
            return _take_root(arguments[0], 2)
        case "root":
            return _take_root_of_degree(arguments[0], arguments[1])
        case "abs" | "floor" | "ceil":
            return Fraction(_ROUNDINGS[name](arguments[0]))
        case "factorial" | "binom":
            integers = _require_integers(arguments)
            if min(integers) < 0 or max(integers) > MAX_FACTORIAL:
                raise Undecided
            return _bound(Fraction(_COMBINATORICS[name](*integers)))
        case "max":
            return max(arguments)
        case "min":
            return min(arguments)
        case "gcd" | "lcm" | "mod":
            return _bound(Fraction(_DIVISORS[name](*_require_integers(arguments))))
    raise Undecided


def _take_root_of_degree(base: Fraction, degree: Fraction) -> Fraction:
    """Return the real root; one of odd degree may be of a negative number."""
    if degree.denominator != 1 or degree <= 0:
        raise Undecided
    if base < 0 and degree % 2:
        return -_take_root(-base, int(degree))
    return _take_root(base, int(degree))


def _require_integers(values: Sequence[Fraction]) -> list[int]:
    """Return the values as integers; raises Undecided where one is none."""
    if any(value.denominator != 1 for value in values):
        raise Undecided
    return [int(value) for value in values]
