"""Texts that begin alike as a tree of segments, of which each stands once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Segment(NamedTuple):
    """A run of tokens that goes on from the end of another one, its parent; -1 where it begins a text."""

    length: int
    parent: int


# The segments of one row, parents before their children.
Segments = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Laid:
    """A tree of texts laid out in one dimension, segment after segment."""

    segments: Segments
    tokens: Sequence[int]  # [L]
    positions: Sequence[int]  # [L], in the text
    previous: Sequence[int]  # [L], the column of the token before; -1 where there is none
    columns: Sequence[Sequence[int]]  # of each text, where its tokens stand


def lay_out_tree(texts: Sequence[Sequence[int]]) -> Laid:
    """Lay texts out so that what several begin with stands once.

    >>> laid = lay_out_tree([(1, 2, 3), (1, 2, 4, 5)])
    >>> laid.tokens, laid.columns[1]
    ([1, 2, 3, 4, 5], [0, 1, 3, 4])
    >>> [tuple(segment) for segment in laid.segments]  # lengths and parents
    [(2, -1), (1, 0), (2, 0)]
    """
    segments: list[Segment] = []
    tokens: list[int] = []
    positions: list[int] = []
    previous: list[int] = []
    columns: list[list[int]] = [[] for _ in texts]
    # Texts that are the same up to a position, with the segment that they go on from.
    waiting = [(list(range(len(texts))), 0, -1)]
    while waiting:
        alike, start, parent = waiting.pop()
        end = _find_parting([texts[text] for text in alike], start)
        if end > start:
            first = len(tokens)
            before = columns[alike[0]][-1] if start else -1
            previous.append(before)
            previous.extend(range(first, first + end - start - 1))
            tokens.extend(texts[alike[0]][start:end])
            positions.extend(range(start, end))
            parent_of_next = len(segments)
            segments.append(Segment(end - start, parent))
            for text in alike:
                columns[text].extend(range(first, len(tokens)))
        else:
            parent_of_next = parent
        by_token: dict[int, list[int]] = {}
        for text in alike:
            if len(texts[text]) > end:
                by_token.setdefault(texts[text][end], []).append(text)
        # What is taken last is laid out first, so that the first text comes first.
        for group in reversed(by_token.values()):
            waiting.append((group, end, parent_of_next))
    return Laid(tuple(segments), tokens, positions, previous, columns)


def lay_out_fan(stem: Sequence[int], texts: Sequence[Sequence[int]]) -> Laid:
    """Lay a stem out once, and each text that goes on from it by itself.

    >>> lay_out_fan((1, 2), [(3,), (3, 4)]).tokens
    [1, 2, 3, 3, 4]
    """
    size = len(stem)
    segments = [Segment(size, -1)]
    tokens = list(stem)
    positions = list(range(size))
    previous = list(range(-1, size - 1))
    columns: list[list[int]] = []
    for text in texts:
        first = len(tokens)
        columns.append([*range(size), *range(first, first + len(text))])
        if not text:
            continue
        segments.append(Segment(len(text), 0))
        tokens.extend(text)
        positions.extend(range(size, size + len(text)))
        previous.extend([size - 1, *range(first, first + len(text) - 1)])
    return Laid(tuple(segments), tokens, positions, previous, columns)


def _find_parting(texts: Sequence[Sequence[int]], start: int) -> int:
    """Return up to where all texts are the same, which they are up to `start`."""
    shortest = min(map(len, texts))
    first = texts[0]
    for position in range(start, shortest):
        token = first[position]
        if any(text[position] != token for text in texts):
            return position
    return shortest


class PrefixCounter:
    """Counts the tokens of a tree to which texts are added."""

    def __init__(self) -> None:
        self._root: dict[int, dict] = {}

    def count_new(self, text: Sequence[int]) -> int:
        """Return how many tokens a text would add."""
        node = self._root
        for position, token in enumerate(text):
            if token not in node:
                return len(text) - position
            node = node[token]
        return 0

    def add(self, text: Sequence[int]) -> None:
        node = self._root
        for token in text:
            node = node.setdefault(token, {})


def list_ancestors(segments: Segments) -> list[list[int]]:
    """Return the segments that each goes on from, first to last."""
    ancestors: list[list[int]] = []
    for segment in segments:
        if segment.parent < 0:
            ancestors.append([])
        else:
            ancestors.append([*ancestors[segment.parent], segment.parent])
    return ancestors
