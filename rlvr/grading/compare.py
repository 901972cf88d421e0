r"""Whether an answer means the same as the gold: rules on trees, numbers at test points, never a
tolerance for free.

The rules: exact rational equality; a decimal stands for what has no decimal only with six digits;
units may be missing but not different; brackets, order and number of elements count, sets and lists
of roots have no order; an equation is what it is equivalent to; several answers where one is asked
are wrong. What the rules cannot decide is left to the symbolic library.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rlvr.grading.values import (
    Undecided,
    approximates,
    constant_factor,
    exact,
    number,
    same_values,
    symbols,
    walk,
)

from rlvr.grading import intervals
from rlvr.grading.lexer import lex
from rlvr.grading.parser import MAX_LENGTH, Node, parse
from rlvr.grading.units import has_plain_words, is_optional, split_units

MAX_ITEMS = 64


_MARKS = "()[].:!\"' "  # around words


# of what has no value
_FAULTS = (Undecided, ArithmeticError, ValueError, TypeError, RecursionError)


_INTEGER = re.compile(r"-?[0-9]{1,60}")


@dataclass(frozen=True, slots=True)
class Match:
    """Whether two answers are the same (None: the rules do not say), and the rule that decided."""

    same: bool | None
    rule: str


def compare(gold: str, answer: str) -> Match:
    r"""Compare two bare answers; whatever they are, it returns.

    >>> compare(r"\frac{1}{2}", "0.5"), compare("(1,2)", "[1,2]").same, compare("5", "5 or 6").same
    (Match(same=True, rule='exact'), False, False)
    """
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return Match(int(gold) == int(answer), "exact")
    if len(gold) > MAX_LENGTH or len(answer) > MAX_LENGTH:
        return Match(bool(gold.strip()) and gold.split() == answer.split(), "string")
    return _compare(gold, answer)


@functools.lru_cache(maxsize=20_000)
def _compare(gold: str, answer: str) -> Match:
    wanted, given = canonical(gold), canonical(answer)
    if not wanted or not given:
        return Match(False, "empty")
    if wanted == given:
        return Match(True, "string")
    left, right = parse(gold), parse(answer)
    if left is None:
        return Match(None, "gold not in the grammar")
    if right is None:
        return Match(False, "unparseable")
    try:
        rule = "exact" if exact(left) is not None else "value"
        listed = "," in gold and left.kind != "number"
        return Match(same(left, right) or (listed and _as_lists(gold, answer)), rule)
    except _FAULTS:
        # A gold with a value is never equal to what has none; only a gold without one is left to
        # the library.
        return Match(False if _has_value(left) else None, "undecided")


def _has_value(node: Node) -> bool:
    """Whether every number in it can be computed."""
    if node.kind in _STRUCTURES or _only_words(node):
        return all(_has_value(part) for part in node.parts)
    core, _ = split_units(_signed(node, upper=True))
    try:
        return (
            _infinity(node) != 0
            or core is None
            or core.kind in ("symbol", "based", "ellipsis", "constant")
            or same_values(core, core)
        )
    except (Undecided, ArithmeticError, ValueError, TypeError):
        return False


_STRUCTURES = frozenset({"list", "set", "group", "rows", "setop", "ratio", "relation"})


def _only_words(node: Node) -> bool:
    return node.kind == "text" or (
        node.kind in ("mul", "neg") and all(_only_words(part) for part in node.parts)
    )


def canonical(text: str) -> str:
    r"""The text without what never carries meaning; case counts in formulas and not in words.

    >>> canonical(r"$\text{Monday}$.") == canonical("monday"), canonical(r"x") == canonical("X")
    (True, False)
    """
    tokens = lex(text)
    if tokens is None:
        return f"\0{' '.join(text.split())}"  # never the same as what has tokens
    if tokens and all(token.kind == "text" for token in tokens):
        return " ".join(token.text.strip(_MARKS) for token in tokens).casefold()
    return "\0".join(token.text for token in tokens)


def _as_lists(gold: str, answer: str) -> bool:
    """Whether they are the same list, where the gold's comma may separate items and not thousands."""
    left, right = parse(gold, thousands=False), parse(answer, thousands=False)
    return (
        left is not None
        and right is not None
        and left.kind == "list"
        and left != parse(gold)
        and same(left, right)
    )


