"""What is counted of answers: solved in k tries, the majority's answer, signs in the texts, how
sure all that is.
"""

from __future__ import annotations

import math
import operator
import re
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

# A response that holds one of these reflects (One-Shot-RLVR, section 3.2.2); the longer list is
# that of SimpleRL-Zoo.
REFLECTION = ("rethink", "recheck", "recalculate")
KEYWORDS = ("recheck", "rethink", "try again", "wait", "alternatively", "retry", "however")


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that one of k samples drawn from these is right, 1 - C(n-c, k) / C(n, k) (Chen et
    al., 2021, eq. 1).

    >>> round(pass_at_k(8, 4, 2), 4)
    0.7857
    """
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def tries(samples: int) -> list[int]:
    """The k of pass@k for so many samples: powers of two, and all of them.   tries(6) -> [1, 2, 4,
    6]
    """
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})


def majority(
    answers: Sequence[str | None], same: Callable[[str, str], bool] = operator.eq
) -> int | None:
    """The first place of the answer given most often; ties go to the one seen first, no answer has
    no vote.

    Answers are the same by their text, as published figures have it, unless `same` compares them
    otherwise.

    >>> majority(["5", None, "6", "6", "5"])
    0
    """
    votes: dict[int, int] = {}  # by the first place of each answer
    for place, answer in enumerate(answers):
        if answer is not None:
            first = next((at for at in votes if same(answers[at] or "", answer)), place)
            votes[first] = votes.get(first, 0) + 1
    return max(votes, key=lambda at: (votes[at], -at)) if votes else None


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


Z95 = 1.959963984540054
Z_POWER = 0.8416212335729143  # four times in five


def sampling_interval(rows: Sequence[Sequence[bool]]) -> tuple[float, float] | None:
    """The 95 % interval of accuracy on these very problems: only the samples are taken as drawn,
    not the problems.

    None where a problem has a single sample, which says nothing about its spread.
    """
    if min(map(len, rows)) < 2:
        return None
    shares = [sum(row) / len(row) for row in rows]
    variance = (
        sum(p * (1 - p) / (len(row) - 1) for p, row in zip(shares, rows, strict=True))
        / len(rows) ** 2
    )
    mean, spread = math.fsum(shares) / len(shares), Z95 * math.sqrt(variance)
    return max(0.0, mean - spread), min(1.0, mean + spread)


def detectable(values: Sequence[float], *, paired: bool = False) -> float:
    """The smallest true difference of means that a test at 5 % finds four times in five.

    `values` are the shares of one model, another of the same spread being thought beside it, or,
    where `paired`, the differences of two models problem by problem. So that a few problems that
    are all alike do not look certain, the spread is that with four more, two of them solved
    (Agresti and Coull, 1998), or one more for either model.

    >>> round(detectable([1.0] * 10 + [0.0] * 20), 2)
    0.35
    """
    n, more = len(values), [1.0, -1.0] if paired else [1.0, 1.0, 0.0, 0.0]
    variance = statistics.variance([*values, *more])
    return (Z95 + Z_POWER) * math.sqrt((1 if paired else 2) * variance / n)


def sign_flip(differences: Sequence[int]) -> float:
    """The exact two-sided p-value that differences, problem by problem, have a sign by chance;
    whole numbers.

    Each difference keeps its size and has either sign with the same chance (Fisher, 1935). Where
    they are -1, 0 and 1 this is McNemar's exact test.

    >>> sign_flip([1, 1, 1, 1, 1, 0, 0])
    0.0625
    """
    unit = math.gcd(*differences) or 1
    sizes = [abs(d) // unit for d in differences if d]
    chance = np.ones(1)  # of each sum, from minus all to all in steps of two
    for size in sizes:
        chance = np.convolve(chance, np.bincount([0, size]) / 2)
    sums = 2 * np.arange(len(chance)) - sum(sizes)
    return min(1.0, float(chance[np.abs(sums) >= abs(sum(differences)) // unit].sum()))


_WORD = re.compile(r"[^\W_]+|[-+*/^=<>%|!]")


def words(text: str) -> list[str]:
    """The words, numbers and operators of a text in small letters.   words("If $x=2$:") -> ["if",
    "x", "=", "2"]
    """
    return _WORD.findall(text.lower())
