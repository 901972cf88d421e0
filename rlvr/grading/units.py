r"""Units of measure behind a number: `15\text{ cm}^2`, `36 \frac{\text{km}}{\text{h}}`, `18 eggs`, `5 square feet`."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from rlvr.grading.lexer import NOTATION, UNIT_SPELLINGS
from rlvr.grading.parser import MINUS_ONE, Node, parse
from rlvr.grading.values import exact

Units = tuple[tuple[str, Fraction], ...]


_MEANING = frozenset(NOTATION["never_units"].split())  # words that change what a number says


_PLAIN = re.compile(r"[A-Za-z°%](?:[A-Za-z°%/ .·*]|\^-?[0-9])*")


_NONE = frozenset({"?am", "?pm", "?AM", "?PM", "?a.m", "?p.m"})


def named_units(node: Node) -> tuple[Node | None, Units]:
    r"""The number without its unit, and the unit; None for the number where the words say more than
    a unit.

    >>> from rlvr.grading.parser import parse
    >>> named_units(parse(r"15\text{ cm}^2"))[1]
    (('cm', Fraction(2, 1)),)
    """
    factors = _factors(node)
    texts = [factor for factor in factors if _only_text(factor)]
    if not texts or len(texts) == len(factors):
        return (node if not texts else None), ()
    units: dict[str, Fraction] = {}
    for text in texts:
        if not _collect(text, Fraction(1), units):
            return None, ()
    rest = [factor for factor in factors if not _only_text(factor)]
    number = rest[0]
    for factor in rest[1:]:
        number = Node("mul", (number, factor))
    if units.pop("percent", None):
        number = Node("percent", (number,))
    return number, tuple(
        sorted((unit, power) for unit, power in units.items() if power and unit not in _NONE)
    )


def plain_words(text: str) -> bool:
    """Whether words only name something, and deny or change nothing."""
    return not any(word.lower() in _MEANING for word in re.split(r"[^A-Za-z]+", text))


def things(units: Units) -> bool:
    """Whether it is a known unit, or one plain plural such as `eggs`: what may stand where the gold
    names nothing.
    """
    unknown = [(unit, power) for unit, power in units if unit.startswith("?")]
    return not unknown or (
        len(units) == 1 and unknown[0][1] == 1 and _PLURAL.fullmatch(unknown[0][0]) is not None
    )


_PLURAL = re.compile(r"\?[a-z]{2,}(?<!th)(?<!s)s")


def read_number(text: str) -> Fraction | None:
    r"""The number that a text is, without its unit.   read_number("1,234.50 dollars") -> Fraction(2469, 2)"""
    node = parse(text)
    number, units = named_units(node) if node else (None, ())
    return exact(number) if number and things(units) else None


def _factors(node: Node) -> list[Node]:
    if node.kind == "mul":
        return [factor for part in node.parts for factor in _factors(part)]
    if node.kind == "neg":
        first, *rest = _factors(node.parts[0])
        return [replace(node, parts=(first,)), *rest]
    if node.kind == "div" and _only_text(node.parts[1]) and not _only_text(node.parts[0]):
        return [*_factors(node.parts[0]), Node("pow", (node.parts[1], MINUS_ONE))]
    return [node]


def _only_text(node: Node) -> bool:
    if node.kind == "text":
        return True
    if node.kind == "pow":
        return _only_text(node.parts[0])
    return (
        node.kind in ("mul", "div", "group")
        and bool(node.parts)
        and all(_only_text(part) for part in node.parts)
    )


def _collect(node: Node, power: Fraction, units: dict[str, Fraction]) -> bool:
    """Add the powers of a unit expression; False where it is not one."""
    if node.kind == "text":
        return _spelled(node.name, power, units)
    if node.kind == "pow":
        exponent = _small(node.parts[1])
        return exponent is not None and _collect(node.parts[0], power * exponent, units)
    if node.kind == "div":
        return _collect(node.parts[0], power, units) and _collect(node.parts[1], -power, units)
    return all(_collect(part, power, units) for part in node.parts)


def _small(node: Node) -> Fraction | None:
    if node.kind == "neg":
        inner = _small(node.parts[0])
        return -inner if inner is not None else None
    return (
        node.value if node.kind == "number" and node.value is not None and node.value <= 4 else None
    )


def _spelled(text: str, power: Fraction, units: dict[str, Fraction]) -> bool:
    """`square centimeters`, `m/s^2`, `miles per hour`, or any plain words."""
    words = text.strip("() ").rstrip(".,;")
    if not _PLAIN.fullmatch(words) or not plain_words(words):
        return False
    words = words.replace("mph", "mile/h").replace(" per ", "/")
    for place, side in enumerate(words.split("/")):
        for word, exponent in _unit_words(side):
            unit = UNIT_SPELLINGS.get(word) or (
                UNIT_SPELLINGS.get(word.lower()) if len(word) > 3 else None
            )
            unit = unit or f"?{word.lower() if len(word) > 3 else word}"
            units[unit] = units.get(unit, Fraction(0)) + exponent * power * (1 if not place else -1)
    return True


def _unit_words(text: str) -> list[tuple[str, Fraction]]:
    found: list[tuple[str, Fraction]] = []
    factor = Fraction(1)
    for word in re.split(r"[\s·*]+", text.strip()):
        if word.lower() in ("square", "sq", "sq.", "cubic", "cu"):
            factor = Fraction(2 if word.lower().startswith("s") else 3)
            continue
        base, _, exponent = word.partition("^")
        if base:
            found.append(
                (base.rstrip("."), factor * int(exponent) if exponent.isdigit() else factor)
            )
            factor = Fraction(1)
    return found
