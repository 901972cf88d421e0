r"""What an expression is worth: exactly as a fraction where it is one, else in numbers at fixed
random points.

Two expressions are taken as equal when 40 digits agree at every point where both are defined. Every
size is bounded before it is computed, so no expression is slow; one that would be too large raises
Undecided.
"""

from __future__ import annotations

import functools
import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import mpmath

from rlvr.grading.parser import Node

SMALL = 8  # test points near 1; those after them are whole numbers


POINTS = 20


DIGITS = 50


GUARD = 20  # digits that rounding may cost


TINY = 1e-30


MAX_BITS = 20_000  # of a number: 2^1009 is fine, 9^(9^9) is not


MAX_FACTORIAL = 1500


NEAR = Fraction(1, 10**6)  # a decimal with six digits stands for what it approximates this well


_LOCAL = threading.local()


class Undecided(Exception):
    """The value is too large, not defined, or of a kind that has no number."""


def symbols(node: Node) -> frozenset[str]:
    """The variables of an expression."""
    return frozenset(part.name for part in walk(node) if part.kind == "symbol")


def walk(node: Node) -> Iterator[Node]:
    """The node and all nodes below it."""
    yield node
    for part in node.parts:
        yield from walk(part)


@functools.lru_cache(maxsize=20_000)
def exact(node: Node) -> Fraction | None:
    r"""The rational value of a constant expression, None where it has variables, roots, or too many
    digits.

    >>> from rlvr.grading.parser import parse
    >>> exact(parse(r"2^{-3}+\frac{3}{4}"))
    Fraction(7, 8)
    """
    try:
        return _exact(node)
    except (Undecided, ZeroDivisionError):
        return None


def _exact(node: Node) -> Fraction:
    parts = node.parts
    match node.kind:
        case "number" if node.value is not None:
            return node.value
        case "neg":
            return -_exact(parts[0])
        case "add":
            return functools.reduce(
                lambda total, part: _bounded(total + _exact(part)), parts, Fraction(0)
            )
        case "mul":
            return _bounded(_exact(parts[0]) * _exact(parts[1]))
        case "div":
            return _bounded(_exact(parts[0]) / _exact(parts[1]))
        case "pow":
            return _power(_exact(parts[0]), _exact(parts[1]))
        case "percent":
            return _exact(parts[0]) / 100
        case "group" if len(parts) == 1 and node.name in ("()", "[]"):
            return _exact(parts[0])
        case "based":
            return Fraction(based_value(node))
        case "call":
            return _exact_call(node.name, [_exact(part) for part in parts])
    raise Undecided


def based_value(node: Node) -> int:
    """The value of digits in a base; raises Undecided where a digit is not of the base.   204_5 ->
    54
    """
    digits, base = str(node.parts[0].value), int(node.name)
    if (
        not 2 <= base <= 36
        or not all(int(d) < base for d in digits if d.isdigit())
        or len(digits) > 200
    ):
        raise Undecided
    return int(digits, base)


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise Undecided
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        root = _exact_root(base, exponent.denominator)
        return _power(root, Fraction(exponent.numerator))
    bits = base.numerator.bit_length() + base.denominator.bit_length()
    if abs(exponent) * bits > MAX_BITS or (base == 0 and exponent <= 0):
        raise Undecided
    return base ** int(exponent)


def _exact_root(base: Fraction, degree: int) -> Fraction:
    """The rational root; raises Undecided where there is none."""
    if base < 0 or degree > 64:
        raise Undecided
    top, under = (_whole_root(n, degree) for n in (base.numerator, base.denominator))
    return Fraction(top, under)


