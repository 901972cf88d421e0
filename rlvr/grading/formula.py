"""Exact value of a written calculation such as `(3 + 5) * 2`, without executing it."""

from __future__ import annotations

import ast
from fractions import Fraction

MAX_LENGTH = 200  # bounds the size of every number and the depth of every bracket

_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "[": "(", "]": ")"})  # noqa: RUF001 - these signs are meant


def calculate(text: str) -> tuple[Fraction, list[int]] | None:
    """The value and the whole numbers used, None where the text is anything but + - * / over whole numbers.

    >>> calculate("(3 + 5) / 2")
    (Fraction(4, 1), [3, 5, 2])
    """
    if len(text) > MAX_LENGTH:
        return None
    try:
        tree = ast.parse(text.strip().translate(_SIGNS), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    used: list[int] = []
    value = _value(tree.body, used)
    return None if value is None else (value, used)


def _value(node: ast.expr, used: list[int]) -> Fraction | None:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            used.append(number)
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            value = _value(inner, used)
            return None if value is None else -value
        case ast.BinOp(left=left, op=sign, right=right):
            first, second = _value(left, used), _value(right, used)
            return None if first is None or second is None else _combine(first, sign, second)
    return None


def _combine(first: Fraction, sign: ast.operator, second: Fraction) -> Fraction | None:
    match sign:
        case ast.Add():
            return first + second
        case ast.Sub():
            return first - second
        case ast.Mult():
            return first * second
        case ast.Div() if second:
            return first / second
    return None
