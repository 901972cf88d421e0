r"""Exact reading of written numbers: `1,234.5`, `3/4`, `-\frac{3}{4}`, `4\frac{2}{3}`, `28\%`, `1.2e-3`, `18 cm`.

Everything is a Fraction, nothing is rounded, and lengths are bounded before any arithmetic, so no input is slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 400
MAX_EXPONENT = 1000

# One spelling per unit; single letters are left out because they are variables as often as units.
_UNITS = {
    "dollar": "dollars usd", "cent": "cents", "euro": "euros", "cm": "centimeter centimeters centimetre centimetres",
    "mm": "millimeter millimeters", "km": "kilometer kilometers kilometre kilometres",
    "meter": "meters metre metres", "inch": "inches", "foot": "feet ft", "yard": "yards", "mile": "miles",
    "kg": "kilogram kilograms", "gram": "grams", "pound": "pounds lbs", "liter": "liters litre litres",
    "second": "seconds", "minute": "minutes", "hour": "hours", "day": "days", "week": "weeks",
    "month": "months", "year": "years", "degree": r"degrees ° ^\circ ^{\circ} \degree", "unit": "units",
    "mph": "mph",
}  # fmt: skip
_SPELLINGS = {spelling: unit for unit, more in _UNITS.items() for spelling in (unit, *more.split())}

_TRANSLATE = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*"})  # noqa: RUF001 - these are the signs meant
_PLAIN = r"(?:[0-9]{1,3}(?:[, ][0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_PLAIN}(?:\.[0-9]*)?|\.[0-9]+)"
_FRAC = r"\\[dt]?frac *(?:\{ *(?P<top>-?[0-9.]+) *\} *\{ *(?P<under>[0-9.]+) *\}|(?P<top1>[0-9]) *(?P<under1>[0-9]))"
_TIMES_TEN = r"(?:\*|\\times|\\cdot) *10 *\^ *"
_POWER = rf"(?:[eE](?P<e>[-+]?[0-9]{{1,5}})|{_TIMES_TEN}(?:\{{ *(?P<p>[-+]?[0-9]{{1,5}}) *\}}|(?P<p1>[0-9])))"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?) *(?:(?P<whole>[0-9]+)? *{_FRAC}"
    rf"|(?P<mixed>[0-9]+) +(?P<mtop>[0-9]+) */ *(?P<munder>[0-9]+)"
    rf"|(?P<over>{_DECIMAL}) */ *(?P<below>{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL}) *{_POWER}?)(?P<rest>.*)",
    re.DOTALL,
)
_WRAPPED = re.compile(r"\\(?:text|mathrm|mbox|textrm|operatorname) *\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit; the value of `28%` is 7/25 and its unit `%`."""

    value: Fraction
    unit: str = ""


def read_number(text: str) -> Fraction | None:
    """The number that the text is, or None.   read_number("1,234.50") -> Fraction(2469, 2)"""
    quantity = read_quantity(text)
    return quantity.value if quantity else None


def read_quantity(text: str) -> Quantity | None:
    r"""The number and unit that the text is, or None where anything else is in it.

    >>> read_quantity(r"$18 \text{ dollars}$")
    Quantity(value=Fraction(18, 1), unit='dollar')
    """
    if len(text) > MAX_DIGITS + 100:
        return None
    match = _NUMBER.fullmatch(_simplify(text))
    if not match:
        return None
    value, unit = _value(match), _unit(match["rest"])
    if value is None or unit is None:
        return None
    value = -value if match["sign"] == "-" else value
    return Quantity(value / 100 if unit == "%" else value, unit)


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Exact equality; a missing unit is fine, another unit is not, and only a gold in percent may lose its sign.

    >>> same_quantity(Quantity(Fraction(28, 100), "%"), Quantity(Fraction(28)))
    True
    """
    if "%" in (gold.unit, answer.unit):
        bare_percent = gold.unit == "%" and not answer.unit and answer.value == gold.value * 100
        return bare_percent or gold.value == answer.value
    return gold.value == answer.value and (gold.unit == answer.unit or not (gold.unit and answer.unit))


def _simplify(text: str) -> str:
    """Without math delimiters, currency signs, thin spaces and the full stop at the end."""
    text = _WRAPPED.sub(r" \1 ", text.translate(_TRANSLATE))
    for old, new in ((r"\$", ""), ("$", ""), (r"\(", ""), (r"\)", ""), (r"\!", ""), ("{,}", ","), (r"\,", " ")):
        text = text.replace(old, new)
    return " ".join(text.split()).removesuffix(".").strip()


def _value(match: re.Match[str]) -> Fraction | None:
    part = match.groupdict()
    if part["top"] or part["top1"]:
        fraction = _ratio(part["top"] or part["top1"], part["under"] or part["under1"])
        if fraction is None or (part["whole"] and not 0 <= fraction < 1):
            return None
        return fraction + int(part["whole"] or 0)
    if part["mixed"]:
        fraction = _ratio(part["mtop"], part["munder"])
        return None if fraction is None or fraction >= 1 else fraction + int(part["mixed"])
    if part["over"]:
        return _ratio(part["over"], part["below"])
    power = int(part["e"] or part["p"] or part["p1"] or 0)
    value = _fraction(part["decimal"])
    return None if value is None or abs(power) > MAX_EXPONENT else value * Fraction(10) ** power


def _ratio(top: str, under: str) -> Fraction | None:
    over, below = _fraction(top), _fraction(under)
    return over / below if over is not None and below else None


def _fraction(text: str) -> Fraction | None:
    digits = text.replace(",", "").replace(" ", "")
    well_formed = digits.count(".") <= 1 and digits.strip("-.") and len(digits) <= MAX_DIGITS
    return Fraction(f"{digits}0" if "." in digits else digits) if well_formed else None


def _unit(rest: str) -> str | None:
    """The unit that the rest of the text names, "" for none, None where the rest is anything else."""
    rest = rest.strip().removeprefix("\\ ").strip()
    if rest in ("%", "\\%", "percent"):
        return "%"
    base, power, exponent = rest.rstrip("}").replace("^{", "^").partition("^")
    if power and exponent in ("2", "3"):
        unit = _SPELLINGS.get(base.strip().lower())
        return f"{unit}^{exponent}" if unit else None
    return _SPELLINGS.get(rest.lower()) if rest else ""
