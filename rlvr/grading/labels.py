r"""Names that stand before an answer: `x=5`, `f(x)=x^2`, `\text{Area}=6`, `(p,q)=(1,2)`."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.grading.tree import Node
from rlvr.grading.units import has_plain_words


def is_name(node: Node) -> bool:
    r"""Whether it may stand before `=` as the name of an answer: `x`, `f(x)`, `m+n`, `AB`, `(p,q)`,
    `\text{Area}`, `A:B`.
    """
    parts = node.parts
    match node.kind:
        case "symbol":
            return True
        case "text":
            return has_plain_words(node.name)
        case "mul" if parts[0].kind == "symbol" and parts[1].kind == "group":
            return True
        case "mul" | "add" | "ratio":
            return bool(parts) and all(is_name(part) for part in parts)
        case "group" if node.name == "()":
            return _are_ordered_names(parts)
    return False


def _are_ordered_names(parts: Sequence[Node]) -> bool:
    """Whether they are variables in the usual order of coordinates."""
    if any(part.kind != "symbol" for part in parts):
        return False
    ranks = [rank_name(part) for part in parts]
    return ranks == sorted(ranks)


def rank_name(name: Node) -> tuple[bool, str]:
    """Return the key of the usual order of coordinates: letters, then Greek letters.

    x, y; r, theta
    """
    return name.name.startswith("\\"), name.name


def is_label(node: Node) -> bool:
    """Whether it is a name and no expression of its own, so that what follows is the whole answer."""
    if node.kind == "div":
        return all(is_label(part) for part in node.parts)
    if not is_name(node):
        return False
    if node.kind not in ("mul", "add"):
        return True
    is_function = node.parts[-1].kind == "group"
    return is_function or _is_product_of_capitals(node)


def _is_product_of_capitals(node: Node) -> bool:
    """Whether it is letters such as `AB`, as a segment is called."""
    if node.kind != "mul":
        return False
    return all(part.kind == "symbol" and part.name.isupper() for part in node.parts)


def is_named(node: Node) -> bool:
    """Whether it is a name, `=` and a value."""
    return node.kind == "relation" and node.name == "=" and is_name(node.parts[0])
