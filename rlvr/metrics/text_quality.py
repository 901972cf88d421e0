"""Signs in the text of a response: reflection, foreign letters, repetition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

# A response that holds one of these reflects (One-Shot-RLVR, section 3.2.2).
REFLECTION = ("rethink", "recheck", "recalculate")

# The longer list is that of SimpleRL-Zoo.
KEYWORDS = ("recheck", "rethink", "try again", "wait", "alternatively", "retry", "however")

# The rule of `is_repetitive`: letters of a stretch, letters of a line, share of letters in common.
STRETCH_LENGTH = 10
MIN_LINE_LENGTH = 20
SAME_LETTERS = 0.85

_WORD = re.compile(r"[^\W_]+|[-+*/^=<>%|!]")


def has_reflection(text: str) -> bool:
    """Return whether the text says that it checks itself."""
    return any(word in text.lower() for word in REFLECTION)


def count_keywords(text: str) -> int:
    """Count Zoo's words of reflection in the text, also inside words.

    >>> count_keywords("Wait, awaiting")
    2
    """
    return sum(map(text.lower().count, KEYWORDS))


def measure_foreign(text: str) -> float:
    """Return the share of letters outside ASCII.

    They are what an over-trained policy mixes in first (One-Shot-RLVR, figure 3).

    >>> measure_foreign("is 是 b")
    0.25
    """
    letters = [letter for letter in text if letter.isalpha()]
    if not letters:
        return 0.0
    count = sum(not letter.isascii() for letter in letters)
    return count / len(letters)


def measure_repetition(text: str, size: int = 4) -> float:
    """Return the share of word n-grams that occurred before.

    >>> measure_repetition("a b a b a b", 2)
    0.6
    """
    return measure_repeated(text.split(), size)


def measure_repeated(items: Sequence[str | int], size: int) -> float:
    """Return the share of n-grams that occurred before."""
    count = len(items) - size + 1
    if count <= 0:
        return 0.0
    distinct: set[tuple[str | int, ...]] = set()
    for start in range(count):
        ngram = tuple(items[start : start + size])
        distinct.add(ngram)
    return 1 - len(distinct) / count


def is_repetitive(text: str) -> bool:
    """Return whether the text goes in circles, by the rule of SimpleRL-Zoo (collect_results.py).

    Two neighbouring stretches of 10 letters, or two neighbouring lines or sentences of at least 20,
    are made of nearly the same letters. Zoo cuts Chinese into words and counts a text without any
    long line as a repetition, since its rule fails on it; here Chinese is compared by letters, and
    such a text is no repetition.
    """
    if len(text) <= STRETCH_LENGTH:
        return False
    if _has_alike_neighbours(_cut_stretches(text)):
        return True
    for mark in ("\n", ".", "。"):
        if mark not in text:
            return False
        parts = [part for part in text.split(mark) if len(part) >= MIN_LINE_LENGTH]
        if _has_alike_neighbours(parts):
            return True
    return False


def _cut_stretches(text: str) -> list[str]:
    """Return the text in stretches of 10 letters; what is left over at its end is dropped."""
    stretches: list[str] = []
    for start in range(0, len(text) - STRETCH_LENGTH + 1, STRETCH_LENGTH):
        stretches.append(text[start : start + STRETCH_LENGTH])
    return stretches


def _has_alike_neighbours(parts: Sequence[str]) -> bool:
    return any(_is_alike(one, other) for one, other in pairwise(parts))


def _is_alike(one: str, other: str) -> bool:
    pieces = _split_pieces(one)
    other_pieces = _split_pieces(other)
    shared = len(pieces & other_pieces)
    return shared >= SAME_LETTERS * len(pieces | other_pieces)


def _split_pieces(text: str) -> set[str]:
    """Return the words of a text over several lines, else its letters."""
    if " " in text and "\n" in text:
        return set(text.split())
    return set(text)


def split_words(text: str) -> list[str]:
    """Return the words, numbers and operators of a text in small letters.

    >>> split_words("If $x=2$:")
    ['if', 'x', '=', '2']
    """
    return _WORD.findall(text.lower())