def same(gold: Node, answer: Node) -> bool:
    """Whether two trees mean the same; raises Undecided."""
    gold, answer = _unwrapped(gold), _unwrapped(answer)
    if gold == answer:
        return True
    for rule in _RULES:
        verdict = rule(gold, answer)
        if verdict is not None:
            return verdict
    return _same_scalar(gold, answer)


def _unwrapped(node: Node) -> Node:
    """Without brackets that only group, and with a matrix in its brackets as one thing; a set of
    one is its element.
    """
    if node.kind == "set" and not node.parts:
        return Node("symbol", (), "\\emptyset")
    if (
        node.kind == "set"
        and len(node.parts) == 1
        and not _has_sign(node)
        and node.parts[0].name != "\\emptyset"
    ):
        return _unwrapped(node.parts[0])
    while node.kind == "group" and len(node.parts) == 1 and node.name in ("()", "[]"):
        inner = node.parts[0]
        if node.name == "[]" and inner.kind != "rows":
            break
        node = replace(inner, name="p") if inner.kind == "rows" and inner.name in "am" else inner
    if node.kind == "rows" and node.name in ("a", "m", "b", "small"):
        return replace(node, name="p")
    return _scaled(node) or node


def _scaled(node: Node) -> Node | None:
    """A matrix times or over a number, as a matrix."""
    if node.kind not in ("neg", "mul", "div"):
        return None
    sides = [_unwrapped(part) for part in node.parts]
    places = [i for i, side in enumerate(sides) if side.kind == "rows"]
    if len(places) != 1 or sides[places[0]].name != "p" or (node.kind == "div" and places != [0]):
        return None
    factors = [side for side in sides if side.kind != "rows"]
    if any(factor.kind in ("text", "group", "set") for factor in factors):
        return None
    rows = sides[places[0]]
    return replace(
        rows,
        parts=tuple(
            replace(r, parts=tuple(Node(node.kind, (c, *factors)) for c in r.parts))
            for r in rows.parts
        ),
    )


def _rule_words(gold: Node, answer: Node) -> bool | None:
    """Words and letters of a choice, without regard to case; words never equal a formula."""
    left, right = _words(gold), _words(answer)
    if (
        "symbol" in (gold.kind, answer.kind)
        and len(left or gold.name) == len(right or answer.name) == 1
    ):
        a, b = left or gold.name, right or answer.name
        return a == b or (gold.name in _CHOICES and a.casefold() == b.casefold())
    if gold.kind == "symbol" and gold.name in _CHOICES and answer.kind in ("symbol", "text"):
        return gold.name.casefold() == (right or answer.name).casefold()
    if left is None and right is None:
        return None
    left, right = left or _letters(gold), right or _letters(answer)
    if left is None or right is None:
        return None if {gold.kind, answer.kind} & {"list", "relation"} else False
    return left.casefold() == right.casefold()


_CHOICES = frozenset("ABCDEFGH")


def _letters(node: Node) -> str | None:
    """Plain letters side by side, as a short word is read."""
    letter = node.kind == "symbol" or (node.kind == "constant" and len(node.name) == 1)
    return node.name if letter else _side_by_side(node, "", _letters)


def _words(node: Node) -> str | None:
    """The words of an answer that is only words."""
    return node.name.strip(_MARKS) if node.kind == "text" else _side_by_side(node, " ", _words)


def _side_by_side(node: Node, between: str, read: Callable[[Node], str | None]) -> str | None:
    """The factors of a product, where all of them can be read so."""
    parts = [read(part) for part in node.parts] if node.kind == "mul" else [None]
    return None if None in parts else between.join(part for part in parts if part)


