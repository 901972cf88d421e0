"""Equality of expressions at fixed test points.

Two expressions are taken as equal when 40 digits agree at every point where both are defined. The
points are drawn from the names of the variables, so a verdict never changes.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from rlvr.grading.exact import evaluate_exactly
from rlvr.grading.numeric import Point, evaluate_at
from rlvr.grading.precision import (
    DIGITS,
    EXTRA_DIGITS,
    Number,
    Undecided,
    agree_in_digits,
    get_context,
    is_real,
    require_finite,
)
from rlvr.grading.traversal import find_symbols, walk
from rlvr.grading.tree import Node

NEAR_POINTS = 8  # test points near 1; those after them are whole numbers
POINTS = 20
TINY = 1e-30
DIGITS_PER_BIT = 0.302
MAX_CANCELLED_BITS = 60  # of a size that the usual digits still show

_USUAL_DIGITS = DIGITS + EXTRA_DIGITS
_INTEGERS = (16, 6, 9, 25, 64, 7, 100, 121, 30, 512, 2, 4)
_ROUNDING = frozenset({"floor", "ceil"})
# What a whole number stays in, but for a power whose exponent is negative.
_WHOLE = frozenset({"symbol", "number", "add", "mul", "neg", "pow", "group"})
_CORNERS = frozenset(
    {"floor", "ceil", "max", "min", "abs", "sqrt", "root", "sgn", "factorial", "binom"}
)
_LOGARITHMS = frozenset({"ln", "log", "log_", "lg"})


class _Sample(NamedTuple):
    """What two expressions are at one point."""

    left_is_real: bool
    right_is_real: bool
    agree: bool

    @property
    def are_real(self) -> bool:
        return self.left_is_real and self.right_is_real


def have_same_values(left: Node, right: Node) -> bool:
    """Whether two expressions agree at all points where both are defined; raises Undecided where
    too few are.

    Values are compared where both are real, and at complex ones only where fewer than two points
    are real. Where only one of them is real they differ, except for logarithms and broken powers,
    whose rules hold for positive numbers.
    """
    names = sorted(find_symbols(left) | find_symbols(right))
    if not names:
        return _agree(left, right, {}, evaluate_at(left, {}), evaluate_at(right, {}))
    real: list[bool] = []
    others: list[bool] = []
    only_one_is_real = False
    for sample in _sample(left, right, names):
        if sample.are_real:
            real.append(sample.agree)
        else:
            others.append(sample.agree)
            only_one_is_real |= sample.left_is_real != sample.right_is_real
        if len(real) >= 2 and not all(real):
            return False
    if only_one_is_real and not _hold_for_positive_numbers(left, right):
        return False
    decisive = real if len(real) >= 2 else real + others
    if len(decisive) < 2:
        raise Undecided
    return all(decisive)


def _sample(left: Node, right: Node, names: Sequence[str]) -> Iterator[_Sample]:
    """Yield what the expressions are at every point where both have a value."""
    for point in choose_points(names, left, right):
        try:
            left_value = require_finite(evaluate_at(left, point))
            right_value = require_finite(evaluate_at(right, point))
            left_is_real = is_real(left_value)
            right_is_real = is_real(right_value)
            same_kind = left_is_real == right_is_real
            values_agree = same_kind and _agree(left, right, point, left_value, right_value)
        except (Undecided, ArithmeticError, ValueError):
            continue
        yield _Sample(left_is_real, right_is_real, values_agree)


def _hold_for_positive_numbers(*expressions: Node) -> bool:
    """Whether a rule was used that holds for positive numbers: of logarithms or of broken powers."""
    for expression in expressions:
        for part in walk(expression):
            if part.name in _LOGARITHMS or _is_broken_power(part):
                return True
    return False


def _is_broken_power(node: Node) -> bool:
    """Whether it is a power whose exponent is no whole number."""
    if node.kind != "pow":
        return False
    exponent = evaluate_exactly(node.parts[1])
    return exponent is None or exponent.denominator != 1


def find_constant_ratio(quotient: Node) -> float | None:
    """Return the real number that a quotient is at all points, None where it is not the same at all
    of them.
    """
    values: list[Number] = []
    for point in choose_points(sorted(find_symbols(quotient)), quotient):
        try:
            values.append(evaluate_at(quotient, point))
        except (Undecided, ArithmeticError, ValueError):
            continue
    if len(values) < 3:
        return None
    tolerance = abs(values[0]) * TINY
    # `not <=` and not `>`: what is no number must not pass
    if any(not abs(value - values[0]) <= tolerance for value in values):
        return None
    ratio = complex(values[0])
    if ratio.imag != 0 or ratio.real == 0:
        return None
    return ratio.real


def choose_points(names: Sequence[str], *expressions: Node) -> list[Point]:
    """Return where expressions are compared: small numbers of either sign; where a corner could
    hide, whole numbers far out; where everything is rounded, whole numbers alone.
    """
    functions = [_find_functions(expression) for expression in expressions]
    start = 0
    end = NEAR_POINTS
    if all(_rounds_fractions(expression) for expression in expressions):
        start = NEAR_POINTS
    if any(names_called & _CORNERS for names_called in functions):
        end = POINTS
    points: list[Point] = []
    for index in range(start, end):
        points.append({name: get_coordinate(name, index) for name in names})
    return points


def _rounds_fractions(expression: Node) -> bool:
    r"""Whether something is rounded that need not be a whole number at whole numbers: `\lfloor n/2\rfloor`."""
    for part in walk(expression):
        if part.name in _ROUNDING and any(not _is_whole(below) for below in walk(part.parts[0])):
            return True
    return False


def _is_whole(node: Node) -> bool:
    return node.kind in _WHOLE and node.name != "decimal"


def _find_functions(expression: Node) -> set[str]:
    return {part.name for part in walk(expression) if part.kind == "call"}


@functools.lru_cache(maxsize=8192)
def get_coordinate(name: str, index: int) -> Fraction:
    """Return the value of a variable at a test point: between 1/3 and 3, then whole numbers, at
    some points below zero.

    Two names have opposite signs at some of them, whatever they are.
    """
    digest = hashlib.blake2b(f"{name} {index}".encode(), digest_size=4).digest()
    if index < NEAR_POINTS:
        share = Fraction(int.from_bytes(digest[:3], "big"), 1 << 24)
        size = Fraction(1, 3) + share * Fraction(8, 3)
    else:
        offset = hashlib.blake2b(name.encode(), digest_size=1).digest()[0]
        size = Fraction(_INTEGERS[(index + offset) % len(_INTEGERS)])
    sign_is_drawn = 3 < index < NEAR_POINTS or index >= POINTS - 6
    if index == 3 or (sign_is_drawn and digest[3] % 2):
        return -size
    return size


def _agree(left: Node, right: Node, point: Point, left_value: Number, right_value: Number) -> bool:
    """Whether two values are equal as far as a precision shows that follows their size; raises
    Undecided.

    `left_value` and `right_value` are those in the usual precision, which is enough for nearly all.

    What looks like zero is computed again with more digits: a true zero shrinks with them, 10^-100
    does not.
    """
    require_finite(left_value)
    require_finite(right_value)
    size = max(abs(left_value), abs(right_value))
    bits = abs(get_context().mag(size)) if size else 0
    if size >= TINY:
        nearly_equal = agree_in_digits(left_value, right_value, _USUAL_DIGITS)
        if not nearly_equal or bits < MAX_CANCELLED_BITS:
            return nearly_equal
    elif _vanish(left, right, point, left_value, right_value):
        return True
    # 2^2023 x and 2^2023 x + x agree in fifty digits: as many more are needed as the size has.
    digits = _USUAL_DIGITS + int(bits * DIGITS_PER_BIT)
    left_value, right_value = _evaluate_finer(left, right, point, digits)
    return agree_in_digits(left_value, right_value, digits)


def _vanish(left: Node, right: Node, point: Point, left_value: Number, right_value: Number) -> bool:
    """Whether both are zero: with more digits nothing is left of what was there."""
    finer_left, finer_right = _evaluate_finer(left, right, point, 4 * DIGITS)
    shrunk = get_context().mpf(10) ** -DIGITS
    return (
        abs(finer_left) <= abs(left_value) * shrunk
        and abs(finer_right) <= abs(right_value) * shrunk
    )


def _evaluate_finer(left: Node, right: Node, point: Point, digits: int) -> tuple[Number, Number]:
    """Return both values, computed with so many digits."""
    mp = get_context()
    try:
        mp.dps = digits
        return evaluate_at(left, point), evaluate_at(right, point)
    finally:
        mp.dps = _USUAL_DIGITS
