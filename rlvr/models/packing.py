"""Lay sequences out as forward passes: packed rows that share prompts, or padded rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import torch
from torch import Tensor

from rlvr.distributed.world import SINGLE_PROCESS, World

# A row of shared responses grows no longer than this, since it is dealt to a rank and to a pass as
# a whole.
ROW_TOKENS = 768


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of one prompt and one response."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]


# Of each row the lengths of its prompt and of its responses.
Rows = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass, and where in it the t response tokens are predicted: rows end to end in one
    dimension, or, for a model that cannot take them so, one below the other with padding at their
    ends.
    """

    samples: tuple[int, ...]  # the samples in the order of their tokens below
    input_ids: Tensor  # [1, L] or [B, L]
    position_ids: Tensor  # [1, L] or [B, L]
    rows: Rows | None  # None = padded rows
    row: Tensor  # [t]
    column: Tensor  # [t] the position whose output predicts the token
    target: Tensor  # [t]


@dataclass(frozen=True, slots=True)
class _Row:
    prompt: tuple[int, ...]
    samples: tuple[int, ...]
    length: int


def passes(
    sequences: Sequence[Tokens],
    budget: int,
    packed: bool,
    world: World = SINGLE_PROCESS,
    even: bool = False,
) -> Iterator[Pass]:
    """Every sample in exactly one pass of one rank, of at most `budget` tokens, or of one row where
    a row alone is longer.

    The rows are dealt so that all ranks have about as many tokens. With `even` a rank with fewer
    passes than another gets empty ones, since each pass of a sharded model is an exchange.
    """
    laid = [
        list(_filled(rows, budget, packed)) for rows in _dealt(_rows(sequences, packed), world.size)
    ]
    own, lay = laid[world.rank], _pack_rows if packed else _pad_rows
    yield from (lay(rows, sequences) for rows in own)
    for _ in range(max(map(len, laid)) - len(own) if even else 0):
        yield lay([_Row((0,), (), 1)], sequences)


def _dealt(rows: Sequence[_Row], size: int) -> list[list[_Row]]:
    """The rows of each rank, shortest first: each goes to the rank with the fewest tokens so far,
    the longest first.
    """
    loads, dealt = [(0, rank) for rank in range(size)], [list[_Row]() for _ in range(size)]
    for row in sorted(rows, key=lambda row: row.length, reverse=True):
        tokens, rank = heappop(loads)
        heappush(loads, (tokens + row.length, rank))
        dealt[rank].append(row)
    return [sorted(mine, key=lambda row: row.length) for mine in dealt]


def _filled(rows: Sequence[_Row], budget: int, packed: bool) -> Iterator[Sequence[_Row]]:
    """The rows of each pass, in order; with padding each row costs as much as the longest, which is
    the last.
    """
    start = 0
    while start < len(rows):
        end, tokens = start + 1, rows[start].length
        while end < len(rows):
            tokens = tokens + rows[end].length if packed else rows[end].length * (end + 1 - start)
            if tokens > budget:
                break
            end += 1
        yield rows[start:end]
        start = end


def _rows(sequences: Sequence[Tokens], packed: bool) -> list[_Row]:
    rows: list[_Row] = []
    for i, tokens in enumerate(sequences):
        last, size = rows[-1] if rows else None, len(tokens.response)
        if packed and last and last.prompt == tokens.prompt and last.length + size <= ROW_TOKENS:
            rows[-1] = _Row(last.prompt, (*last.samples, i), last.length + size)
        else:
            rows.append(_Row(tokens.prompt, (i,), len(tokens.prompt) + size))
    return rows


def _pack_rows(rows: Sequence[_Row], sequences: Sequence[Tokens]) -> Pass:
    """The rows in one dimension."""
    ids, positions, column, laid = [], [], [], list[tuple[int, ...]]()
    for row in rows:
        segments = [row.prompt, *(sequences[i].response for i in row.samples)]
        own, sizes = _columns(segments), [len(segment) for segment in segments]
        column += [len(ids) + at for at in own]
        ids += [token for segment in segments for token in segment]
        positions += [
            *range(sizes[0]),
            *(sizes[0] + at for size in sizes[1:] for at in range(size)),
        ]
        laid.append(tuple(sizes))
    samples = tuple(sample for row in rows for sample in row.samples)
    place, target = torch.tensor(column, dtype=torch.long), _targets(samples, sequences)
    inputs = torch.tensor([ids]), torch.tensor([positions])
    return Pass(samples, *inputs, tuple(laid), torch.zeros_like(place), place, target)


def _pad_rows(rows: Sequence[_Row], sequences: Sequence[Tokens]) -> Pass:
    """One response a row, so that causality alone keeps the padding at its end out."""
    width = rows[-1].length
    ids, column = torch.zeros(len(rows), width, dtype=torch.long), list[tuple[int, int]]()
    for r, row in enumerate(rows):
        segments = [row.prompt, *(sequences[i].response for i in row.samples)]
        ids[r, : row.length] = torch.tensor([token for segment in segments for token in segment])
        column += [(r, at) for at in _columns(segments)]
    samples = tuple(sample for row in rows for sample in row.samples)
    place = torch.tensor(column, dtype=torch.long).reshape(-1, 2)
    positions = torch.arange(width).expand(len(rows), width)
    return Pass(
        samples, ids, positions, None, place[:, 0], place[:, 1], _targets(samples, sequences)
    )


def _columns(segments: Sequence[Sequence[int]]) -> list[int]:
    """Where a row predicts the tokens of its responses: the first at the end of the prompt, each
    other one at the token before it.   prompt of 3, responses of 2 and 1 -> [2, 3, 2]
    """
    found, end = [], len(segments[0])
    for response in segments[1:]:
        found += [len(segments[0]) - 1, *range(end, end + len(response) - 1)][: len(response)]
        end += len(response)
    return found


def _targets(samples: Sequence[int], sequences: Sequence[Tokens]) -> Tensor:
    return torch.tensor(
        [token for i in samples for token in sequences[i].response], dtype=torch.long
    )
