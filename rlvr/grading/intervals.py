r"""Sets of real numbers as unions of intervals: `x<1`, `(2,12)\cup(12,102)`, `\mathbb{R}\setminus\{3\}`, `1\le x<2`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from rlvr.grading.parser import Node
from rlvr.grading.values import Undecided, context, coordinate, number, symbols, value_at

_COMPARED = ("<", ">", "<=", ">=", "!=")


@dataclass(frozen=True, slots=True)
class Region:
    """Where a set may begin or end, whether it holds a number, and the variable that was named, if
    one was. Of what lies between two neighbouring ends it holds all or nothing.
    """

    ends: tuple[Any, ...]
    holds: Callable[[Any], bool]
    variable: str = ""


def same_region(left: Region, right: Region) -> bool:
    """Whether both are the same set: they hold the same ends, and the same of one number on each
    side of those.
    """
    ends = sorted(
        end for end in {*left.ends, *right.ends, context().mpf(0)} if context().isfinite(end)
    )
    between = [(low + high) / 2 for low, high in pairwise(ends) if not _near(low, high)]
    beyond = [2 * ends[0] - 1, 2 * ends[-1] + 1]  # 0 is among the ends
    return all(left.holds(x) == right.holds(x) for x in (*ends, *between, *beyond))


def region(node: Node) -> Region | None:
    """The set that an expression describes, None where it describes none or one of several
    variables.
    """
    try:
        return _region(node)
    except (Undecided, ArithmeticError, TypeError, ValueError):
        return None


def _region(node: Node) -> Region:
    parts = node.parts
    match node.kind:
        case "group" if len(parts) == 2 and node.name in ("()", "[]", "(]", "[)"):
            low, high = (_end(part) for part in parts)
            opening, closing = node.name
            if (context().isinf(low) and opening == "[") or (
                context().isinf(high) and closing == "]"
            ):
                raise Undecided
            return _both(
                [
                    _half(">=" if opening == "[" else ">", low),
                    _half("<=" if closing == "]" else "<", high),
                ]
            )
        case "group" if len(parts) == 1:
            return _region(parts[0])
        case "set":
            points = [_end(part) for part in parts]
            if any(context().isinf(point) for point in points):
                raise Undecided
            return _either([_half("=", point) for point in points])
        case "symbol" if node.name == "\\mathbb{R}":
            return _both([])
        case "symbol" if node.name == "\\emptyset":
            return _either([])
        case "setop":
            left, right = (_region(part) for part in parts)
            if node.name == "-":
                right = replace(right, holds=lambda x, inner=right.holds: not inner(x))
            return (_either if node.name == "|" else _both)([left, right])
        case "list" if node.name in ("or", "and"):
            return (_either if node.name == "or" else _both)([_region(part) for part in parts])
        case "relation":
            return _solved(node)
    raise Undecided


def _half(operator: str, end: Any) -> Region:
    """The numbers that stand so to the end; `=` gives the end alone."""

    def holds(x: Any) -> bool:
        if _near(x, end):
            return operator in ("=", "<=", ">=")
        return operator == "!=" or operator[0] == ("<" if x < end else ">")

    return Region((end,), holds)


def _either(parts: Sequence[Region]) -> Region:
    ends = tuple(end for part in parts for end in part.ends)
    return Region(ends, lambda x: any(part.holds(x) for part in parts), _variable(parts))


def _both(parts: Sequence[Region]) -> Region:
    return replace(_either(parts), holds=lambda x: all(part.holds(x) for part in parts))


def _end(node: Node) -> Any:
    inf = context().inf
    if node.kind in ("neg", "add") and len(node.parts) == 1:
        value = _end(node.parts[0])
        return -value if node.kind == "neg" else value
    if node == Node("constant", (), "inf"):
        return inf
    value = number(node)
    if context().im(value) != 0:
        raise Undecided
    return context().re(value)


def _variable(parts: Sequence[Region]) -> str:
    names = {part.variable for part in parts if part.variable}
    if len(names) > 1:
        raise Undecided
    return next(iter(names), "")


def _solved(node: Node) -> Region:
    """The solution of a chain of linear inequalities in one variable."""
    names, kinds = symbols(node), set(node.name.split())
    if node.name == "in" and node.parts[0].kind == "symbol":
        return replace(_region(node.parts[1]), variable=node.parts[0].name)
    if len(names) != 1 or not kinds <= {*_COMPARED, "="}:
        raise Undecided
    name = next(iter(names))
    links = zip(node.name.split(), node.parts, node.parts[1:], strict=False)
    return replace(
        _both([_linear(operator, left, right, name) for operator, left, right in links]),
        variable=name,
    )


def _linear(operator: str, left: Node, right: Node, name: str) -> Region:
    if not symbols(left) and not symbols(right):
        raise Undecided
    for side, other, sign in ((left, right, 1), (right, left, -1)):
        bound = _end(other) if side.kind == "symbol" and not symbols(other) else 0
        if context().isinf(bound):  # -infinity < x says nothing
            if operator not in ("<", ">", "<=", ">=") or (operator[0] == "<") != (bound * sign > 0):
                raise Undecided
            return _both([])
    if max(_degree(left, name), _degree(right, name)) > 1:
        raise Undecided
    difference = Node("add", (left, Node("neg", (right,))))
    places = [coordinate(name, index) for index in range(3)]
    values = [value_at(difference, {name: place}) for place in places]
    x = [context().mpf(p.numerator) / p.denominator for p in places]
    slope = (values[1] - values[0]) / (x[1] - x[0])
    if slope == 0 or context().im(slope) != 0:
        raise Undecided
    slope = context().re(slope)
    root = context().re(x[0] - values[0] / slope)
    return _half(operator if slope > 0 else operator.translate(_TURNED), root)


_TURNED = str.maketrans("<>", "><")


def _degree(node: Node, name: str) -> int:
    """The degree in a variable, read from the tree; raises Undecided where it is no polynomial."""
    if name not in symbols(node):
        return 0
    match node.kind:
        case "symbol":
            return 1
        case "add":
            return max(_degree(part, name) for part in node.parts)
        case "neg" | "group" if len(node.parts) == 1:
            return _degree(node.parts[0], name)
        case "mul":
            return sum(_degree(part, name) for part in node.parts)
        case "div" if name not in symbols(node.parts[1]):
            return _degree(node.parts[0], name)
    raise Undecided


def _near(a: Any, b: Any) -> bool:
    if context().isinf(a) or context().isinf(b):
        return a == b
    return bool(abs(a - b) <= max(abs(a), abs(b)) * 1e-30) or bool(a == b)
