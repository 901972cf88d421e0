r"""Units of measure behind a number: `15\text{ cm}^2`, `36 \frac{\text{km}}{\text{h}}`, `18 eggs`, `5 square feet`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from rlvr.grading.exact import evaluate_exactly
from rlvr.grading.notation import (
    IDEOGRAPHS,
    NEVER_COUNTED,
    NEVER_IDEOGRAPHS,
    NEVER_UNITS,
    UNIT_SPELLINGS,
)
from rlvr.grading.parser import parse
from rlvr.grading.tree import Node

Units = tuple[tuple[str, Fraction], ...]
"""The power of each unit, sorted by name. A word that is no known unit has a `?` before it."""

# What the words of a unit expression may look like, and a plain plural among them.
_PLAIN = re.compile(r"/?[A-Za-z°%](?:[A-Za-z°%/ .·*]|\^-?[0-9])*")
_IDEOGRAPHIC = re.compile(rf"[{IDEOGRAPHS}]+")
_NOUN = re.compile(r"[A-Za-z][a-z'-]+(?: [a-z][a-z'-]+){0,2}")
_PLURAL = re.compile(r"\?[a-z]{2,}(?<!th)(?<!s)s")

_DIMENSIONS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3}
_MAX_POWER = 4
_ONE = Fraction(1)

# `J/(kg K)`, and a power in braces.
_DENOMINATOR = re.compile(r"/ ?\(([^()/]*)\) ?$")
_BRACED_EXPONENT = re.compile(r"\^\{(-?[0-9])\}")


def split_units(node: Node) -> tuple[Node | None, Units]:
    r"""Return the number without its unit, and the unit; None for the number where the words say more than a unit.

    >>> from rlvr.grading.parser import parse
    >>> split_units(parse(r"15\text{ cm}^2"))[1]
    (('cm', Fraction(2, 1)),)
    """
    numbers: list[Node] = []
    texts: list[Node] = []
    for factor in _list_factors(node):
        if _is_only_text(factor):
            texts.append(factor)
        else:
            numbers.append(factor)
    if not texts:
        return node, ()
    if not numbers:
        return None, ()
    powers: defaultdict[str, Fraction] = defaultdict(Fraction)
    for text in texts:
        if not _add_powers(text, Fraction(1), powers):
            return None, ()
    number = _multiply(numbers)
    # A percent sign is no unit: it changes the number.
    if powers.pop("percent", None):
        number = Node("percent", (number,))
    return number, _sort_units(powers)


def _sort_units(powers: dict[str, Fraction]) -> Units:
    units: list[tuple[str, Fraction]] = []
    for unit in sorted(powers):
        if powers[unit]:
            units.append((unit, powers[unit]))
    return tuple(units)


def _multiply(factors: Sequence[Node]) -> Node:
    product = factors[0]
    for factor in factors[1:]:
        product = Node("mul", (product, factor))
    return product


def has_plain_words(text: str) -> bool:
    """Whether words only name something, and deny or change nothing."""
    if not text.isascii() and any(word in text for word in NEVER_IDEOGRAPHS):
        return False
    return not any(word.lower() in NEVER_UNITS for word in re.split(r"[^A-Za-z]+", text))


def is_optional(units: Units) -> bool:
    """Whether it is a known unit, or one plain plural such as `eggs`: what may stand where the gold names nothing."""
    unknown = [unit for unit in units if unit[0].startswith("?")]
    if not unknown:
        return True
    if len(units) > 1:
        return False
    name, power = unknown[0]
    if name[1:] in NEVER_COUNTED:
        return False
    return power == 1 and _PLURAL.fullmatch(name) is not None


def drop_counted_noun(node: Node) -> Node | None:
    """Return the number of `12 red apples`; None where no words follow it, or words that may change what it says."""
    number, *words = _list_factors(node)
    if not words or _is_only_text(number):
        return None
    if any(word.kind != "text" for word in words):
        return None
    noun = " ".join(word.name.strip("() .,;") for word in words)
    if not _NOUN.fullmatch(noun) and not _IDEOGRAPHIC.fullmatch(noun):
        return None
    return None if _may_change_number(noun) else number


def _may_change_number(noun: str) -> bool:
    """Whether words do more than to say what was counted: of one with a hyphen the last part, as in `one-thirds`."""
    kinds = [word.rpartition("-")[2] for word in noun.lower().split()]
    return not has_plain_words(noun) or not NEVER_COUNTED.isdisjoint(kinds)


def read_number(text: str) -> Fraction | None:
    r"""Return the number that a text is, without its unit.   read_number("1,234.50 dollars") -> Fraction(2469, 2)"""
    node = parse(text)
    if node is None:
        return None
    number, units = split_units(node)
    if number is None or not is_optional(units):
        return None
    return evaluate_exactly(number)


def _list_factors(node: Node) -> list[Node]:
    """Return the factors of a product; a sign belongs to the first, and a unit below a line is one of kind `per`."""
    if node.kind == "mul":
        factors: list[Node] = []
        for part in node.parts:
            factors += _list_factors(part)
        return factors
    if node.kind == "neg":
        return _negate_first_number(node, _list_factors(node.parts[0]))
    if node.kind == "div":
        top, bottom = node.parts
        if _is_only_text(bottom) and not _is_only_text(top):
            return [*_list_factors(top), Node("per", (bottom,))]
    return [node]


def _negate_first_number(minus: Node, factors: Sequence[Node]) -> list[Node]:
    r"""Return the factors with a minus before the first that is no unit: of `-\$18` before the number."""
    for place, factor in enumerate(factors):
        if not _is_only_text(factor):
            return [*factors[:place], replace(minus, parts=(factor,)), *factors[place + 1 :]]
    return [minus]


def read_letters_as_units(node: Node) -> Node:
    r"""Return an expression whose letters are units: `9.8\frac{m}{s^2}` as `9.8\frac{\text{m}}{\text{s}^2}`."""
    if node.kind == "symbol":
        return Node("text", (), node.name)
    if node.kind == "mul":
        return _multiply(_join_letters(_list_all_factors(node)))
    if node.kind in ("div", "neg", "group"):
        return replace(node, parts=tuple(read_letters_as_units(part) for part in node.parts))
    if node.kind == "pow":
        base, exponent = node.parts
        return replace(node, parts=(read_letters_as_units(base), exponent))
    return node


def _list_all_factors(node: Node) -> list[Node]:
    if node.kind != "mul":
        return [node]
    return [factor for part in node.parts for factor in _list_all_factors(part)]


def _join_letters(factors: Sequence[Node]) -> list[Node]:
    """Return the factors as units, of which letters side by side may spell one: `k` and `m` the kilometre."""
    joined: list[Node] = []
    for factor in factors:
        unit = read_letters_as_units(factor)
        last = joined[-1] if joined else None
        word = f"{last.name}{factor.name}" if last and last.kind == "text" else ""
        if factor.kind == "symbol" and word in UNIT_SPELLINGS:
            joined[-1] = Node("text", (), word)
        else:
            joined.append(unit)
    return joined


def _is_only_text(node: Node) -> bool:
    """Whether an expression is made of words alone, whatever their powers."""
    if node.kind == "text":
        return True
    if node.kind == "pow":
        return _is_only_text(node.parts[0])
    if node.kind not in ("mul", "div", "group", "per") or not node.parts:
        return False
    return all(_is_only_text(part) for part in node.parts)


def _add_powers(node: Node, power: Fraction, powers: defaultdict[str, Fraction]) -> bool:
    """Add the powers of a unit expression, and tell whether it is one."""
    match node.kind:
        case "text":
            return _add_powers_of_words(node.name, power, powers)
        case "pow":
            return _add_raised(node, power, powers)
        case "per":
            return _add_powers(node.parts[0], -power, powers)
        case "div":
            top, bottom = node.parts
            return _add_powers(top, power, powers) and _add_powers(bottom, -power, powers)
        case _:
            return all(_add_powers(part, power, powers) for part in node.parts)


def _add_raised(node: Node, power: Fraction, powers: defaultdict[str, Fraction]) -> bool:
    """Add what an exponent raises: behind words it is written on the last of them, m/s² and not (m/s)²."""
    base, raised = node.parts
    exponent = _read_exponent(raised)
    if exponent is None:
        return False
    if base.kind == "text":
        return _add_powers_of_words(base.name, power, powers, exponent)
    return _add_powers(base, power * exponent, powers)


def _read_exponent(node: Node) -> Fraction | None:
    """Return the power of a unit, None where it is no small number."""
    if node.kind == "neg":
        inner = _read_exponent(node.parts[0])
        return None if inner is None else -inner
    if node.kind != "number" or node.value is None or node.value > _MAX_POWER:
        return None
    return node.value


def _add_powers_of_words(
    text: str, power: Fraction, powers: defaultdict[str, Fraction], last: Fraction = _ONE
) -> bool:
    """Add the powers of `square centimeters`, `m/s^2`, `miles per hour`, or any plain words; tell whether they are."""
    words = _DENOMINATOR.sub(r"/\1", text).strip("() ").rstrip(".,;")
    words = words.replace("\\cdot", "·")
    words = _BRACED_EXPONENT.sub(r"^\1", words)
    if _IDEOGRAPHIC.fullmatch(words):
        powers[UNIT_SPELLINGS.get(words, f"?{words}")] += power * last
        return has_plain_words(words)
    if not _PLAIN.fullmatch(words) or not has_plain_words(words):
        return False
    words = words.replace("mph", "mile/h").replace(" per ", "/").replace(" ^", "^")
    top, *bottoms = words.split("/")
    factors = _read_words(top)
    for bottom in bottoms:  # all that follows the first slash divides
        factors += _read_words(bottom, sign=-1)
    raised = len(factors) - 1
    for place, (word, exponent) in enumerate(factors):
        scale = last if place == raised else _ONE
        powers[_name_unit(word)] += exponent * power * scale
    return True


def _name_unit(word: str) -> str:
    """Return the one name of a unit; case counts only in short ones, as in `mW` and `MW`."""
    if word in UNIT_SPELLINGS:
        return UNIT_SPELLINGS[word]
    if len(word) > 3:
        word = word.lower()
    return UNIT_SPELLINGS.get(word, f"?{word}")


def _read_words(text: str, sign: int = 1) -> list[tuple[str, Fraction]]:
    """Return each word of a product of units with its exponent: `square m`, `m^2`."""
    words: list[tuple[str, Fraction]] = []
    dimension = 1
    for word in re.split(r"[\s·*]+", text.strip()):
        if word.lower() in _DIMENSIONS:
            dimension = _DIMENSIONS[word.lower()]
            continue
        base, _, exponent = word.partition("^")
        if not base:
            continue
        power = dimension * int(exponent) if exponent else dimension
        words.append((base.rstrip("."), Fraction(sign * power)))
        dimension = 1
    return words
