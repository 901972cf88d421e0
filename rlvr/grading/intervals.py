r"""Sets of real numbers as unions of intervals: `x<1`, `(2,12)\cup(12,102)`, `\mathbb{R}\setminus\{3\}`, `1\le x<2`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from rlvr.grading.labels import is_quantity
from rlvr.grading.numeric import evaluate_at, evaluate_constant
from rlvr.grading.points import get_coordinate
from rlvr.grading.precision import REAL_TOLERANCE, Number, Undecided, get_context
from rlvr.grading.traversal import INFINITY, contains, find_symbols, walk
from rlvr.grading.tree import Node

_ORDERS = frozenset({"<", ">", "<=", ">="})
_INEQUALITIES = _ORDERS | {"!="}
_TURNED = str.maketrans("<>", "><")
_EXPRESSION = Node("symbol", (), "an expression")
_INTERVAL_BRACKETS = ("()", "[]", "(]", "[)")


@dataclass(frozen=True, slots=True)
class Region:
    """Where a set may begin or end, whether it holds a number, and the variable that was named, if
    one was. Of what lies between two neighbouring ends it holds all or nothing.
    """

    ends: tuple[Number, ...]
    holds: Callable[[Number], bool]
    variable: str = ""


def compare_regions(gold: Node, answer: Node) -> bool | None:
    """Compare inequalities, unions and differences as sets of real numbers; None for anything else."""
    if not is_region(gold) and not is_region(answer):
        return None
    if gold.kind == "group" and gold.name == "()" and answer.kind == "setop":
        return False  # the gold may be a pair, to which nothing can be joined
    if contains(gold, "relation") != contains(answer, "relation"):
        gold = _name_expression(gold)
        answer = _name_expression(answer)
    gold_region = read_region(gold)
    answer_region = read_region(answer)
    if gold_region is None or answer_region is None:
        return None
    names = {gold_region.variable, answer_region.variable} - {""}
    return len(names) < 2 and is_same_region(gold_region, answer_region)


def _name_expression(node: Node) -> Node:
    """Return an inequality about an expression in several letters as one about a single variable: `0<g(x)<2`."""
    if node.kind != "relation":
        return node
    spoken_of = [side for side in node.parts if find_symbols(side)]
    if len(spoken_of) != 1 or len(find_symbols(node)) == 1 or not is_quantity(spoken_of[0]):
        return node
    sides = [_EXPRESSION if side == spoken_of[0] else side for side in node.parts]
    return replace(node, parts=tuple(sides))


def is_region(node: Node) -> bool:
    """Whether an inequality, a union, an intersection, a difference or a set of numbers occurs."""
    for part in walk(node):
        if part.kind == "setop":
            return True
        if part.kind == "relation" and not _INEQUALITIES.isdisjoint(part.name.split()):
            return True
        if part.kind == "symbol" and part.name.startswith("\\mathbb"):
            return True
    return False


def is_same_region(left: Region, right: Region) -> bool:
    """Whether both are the same set: they hold the same ends, and the same of one number on each
    side of those.
    """
    probes = _choose_probes({*left.ends, *right.ends})
    return all(left.holds(x) == right.holds(x) for x in probes)


def _choose_probes(ends: set[Number]) -> list[Number]:
    """Return the ends, and a number on each side of every one."""
    mp = get_context()
    zero = mp.mpf(0)
    finite = sorted(end for end in ends | {zero} if mp.isfinite(end))
    probes = list(finite)
    for low, high in pairwise(finite):
        if not _is_same(low, high):
            probes.append((low + high) / 2)
    # Zero is among them, so the doubled outermost ones lie further out.
    probes.append(2 * finite[0] - 1)
    probes.append(2 * finite[-1] + 1)
    return probes


def read_region(node: Node) -> Region | None:
    """Return the set that an expression describes, None where it describes none or one of several
    variables.
    """
    try:
        return _read(node)
    except (Undecided, ArithmeticError, TypeError, ValueError):
        return None


def _read(node: Node) -> Region:
    parts = node.parts
    match node.kind:
        case "group" if len(parts) == 2 and node.name in _INTERVAL_BRACKETS:
            return _read_interval(node)
        case "group" if len(parts) == 1:
            return _read(parts[0])
        case "set":
            return _read_points(parts)
        case "symbol":
            return _read_symbol(node.name)
        case "setop":
            left, right = _read_all(parts)
            return _combine(node.name, left, right)
        case "list" if node.name == "or":
            return _unite(_read_all(parts))
        case "list" if node.name == "and":
            return _intersect(_read_all(parts))
        case "relation":
            return _solve(node)
    raise Undecided


def _read_all(nodes: Sequence[Node]) -> list[Region]:
    return [_read(node) for node in nodes]


def _read_interval(node: Node) -> Region:
    r"""Return an interval: `(2,3]`, `[1,\infty)`."""
    low = _read_end(node.parts[0])
    high = _read_end(node.parts[1])
    opening, closing = node.name
    if get_context().isinf(low) and opening == "[":
        raise Undecided
    if get_context().isinf(high) and closing == "]":
        raise Undecided
    above_low = ">=" if opening == "[" else ">"
    below_high = "<=" if closing == "]" else "<"
    return _intersect([_bound_by(above_low, low), _bound_by(below_high, high)])


def _read_points(parts: Sequence[Node]) -> Region:
    r"""Return a set of numbers: `\{1,2\}`."""
    points: list[Region] = []
    for part in parts:
        point = _read_end(part)
        if get_context().isinf(point):
            raise Undecided
        points.append(_bound_by("=", point))
    return _unite(points)


def _read_symbol(name: str) -> Region:
    if name == "\\mathbb{R}":
        return _intersect([])
    if name == "\\emptyset":
        return _unite([])
    raise Undecided


def _combine(operation: str, left: Region, right: Region) -> Region:
    """Return the union `|`, the intersection `&` or the difference `-` of two sets."""
    if operation == "|":
        return _unite([left, right])
    if operation == "-":
        return _intersect([left, _complement(right)])
    return _intersect([left, right])


def _complement(region: Region) -> Region:
    return replace(region, holds=lambda x: not region.holds(x))


def _bound_by(operator: str, end: Number) -> Region:
    """Return the numbers that stand so to the end; `=` gives the end alone."""

    def holds(x: Number) -> bool:
        if _is_same(x, end):
            return operator in ("=", "<=", ">=")
        if operator == "!=":
            return True
        if x < end:
            return operator[0] == "<"
        return operator[0] == ">"

    return Region((end,), holds)


def _unite(regions: Sequence[Region]) -> Region:
    return Region(
        _collect_ends(regions),
        lambda x: any(region.holds(x) for region in regions),
        _find_variable(regions),
    )


def _intersect(regions: Sequence[Region]) -> Region:
    return Region(
        _collect_ends(regions),
        lambda x: all(region.holds(x) for region in regions),
        _find_variable(regions),
    )


def _collect_ends(regions: Sequence[Region]) -> tuple[Number, ...]:
    ends: list[Number] = []
    for region in regions:
        ends += region.ends
    return tuple(ends)


def _find_variable(regions: Sequence[Region]) -> str:
    """Return the variable that the sets name, if one does; raises Undecided where they name two."""
    names = {region.variable for region in regions} - {""}
    if len(names) > 1:
        raise Undecided
    return next(iter(names), "")


def _read_end(node: Node) -> Number:
    """Return a real number or an infinity; raises Undecided where it is neither."""
    mp = get_context()
    if node == INFINITY:
        return mp.inf
    if node.kind in ("neg", "add") and len(node.parts) == 1:
        value = _read_end(node.parts[0])
        if node.kind == "neg":
            return -value
        return value
    value = evaluate_constant(node)
    if mp.im(value) != 0:
        raise Undecided
    return mp.re(value)


def _solve(node: Node) -> Region:
    """Return the solution of a chain of linear inequalities in one variable."""
    operators = node.name.split()
    if node.name == "in" and node.parts[0].kind == "symbol":
        return replace(_read(node.parts[1]), variable=node.parts[0].name)
    names = find_symbols(node)
    if len(names) != 1 or not set(operators) <= _INEQUALITIES | {"="}:
        raise Undecided
    name = next(iter(names))
    links: list[Region] = []
    for operator, (left, right) in zip(operators, pairwise(node.parts), strict=False):
        links.append(_solve_link(operator, left, right, name))
    return replace(_intersect(links), variable=name)


def _solve_link(operator: str, left: Node, right: Node, name: str) -> Region:
    """Return where one inequality of a chain holds; raises Undecided where it is not linear."""
    if not find_symbols(left) and not find_symbols(right):
        raise Undecided
    if _is_unbounded(operator, left, right):
        return _intersect([])
    if left.kind == "call" and left.name == "abs":
        return _solve_modulus(operator, left.parts[0], right, name)
    if right.kind == "call" and right.name == "abs":
        return _solve_modulus(operator.translate(_TURNED), right.parts[0], left, name)
    if max(_get_degree(left, name), _get_degree(right, name)) > 1:
        raise Undecided
    return _solve_linear(operator, left, right, name)


def _solve_modulus(operator: str, inner: Node, bound: Node, name: str) -> Region:
    """Return where a linear expression between bars stands so to a number: within or outside of both signs of it."""
    if find_symbols(bound) or _get_degree(inner, name) > 1:
        raise Undecided
    above = _solve_linear(operator, inner, bound, name)
    below = _solve_linear(operator.translate(_TURNED), inner, Node("neg", (bound,)), name)
    if operator[0] == ">":
        return _unite([above, below])
    return _intersect([above, below])


def _is_unbounded(operator: str, left: Node, right: Node) -> bool:
    r"""Whether every number is on this side of an infinity: `-\infty < x`. Raises Undecided where
    none is.
    """
    if left.kind == "symbol" and not find_symbols(right):
        bound = _read_end(right)
    elif right.kind == "symbol" and not find_symbols(left):
        bound = -_read_end(left)  # read from the right
    else:
        return False
    if not get_context().isinf(bound):
        return False
    is_below = operator[0] == "<"
    if operator not in _ORDERS or is_below != (bound > 0):
        raise Undecided
    return True


def _solve_linear(operator: str, left: Node, right: Node, name: str) -> Region:
    """Return where a linear inequality holds, from its values at two points."""
    mp = get_context()
    difference = Node("add", (left, Node("neg", (right,))))
    xs: list[Number] = []
    values: list[Number] = []
    # The third point decides nothing, but what is not defined there is left undecided.
    for index in range(3):
        x = get_coordinate(name, index)
        xs.append(mp.mpf(x.numerator) / x.denominator)
        values.append(evaluate_at(difference, {name: x}))
    slope = (values[1] - values[0]) / (xs[1] - xs[0])
    if slope == 0 or mp.im(slope) != 0:
        raise Undecided
    slope = mp.re(slope)
    root = mp.re(xs[0] - values[0] / slope)
    if slope > 0:
        return _bound_by(operator, root)
    return _bound_by(operator.translate(_TURNED), root)


def _get_degree(node: Node, name: str) -> int:
    """Return the degree in a variable, read from the tree; raises Undecided where it is no
    polynomial.
    """
    if name not in find_symbols(node):
        return 0
    match node.kind:
        case "symbol":
            return 1
        case "add":
            return max(_get_degree(part, name) for part in node.parts)
        case "neg" | "group" if len(node.parts) == 1:
            return _get_degree(node.parts[0], name)
        case "mul":
            return sum(_get_degree(part, name) for part in node.parts)
        case "div" if name not in find_symbols(node.parts[1]):
            return _get_degree(node.parts[0], name)
    raise Undecided


def _is_same(left: Number, right: Number) -> bool:
    """Whether two ends are equal but for rounding, or the same infinity."""
    if get_context().isinf(left) or get_context().isinf(right):
        return left == right
    difference = abs(left - right)
    return bool(difference <= max(abs(left), abs(right)) * REAL_TOLERANCE or left == right)
