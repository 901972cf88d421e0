r"""The elements of lists and sets: `1, 2`, `\{1,2\}`, `1\pm\sqrt2`, `x=1, y=2`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlvr.grading.labels import is_name, is_named, rank_name
from rlvr.grading.normal_form import choose_sign
from rlvr.grading.traversal import has_plus_minus
from rlvr.grading.tree import Node


def split_items(node: Node) -> list[Node] | None:
    r"""Return the elements of a list or a set, or both values of `\pm`; None where it is one thing."""
    if node.kind == "relation" and node.name in ("=", "in") and is_name(node.parts[0]):
        return _split_named(node)
    if node.kind in ("list", "set"):
        items = _split_parts(node.parts)
        if node.kind == "set" and len(items) < 2:
            return None
        return items
    if has_plus_minus(node) and node.kind not in ("group", "rows", "setop"):
        return [choose_sign(node, upper=True), choose_sign(node, upper=False)]
    return None


def _split_named(node: Node) -> list[Node] | None:
    r"""Return the elements behind a name, each with the name: `x=1,2` as `x=1` and `x=2`."""
    name, values = node.parts
    items = split_items(values)
    if node.name == "in" or items is None:
        return items
    return [Node("relation", (name, item), "=") for item in items]


def _split_parts(parts: Sequence[Node]) -> list[Node]:
    items: list[Node] = []
    for part in parts:
        if has_plus_minus(part):
            items += split_items(part) or [part]
        else:
            items.append(part)
    return items


def find_names(items: Sequence[Node]) -> set[Node]:
    """Return the names of those that have one."""
    names: set[Node] = set()
    for item in items:
        if is_named(item):
            names.add(item.parts[0])
    return names


def drop_names(items: Sequence[Node]) -> list[Node]:
    """Return the items, the values alone of those that have a name."""
    values: list[Node] = []
    for item in items:
        if is_named(item):
            values.append(item.parts[1])
        else:
            values.append(item)
    return values


class Solutions(NamedTuple):
    """The solutions of a system as tuples, in the order of the names of its unknowns."""

    names: tuple[Node, ...]
    tuples: list[Node]


def group_solutions(items: Sequence[Node]) -> Solutions | None:
    r"""Return the solutions that a list names one after the other, `a=3,b=4;a=4,b=3`; None for any other list."""
    names = find_names(items)
    count = len(names)
    if count < 2 or len(items) < 2 * count or len(items) % count:
        return None
    tuples: list[Node] = []
    for start in range(0, len(items), count):
        solution = items[start : start + count]
        if find_names(solution) != names:
            return None
        coordinates = read_coordinates(Node("list", tuple(solution), ","))
        if len(coordinates) != count:
            return None
        tuples.append(Node("group", tuple(coordinates), "()"))
    return Solutions(tuple(sorted(names, key=rank_name)), tuples)


def name_coordinates(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Return both, a tuple with names as a list where the other side names each: `(x,y)=(2,5)` as `x=2, y=5`."""
    if gold.kind == "list":
        return gold, _list_coordinates(answer) or answer
    if answer.kind == "list":
        return _list_coordinates(gold) or gold, answer
    return gold, answer


def _list_coordinates(node: Node) -> Node | None:
    if not is_named(node):
        return None
    names, values = node.parts[:2]
    if {names.kind, names.name, values.kind, values.name} != {"group", "()"}:
        return None
    if len(node.parts) != 2 or len(names.parts) != len(values.parts):
        return None
    pairs = zip(names.parts, values.parts, strict=True)
    return Node("list", tuple(Node("relation", pair, "=") for pair in pairs), ",")


def read_coordinates(node: Node) -> list[Node]:
    """Return the parts of a tuple, or the values of `y=-2, x=5` in the order of their names; nothing
    for anything else.
    """
    if node.kind == "group" and node.name == "()":
        return list(node.parts)
    if node.kind != "list":
        return []
    values: dict[tuple[bool, str], Node] = {}
    for part in node.parts:
        if not is_named(part):
            return []
        name, value = part.parts
        rank = rank_name(name)
        if name.kind != "symbol" or rank in values:
            return []
        values[rank] = value
    return [values[rank] for rank in sorted(values)]
