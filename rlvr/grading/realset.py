r"""Sets of real numbers as unions of intervals: `x<1`, `(2,12)\cup(12,102)`, `\mathbb{R}\setminus\{3\}`, `1\le x<2`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlvr.grading.latex import Node
from rlvr.grading.values import Undecided, context, coordinate, number, symbols, value_at

_COMPARED = {"<", ">", "<=", ">=", "!="}


@dataclass(frozen=True, slots=True)
class Interval:
    """From low to high, each end in the set or not."""

    low: Any
    closed_low: bool
    high: Any
    closed_high: bool


@dataclass(frozen=True, slots=True)
class Region:
    """Disjoint intervals in order, and the variable that was named, if one was."""

    intervals: tuple[Interval, ...]
    variable: str = ""


def same_region(left: Region, right: Region) -> bool:
    """Whether both are the same set."""
    if len(left.intervals) != len(right.intervals):
        return False
    return all(
        _near(a.low, b.low) and _near(a.high, b.high) and (a.closed_low, a.closed_high) == (b.closed_low, b.closed_high)
        for a, b in zip(left.intervals, right.intervals, strict=True)
    )


def region(node: Node) -> Region | None:
    """The set that an expression describes, None where it describes none or one of several variables."""
    try:
        return _region(node)
    except (Undecided, ArithmeticError, TypeError, ValueError):
        return None


def _region(node: Node) -> Region:
    inf = context().inf
    match node.kind:
        case "group" if len(node.parts) == 2 and node.name in ("()", "[]", "(]", "[)"):
            low, high = (_end(part) for part in node.parts)
            if (abs(low) == inf and node.name[0] == "[") or (abs(high) == inf and node.name[1] == "]"):
                raise Undecided
            return Region(_tidy([Interval(low, node.name[0] == "[", high, node.name[1] == "]")]))
        case "group" if len(node.parts) == 1:
            return _region(node.parts[0])
        case "set":
            return Region(_tidy([Interval(v, True, v, True) for v in map(_end, node.parts)]))
        case "symbol" if node.name == "\\mathbb{R}":
            return Region((Interval(-inf, False, inf, False),))
        case "symbol" if node.name == "\\emptyset":
            return Region(())
        case "setop":
            return _combined(node)
        case "list" if node.name == "or":
            parts = [_region(part) for part in node.parts]
            return Region(_tidy([i for part in parts for i in part.intervals]), _variable(parts))
        case "list" if node.name == "and":
            parts = [_region(part) for part in node.parts]
            found = parts[0].intervals
            for part in parts[1:]:
                found = _tidy([_overlap(a, b) for a in found for b in part.intervals])
            return Region(found, _variable(parts))
        case "relation":
            return _solved(node)
    raise Undecided


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


def _variable(parts: list[Region]) -> str:
    names = {part.variable for part in parts if part.variable}
    if len(names) > 1:
        raise Undecided
    return next(iter(names), "")


def _combined(node: Node) -> Region:
    left, right = (_region(part) for part in node.parts)
    variable = _variable([left, right])
    if node.name == "|":
        return Region(_tidy([*left.intervals, *right.intervals]), variable)
    other = right.intervals if node.name == "&" else _outside(right.intervals)
    return Region(_tidy([_overlap(a, b) for a in left.intervals for b in other]), variable)


def _solved(node: Node) -> Region:
    """The solution of a chain of linear inequalities in one variable."""
    names, kinds = symbols(node), set(node.name.split())
    if node.name == "in" and node.parts[0].kind == "symbol":
        inner = _region(node.parts[1])
        return Region(inner.intervals, node.parts[0].name)
    if len(names) != 1 or not kinds <= {*_COMPARED, "="}:
        raise Undecided
    name = next(iter(names))
    inf = context().inf
    found = (Interval(-inf, False, inf, False),)
    for operator, left, right in zip(node.name.split(), node.parts, node.parts[1:], strict=False):
        if not symbols(left) and not symbols(right):
            raise Undecided
        solution = _linear(operator, left, right, name)
        found = _tidy([_overlap(a, b) for a in found for b in solution])
    return Region(found, name)


def _linear(operator: str, left: Node, right: Node, name: str) -> tuple[Interval, ...]:
    inf = context().inf
    for side, other, flip in ((left, right, 1), (right, left, -1)):
        if side.kind == "symbol" and _infinity_or_none(other) is not None:
            bound = _infinity_or_none(other)  # -infinity < x says nothing
            wanted = (operator[0] == "<") == (bound * flip > 0)
            if operator not in ("<", ">", "<=", ">=") or not wanted:
                raise Undecided
            return (Interval(-inf, False, inf, False),)
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
    if operator == "=":
        return (Interval(root, True, root, True),)
    if operator == "!=":
        return Interval(-inf, False, root, False), Interval(root, False, inf, False)
    closed = operator.endswith("=")
    below = (operator[0] == "<") == (slope > 0)
    return (Interval(-inf, False, root, closed) if below else Interval(root, closed, inf, False),)


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


def _infinity_or_none(node: Node) -> Any:
    try:
        value = _end(node)
    except Undecided:
        return None
    return value if context().isinf(value) else None


def _near(a: Any, b: Any) -> bool:
    if context().isinf(a) or context().isinf(b):
        return a == b
    return bool(abs(a - b) <= max(abs(a), abs(b)) * 1e-30) or bool(a == b)


def _tidy(intervals: list[Interval]) -> tuple[Interval, ...]:
    """Without empty ones, in order, joined where they touch."""
    inf = context().inf
    kept = [i for i in intervals if i.low < i.high or (_near(i.low, i.high) and i.closed_low and i.closed_high)]
    joined: list[Interval] = []
    for now in sorted(kept, key=lambda i: (i.low, not i.closed_low)):
        if (abs(now.low) == inf and now.closed_low) or (abs(now.high) == inf and now.closed_high):
            now = Interval(
                now.low, now.closed_low and abs(now.low) != inf, now.high, now.closed_high and abs(now.high) != inf
            )
        last = joined[-1] if joined else None
        touches = last and (now.low < last.high or (_near(now.low, last.high) and (now.closed_low or last.closed_high)))
        if last and touches:
            if now.high > last.high or (_near(now.high, last.high) and now.closed_high):
                joined[-1] = Interval(last.low, last.closed_low, now.high, now.closed_high)
        else:
            joined.append(now)
    return tuple(joined)


def _overlap(a: Interval, b: Interval) -> Interval:
    low, closed_low = max((a.low, not a.closed_low), (b.low, not b.closed_low))
    high, closed_high = min((a.high, a.closed_high), (b.high, b.closed_high))
    return Interval(low, not closed_low, high, closed_high)


def _outside(intervals: tuple[Interval, ...]) -> tuple[Interval, ...]:
    inf = context().inf
    low, closed, found = -inf, False, []
    for i in intervals:
        found.append(Interval(low, closed, i.low, not i.closed_low))
        low, closed = i.high, not i.closed_high
    found.append(Interval(low, closed, inf, False))
    return _tidy(found)
