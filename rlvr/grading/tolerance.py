"""Answers whose numbers are near those of the gold: alone, beside a unit, after a name, in lists and tuples."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from rlvr.grading.exact import evaluate_exactly
from rlvr.grading.items import split_items
from rlvr.grading.labels import is_label
from rlvr.grading.normal_form import unwrap
from rlvr.grading.numeric import evaluate_constant
from rlvr.grading.precision import Number, Undecided, get_context
from rlvr.grading.rules import MAX_ITEMS, same
from rlvr.grading.scalars import accept_units, name_ohms, split_letters_as_units
from rlvr.grading.traversal import contains, find_symbols, get_infinity_sign
from rlvr.grading.tree import Node
from rlvr.grading.units import split_units

# What is no number of one place each: times and ratios, sets of numbers, digits in a base.
_AS_WRITTEN = frozenset({"ratio", "relation", "setop", "ellipsis", "based", "text", "symbol"})


def is_near(gold: Node, answer: Node, tolerance: float) -> bool:
    """Whether an answer is the gold but for a relative error of each of its numbers.

    >>> from rlvr.grading.parser import parse
    >>> is_near(parse("9.81 kg"), parse("9.80 kg"), 0.01), is_near(parse("(1, 2)"), parse("(1, 3)"), 0.01)
    (True, False)
    """
    gold = unwrap(gold)
    answer = unwrap(answer)
    if gold == answer:
        return True
    if _is_chain(gold) or _is_chain(answer):
        return _is_chain_near(gold, answer, tolerance)
    gold_items = split_items(gold)
    answer_items = split_items(answer)
    if gold_items is not None or answer_items is not None:
        return _match_items(gold_items or [gold], answer_items or [answer], tolerance)
    if gold.kind in ("group", "rows"):
        return _match_in_order(gold, answer, tolerance)
    if {gold.kind, answer.kind} & _AS_WRITTEN:
        return _is_same(gold, answer)
    return _is_near_quantity(gold, answer, Fraction(tolerance))


def _is_same(gold: Node, answer: Node) -> bool:
    try:
        return same(gold, answer)
    except (Undecided, ArithmeticError, ValueError, TypeError):
        return False


def _is_chain(node: Node) -> bool:
    r"""Whether it gives values one after the other: `g = 9.8`, `\sqrt{96} \approx 9.8`."""
    return node.kind == "relation" and set(node.name.split()) <= {"=", "~"}


def _is_chain_near(gold: Node, answer: Node, tolerance: float) -> bool:
    """Whether all values are near the gold's first, and the names the same where both have one."""
    gold_name, gold_values = _split_name(gold)
    answer_name, answer_values = _split_name(answer)
    if gold_name and answer_name and gold_name != answer_name:
        return False
    return all(is_near(gold_values[0], value, tolerance) for value in answer_values)


def _split_name(node: Node) -> tuple[Node | None, Sequence[Node]]:
    """Return the name that stands first in a chain, None where none does, and the values behind it."""
    if not _is_chain(node):
        return None, (node,)
    if is_label(node.parts[0]):
        return node.parts[0], node.parts[1:]
    return None, node.parts


def _match_items(wanted: Sequence[Node], given: Sequence[Node], tolerance: float) -> bool:
    """Whether each element of one list is near another of the other list, in any order."""
    if len(wanted) != len(given) or len(wanted) > MAX_ITEMS:
        return False
    remaining = list(given)
    for item in wanted:
        near = [other for other in remaining if is_near(item, other, tolerance)]
        if not near:
            return False
        remaining.remove(near[0])
    return True


def _match_in_order(gold: Node, answer: Node, tolerance: float) -> bool:
    """Whether two tuples, intervals, vectors or matrices are near, element by element."""
    if gold.kind != answer.kind or gold.name != answer.name:
        return False
    if len(gold.parts) != len(answer.parts):
        return False
    pairs = zip(gold.parts, answer.parts, strict=True)
    return all(is_near(one, other, tolerance) for one, other in pairs)


def _is_near_quantity(gold: Node, answer: Node, tolerance: Fraction) -> bool:
    """Whether two numbers are near, of which one may have its unit in letters."""
    if _is_near_number(gold, answer, tolerance):
        return True
    return _are_near_in_letters(gold, answer, tolerance)


def _is_near_number(gold: Node, answer: Node, tolerance: Fraction) -> bool:
    """Whether two numbers are near and have no different units."""
    if _is_infinite(gold) or _is_infinite(answer):
        return _is_same(gold, answer)
    gold, answer = name_ohms(gold, answer)
    wanted, gold_units = split_units(gold)
    given, answer_units = split_units(answer)
    if wanted is None or given is None or not accept_units(gold_units, answer_units):
        return False
    if find_symbols(wanted) or find_symbols(given):
        return _is_same(gold, answer)
    if _are_near(wanted, given, tolerance):
        return True
    return not answer_units and _is_near_percentage(wanted, given, tolerance)


def _are_near_in_letters(gold: Node, answer: Node, tolerance: Fraction) -> bool:
    """Whether one side alone has the other's unit in letters, and the numbers are near."""
    if bool(split_units(gold)[1]) == bool(split_units(answer)[1]):
        return False
    numbers = split_letters_as_units(gold, answer)
    return numbers is not None and _are_near(*numbers, tolerance)


def _is_near_percentage(wanted: Node, given: Node, tolerance: Fraction) -> bool:
    """Whether the gold is per cent and the answer leaves out the sign: 28 for 28 %."""
    if wanted.kind != "percent" or given.kind == "percent":
        return False
    return _are_near(wanted.parts[0], given, tolerance)


def _is_infinite(node: Node) -> bool:
    """Whether it is infinite, or digits in a base, of which none may differ."""
    return get_infinity_sign(node) != 0 or contains(node, "based")


def _are_near(wanted: Node, given: Node, tolerance: Fraction) -> bool:
    exact_wanted = evaluate_exactly(wanted)
    exact_given = evaluate_exactly(given)
    if exact_wanted is not None and exact_given is not None:
        return abs(exact_wanted - exact_given) <= tolerance * abs(exact_wanted)
    try:
        value = evaluate_constant(wanted)
        error = abs(evaluate_constant(given) - value)
    except Undecided:
        return False
    return bool(error <= _to_number(tolerance) * abs(value))


def _to_number(fraction: Fraction) -> Number:
    return get_context().mpf(fraction.numerator) / fraction.denominator
