r"""The base of a logarithm that names none: ten in school, e where the gold's field is calculus."""

from __future__ import annotations

import re
from typing import Literal

Base = Literal["field", "10", "e"]

_WITHOUT_BASE = re.compile(
    r"(?:\\operatorname *\{ *log *\}|(?<![A-Za-z])\\?log(?![A-Za-z]))(?! *_)"
)

# What a gold or a question of calculus holds.
_CALCULUS = re.compile(
    r"\\(?:ln|int|iint|exp|lim)(?![A-Za-z])|(?<![A-Za-z\\])(?:ln|exp)(?![A-Za-z])"
    r"|(?<![A-Za-z\\])e(?![A-Za-z])|\\frac *\{ *d|(?i:natural log|derivative|differenti|integra)"
)


def write_bases(base: Base, question: str, gold: str, answer: str) -> tuple[str, str]:
    r"""Return gold and answer with base ten at each logarithm that names none, where it is ten.

    `field` takes e where the gold or the question holds `\ln`, `e`, an integral, a derivative or a
    limit, as the symbolic library always does, and ten elsewhere.

    >>> write_bases("field", "Solve.", "2", r"\log 100")
    ('2', '\\log_{10} 100')
    >>> write_bases("field", "Solve.", r"\ln 2", r"\log 2")
    ('\\ln 2', '\\log 2')
    """
    if "log" not in gold and "log" not in answer:
        return gold, answer
    if base == "e" or (base == "field" and _is_calculus(question, gold)):
        return gold, answer
    return _WITHOUT_BASE.sub(r"\\log_{10}", gold), _WITHOUT_BASE.sub(r"\\log_{10}", answer)


def _is_calculus(question: str, gold: str) -> bool:
    return bool(_CALCULUS.search(gold) or _CALCULUS.search(question))
