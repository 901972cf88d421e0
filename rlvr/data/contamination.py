"""Find held-out problems that stand among the training problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlvr.metrics.text_quality import words
from rlvr.types import Problem

NGRAM = 13  # words in a row, of which problems of the same making share a few by chance


# what more problems share is the phrase of a kind of problem (Brown et al., 2020, appendix C)
COMMON = 10


# of a problem's stretches of 13 words in one training problem: the same problem, told a little
# otherwise
MOST = 0.5


@dataclass(frozen=True, slots=True)
class Overlap:
    """Held-out problems that also stand among the training problems, each with one of those: word
    for word, in most of their stretches of 13 words, or in some.
    """

    exact: Mapping[str, str]
    most: Mapping[str, str]
    some: Mapping[str, str]
    held_out: int
    train: int

    def line(self, name: str) -> str:
        """What was found, in one line."""
        found = {**self.exact, **self.most, **self.some}
        if not found:
            return f"{name}: no held-out problem of {self.held_out} shares {NGRAM} words with {self.train} trained on"
        pairs = ", ".join(f"{held} ({train})" for held, train in list(found.items())[:4])
        return (
            f"{name}: of {self.held_out} held-out problems {len(self.exact)} stand word for word among {self.train} to"
            f" train on, {len(self.most)} in most stretches of {NGRAM} words, {len(self.some)} in some: {pairs}"
            + (", …" if len(found) > 4 else "")
        )


def find_overlap(train: Sequence[Problem], held_out: Sequence[Problem]) -> Overlap:
    """Compare the questions of two sets by their words, numbers and operators, without marks,
    spaces and capitals.
    """
    asked = {problem.id: words(problem.question) for problem in held_out}
    grams = {name: _ngrams(text) for name, text in asked.items()}
    seen = Counter(gram for found in grams.values() for gram in found)
    whole: dict[str, str] = {}
    shared: dict[str, list[str]] = {gram: [] for gram in seen}
    # a repeat says nothing new
    distinct = {" ".join(words(problem.question)): problem for problem in reversed(train)}
    for joined, problem in distinct.items():
        text = joined.split()
        whole[joined] = problem.id
        for gram in _ngrams(text) & shared.keys():
            shared[gram].append(problem.id)
    exact = {name: whole[" ".join(text)] for name, text in asked.items() if " ".join(text) in whole}
    most, some = {}, {}
    for name in (name for name in asked if name not in exact):
        telling = [
            gram
            for gram in grams[name]
            if shared[gram] and len(shared[gram]) + seen[gram] <= COMMON
        ]
        ids = Counter(sorted(train_id for gram in telling for train_id in shared[gram]))
        if ids:
            closest, count = ids.most_common(1)[0]
            (most if count >= MOST * len(grams[name]) else some)[name] = closest
    return Overlap(exact, most, some, len(asked), len(distinct))


def _ngrams(text: Sequence[str]) -> set[str]:
    return {" ".join(text[i : i + NGRAM]) for i in range(len(text) - NGRAM + 1)}
