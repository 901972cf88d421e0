"""What is counted of answers: solved in k tries, the majority's answer, signs in the texts, how
sure all that is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

# A response that holds one of these reflects (One-Shot-RLVR, section 3.2.2); the longer list is
# that of SimpleRL-Zoo.
REFLECTION = ("rethink", "recheck", "recalculate")


KEYWORDS = ("recheck", "rethink", "try again", "wait", "alternatively", "retry", "however")


def reflects(text: str) -> bool:
    """Whether the text says that it checks itself."""
    return any(word in text.lower() for word in REFLECTION)


def keywords(text: str) -> int:
    """How many of Zoo's words of reflection the text holds, also inside words.   keywords("Wait,
    awaiting") -> 2
    """
    return sum(map(text.lower().count, KEYWORDS))


def foreign(text: str) -> float:
    """The share of letters outside ASCII: what an over-trained policy mixes in first
    (One-Shot-RLVR, figure 3).

    >>> foreign("is 是 b")
    0.25
    """
    letters = [letter for letter in text if letter.isalpha()]
    return sum(not letter.isascii() for letter in letters) / len(letters) if letters else 0.0


def repetition(text: str, size: int = 4) -> float:
    """The share of word n-grams that occurred before.   repetition("a b a b a b", 2) -> 0.6"""
    return repeated(text.split(), size)


def repeated(items: Sequence[str | int], size: int) -> float:
    """The share of n-grams that occurred before."""
    count = len(items) - size + 1
    return 1 - len({tuple(items[i : i + size]) for i in range(count)}) / count if count > 0 else 0.0


WINDOW, SENTENCE, ALIKE = 10, 20, 0.85


def repeats(text: str) -> bool:
    """Whether the text goes in circles, by the rule of SimpleRL-Zoo (collect_results.py): two
    neighbouring stretches of 10 letters, or two neighbouring lines or sentences of at least 20, are
    made of nearly the same letters.

    Zoo cuts Chinese into words and counts a text without any long line as a repetition, since its
    rule fails on it; here Chinese is compared by letters, and such a text is no repetition.
    """
    stretches = [text[i : i + WINDOW] for i in range(0, WINDOW * (len(text) // WINDOW), WINDOW)]
    if len(text) <= WINDOW or any(_alike(a, b) for a, b in pairwise(stretches)):
        return len(text) > WINDOW
    for mark in ("\n", ".", "。"):
        if mark not in text:
            return False
        if any(
            _alike(a, b)
            for a, b in pairwise([part for part in text.split(mark) if len(part) >= SENTENCE])
        ):
            return True
    return False


def _alike(one: str, other: str) -> bool:
    parts = [
        set(text.split()) if " " in text and "\n" in text else set(text) for text in (one, other)
    ]
    return len(parts[0] & parts[1]) >= ALIKE * len(parts[0] | parts[1])


_WORD = re.compile(r"[^\W_]+|[-+*/^=<>%|!]")


def words(text: str) -> list[str]:
    """The words, numbers and operators of a text in small letters.   words("If $x=2$:") -> ["if",
    "x", "=", "2"]
    """
    return _WORD.findall(text.lower())
