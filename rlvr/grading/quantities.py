r"""Times of day, money and ohms in one spelling, before a text is read as tokens.

`5 PM`, `5\text{ p.m.}`, `US\$18`, `EUR 18`, `6\,\mathrm{k}\Omega`
"""

from __future__ import annotations

import re

from rlvr.grading.notation import CURRENCY_CODES

# A colon that braces or text type keep from being a relation.
_COLON = re.compile(r"(?:\\(?:text|mathrm|mathbin) *)?\{ *: *\}")

_SPACE = r"(?:\\[ ,;:!]|[ ~])*"

# A clock has hours up to twelve, so that `15am` stays a product.
_CLOCK = re.compile(
    rf"(?P<number>(?<![0-9.,^_])(?<![_^]\{{)(?:1[0-2]|0?[1-9])|:(?:\\!| )*[0-5][0-9]){_SPACE}"
    r"(?P<half>[aApP])(?:[mM]|\. ?[mM]\.?)(?![A-Za-z^_0-9(])(?= *(?:$|[,;}\]]|\\(?:text|q?quad|,)|and|or|to))"
)
_STYLED_CLOCK = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|normal)?|math(?:rm|bf|sf)|mbox|rm) *"
    r"\{[ ~]*(?P<half>[aApP])\.? ?[mM]\.? *\}"
)
_HALVES = {"a": "antemeridiem", "p": "postmeridiem"}

# An ohm is set apart from its number, has a prefix, or stands in upright type; any other omega is a variable.
_OHM = re.compile(
    r"\\(?:text|textrm|mathrm|mathsf|rm) *\{[ ~]*(?P<styled>[kMm]?)[ ~]*(?:\}(?:\\[ ,;:!]|[ ~])*\\Omega|\\Omega *\})"
    r"(?![A-Za-z_^'(])"
    r"|(?<=[0-9}])(?:\\[ ,;:!]|~)[ ~]*(?P<bare>[kM]?) *\\Omega(?![A-Za-z_^'(])"
)

# A prefix in Greek before a unit, in one type with it or not; glued to a number and its letter it is a variable.
_MICRO = re.compile(
    r"\\(?:text|textrm|mathrm|mathsf|rm) *\{[ ~]*\\mu[ ~]*(?P<styled>[A-Za-z]{1,3})[ ~]*(?=\}|/|\^|\\)"
    r"|\\mu[ ~]*\\(?:text|textrm|mathrm|mathsf|rm) *\{[ ~]*(?P<behind>[A-Za-z]{1,3})[ ~]*(?=\}|/|\^|\\)"
    r"|(?<=[0-9}])(?:\\[ ,;:!]|[ ~])+\\mu[ ~]*(?P<bare>[mgsLAVWFHCNJTM]|mol)(?![A-Za-z_'(^])"
)
_O_CLOCK = re.compile(r"(?<=[0-9])(?:\\[ ,;:!]|[ ~])*(?:\\text *\{ *o'clock *\}|o'clock)")

# What stands before a dollar sign says whose dollars they are.
_DOLLARS = re.compile(r"(?<![A-Za-z])(?P<country>US|AU|A|CA|C|HK|NZ|SG|S) ?¤")
_COUNTRIES = {
    "US": "USD",
    "AU": "AUD",
    "A": "AUD",
    "CA": "CAD",
    "C": "CAD",
    "HK": "HKD",
    "NZ": "NZD",
    "SG": "SGD",
    "S": "SGD",
}
_LONE_DOLLAR = re.compile(r"(?P<country>(?:US)?) *\$ ?(?P<amount>-?[0-9][0-9.,]*)")
_CODE_FIRST = re.compile(rf"^(?P<code>{'|'.join(CURRENCY_CODES)}){_SPACE}(?=[-0-9.\\])")
_CODE_LAST = re.compile(rf"(?<=[0-9])(?P<code>{'|'.join(CURRENCY_CODES)})$")


def mark_dollars(text: str) -> str:
    r"""Return a text whose one dollar sign before a number is money and no delimiter.   US$18 -> \$18"""
    lone = _LONE_DOLLAR.fullmatch(text.strip())
    if lone is None:
        return text
    return f"\\${lone['amount']}"


def spell_quantities(text: str) -> str:
    r"""Return a text with one spelling of times of day, currencies and ohms.

    >>> spell_quantities("4:40 a.m."), spell_quantities(r"6\,\Omega"), spell_quantities("EUR 18")
    ('4:40 antemeridiem', '6\\text{ ohm}', '\\text{EUR} 18')
    """
    if ":" in text:
        text = _COLON.sub(":", text)
    if "m" in text or "M" in text:
        text = _CLOCK.sub(_spell_clock, text)
        text = _STYLED_CLOCK.sub(_spell_half, text)
    if "o'clock" in text:
        text = _O_CLOCK.sub("", text)
    if "\\mu" in text:
        text = _MICRO.sub(_spell_micro, text)
    if "\\Omega" in text:
        text = _OHM.sub(_spell_ohm, text)
    if "¤" in text:
        text = _DOLLARS.sub(_spell_dollars, text)
    if text[:1].isupper():
        text = _CODE_FIRST.sub(r"\\text{\g<code>} ", text)
    if text[-1:].isupper():
        text = _CODE_LAST.sub(r" \g<code>", text)
    return text


def _spell_clock(clock: re.Match[str]) -> str:
    return f"{clock['number']} {_HALVES[clock['half'].lower()]}"


def _spell_half(half: re.Match[str]) -> str:
    return f"\\text{{{_HALVES[half['half'].lower()]}}}"


def _spell_ohm(ohm: re.Match[str]) -> str:
    prefix = ohm["styled"] or ohm["bare"] or ""
    return f"\\text{{ {prefix}ohm}}"


def _spell_micro(micro: re.Match[str]) -> str:
    if micro["bare"]:
        return f"\\text{{ micro{micro['bare']}}}"
    return f"\\text{{micro{micro['styled'] or micro['behind']}"


def _spell_dollars(dollars: re.Match[str]) -> str:
    code = _COUNTRIES[dollars["country"]]
    if code == "USD":
        return "¤"
    return f"\\text{{{code}}}"
