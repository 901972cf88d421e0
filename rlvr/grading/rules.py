r"""The rules by which two trees mean the same.

They stand for words, lists, sets of real numbers, relations, tuples and what has no value; what none
of them decides is a number or a formula. A rule returns None where it says nothing. Most of them
look into the parts, for which all rules are asked again.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.grading.exact import evaluate_exactly
from rlvr.grading.intervals import compare_regions, is_region
from rlvr.grading.items import (
    drop_names,
    find_names,
    group_solutions,
    name_coordinates,
    read_coordinates,
    split_items,
)
from rlvr.grading.labels import is_label, is_measure, is_name, is_named, is_quantity
from rlvr.grading.normal_form import expand_determinant, unwrap_sets
from rlvr.grading.points import find_constant_ratio
from rlvr.grading.precision import Undecided
from rlvr.grading.scalars import compare_special, is_about, is_same_scalar
from rlvr.grading.traversal import contains, find_symbols, is_decimal
from rlvr.grading.tree import Node
from rlvr.grading.units import split_units
from rlvr.grading.words import compare_words, read_words

MAX_ITEMS = 64

_ORDERED_KINDS = ("group", "rows", "ratio")
# How a relation is read from the right.
_TURNED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def same(gold: Node, answer: Node) -> bool:
    """Whether two trees mean the same; raises Undecided."""
    gold, answer = unwrap_sets(gold, answer)
    if gold == answer:
        return True
    for rule in _RULES:
        verdict = rule(gold, answer)
        if verdict is not None:
            return verdict
    return is_same_scalar(gold, answer)


# Lists, sets and plus-minus.


def _compare_several(gold: Node, answer: Node) -> bool | None:
    """Compare lists, sets and plus-minus: the same elements in any order; several for one is wrong."""
    if _are_regions(gold, answer):
        return None
    if _are_alternatives_and_sum(gold, answer):
        return False
    gold, answer = name_coordinates(gold, answer)
    gold_items = split_items(gold)
    answer_items = split_items(answer)
    if gold_items is None and answer_items is None:
        return None
    # An ordered tuple is no set, but it may name its coordinates.
    if "group" in (gold.kind, answer.kind):
        coordinates = read_coordinates(gold)
        return len(coordinates) > 1 and _match_in_order(coordinates, read_coordinates(answer))
    return _match_items(gold_items or [gold], answer_items or [answer], answer)


def _are_alternatives_and_sum(gold: Node, answer: Node) -> bool:
    """Whether one side joins words or letters by `and`, the other by `or`; numbers are solutions in either way."""
    if gold.kind != "list" or answer.kind != "list" or {gold.name, answer.name} != {"and", "or"}:
        return False
    return all(part.kind == "symbol" or read_words(part) for part in (*gold.parts, *answer.parts))


def _are_regions(gold: Node, answer: Node) -> bool:
    """Whether both are sets of numbers, of which one at least is made of others."""
    if is_region(gold) and is_region(answer):
        return True
    return {gold.kind, answer.kind} == {"set", "setop"}


def _match_items(wanted: list[Node], given: list[Node], answer: Node) -> bool:
    """Whether two lists have the same elements, once names before them are dealt with."""
    if max(len(wanted), len(given)) > MAX_ITEMS:
        return False
    solutions = _match_solutions(wanted, given)
    if solutions is not None:
        return solutions
    # An answer may repeat itself, but not without end: every pair of its elements is compared.
    if len(given) > 2 * len(wanted) + 2:
        return False
    wanted_names = find_names(wanted)
    given_names = find_names(given)
    if wanted_names and given_names:
        if len(wanted_names) == 1 and wanted_names == given_names:
            return _match_in_any_order(drop_names(wanted), drop_names(given))
        return _match_in_any_order(wanted, given)
    if max(len(wanted_names), len(given_names)) > 1:
        # x = 1, y = 2 as written, an answer's in the order of names
        coordinates = read_coordinates(answer)
        return _match_in_order(drop_names(wanted), coordinates or given)
    return _match_in_any_order(drop_names(wanted), drop_names(given))


def _match_solutions(wanted: list[Node], given: list[Node]) -> bool | None:
    """Compare the solutions of a system, of which one side at least names the unknowns each time; else None."""
    wanted_solutions = group_solutions(wanted)
    given_solutions = group_solutions(given)
    if wanted_solutions is None and given_solutions is None:
        return None
    if wanted_solutions and given_solutions and wanted_solutions.names != given_solutions.names:
        return False
    wanted_tuples = wanted_solutions.tuples if wanted_solutions else drop_names(wanted)
    given_tuples = given_solutions.tuples if given_solutions else drop_names(given)
    return _match_in_any_order(wanted_tuples, given_tuples)


def _match_in_order(wanted: Sequence[Node], given: Sequence[Node]) -> bool:
    if len(wanted) != len(given):
        return False
    return all(same(one, other) for one, other in zip(wanted, given, strict=True))


def _match_in_any_order(wanted: Sequence[Node], given: Sequence[Node]) -> bool:
    """Whether two lists have the same elements, repeats aside."""
    wanted = _drop_repeats(wanted)
    given = _drop_repeats(given)
    if len(wanted) != len(given):
        return False
    remaining = list(given)
    for item in wanted:
        index = _find_same(item, remaining)
        if index is None:
            return False
        del remaining[index]
    return True


def _find_same(item: Node, others: Sequence[Node]) -> int | None:
    """Return the index of the first that is the same, None where none is."""
    for index, other in enumerate(others):
        if same(item, other):
            return index
    return None


def _drop_repeats(items: Sequence[Node]) -> list[Node]:
    """Return the items without those that say an earlier one again."""
    distinct: list[Node] = []
    for item in items:
        if not any(_is_repeat(item, other) for other in distinct):
            distinct.append(item)
    return distinct


def _is_repeat(item: Node, other: Node) -> bool:
    """Whether two elements of one list are the same thing said twice: in either order, with the
    same unit.
    """
    if item == other:
        return True
    _, item_units = split_units(item)
    _, other_units = split_units(other)
    if item_units != other_units:
        return False
    if contains(item, "percent") != contains(other, "percent"):
        return False
    return same(item, other) and same(other, item)


# Residues.


def _compare_residues(gold: Node, answer: Node) -> bool | None:
    r"""Compare `3 \pmod 5` and `x \equiv 3 \pmod 5` with each other or with the residue; None without a modulus."""
    if gold.kind == "modulo" and answer.kind == "modulo":
        return _is_same_residue(gold, answer)
    if gold.kind == "modulo":
        _, residue = _split_congruence(gold)
        return same(residue, answer)
    if answer.kind != "modulo":
        return None
    others, residue = _split_congruence(answer)
    if not same(gold, residue):
        return False
    return all(is_name(other) or _is_congruent(other, residue, answer.parts[1]) for other in others)


def _is_same_residue(gold: Node, answer: Node) -> bool:
    modulus = gold.parts[1]
    if not same(modulus, answer.parts[1]):
        return False
    gold_others, gold_residue = _split_congruence(gold)
    answer_others, answer_residue = _split_congruence(answer)
    if len(gold_others) == len(answer_others) and not _match_sides(gold_others, answer_others):
        return False
    return same(gold_residue, answer_residue) or _is_congruent(
        gold_residue, answer_residue, modulus
    )


def _split_congruence(node: Node) -> tuple[tuple[Node, ...], Node]:
    r"""Return what stands before the last `\equiv`, and the residue."""
    inner = node.parts[0]
    if inner.kind != "relation" or not set(inner.name.split()) <= {"~", "="}:
        return (), inner
    return inner.parts[:-1], inner.parts[-1]


def _is_congruent(left: Node, right: Node, modulus: Node) -> bool:
    """Whether two whole numbers differ by a multiple of the modulus."""
    values = [evaluate_exactly(node) for node in (left, right, modulus)]
    numbers = [value for value in values if value is not None and value.denominator == 1]
    if len(numbers) < 3 or numbers[2] == 0:
        return False
    return (numbers[0] - numbers[1]) % numbers[2] == 0


# Equations, inequalities and chains of them.


def _compare_relations(gold: Node, answer: Node) -> bool | None:
    """Compare equations and inequalities with each other, or with a value; None for anything else."""
    if gold.kind == "relation" and answer.kind == "relation":
        if gold.name == "~" and is_named(answer):
            return _match_named(gold, answer)
        return _match_relation(gold, answer) or _have_same_exact_value(gold, answer)
    if answer.kind == "relation":
        return _match_chain(gold, answer)
    if gold.kind == "relation":
        return _match_labelled(gold, answer)
    return None


def _match_labelled(gold: Node, answer: Node) -> bool:
    """Whether the answer is the value of a gold with a label: `x=5`."""
    if gold.name.endswith("~"):
        exact = _drop_rounding(gold)
        return exact is not None and same(exact, answer)
    operators = set(gold.name.split())
    label, *between, value = gold.parts
    if gold.name == "=" and is_label(value) and not is_label(label):
        return same(label, answer)  # the value stands first
    if not operators <= {"=", "in"} or not is_label(label):
        return False
    return same(value, answer) and all(same(value, part) for part in between)


def _match_chain(gold: Node, answer: Node) -> bool:
    """Whether every side of `m + n = 2 + 3 = 5` that has a value is the gold."""
    if answer.name == "in":
        return is_name(answer.parts[0]) and same(gold, answer.parts[1])
    *operators, last = answer.name.split()
    if last == "~" and set(operators) <= {"="}:
        return _match_rounded(gold, answer)
    if {*operators, last} != {"="}:
        return False
    return _match_sides_of_chain(gold, answer.parts)


def _match_sides_of_chain(gold: Node, sides: Sequence[Node]) -> bool:
    """Whether all sides of a chain that have a value are the gold."""
    if _names_value(gold, sides[0]):
        sides = sides[1:]
    if len(sides) == 2 and _is_named_last(gold, sides[1]):
        sides = sides[:1]
    return all(same(gold, expand_determinant(side) or side) for side in sides)


def _match_named(gold: Node, answer: Node) -> bool:
    r"""Whether the answer gives the same name the value that a gold rounds: `m = 6.2` for `m \approx 6.2`."""
    name, value = answer.parts
    rounded = _drop_rounding(gold)
    if rounded is None or name != gold.parts[0]:
        return False
    return same(rounded, value)


def _names_value(gold: Node, side: Node) -> bool:
    """Whether a side names the value that follows it; an expression in letters names numbers only."""
    if is_name(side):
        return True
    if find_symbols(gold) or evaluate_exactly(side) is not None:
        return False
    return is_quantity(side)


def _is_named_last(gold: Node, side: Node) -> bool:
    """Whether the last side names the value before it: `6 = t`."""
    if side.kind == "symbol":
        return not is_name(gold)
    return is_measure(side) and evaluate_exactly(side) is None


def _match_rounded(gold: Node, answer: Node) -> bool:
    r"""Whether the answer is `\sqrt{51} \approx 7.14`, a root and about how much it is, or `x \approx 5`."""
    *sides, rounded = answer.parts
    if len(sides) > 1 and _names_value(gold, sides[0]):
        sides = sides[1:]
    left = sides[-1]
    if len(sides) == 1 and is_name(left):
        return not is_name(gold) and same(gold, rounded)
    if not _is_rounding(left, rounded):
        return False
    if is_decimal(gold) and same(gold, rounded):
        return True
    return all(same(gold, side) for side in sides)


def _have_same_exact_value(gold: Node, answer: Node) -> bool:
    r"""Whether both round the same exact value to other places: `\sqrt7 \approx 2.646`, `\sqrt7 \approx 2.65`."""
    if not gold.name.endswith("~") or not answer.name.endswith("~"):
        return False
    # Behind a name alone the rounding is all that is said.
    if len(gold.parts) == 2 and is_name(gold.parts[0]):
        return False
    wanted = _drop_rounding(gold)
    given = _drop_rounding(answer)
    return wanted is not None and given is not None and same(wanted, given)


def _drop_rounding(gold: Node) -> Node | None:
    r"""Return the value of a gold with its rounding: of `\frac13 \approx 0.33` the first, of `m \approx 6.2` the last.

    None where it is no rounding, or where a name is about a whole number.
    """
    *sides, rounded = gold.parts
    if not is_decimal(rounded):
        return None
    if len(sides) == 1 and is_name(sides[0]):
        return rounded
    if not _is_rounding(sides[-1], rounded):
        return None
    if len(sides) == 1:
        return sides[0]
    operators = gold.name.removesuffix(" ~")
    return Node("relation", tuple(sides), operators)


def _is_rounding(value: Node, rounded: Node) -> bool:
    """Whether a number is about as much as what it follows, in the same unit."""
    exact, units = split_units(value)
    decimal, decimal_units = split_units(rounded)
    if exact is None or decimal is None or find_symbols(exact):
        return False
    if decimal_units not in (units, ()):
        return False
    return is_about(exact, decimal)


def _match_relation(gold: Node, answer: Node) -> bool:
    """Whether two relations say the same: side by side, as a chain, or as multiples of each other."""
    if gold.name == answer.name and len(gold.parts) == len(answer.parts):
        verdict = _compare_sides(gold, answer)
        if verdict is not None:
            return verdict
    if is_named(gold) and len(answer.parts) > 2 and answer.parts[0] == gold.parts[0]:
        return _match_chain(gold.parts[1], answer)
    if len(gold.parts) == len(answer.parts) == 2:
        return _is_equivalent(gold, answer)
    return False


def _compare_sides(gold: Node, answer: Node) -> bool | None:
    """Compare two relations side by side, an equation in either direction; None where that does
    not decide.
    """
    if _match_sides(gold.parts, answer.parts):
        return True
    if gold.name != "=":
        return None
    if _match_sides(gold.parts, answer.parts[::-1]):
        return True
    # After the same name the values decide, and no multiple of the whole equation.
    if is_name(gold.parts[0]) and gold.parts[0] == answer.parts[0]:
        return same(gold.parts[1], answer.parts[1])
    return None


def _match_sides(wanted: Sequence[Node], given: Sequence[Node]) -> bool:
    """Whether all sides are the same; one that cannot be decided is not."""
    for one, other in zip(wanted, given, strict=True):
        try:
            if not same(one, other):
                return False
        except Undecided:
            return False
    return True


def _is_equivalent(gold: Node, answer: Node) -> bool:
    """Whether the two differences are the same up to a factor, which must be positive for an
    inequality.
    """
    if gold.name not in _TURNED or answer.name not in (gold.name, _TURNED[gold.name]):
        return False
    gold_difference = _subtract_sides(gold)
    answer_difference = _subtract_sides(answer)
    if answer.name != gold.name:
        answer_difference = Node("neg", (answer_difference,))
    names = find_symbols(gold) | find_symbols(answer)
    if len(names) < 2 and gold.name == "=":
        return False  # an equation in one variable is not its solution
    ratio = find_constant_ratio(Node("div", (gold_difference, answer_difference)))
    if ratio is None:
        return False
    return ratio > 0 or gold.name in ("=", "!=")


def _subtract_sides(relation: Node) -> Node:
    """Return the left side less the right one."""
    left, right = relation.parts
    return Node("add", (left, Node("neg", (right,))))


# Tuples and matrices.


def _compare_ordered(gold: Node, answer: Node) -> bool | None:
    """Compare tuples, intervals, vectors, matrices and ratios: the same brackets, and element by
    element.
    """
    if gold.kind not in _ORDERED_KINDS and answer.kind not in _ORDERED_KINDS:
        return None
    if gold.kind != answer.kind or gold.name != answer.name:
        return False
    return _match_in_order(gold.parts, answer.parts)


_RULES = (
    _compare_residues,
    compare_words,
    _compare_several,
    compare_regions,
    _compare_relations,
    _compare_ordered,
    compare_special,
)
