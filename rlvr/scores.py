"""What is counted of answers: solved in k tries, the majority's answer, and signs in the texts themselves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

# A response that holds one of these reflects (One-Shot-RLVR, section 3.2.2); the longer list is that of SimpleRL-Zoo.
REFLECTION = ("rethink", "recheck", "recalculate")
KEYWORDS = ("recheck", "rethink", "try again", "wait", "alternatively", "retry", "however")


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that one of k samples drawn from these is right, 1 - C(n-c, k) / C(n, k) (Chen et al., 2021, eq. 1).

    >>> round(pass_at_k(8, 4, 2), 4)
    0.7857
    """
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def powers(samples: int) -> list[int]:
    """The k of pass@k for so many samples.   8 -> [1, 2, 4, 8]"""
    return [2**i for i in range(samples.bit_length()) if 2**i <= samples]


def majority(answers: Sequence[str | None]) -> int | None:
    """The first place of the answer given most often; ties go to the one seen first, no answer has no vote.

    >>> majority(["5", None, "6", "6", "5"])
    0
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return answers.index(votes.most_common(1)[0][0]) if votes else None


def reflects(text: str) -> bool:
    """Whether the text says that it checks itself."""
    lowered = text.lower()
    return any(word in lowered for word in REFLECTION)


def keywords(text: str) -> int:
    """How many of Zoo's words of reflection the text holds, also inside words.   keywords("Wait, awaiting") -> 2"""
    lowered = text.lower()
    return sum(lowered.count(word) for word in KEYWORDS)


def foreign(text: str) -> float:
    """The share of letters outside ASCII: what an over-trained policy mixes in first (One-Shot-RLVR, figure 3).

    >>> foreign("is 是 b")
    0.25
    """
    letters = [letter for letter in text if letter.isalpha()]
    return sum(not letter.isascii() for letter in letters) / len(letters) if letters else 0.0


def repetition(text: str, size: int = 4) -> float:
    """The share of word n-grams that occurred before.   repetition("a b a b a b", 2) -> 0.6"""
    words = text.split()
    count = len(words) - size + 1
    return 1 - len({tuple(words[i : i + size]) for i in range(count)}) / count if count > 0 else 0.0
