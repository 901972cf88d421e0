"""Find held-out problems that stand among the training problems."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlvr.metrics.text_quality import split_words
from rlvr.types import Problem

# Words in a row, of which problems of the same making share a few by chance.
NGRAM = 13

# What more problems share is the phrase of a kind of problem (Brown et al., 2020, appendix C).
MAX_COMMON_PROBLEMS = 10

# Above this share of common n-grams it is the same problem, told a little otherwise.
MOST_SHARE = 0.5

# So many pairs of problems are named in a message.
MAX_NAMED_PAIRS = 4


@dataclass(frozen=True, slots=True)
class Overlap:
    """Held-out problems that also stand among the training problems, each with one of those.

    They are shared word for word, in most of their stretches of 13 words, or in some.
    """

    exact: Mapping[str, str]
    most: Mapping[str, str]
    some: Mapping[str, str]
    held_out: int
    train: int

    def describe(self, name: str) -> str:
        """Return what was found, in one line."""
        train_ids = {**self.exact, **self.most, **self.some}
        if not train_ids:
            return f"{name}: no held-out problem of {self.held_out} shares {NGRAM} words with {self.train} trained on"
        named = list(train_ids.items())[:MAX_NAMED_PAIRS]
        pairs = ", ".join(f"{held_out_id} ({train_id})" for held_out_id, train_id in named)
        line = (
            f"{name}: of {self.held_out} held-out problems {len(self.exact)} stand word for word among {self.train} to"
            f" train on, {len(self.most)} in most stretches of {NGRAM} words, {len(self.some)} in some: {pairs}"
        )
        if len(train_ids) > MAX_NAMED_PAIRS:
            line += ", …"
        return line


def find_overlap(train: Sequence[Problem], held_out: Sequence[Problem]) -> Overlap:
    """Compare the questions of two sets by their words, numbers and operators.

    Marks, spaces and capitals do not count.
    """
    questions: dict[str, str] = {}
    for problem in held_out:
        questions[problem.id] = _normalise(problem)
    ngrams: dict[str, set[str]] = {}
    held_out_counts: Counter[str] = Counter()
    for name, question in questions.items():
        ngrams[name] = _split_ngrams(question)
        held_out_counts.update(ngrams[name])
    distinct = _index_distinct(train)
    train_ids = _index_ngrams(distinct, held_out_counts)

    exact: dict[str, str] = {}
    most: dict[str, str] = {}
    some: dict[str, str] = {}
    for name, question in questions.items():
        if question in distinct:
            exact[name] = distinct[question]
            continue
        shared = _count_shared(ngrams[name], train_ids, held_out_counts)
        if not shared:
            continue
        closest, count = shared.most_common(1)[0]
        if count >= MOST_SHARE * len(ngrams[name]):
            most[name] = closest
        else:
            some[name] = closest
    return Overlap(exact, most, some, len(questions), len(distinct))


def _normalise(problem: Problem) -> str:
    return " ".join(split_words(problem.question))


def _split_ngrams(question: str) -> set[str]:
    text = question.split()
    return {" ".join(text[start : start + NGRAM]) for start in range(len(text) - NGRAM + 1)}


def _index_distinct(train: Sequence[Problem]) -> dict[str, str]:
    """Return the id of the first training problem with each question; a repeat says nothing new."""
    first_ids: dict[str, str] = {}
    for problem in train:
        first_ids.setdefault(_normalise(problem), problem.id)
    return first_ids


def _index_ngrams(
    train: Mapping[str, str], held_out_counts: Mapping[str, int]
) -> dict[str, list[str]]:
    """Return the training problems that hold each n-gram of the held-out problems."""
    train_ids: dict[str, list[str]] = defaultdict(list)
    for question, train_id in train.items():
        for ngram in _split_ngrams(question) & held_out_counts.keys():
            train_ids[ngram].append(train_id)
    return train_ids


def _count_shared(
    ngrams: set[str], train_ids: Mapping[str, list[str]], held_out_counts: Mapping[str, int]
) -> Counter[str]:
    """Count the telling n-grams that each training problem shares with one held-out problem."""
    shared: list[str] = []
    for ngram in ngrams:
        sharing = train_ids.get(ngram)
        if sharing and len(sharing) + held_out_counts[ngram] <= MAX_COMMON_PROBLEMS:
            shared += sharing
    # Sorted, so that of equally close problems the first by id is named.
    return Counter(sorted(shared))