def _whole_root(number: int, degree: int) -> int:
    if degree != 2 and number.bit_length() > 2000:
        raise Undecided
    mp = context()
    with mp.workprec(number.bit_length() // degree + 20):
        root = int(mp.nint(mp.root(number, degree)))
    if root**degree != number:
        raise Undecided
    return root


_PAIRS = frozenset({"root", "binom", "log_"})


_ANY = frozenset({"max", "min", "gcd", "lcm"})


def _check_count(name: str, count: int) -> None:
    if name not in _ANY and count != (2 if name in _PAIRS else 1):
        raise Undecided


def _exact_call(name: str, values: list[Fraction]) -> Fraction:
    _check_count(name, len(values))
    first = values[0]
    match name:
        case "sqrt":
            return _exact_root(first, 2)
        case "root" if values[1].denominator == 1 and values[1] > 0:
            sign = -1 if first < 0 and values[1] % 2 else 1
            return sign * _exact_root(first * sign, int(values[1]))
        case "abs" | "floor" | "ceil":
            return Fraction({"abs": abs, "floor": math.floor, "ceil": math.ceil}[name](first))
        case "factorial" | "binom" if all(
            v.denominator == 1 and 0 <= v <= MAX_FACTORIAL for v in values
        ):
            return _bounded(
                Fraction({"factorial": math.factorial, "binom": math.comb}[name](*map(int, values)))
            )
        case "max" | "min":
            return (max if name == "max" else min)(values)
        case "gcd" | "lcm" if all(v.denominator == 1 for v in values):
            return _bounded(Fraction({"gcd": math.gcd, "lcm": math.lcm}[name](*map(int, values))))
    raise Undecided


def terminating(value: Fraction) -> bool:
    """Whether a decimal with finitely many digits is exactly this."""
    # it divides a power of ten
    return pow(10, value.denominator.bit_length(), value.denominator) == 0


def approximates(decimal: Fraction, value: Fraction | Any) -> bool:
    """Whether a written decimal stands for a number that has no exact decimal: six digits, and as
    near as they say.
    """
    if decimal.numerator.bit_length() + decimal.denominator.bit_length() > 3000:
        return False
    digits = str(decimal.numerator * 10**400 // decimal.denominator).lstrip("-").strip("0")
    if len(digits) < 6:
        return False
    if isinstance(value, Fraction):
        return not terminating(value) and abs(decimal - value) <= NEAR * abs(value)
    wanted = context().mpf(decimal.numerator) / decimal.denominator
    return abs(wanted - value) <= abs(value) * 1e-6


def context() -> Any:
    """A precise arithmetic of this thread's own."""
    if not hasattr(_LOCAL, "mp"):
        _LOCAL.mp = mpmath.MPContext()
        _LOCAL.mp.dps = DIGITS + 10
    return _LOCAL.mp


def same_values(left: Node, right: Node) -> bool:
    """Whether two expressions agree at all points where both are defined; raises Undecided where
    too few are.

    Values are compared where both are real, and at complex ones only where fewer than two points
    are real. Where only one of them is real they differ, except for logarithms and broken powers,
    whose rules hold for positive numbers.
    """
    names = sorted(symbols(left) | symbols(right))
    if not names:
        return agree(left, right, {}, (value_at(left, {}), value_at(right, {})))
    real: list[bool] = []
    others: list[bool] = []
    mixed = 0
    for point in points(names, left, right):
        try:
            a, b = _finite(value_at(left, point)), _finite(value_at(right, point))
            kinds = _is_real(a), _is_real(b)
            same = kinds[0] == kinds[1] and agree(left, right, point, (a, b))
        except (Undecided, ArithmeticError, ValueError):
            continue
        mixed += kinds[0] != kinds[1]
        (real if all(kinds) else others).append(same)
        if len(real) >= 2 and not all(real):
            return False
    if mixed and not any(_for_positive(part) for node in (left, right) for part in walk(node)):
        return False
    found = real if len(real) >= 2 else real + others
    if len(found) < 2:
        raise Undecided
    return all(found)


def constant_factor(quotient: Node) -> float | None:
    """The real number that a quotient is at all points, None where it is not the same at all of
    them.
    """
    values = []
    for point in points(sorted(symbols(quotient)), quotient):
        try:
            values.append(value_at(quotient, point))
        except (Undecided, ArithmeticError, ValueError):
            continue
    if len(values) < 3 or any(not abs(v - values[0]) <= abs(values[0]) * 1e-30 for v in values):
        return None
    first = complex(values[0])
    return first.real if first.imag == 0 and first.real != 0 else None


def _for_positive(node: Node) -> bool:
    broken = node.kind == "pow" and (exact(node.parts[1]) is None or exact(node.parts[1]) % 1 != 0)  # type: ignore[operator]
    return broken or node.name in ("ln", "log", "log_", "lg")


def points(names: Sequence[str], *nodes: Node) -> list[dict[str, Fraction]]:
    """Where expressions are compared: small numbers of either sign; where a corner could hide,
    whole numbers far out; where everything is rounded, whole numbers alone.
    """
    calls = [{part.name for part in walk(node) if part.kind == "call"} for node in nodes]
    start = SMALL if all(found & {"floor", "ceil"} for found in calls) else 0
    end = POINTS if any(found & _CORNERS for found in calls) else SMALL
    return [{name: coordinate(name, index) for name in names} for index in range(start, end)]


_CORNERS = frozenset(
    {"floor", "ceil", "max", "min", "abs", "sqrt", "root", "sgn", "factorial", "binom"}
)


def agree(left: Node, right: Node, point: dict[str, Fraction], usual: tuple[Any, Any]) -> bool:
    """Whether two values are equal as far as a precision shows that follows their size; raises
    Undecided.

    `usual` are the values in the usual precision, which are enough for nearly all.

    What looks like zero is computed again with more digits: a true zero shrinks with them, 10^-100
    does not.
    """
    mp = context()
    a, b = (_finite(value) for value in usual)
    scale = max(abs(a), abs(b))
    bits = abs(mp.mag(scale)) if scale else 0
    if scale >= TINY and (not _near(a, b) or bits < 60):
        return _near(a, b)
    if scale < TINY and _vanish(left, right, point, a, b):
        return True
    a, b = _finer(left, right, point, DIGITS + 10 + int(bits * 0.302))
    return bool(
        abs(a - b) <= max(abs(a), abs(b)) * mp.mpf(10) ** (GUARD - DIGITS - 10 - int(bits * 0.302))
    )


def _vanish(left: Node, right: Node, point: dict[str, Fraction], a: Any, b: Any) -> bool:
    """Whether both are zero: with more digits nothing is left of what was there."""
    finer = _finer(left, right, point, 4 * DIGITS)
    bound = context().mpf(10) ** -DIGITS
    return all(abs(new) <= abs(old) * bound for new, old in zip(finer, (a, b), strict=True))


def _finer(left: Node, right: Node, point: dict[str, Fraction], digits: int) -> tuple[Any, Any]:
    mp = context()
    try:
        mp.dps = digits
        return value_at(left, point), value_at(right, point)
    finally:
        mp.dps = DIGITS + 10


def _finite(value: Any) -> Any:
    if not context().isfinite(value):
        raise Undecided
    return value


def number(node: Node) -> Any:
    """The value of a constant expression as a precise number; raises Undecided."""
    try:
        return _finite(value_at(node, {}))
    except (ArithmeticError, ValueError, TypeError):
        raise Undecided from None


_WHOLE = (16, 6, 9, 25, 64, 7, 100, 121, 30, 512, 2, 4)


@functools.lru_cache(maxsize=8192)
def coordinate(name: str, index: int) -> Fraction:
    """The value of a variable at a test point: between 1/3 and 3, then whole numbers, at some
    points below zero.

    Two names have opposite signs at some of them, whatever they are.
    """
    digest = hashlib.blake2b(f"{name} {index}".encode(), digest_size=4).digest()
    negative = (
        index == 3
        or (3 < index < SMALL and digest[3] % 2)
        or (index >= POINTS - 6 and digest[3] % 2)
    )
    if index < SMALL:
        size = Fraction(1, 3) + Fraction(int.from_bytes(digest[:3], "big"), 1 << 24) * Fraction(
            8, 3
        )
    else:
        first = hashlib.blake2b(name.encode(), digest_size=1).digest()[0]
        size = Fraction(_WHOLE[(index + first) % len(_WHOLE)])
    return -size if negative else size


def _is_real(value: Any) -> bool:
    return abs(context().im(value)) <= abs(value) * 1e-30


def _near(a: Any, b: Any) -> bool:
    """Equal in all but the last digits of the usual precision."""
    return bool(abs(a - b) <= max(abs(a), abs(b)) * context().mpf(10) ** (GUARD - DIGITS - 10))


def value_at(node: Node, point: dict[str, Fraction]) -> Any:
    """The value with variables replaced, a real or complex number of DIGITS digits; raises
    Undecided.
    """
    mp = context()
    parts = node.parts
    match node.kind:
        case "number" if node.value is not None:
            return mp.mpf(node.value.numerator) / node.value.denominator
        case "symbol" if node.name in point:
            place = point[node.name]
            return mp.mpf(place.numerator) / place.denominator
        case "constant" if node.name != "inf":
            return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1)}[node.name]
        case "neg":
            return -value_at(parts[0], point)
        case "add":
            return mp.fsum(value_at(part, point) for part in parts)
        case "mul":
            return _sized(value_at(parts[0], point) * value_at(parts[1], point))
        case "div":
            return _sized(value_at(parts[0], point) / value_at(parts[1], point))
        case "pow":
            return _mp_power(value_at(parts[0], point), value_at(parts[1], point))
        case "percent":
            return value_at(parts[0], point) / 100
        case "group" if len(parts) == 1 and node.name in ("()", "[]"):
            return value_at(parts[0], point)
        case "based":
            return mp.mpf(based_value(node))
        case "text" if node.name == "degree":
            return mp.pi / 180
        case "call":
            return _finite(_mp_call(node.name, [value_at(part, point) for part in parts]))
    raise Undecided