def _rule_several(gold: Node, answer: Node) -> bool | None:
    """Lists, sets and plus-minus: the same elements in any order; several for one is wrong."""
    if _is_region(gold) and _is_region(answer):
        return None
    left, right = _items(gold), _items(answer)
    if left is None and right is None:
        return None
    # an ordered tuple is no set, but it may name its coordinates
    if "group" in (gold.kind, answer.kind):
        wanted, given = _coordinates(gold), _coordinates(answer)
        return len(wanted) > 1 and _in_order(wanted, given)
    wanted, given = left or [gold], right or [answer]
    if max(len(wanted), len(given)) > MAX_ITEMS or len(given) > 2 * len(wanted) + 2:
        return False
    names, others = _names(wanted), _names(given)
    if len(names) != len(others) and max(len(names), len(others)) > 1 and not (names and others):
        # x = 1, y = 2 as written, an answer's in the order of names
        wanted = [_value_of(node) for node in wanted]
        return _in_order(wanted, _coordinates(answer) or given)
    if not (names and others) or (len(names) == 1 and names == others):
        wanted, given = ([_value_of(node) for node in items] for items in (wanted, given))
    wanted, given = _distinct(wanted), _distinct(given)
    return len(wanted) == len(given) and _matched(wanted, given)


def _in_order(wanted: Sequence[Node], given: Sequence[Node]) -> bool:
    return len(wanted) == len(given) and all(same(a, b) for a, b in zip(wanted, given, strict=True))


def _items(node: Node) -> list[Node] | None:
    if node.kind == "relation" and node.name in ("=", "in") and _is_name(node.parts[0]):
        inner = _items(node.parts[1])
        keep = node.name == "=" and inner is not None
        return (
            [Node("relation", (node.parts[0], item), "=") for item in inner]
            if keep and inner
            else inner
        )
    if node.kind in ("list", "set"):
        spread = [
            item
            for part in node.parts
            for item in (_items(part) if _has_sign(part) else None) or [part]
        ]
        return spread if len(spread) > 1 or node.kind == "list" else None
    if _has_sign(node) and node.kind not in ("group", "rows", "setop"):
        return [_signed(node, upper=True), _signed(node, upper=False)]
    return None


def _has_sign(node: Node) -> bool:
    return any(part.kind in ("pm", "mp") for part in walk(node))


def _signed(node: Node, *, upper: bool) -> Node:
    if node.kind in ("pm", "mp"):
        inner = _signed(node.parts[0], upper=upper)
        return inner if (node.kind == "pm") == upper else Node("neg", (inner,))
    return (
        replace(node, parts=tuple(_signed(part, upper=upper) for part in node.parts))
        if node.parts
        else node
    )


def _names(items: Sequence[Node]) -> set[Node]:
    return {item.parts[0] for item in items if _is_named(item)}


def _coordinates(node: Node) -> list[Node]:
    """The parts of a tuple, or the values of `y=-2, x=5` in the order of their names."""
    if node.kind == "group" and node.name == "()":
        return list(node.parts)
    names = [
        part.parts[0].name
        for part in node.parts
        if _is_named(part) and part.parts[0].kind == "symbol"
    ]
    if node.kind != "list" or not len(set(names)) == len(names) == len(node.parts):
        return []
    return [part.parts[1] for part in sorted(node.parts, key=lambda part: _rank(part.parts[0]))]


def _rank(name: Node) -> tuple[bool, str]:
    """The usual order of coordinates: letters, then Greek letters.   x, y; r, theta"""
    return name.name.startswith("\\"), name.name


def _is_named(node: Node) -> bool:
    return node.kind == "relation" and node.name == "=" and _is_name(node.parts[0])


def _value_of(node: Node) -> Node:
    return node.parts[1] if _is_named(node) else node


def _distinct(items: Sequence[Node]) -> list[Node]:
    found: list[Node] = []
    for item in items:
        if not any(_repeats(item, other) for other in found):
            found.append(item)
    return found


def _repeats(item: Node, other: Node) -> bool:
    """Whether two elements of one list are the same thing said twice: in either order, with the
    same unit.
    """
    if item == other:
        return True
    units = [split_units(node)[1] for node in (item, other)]
    percent = [any(part.kind == "percent" for part in walk(node)) for node in (item, other)]
    return (
        units[0] == units[1]
        and percent[0] == percent[1]
        and same(item, other)
        and same(other, item)
    )


def _matched(wanted: Sequence[Node], given: Sequence[Node]) -> bool:
    rest = list(given)
    for item in wanted:
        place = next((i for i, other in enumerate(rest) if same(item, other)), None)
        if place is None:
            return False
        del rest[place]
    return not rest


