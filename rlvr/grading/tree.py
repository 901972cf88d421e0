"""The tree of a written expression."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Node:
    """One part of an expression; `kind` says how to read the rest.

    number (value; name "decimal" where a point was written), symbol, constant (pi e i inf), text,
    add (name "mixed" for a mixed number), mul, div (name "frac" where it is one thing), pow, neg,
    pm, mp, call (name), percent, based (number in a base), ratio, group (name "(]"), set, list
    (name "," "and" or "or"), rows (a matrix; name is its bracket), relation (name: its operators),
    setop (name "|" "&" or "-"), ellipsis.
    """

    kind: str
    parts: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction | None = None
    places: int = field(default=0, compare=False)
    """How many digits are written behind the point of a number: 3 in 9.000."""


MINUS_ONE = Node("neg", (Node("number", value=Fraction(1)),))


def strip_brackets(node: Node) -> Node:
    """Return what stands in brackets that only group; several things there are a list.   (x) -> x"""
    if node.kind != "group" or node.name not in ("()", "[]"):
        return node
    if len(node.parts) == 1:
        return node.parts[0]
    return Node("list", node.parts, ",")


def find_number(node: Node) -> Node | None:
    """Return the number that a node is, with or without brackets; None where it is none."""
    inner = strip_brackets(node)
    if inner.kind == "number":
        return inner
    return None


def join_factors(left: Node, right: Node) -> Node:
    r"""Return two things side by side as a product; a whole and a proper fraction are a mixed number.

    >>> half = Node("div", (Node("number", value=Fraction(1)), Node("number", value=Fraction(2))), "frac")
    >>> join_factors(Node("number", value=Fraction(3)), half).name, join_factors(Node("symbol", (), "x"), half).kind
    ('mixed', 'mul')
    """
    if is_integer(left) and is_proper_fraction(right):
        return Node("add", (left, right), "mixed")
    return Node("mul", (left, right))


def is_integer(node: Node) -> bool:
    """Whether it is a number that was written without a point."""
    return node.kind == "number" and not node.name and node.value is not None


def is_proper_fraction(node: Node) -> bool:
    """Whether it is a fraction of two numbers between 0 and 1."""
    if node.kind != "div" or node.name != "frac":
        return False
    top, bottom = (part.value for part in node.parts)
    if top is None or bottom is None:  # only numbers have a value
        return False
    return 0 < top < bottom


def is_differential(node: Node) -> bool:
    r"""Whether a product begins with the d of a derivative: `dx`, `d^2 y`, `\partial f`."""
    while node.kind == "mul":
        first = node.parts[0]
        base = first.parts[0] if first.kind == "pow" else first
        if first.kind in ("symbol", "pow") and base.name in ("d", "\\partial"):
            return True
        node = first
    return False
