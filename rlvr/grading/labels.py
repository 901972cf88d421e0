r"""Names that stand before an answer: `x=5`, `f(x)=x^2`, `\text{Area}=6`, `(p,q)=(1,2)`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlvr.grading.traversal import find_symbols
from rlvr.grading.tree import MINUS_ONE, Node
from rlvr.grading.units import has_plain_words

# Functions whose value is named and not solved for, and the signs of geometry before letters.
_MEASURES = frozenset(
    {
        "det",
        "deg",
        "gcd",
        "lcm",
        "max",
        "max_",
        "min",
        "min_",
        "Re",
        "Im",
        "arg",
        "norm",
        "compose",
        "mod",
    }
)
_FIGURES = frozenset({"\\angle", "\\measuredangle", "\\triangle"})
_OF_FUNCTIONS = frozenset({"compose", "max", "max_", "min", "min_"})
_RATIOS_OF_ANGLES = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_COMBINATIONS = re.compile(r"C_[0-9a-z]+")
_COMPLEX_NAMES = frozenset("zw")


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
    if is_measure(node):
        return True
    if node.kind == "div":
        return all(is_label(part) for part in node.parts)
    if not is_name(node):
        return False
    if node.kind not in ("mul", "add"):
        return True
    is_function = node.parts[-1].kind == "group"
    return is_function or _is_figure(node) or _is_product_of_capitals(node)


def _is_product_of_capitals(node: Node) -> bool:
    """Whether it is letters such as `AB`, as a segment is called."""
    if node.kind != "mul":
        return False
    return all(part.kind == "symbol" and part.name.isupper() for part in node.parts)


def _is_figure(node: Node) -> bool:
    r"""Whether it is an angle or a triangle with its letters: `\angle ABC`."""
    if node.kind != "mul":
        return False
    first, last = node.parts
    if last.kind != "symbol" or not last.name.isupper():
        return False
    return first.name in _FIGURES or _is_figure(first)


def is_measure(node: Node) -> bool:
    r"""Whether it has a value of its own that is no unknown: `|AB|`, `\|u\|`, `\det M`, `f^{-1}(4)`."""
    match node.kind:
        case "call":
            return _is_measuring_call(node)
        case "pow":
            return _COMBINATIONS.fullmatch(node.parts[0].name) is not None
        case "group":
            return node.name == "[]" and _is_area(node.parts[0])
        case "mul" if node.parts[1].kind == "group":
            return _is_function_of_functions(node.parts[0])
    return False


def _is_measuring_call(node: Node) -> bool:
    """Whether it is a length, a measure, or the sine of an angle."""
    if node.name == "abs":
        return _is_modulus(node.parts[0])
    if node.name in _RATIOS_OF_ANGLES:
        return _is_angle(node.parts[0])
    if node.name == "det" and node.parts[0].kind == "rows":
        return False  # of numbers that are written out it is computed
    return node.name in _MEASURES


def _is_angle(node: Node) -> bool:
    r"""Whether it is an angle and no unknown: `A`, `\theta`, `\angle ABC`."""
    if node.kind != "symbol":
        return _is_figure(node)
    return node.name.startswith("\\") or (len(node.name) == 1 and node.name.isupper())


def _is_area(node: Node) -> bool:
    """Whether it is three corners or more, in whose square brackets an area stands: `[ABC]`."""
    if node.kind != "mul" or not node.parts[1].name.isupper():
        return False
    return _is_product_of_capitals(node.parts[0]) or _is_area(node.parts[0])


def _is_modulus(node: Node) -> bool:
    """Whether bars around it are a length, a size or the modulus of a complex number: not those of `|x|=5`."""
    if node.kind == "symbol":
        name = node.name
        return name.isupper() or name in _COMPLEX_NAMES or len(name) > 3
    if node.kind == "setop":
        return True
    if node.kind == "call":
        return node.name == "abs"
    return len(find_symbols(node)) > 1 and is_quantity(node)


def _is_function_of_functions(node: Node) -> bool:
    r"""Whether it is a function made of others: `f^{-1}`, `(f \circ g)`, `\max_x f`."""
    if node.kind == "group" and len(node.parts) == 1:
        node = node.parts[0]
    if node.kind == "call":
        return node.name in _OF_FUNCTIONS
    return node.kind == "pow" and node.parts[0].kind == "symbol" and node.parts[1] == MINUS_ONE


def is_quantity(node: Node) -> bool:
    r"""Whether an answer may give its value: a name, a measure, a variance, an expression in several letters.

    An equation in one letter is to be solved: `x^2=6` is not 6.
    """
    if is_name(node) or is_measure(node):
        return True
    if node.kind == "pow":
        return node.parts[0].name == "\\sigma"
    return len(find_symbols(node)) > 1 and _is_made_of_letters(node)


def _is_made_of_letters(node: Node) -> bool:
    """Whether it is sums, products, quotients and powers of letters, without other numbers than exponents."""
    match node.kind:
        case "symbol":
            return True
        case "pow":
            return _is_made_of_letters(node.parts[0]) and node.parts[1].kind == "number"
        case "add" | "mul" | "div" | "neg":
            return all(_is_made_of_letters(part) for part in node.parts)
    return False


def is_named(node: Node) -> bool:
    """Whether it is a name, `=` and a value."""
    return node.kind == "relation" and node.name == "=" and is_name(node.parts[0])