def _rule_region(gold: Node, answer: Node) -> bool | None:
    """Inequalities, unions and differences as sets of real numbers."""
    if not (_is_region(gold) or _is_region(answer)):
        return None
    if gold.kind == "group" and gold.name == "()" and answer.kind == "setop":
        return False  # the gold may be a pair, to which nothing can be joined
    left, right = intervals.region(gold), intervals.region(answer)
    if left is None or right is None:
        return None
    names = {name for name in (left.variable, right.variable) if name}
    return len(names) < 2 and intervals.same_region(left, right)


def _is_region(node: Node) -> bool:
    return any(
        part.kind == "setop"
        or (part.kind == "relation" and set(part.name.split()) & {"<", ">", "<=", ">=", "!="})
        or (part.kind == "symbol" and part.name.startswith("\\mathbb"))
        for part in walk(node)
    )


def _rule_relation(gold: Node, answer: Node) -> bool | None:
    if gold.kind != "relation" and answer.kind != "relation":
        return None
    if gold.kind == "relation" and answer.kind == "relation":
        return _same_relation(gold, answer)
    if answer.kind == "relation":
        return _last_of_chain(gold, answer)
    if not set(gold.name.split()) <= {"=", "in"} or not _is_label(gold.parts[0]):
        return False
    return same(gold.parts[-1], answer) and all(
        same(gold.parts[-1], part) for part in gold.parts[1:-1]
    )


def _last_of_chain(gold: Node, answer: Node) -> bool:
    """Whether every side of `m + n = 2 + 3 = 5` that has a value is the gold."""
    if answer.name == "in":
        return _is_name(answer.parts[0]) and same(gold, answer.parts[1])
    # a root, and about how much it is
    if answer.name == "~" and exact(gold) is None and _is_decimal(answer.parts[-1]):
        rounded = _about(gold, answer.parts[-1])
        return rounded and len(answer.parts) == 2 and same(gold, answer.parts[0])
    if answer.name == "~":
        return _is_name(answer.parts[0]) and not _is_name(gold) and same(gold, answer.parts[1])
    if set(answer.name.split()) != {"="}:
        return False
    sides = answer.parts[1:] if _is_name(answer.parts[0]) else answer.parts
    if len(sides) == 2 and sides[-1].kind == "symbol" and not _is_name(gold):
        sides = sides[:-1]
    return all(same(gold, side) for side in sides)


def _about(gold: Node, rounded: Node) -> bool:
    """Whether a decimal is the gold to one part in a hundred."""
    try:
        value, wanted = exact(rounded), number(gold)
    except Undecided:
        return False
    return (
        value is not None and abs(value.numerator / value.denominator - wanted) <= abs(wanted) / 100
    )


def _is_name(node: Node) -> bool:
    r"""What may stand before `=` as the name of an answer: `x`, `f(x)`, `m+n`, `AB`, `(p,q)`, `\text{Area}`, `A:B`."""
    if node.kind == "symbol":
        return True
    if node.kind == "text":
        return has_plain_words(node.name)
    if node.kind == "mul" and node.parts[0].kind == "symbol" and node.parts[1].kind == "group":
        return True
    if node.kind in ("mul", "add", "ratio"):
        return bool(node.parts) and all(_is_name(part) for part in node.parts)
    if node.kind == "group" and node.name == "()":
        ranks = [_rank(part) for part in node.parts if part.kind == "symbol"]
        return len(ranks) == len(node.parts) and ranks == sorted(ranks)
    return False


def _is_label(node: Node) -> bool:
    """A name that is no expression of its own, so that what follows it is the whole answer."""
    if node.kind == "div":
        return all(_is_label(part) for part in node.parts)
    capitals = node.kind == "mul" and all(
        part.kind == "symbol" and part.name.isupper() for part in node.parts
    )
    return _is_name(node) and (
        node.kind not in ("mul", "add") or capitals or node.parts[-1].kind == "group"
    )


