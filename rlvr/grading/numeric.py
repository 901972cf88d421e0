r"""Values of expressions as precise real or complex numbers.

Every size is bounded before it is computed, so no expression is slow; one that would be too large
raises Undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from rlvr.grading.exact import MAX_FACTORIAL, check_argument_count, read_based
from rlvr.grading.precision import (
    MAX_BITS,
    Number,
    Undecided,
    get_context,
    is_real,
    require_finite,
    require_moderate,
)
from rlvr.grading.traversal import groups_only
from rlvr.grading.tree import Node

# The values of variables, by name.
Point = Mapping[str, Fraction]

MAX_ARGUMENT_BITS = 200  # of an argument of a function
MAX_HYPERBOLIC_ARGUMENT = 5000

# What a function of one number is called by mpmath.
_MPMATH_NAMES = {
    **{name: name for name in "sqrt floor ceil arg sin cos tan cot sec csc sinh cosh tanh".split()},
    **{f"arc{name}": f"a{name}" for name in "sin cos tan sinh cosh tanh".split()},
    **{"abs": "fabs", "Re": "re", "Im": "im", "sgn": "sign"},
}


def evaluate_constant(node: Node) -> Number:
    """Return the value of an expression without variables; raises Undecided."""
    try:
        return require_finite(evaluate_at(node, {}))
    except (ArithmeticError, ValueError, TypeError):
        raise Undecided from None


def evaluate_at(node: Node, point: Point) -> Number:
    """Return the value with variables replaced, a real or complex number of DIGITS digits; raises
    Undecided.
    """
    # One frame a level, so that what is nested deeply still fits Python's limit of recursion.
    parts = node.parts
    match node.kind:
        case "number" | "symbol" | "constant" | "based" | "text":
            return _evaluate_leaf(node, point)
        case "neg":
            return -evaluate_at(parts[0], point)
        case "add":
            return get_context().fsum(evaluate_at(part, point) for part in parts)
        case "mul" | "div" | "pow":
            left = evaluate_at(parts[0], point)
            right = evaluate_at(parts[1], point)
            return _OPERATIONS[node.kind](left, right)
        case "percent":
            return evaluate_at(parts[0], point) / 100
        case "group" if groups_only(node):
            return evaluate_at(parts[0], point)
        case "call":
            arguments = [evaluate_at(part, point) for part in parts]
            return require_finite(_call(node.name, arguments))
    raise Undecided


def _evaluate_leaf(node: Node, point: Point) -> Number:
    mp = get_context()
    match node.kind:
        case "number" if node.value is not None:
            return mp.mpf(node.value.numerator) / node.value.denominator
        case "symbol" if node.name in point:
            value = point[node.name]
            return mp.mpf(value.numerator) / value.denominator
        case "constant" if node.name == "pi":
            return +mp.pi
        case "constant" if node.name == "e":
            return +mp.e
        case "constant" if node.name == "i":
            return mp.mpc(0, 1)
        case "based":
            return mp.mpf(read_based(node))
        case "text" if node.name == "degree":
            return mp.pi / 180
    raise Undecided


def _multiply(left: Number, right: Number) -> Number:
    return require_moderate(left * right)


def _divide(left: Number, right: Number) -> Number:
    return require_moderate(left / right)


def _raise_to(base: Number, exponent: Number) -> Number:
    mp = get_context()
    if base == 0:
        if mp.re(exponent) <= 0:
            raise Undecided
        return mp.mpf(0)
    if abs(exponent) * (abs(mp.mag(base)) + 1) > MAX_BITS:
        raise Undecided
    return mp.power(base, exponent)


_OPERATIONS: dict[str, Callable[[Number, Number], Number]] = {
    "mul": _multiply,
    "div": _divide,
    "pow": _raise_to,
}


def _call(name: str, arguments: Sequence[Number]) -> Number:
    check_argument_count(name, len(arguments))
    mp = get_context()
    first = arguments[0]
    if mp.mag(first) > MAX_ARGUMENT_BITS:
        raise Undecided
    match name:
        case "root":
            return _take_root(first, arguments[1])
        case "exp":
            return _raise_to(+mp.e, first)
        case "ln" | "log" | "lg" | "log_":
            return _take_logarithm(name, arguments)
        case "factorial" | "binom":
            return _count_arrangements(arguments)
        case "max" | "min":
            return _choose_extreme(name, arguments)
    if name not in _MPMATH_NAMES:
        raise Undecided
    if name.endswith("h") and abs(first) > MAX_HYPERBOLIC_ARGUMENT:
        raise Undecided
    return require_moderate(getattr(mp, _MPMATH_NAMES[name])(first))


def _take_root(base: Number, degree: Number) -> Number:
    """Return the root; one of odd degree of a negative number is real, not the principal one."""
    mp = get_context()
    if degree == 0:
        raise Undecided
    if is_real(base) and mp.re(base) < 0:
        integer_degree = int(mp.re(degree))
        if degree == integer_degree and integer_degree % 2:
            return -mp.power(-mp.re(base), 1 / degree)
    return _raise_to(base, 1 / degree)


def _take_logarithm(name: str, arguments: Sequence[Number]) -> Number:
    mp = get_context()
    first = arguments[0]
    if first == 0:
        raise Undecided
    match name:
        case "lg":
            return mp.log(first, 10)
        case "log_":
            return mp.log(first, arguments[1])
    return mp.log(first)


def _count_arrangements(arguments: Sequence[Number]) -> Number:
    """Return the factorial of one number, or the binomial coefficient of two."""
    if not all(abs(argument) <= MAX_FACTORIAL for argument in arguments):
        raise Undecided
    mp = get_context()
    if len(arguments) == 1:
        return mp.factorial(arguments[0])
    return mp.binomial(*arguments)


def _choose_extreme(name: str, arguments: Sequence[Number]) -> Number:
    if not all(is_real(argument) for argument in arguments):
        raise Undecided
    choose = max if name == "max" else min
    return choose(arguments, key=get_context().re)
