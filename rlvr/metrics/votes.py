"""The answer that most samples agree on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence


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