def _same_relation(gold: Node, answer: Node) -> bool:
    if gold.name == answer.name and len(gold.parts) == len(answer.parts):
        for sides in (answer.parts, answer.parts[::-1]) if gold.name == "=" else (answer.parts,):
            if all(_equal(a, b) for a, b in zip(gold.parts, sides, strict=True)):
                return True
        if gold.name == "=" and _is_name(gold.parts[0]) and gold.parts[0] == answer.parts[0]:
            return same(gold.parts[1], answer.parts[1])
    if _is_named(gold) and len(answer.parts) > 2 and answer.parts[0] == gold.parts[0]:
        return _last_of_chain(gold.parts[1], answer)
    if len(gold.parts) == len(answer.parts) == 2:
        return _equivalent(gold, answer)
    return False


def _equal(left: Node, right: Node) -> bool:
    try:
        return same(left, right)
    except Undecided:
        return False


def _equivalent(gold: Node, answer: Node) -> bool:
    """Whether the two differences are the same up to a factor, which must be positive for an
    inequality.
    """
    flips = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
    if gold.name not in ("=", "!=", *flips) or answer.name not in (gold.name, flips.get(gold.name)):
        return False
    difference = [
        Node("add", (node.parts[0], Node("neg", (node.parts[1],)))) for node in (gold, answer)
    ]
    if answer.name != gold.name:
        difference[1] = Node("neg", (difference[1],))
    names = symbols(gold) | symbols(answer)
    if len(names) < 2 and gold.name == "=":
        return False  # an equation in one variable is not its solution
    quotient = Node("div", (difference[0], difference[1]))
    factor = constant_factor(quotient)
    return factor is not None and (factor > 0 or gold.name in ("=", "!="))


def _rule_ordered(gold: Node, answer: Node) -> bool | None:
    """Tuples, intervals, vectors, matrices, ratios: the same brackets, and element by element."""
    kinds = ("group", "rows", "ratio")
    if gold.kind not in kinds and answer.kind not in kinds:
        return None
    return (
        gold.kind == answer.kind
        and gold.name == answer.name
        and _in_order(gold.parts, answer.parts)
    )


def _rule_other(gold: Node, answer: Node) -> bool | None:
    """What has no value: ellipses, digits in a base, infinity."""
    kinds = [{part.kind for part in walk(node)} for node in (gold, answer)]
    if "ellipsis" in kinds[0] | kinds[1] or ("based" in kinds[0]) != ("based" in kinds[1]):
        return False
    if "based" in (gold.kind, answer.kind):
        return (
            gold.kind == answer.kind
            and gold.name == answer.name
            and gold.parts[0] == answer.parts[0]
        )
    left, right = _infinity(gold), _infinity(answer)
    return left == right if left or right else None


def _infinity(node: Node) -> int:
    if node.kind in ("neg", "add") and len(node.parts) == 1:
        return _infinity(node.parts[0]) * (-1 if node.kind == "neg" else 1)
    return 1 if node == Node("constant", (), "inf") else 0


_RULES = (_rule_words, _rule_several, _rule_region, _rule_relation, _rule_ordered, _rule_other)


def _same_scalar(gold: Node, answer: Node) -> bool:
    wanted, units = split_units(gold)
    given, stated = split_units(answer)
    if (
        wanted is None
        or given is None
        or not (not stated or units == stated or (not units and is_optional(stated)))
    ):
        return False
    if wanted.kind == "percent" and given.kind != "percent":
        return not stated and (_same_number(wanted.parts[0], given) or _same_number(wanted, given))
    return _same_number(wanted, given)


def _same_number(wanted: Node, given: Node) -> bool:
    left, right = exact(wanted), exact(given)
    if left is not None and right is not None:
        return left == right or any(
            _is_decimal(node) and approximates(one, other)
            for node, one, other in ((given, right, left), (wanted, left, right))
        )
    decimals = [node for node in (wanted, given) if _is_decimal(node)]
    if len(decimals) == 1 and not symbols(wanted) and not symbols(given):
        other = given if decimals[0] is wanted else wanted
        value = exact(decimals[0])
        return same_values(wanted, given) or (
            value is not None and approximates(value, number(other))
        )
    return same_values(wanted, given)


def _is_decimal(node: Node) -> bool:
    return node.name == "decimal" or (node.kind == "neg" and _is_decimal(node.parts[0]))
