"""The same characters written otherwise: full-width forms, mathematical alphabets, ligatures and CJK punctuation."""

from __future__ import annotations

import re
import unicodedata

from rlvr.grading.notation import CHARACTERS, PUNCTUATION_FORMS

# What a compatibility form may be: another width, another type, a ligature. Raised, lowered and circled
# digits and fractions are no such forms, since a plain digit in their place says something else.
_WIDTHS_AND_TYPES = ("<wide>", "<narrow>", "<small>", "<font>", "<noBreak>")
_LETTERS_ONLY = ("<compat>", "<square>")


# Raised and lowered characters become an exponent or an index.
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ"
_RAISED_RUN = re.compile(f"[{_RAISED}]+")
_LOWERED_RUN = re.compile(f"[{_LOWERED}]+")


class _Forms(dict[int, str]):
    """The plain spelling of each character, found when it is first met."""

    def __missing__(self, code: int) -> str:
        plain = _find_plain_form(chr(code))
        self[code] = plain
        return plain


class _Commands(dict[int, str]):
    """The command, or else the plain spelling, of each character of mathematics."""

    def __missing__(self, code: int) -> str:
        plain = CHARACTERS.get(code)
        if plain is None:
            plain = _FORMS[code].translate(CHARACTERS)
        self[code] = plain
        return plain


_FORMS = _Forms()
_COMMANDS = _Commands()


def unify_characters(text: str) -> str:
    """Return a text with one character for each that is only written otherwise.

    >>> unify_characters("\\uff58\\uff1e5\\uff1b"), unify_characters("x²")
    ('x>5;', 'x²')
    """
    if text.isascii():
        return text
    return text.translate(_FORMS)


def write_as_latex(text: str) -> str:
    r"""Return a text whose characters of mathematics are commands, exponents and indices.

    >>> write_as_latex("π≤a₁²")
    '\\pi \\leq a_1^2'
    """
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda run: _set_apart(run, "^"), text)
    text = _LOWERED_RUN.sub(lambda run: _set_apart(run, "_"), text)
    return text.translate(_COMMANDS)


def _set_apart(run: re.Match[str], sign: str) -> str:
    """Return raised or lowered characters as what stands above or below.   ⁻¹ -> ^{-1}"""
    plain = unicodedata.normalize("NFKC", run[0]).replace("\u2212", "-")
    follows = run.string[run.end() : run.end() + 1]
    # One character needs no braces, which groups of words could not hold.
    if len(plain) == 1 and not follows.isalnum():
        return f"{sign}{plain}"
    return f"{sign}{{{plain}}}"


def _find_plain_form(character: str) -> str:
    if character in PUNCTUATION_FORMS:
        return PUNCTUATION_FORMS[character]
    kind, _, _ = unicodedata.decomposition(character).partition(" ")
    plain = unicodedata.normalize("NFKC", character)
    if kind in _WIDTHS_AND_TYPES:
        return plain
    # A sign of its own for a letter, such as the ohm sign, decomposes into nothing but that letter.
    if plain.isalpha() and (kind in _LETTERS_ONLY or not kind.startswith("<")):
        return plain
    return character
