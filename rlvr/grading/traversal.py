"""What the tree of an expression contains."""

from __future__ import annotations

from collections.abc import Iterator

from rlvr.grading.tree import Node

INFINITY = Node("constant", (), "inf")


def walk(node: Node) -> Iterator[Node]:
    """Yield the node and all nodes below it."""
    yield node
    for part in node.parts:
        yield from walk(part)


def find_symbols(node: Node) -> frozenset[str]:
    """Return the names of the variables of an expression."""
    names: set[str] = set()
    for part in walk(node):
        if part.kind == "symbol":
            names.add(part.name)
    return frozenset(names)


def contains(node: Node, *kinds: str) -> bool:
    """Whether a part of one of these kinds occurs."""
    return any(part.kind in kinds for part in walk(node))


def has_plus_minus(node: Node) -> bool:
    r"""Whether `\pm` or `\mp` occurs, so that it stands for two values."""
    return contains(node, "pm", "mp")


def groups_only(node: Node) -> bool:
    """Whether brackets hold one thing and change nothing."""
    return len(node.parts) == 1 and node.name in ("()", "[]")


def is_decimal(node: Node) -> bool:
    """Whether it is a number that was written with a point, with or without a minus and a power of ten."""
    if node.kind == "neg":
        return is_decimal(node.parts[0])
    if node.kind == "mul":
        return is_decimal(node.parts[0]) and _is_power_of_ten(node.parts[1])
    return node.name == "decimal"


def _is_power_of_ten(node: Node) -> bool:
    r"""Whether it is the second part of scientific notation: `10^{-3}`."""
    if node.kind != "pow":
        return False
    base, exponent = node.parts
    if exponent.kind == "neg":
        exponent = exponent.parts[0]
    return base.value == 10 and exponent.value is not None


def get_infinity_sign(node: Node) -> int:
    """Return 1 for infinity, -1 for minus infinity, 0 for anything else."""
    if node.kind in ("neg", "add") and len(node.parts) == 1:
        sign = get_infinity_sign(node.parts[0])
        if node.kind == "neg":
            return -sign
        return sign
    return int(node == INFINITY)
