"""Intervals as the French write them, whose brackets face outwards where an end is excluded: `]2, 5[`."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.grading.lexer import Token
from rlvr.grading.notation import RELATIONS, SET_OPERATIONS

# The bracket that faces inwards for one that faces outwards, by whether it opens.
_FRENCH_BRACKETS = {(True, "]"): "(", (False, "["): ")"}


def rewrite_french_intervals(tokens: Sequence[Token]) -> list[Token] | None:
    """Return the tokens with round brackets for those that face outwards, `]2,5[` as `(2,5)`; None where none do."""
    rewritten: list[Token] = []
    before: Token | None = None
    is_open = False
    for token in tokens:
        new = token
        if token.kind == "sign" and token.text in ("[", "]"):
            opens = not is_open and _is_before_item(before)
            if is_open == opens:
                return None
            is_open = opens
            bracket = _FRENCH_BRACKETS.get((opens, token.text), token.text)
            new = token._replace(text=bracket)
        rewritten.append(new)
        before = token
    if is_open or rewritten == list(tokens):
        return None
    return rewritten


def _is_before_item(token: Token | None) -> bool:
    """Whether what follows this token begins something."""
    if token is None or token.kind == "separator":
        return True
    return token.text in RELATIONS or token.text in SET_OPERATIONS
