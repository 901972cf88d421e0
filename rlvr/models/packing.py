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
    """One forward pass, and where in it the t response tokens are predicted.

    Its rows lie end to end in one dimension. For a model that cannot take them so they lie one
    below the other, with padding at their ends.
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
    """A prompt with the samples that go on from it; `length` counts the tokens of all."""

    prompt: tuple[int, ...]
    samples: tuple[int, ...]
    length: int


# One token without a response: the pass of a rank that has none left.
EMPTY_ROW = _Row(prompt=(0,), samples=(), length=1)


def split_into_passes(
    sequences: Sequence[Tokens],
    budget: int,
    packed: bool,
    world: World = SINGLE_PROCESS,
    even: bool = False,
) -> Iterator[Pass]:
    """Yield this rank's passes, of at most `budget` tokens, or of one row that alone is longer.

    Every sample is in exactly one pass of one rank. The rows are dealt so that all ranks have about
    as many tokens. With `even` a rank with fewer passes than another gets empty ones, since each
    pass of a sharded model is an exchange.
    """
    rows = _group_into_rows(sequences, packed)
    passes_of_ranks: list[list[Sequence[_Row]]] = []
    for rows_of_rank in _deal_to_ranks(rows, world.size):
        passes_of_ranks.append(list(_fill_passes(rows_of_rank, budget, packed)))
    own_passes = passes_of_ranks[world.rank]
    lay_out = _pack_rows if packed else _pad_rows
    for rows_of_pass in own_passes:
        yield lay_out(rows_of_pass, sequences)
    if even:
        most_passes = max(map(len, passes_of_ranks))
        for _ in range(most_passes - len(own_passes)):
            yield lay_out([EMPTY_ROW], sequences)


def _group_into_rows(sequences: Sequence[Tokens], packed: bool) -> list[_Row]:
    """Return rows in which neighbours with the same prompt share it, where rows are packed."""
    rows: list[_Row] = []
    for index, tokens in enumerate(sequences):
        size = len(tokens.response)
        if packed and rows and _can_join(rows[-1], tokens):
            last = rows[-1]
            rows[-1] = _Row(last.prompt, (*last.samples, index), last.length + size)
        else:
            rows.append(_Row(tokens.prompt, (index,), len(tokens.prompt) + size))
    return rows


def _can_join(row: _Row, tokens: Tokens) -> bool:
    return row.prompt == tokens.prompt and row.length + len(tokens.response) <= ROW_TOKENS


def _deal_to_ranks(rows: Sequence[_Row], size: int) -> list[list[_Row]]:
    """Return the rows of each rank, shortest first.

    Each row goes to the rank with the fewest tokens so far, the longest row first.
    """
    loads = [(0, rank) for rank in range(size)]  # a heap: sorted as it is
    dealt: list[list[_Row]] = [[] for _ in range(size)]
    for row in sorted(rows, key=lambda row: row.length, reverse=True):
        tokens, rank = heappop(loads)
        heappush(loads, (tokens + row.length, rank))
        dealt[rank].append(row)
    return [sorted(rows_of_rank, key=lambda row: row.length) for rows_of_rank in dealt]


def _fill_passes(rows: Sequence[_Row], budget: int, packed: bool) -> Iterator[Sequence[_Row]]:
    """Yield the rows of each pass, in order."""
    start = 0
    while start < len(rows):
        end = start + 1
        tokens = rows[start].length
        while end < len(rows):
            tokens += rows[end].length
            if not packed:
                # With padding each row costs as much as the longest, which is the last.
                tokens = rows[end].length * (end + 1 - start)
            if tokens > budget:
                break
            end += 1
        yield rows[start:end]
        start = end


def _pack_rows(rows: Sequence[_Row], sequences: Sequence[Tokens]) -> Pass:
    """Lay the rows end to end in one dimension."""
    token_ids: list[int] = []
    positions: list[int] = []
    columns: list[int] = []
    sizes_of_rows: list[tuple[int, ...]] = []
    for row in rows:
        segments = _collect_segments(row, sequences)
        sizes = [len(segment) for segment in segments]
        row_start = len(token_ids)
        for column in _find_predicting_columns(sizes):
            columns.append(row_start + column)
        for segment in segments:
            token_ids.extend(segment)
        # Every response goes on from the end of the prompt, whatever lies between them.
        prompt_size = sizes[0]
        positions.extend(range(prompt_size))
        for size in sizes[1:]:
            positions.extend(range(prompt_size, prompt_size + size))
        sizes_of_rows.append(tuple(sizes))
    samples = _list_samples(rows)
    column = torch.tensor(columns, dtype=torch.long)
    return Pass(
        samples=samples,
        input_ids=torch.tensor([token_ids]),
        position_ids=torch.tensor([positions]),
        rows=tuple(sizes_of_rows),
        row=torch.zeros_like(column),
        column=column,
        target=_concatenate_responses(samples, sequences),
    )


def _pad_rows(rows: Sequence[_Row], sequences: Sequence[Tokens]) -> Pass:
    """Lay one response a row, so that causality alone keeps the padding at its end out."""
    width = rows[-1].length  # rows are sorted by length
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    cells: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        segments = _collect_segments(row, sequences)
        token_ids: list[int] = []
        for segment in segments:
            token_ids.extend(segment)
        input_ids[number, : row.length] = torch.tensor(token_ids)
        for column in _find_predicting_columns([len(segment) for segment in segments]):
            cells.append((number, column))
    samples = _list_samples(rows)
    row_and_column = torch.tensor(cells, dtype=torch.long).reshape(-1, 2)
    return Pass(
        samples=samples,
        input_ids=input_ids,
        position_ids=torch.arange(width).expand(len(rows), width),
        rows=None,
        row=row_and_column[:, 0],
        column=row_and_column[:, 1],
        target=_concatenate_responses(samples, sequences),
    )


def _collect_segments(row: _Row, sequences: Sequence[Tokens]) -> list[tuple[int, ...]]:
    """Return the prompt of a row and then its responses."""
    return [row.prompt, *(sequences[sample].response for sample in row.samples)]


def _list_samples(rows: Sequence[_Row]) -> tuple[int, ...]:
    samples: list[int] = []
    for row in rows:
        samples.extend(row.samples)
    return tuple(samples)


def _find_predicting_columns(sizes: Sequence[int]) -> list[int]:
    """Return where a row predicts the tokens of its responses.

    The first token of each is predicted at the end of the prompt, every other one at the token
    before it.

    >>> _find_predicting_columns([3, 2, 1])  # a prompt of 3, responses of 2 and 1
    [2, 3, 2]
    """
    prompt_size = sizes[0]
    columns: list[int] = []
    start = prompt_size
    for size in sizes[1:]:
        if size > 0:
            columns.append(prompt_size - 1)
            columns.extend(range(start, start + size - 1))
        start += size
    return columns


def _concatenate_responses(samples: Sequence[int], sequences: Sequence[Tokens]) -> Tensor:
    token_ids: list[int] = []
    for sample in samples:
        token_ids.extend(sequences[sample].response)
    return torch.tensor(token_ids, dtype=torch.long)
