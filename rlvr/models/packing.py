"""Lay sequences out as forward passes: packed rows of what begins alike, or padded rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush

import torch
from torch import Tensor

from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.models.prefix_tree import Laid, PrefixCounter, Segments, lay_out_fan, lay_out_tree

# A row of shared responses grows no longer than this, since it is dealt to a rank and to a pass as
# a whole.
ROW_TOKENS = 768


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of one prompt and one response."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]


# Of each row the segments of its texts.
Rows = tuple[Segments, ...]


def list_lengths(rows: Rows) -> list[int]:
    """Return how many tokens each row has."""
    return [sum(segment.length for segment in segments) for segments in rows]


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass, and where in it the t response tokens are predicted.

    Its rows lie end to end in one dimension, and a token that several responses have in common is
    one of u that are predicted. For a model that cannot take them so they lie one below the other,
    with padding at their ends.
    """

    samples: tuple[int, ...]  # the samples in the order of their tokens below
    input_ids: Tensor  # [1, L] or [B, L]
    position_ids: Tensor  # [1, L] or [B, L]
    rows: Rows | None  # None = padded rows
    row: Tensor  # [u]
    column: Tensor  # [u] the position whose output predicts the token
    target: Tensor  # [u]
    source: Tensor  # [t] which of the predicted tokens each response token is


class Sharing(Enum):
    """What packed rows share: the prompt alone, or all that responses to it begin with.

    A tree of texts has many short segments, which a GPU would attend to one by one.
    """

    PROMPTS = "prompts"
    PREFIXES = "prefixes"


@dataclass(frozen=True, slots=True)
class _Row:
    """Samples that lie together; `length` counts the tokens that they are laid out as."""

    samples: tuple[int, ...]
    length: int


# One token without a response: the pass of a rank that has none left.
EMPTY_ROW = _Row(samples=(), length=1)
EMPTY_TOKENS = Tokens(prompt=(0,), response=())


def split_into_passes(
    sequences: Sequence[Tokens],
    budget: int,
    packed: Sharing | None,
    world: World = SINGLE_PROCESS,
    even: bool = False,
) -> Iterator[Pass]:
    """Yield this rank's passes, of at most `budget` tokens, or of one row that alone is longer.

    Every sample is in exactly one pass of one rank. The rows are dealt so that all ranks have about
    as many tokens. With `even` a rank with fewer passes than another gets empty ones, since each
    pass of a sharded model is an exchange. `packed` is None for padded rows.
    """
    if packed is None:
        rows = [_make_row(tokens, index) for index, tokens in enumerate(sequences)]
    else:
        rows = _group_into_rows(sequences, packed)
    passes_of_ranks: list[list[Sequence[_Row]]] = []
    for rows_of_rank in _deal_to_ranks(rows, world.size):
        passes_of_ranks.append(list(_fill_passes(rows_of_rank, budget, packed is not None)))
    own_passes = list(passes_of_ranks[world.rank])
    if even:
        most_passes = max(map(len, passes_of_ranks))
        own_passes += [[EMPTY_ROW]] * (most_passes - len(own_passes))
    for rows_of_pass in own_passes:
        if packed is None:
            yield _pad_rows(rows_of_pass, sequences)
        else:
            yield _pack_rows(rows_of_pass, sequences, packed)


def _make_row(tokens: Tokens, index: int) -> _Row:
    return _Row((index,), len(tokens.prompt) + len(tokens.response))


def _group_into_rows(sequences: Sequence[Tokens], sharing: Sharing) -> list[_Row]:
    """Return rows of neighbours with the same prompt.

    Prompts that begin alike do not share a row: rows are dealt to ranks, and what a row holds must
    not depend on how many ranks there are.
    """
    rows: list[_Row] = []
    tree = PrefixCounter()
    prompt: tuple[int, ...] | None = None  # of the row before
    for index, tokens in enumerate(sequences):
        added = len(tokens.response)
        if sharing is Sharing.PREFIXES and tokens.prompt == prompt:
            added = tree.count_new(tokens.response)
        if tokens.prompt == prompt and rows[-1].length + added <= ROW_TOKENS:
            last = rows[-1]
            rows[-1] = _Row((*last.samples, index), last.length + added)
        else:
            rows.append(_make_row(tokens, index))
            tree = PrefixCounter()
        tree.add(tokens.response)
        prompt = tokens.prompt
    return rows


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


def _pack_rows(rows: Sequence[_Row], sequences: Sequence[Tokens], sharing: Sharing) -> Pass:
    """Lay the rows end to end in one dimension."""
    token_ids: list[int] = []
    positions: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    source: list[int] = []
    segments: list[Segments] = []
    for row in rows:
        begin = len(token_ids)
        texts = [sequences[sample] for sample in row.samples] or [EMPTY_TOKENS]
        laid = _lay_out(texts, sharing)
        token_ids.extend(laid.tokens)
        positions.extend(laid.positions)
        segments.append(laid.segments)
        number_of: dict[int, int] = {}  # of the predicted token in a column
        for text, of_text in zip(texts, laid.columns, strict=True):
            for column in of_text[len(text.prompt) :]:
                if column not in number_of:
                    number_of[column] = len(columns)
                    columns.append(begin + laid.previous[column])
                    targets.append(laid.tokens[column])
                source.append(number_of[column])
    column = torch.tensor(columns, dtype=torch.long)
    return Pass(
        samples=_list_samples(rows),
        input_ids=torch.tensor([token_ids]),
        position_ids=torch.tensor([positions]),
        rows=tuple(segments),
        row=torch.zeros_like(column),
        column=column,
        target=torch.tensor(targets, dtype=torch.long),
        source=torch.tensor(source, dtype=torch.long),
    )


def _lay_out(texts: Sequence[Tokens], sharing: Sharing) -> Laid:
    if sharing is Sharing.PREFIXES or len(texts) == 1:
        return lay_out_tree([(*text.prompt, *text.response) for text in texts])
    return lay_out_fan(texts[0].prompt, [text.response for text in texts])


def _pad_rows(rows: Sequence[_Row], sequences: Sequence[Tokens]) -> Pass:
    """Lay one response a row, so that causality alone keeps the padding at its end out."""
    width = rows[-1].length  # rows are sorted by length
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    cells: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        tokens = sequences[row.samples[0]] if row.samples else EMPTY_TOKENS
        input_ids[number, : row.length] = torch.tensor((*tokens.prompt, *tokens.response))
        first = len(tokens.prompt) - 1
        for column in range(first, first + len(tokens.response)):
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
        source=torch.arange(len(cells)),
    )


def _list_samples(rows: Sequence[_Row]) -> tuple[int, ...]:
    samples: list[int] = []
    for row in rows:
        samples.extend(row.samples)
    return tuple(samples)


def _concatenate_responses(samples: Sequence[int], sequences: Sequence[Tokens]) -> Tensor:
    token_ids: list[int] = []
    for sample in samples:
        token_ids.extend(sequences[sample].response)
    return torch.tensor(token_ids, dtype=torch.long)
