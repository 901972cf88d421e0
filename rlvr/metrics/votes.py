"""The answer that most samples agree on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

SameAnswer = Callable[[str, str], bool]


def find_majority(answers: Sequence[str | None], same: SameAnswer = operator.eq) -> int | None:
    """Return the first place of the answer given most often; None where nobody answered.

    Ties go to the answer seen first, and no answer (None) has no vote. Answers are the same by
    their text, as published figures have it, unless `same` compares them otherwise.

    >>> find_majority(["5", None, "6", "6", "5"])
    0
    """
    votes: dict[int, int] = {}  # by the first place of each answer
    for place, answer in enumerate(answers):
        if answer is None:
            continue
        first = _find_first(answers, votes, answer, same)
        if first is None:
            first = place
        votes[first] = votes.get(first, 0) + 1
    # `votes` is in the order in which answers were first seen, and max() returns the first of equals
    return max(votes, key=votes.__getitem__, default=None)


def _find_first(
    answers: Sequence[str | None],
    votes: Mapping[int, int],
    answer: str,
    same: SameAnswer,
) -> int | None:
    """Return the first place of an answer that has votes already."""
    for place in votes:
        if same(answers[place] or "", answer):
            return place
    return None