def _sized(value: Any) -> Any:
    if value != 0 and abs(context().mag(value)) > MAX_BITS:
        raise Undecided
    return value


def _mp_power(base: Any, exponent: Any) -> Any:
    mp = context()
    if base == 0:
        if mp.re(exponent) <= 0:
            raise Undecided
        return mp.mpf(0)
    if abs(exponent) * (abs(mp.mag(base)) + 1) > MAX_BITS:
        raise Undecided
    return mp.power(base, exponent)


def _mp_call(name: str, values: list[Any]) -> Any:
    _check_count(name, len(values))
    mp, first = context(), values[0]
    if mp.mag(first) > 200:
        raise Undecided
    match name:
        case "root":
            return _mp_root(first, values[1])
        case "exp":
            return _mp_power(+mp.e, first)
        case "ln" | "log" | "lg" | "log_" if first != 0:
            return mp.log(first, *{"lg": (10,), "log_": values[1:]}.get(name, ()))
        case "factorial" | "binom" if all(abs(value) <= MAX_FACTORIAL for value in values):
            return mp.factorial(first) if name == "factorial" else mp.binomial(*values)
        case "max" | "min" if all(_is_real(v) for v in values):
            return (max if name == "max" else min)(values, key=mp.re)
    if name not in _NAMES or (name.endswith("h") and abs(first) > 5000):
        raise Undecided
    return _sized(getattr(mp, _NAMES[name])(first))


# What a function of one number is called by mpmath.
_NAMES = {
    **{name: name for name in "sqrt floor ceil arg sin cos tan cot sec csc sinh cosh tanh".split()},
    **{f"arc{name}": f"a{name}" for name in "sin cos tan sinh cosh tanh".split()},
    **{"abs": "fabs", "Re": "re", "Im": "im", "sgn": "sign"},
}


def _mp_root(value: Any, degree: Any) -> Any:
    mp = context()
    if degree == 0:
        raise Undecided
    if (
        _is_real(value)
        and mp.re(value) < 0
        and degree == int(mp.re(degree))
        and int(mp.re(degree)) % 2
    ):
        return -mp.power(-mp.re(value), 1 / degree)
    return _mp_power(value, 1 / degree)
