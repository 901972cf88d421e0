r"""Systems of equations and moduli in a plainer spelling, before a text is read as tokens.

`\begin{cases}x=1\\y=2\end{cases}`, `(\text{mod } 7)`
"""

from __future__ import annotations

import re

# Rows behind one brace. An array without the brace is a matrix.
_SYSTEM = re.compile(
    r"(?P<brace>\\left *\\(?:\{|lbrace) *|\\(?:\{|lbrace) *)?"
    r"\\begin *\{(?P<name>cases|array|aligned|gathered)\}(?: *\{[lrc ]*\})?"
    r"(?P<rows>(?:(?!\\begin|\\end).)*)\\end *\{(?P=name)\}(?: *\\right *\.)?",
    re.DOTALL,
)
# One equation: anything else may be the piece of a function and its condition.
_EQUATION = re.compile(r"[^=<>,;&]+=[^=<>,;&]+")
_ORDER = re.compile(r"\\(?:[lg]eq?|[lg]t|[lg]eqslant|neq?|text|mbox|mathrm|quad|in)(?![A-Za-z])")

_MOD = r"(?:\\(?:text|mathrm|mbox|rm|operatorname) *\{[ ~]*\\?mod[ ~]*\}|\\?b?mod(?![A-Za-z]))"
_MODULUS = re.compile(rf"\( *{_MOD}(?:\\[ ,;:!]|[ ~])*(?P<modulus>[^()]{{1,40}}?) *\)")
_STYLED_MODULUS = re.compile(
    r"\\(?:text|mathrm|mbox|rm) *\{[ ~]*\([ ~]*mod[ ~]+(?P<modulus>[0-9A-Za-z]{1,40})[ ~]*\)[ ~]*\}"
)


# Other environments in which the pieces of a function stand behind a brace, and words before a condition.
_PIECES = re.compile(
    r"\\left *\\(?:\{|lbrace) *\\begin *\{array\}(?: *\{[lrc ]*\})?(?P<rows>(?:(?!\\begin|\\end).)*)"
    r"\\end *\{array\} *\\right *\.",
    re.DOTALL,
)
_CONDITION = re.compile(
    r"(?P<edge>&)(?:\s|~|\\q?quad(?![A-Za-z])|\\[ ,;:!])*"
    r"(?:\\(?:text|mbox|textrm|mathrm) *\{[ ~]*(?:if|for|when)[ ~]*\}|(?:if|for|when)(?![A-Za-z]))"
)


def write_pieces(text: str) -> str:
    r"""Return a text with one spelling of the environment of a piecewise function and of its conditions.

    >>> write_pieces(r"\left\{\begin{array}{ll}1&\text{if }x=0\\2&x>1\end{array}\right.")
    '\\begin{cases}1&x=0\\\\2&x>1\\end{cases}'
    """
    text = text.replace("{dcases}", "{cases}")
    text = _PIECES.sub(r"\\begin{cases}\g<rows>\\end{cases}", text)
    if "{cases}" not in text:
        return text
    return _CONDITION.sub(r"\g<edge>", text)


def write_systems(text: str) -> str:
    r"""Return a text whose system of equations is a list of them; a piecewise function stays one.

    >>> write_systems(r"\begin{cases}x=1\\y=2\end{cases}"), write_systems(r"\begin{cases}1,&x=0\\2,&x=1\end{cases}")
    ('x=1, y=2', '\\begin{cases}1,&x=0\\\\2,&x=1\\end{cases}')
    """
    if "\\begin" not in text:
        return text
    return _SYSTEM.sub(_list_equations, text)


def _list_equations(system: re.Match[str]) -> str:
    if system["name"] != "cases" and not system["brace"]:
        return system[0]
    equations: list[str] = []
    for row in system["rows"].replace("&=", "=").replace("=&", "=").split("\\\\"):
        equation = row.strip(" ,;.\n")
        if not equation:
            continue
        if not _EQUATION.fullmatch(equation) or _ORDER.search(equation):
            return system[0]
        equations.append(equation)
    return ", ".join(equations)


def write_moduli(text: str) -> str:
    r"""Return a text with one spelling of a modulus in brackets.

    >>> write_moduli(r"x \equiv 3 (\text{mod } 7)"), write_moduli("3 (mod 7)")
    ('x \\equiv 3 \\pmod{7}', '3 \\pmod{7}')
    """
    text = _MODULUS.sub(_write_modulus, text)
    return _STYLED_MODULUS.sub(_write_modulus, text)


def _write_modulus(modulus: re.Match[str]) -> str:
    return f"\\pmod{{{modulus['modulus']}}}"
