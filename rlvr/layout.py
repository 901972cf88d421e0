"""Laying token sequences out for forward passes: the one place that pads, and the one place that shares prompts.

A row holds a prompt once and the responses to it side by side; a mask lets each response see the prompt and itself
only. Where a model cannot take such a mask, each row holds one response, and causality alone keeps the padding out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.batch import Tokens

# A row of shared responses grows no longer than this, since its attention costs the square of its length.
ROW_TOKENS = 768


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass over B rows of L tokens, and where in it the t response tokens are predicted."""

    samples: tuple[int, ...]  # the samples in the order of their tokens below
    input_ids: Tensor  # [B, L]
    position_ids: Tensor  # [B, L]
    mask: Tensor | None  # [B, 1, L, L] true = may attend; None = plain causal
    row: Tensor  # [t]
    column: Tensor  # [t] the position whose output predicts the token
    target: Tensor  # [t]


@dataclass(frozen=True, slots=True)
class _Row:
    prompt: tuple[int, ...]
    samples: tuple[int, ...]
    length: int


def passes(sequences: Sequence[Tokens], budget: int, shared: bool) -> Iterator[Pass]:
    """Every sample in exactly one pass of at most `budget` tokens, or of one row where a row alone is longer."""
    rows = sorted(_rows(sequences, shared), key=lambda row: row.length)
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and rows[end].length * (end + 1 - start) <= budget:
            end += 1
        yield _lay(rows[start:end], sequences, shared)
        start = end


def _rows(sequences: Sequence[Tokens], shared: bool) -> list[_Row]:
    rows: list[_Row] = []
    for i, tokens in enumerate(sequences):
        last, size = rows[-1] if rows else None, len(tokens.response)
        if shared and last and last.prompt == tokens.prompt and last.length + size <= ROW_TOKENS:
            rows[-1] = _Row(last.prompt, (*last.samples, i), last.length + size)
        else:
            rows.append(_Row(tokens.prompt, (i,), len(tokens.prompt) + size))
    return rows


def _lay(rows: Sequence[_Row], sequences: Sequence[Tokens], shared: bool) -> Pass:
    width = rows[-1].length
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    segment = torch.full((len(rows), width), -1)  # -1 padding, 0 the prompt, k the k-th response of the row
    where: list[tuple[int, int]] = []
    for r, row in enumerate(rows):
        end = len(row.prompt)
        ids[r, :end], positions[r, :end], segment[r, :end] = torch.tensor(row.prompt), torch.arange(end), 0
        for k, sample in enumerate(row.samples, 1):
            response = sequences[sample].response
            span = slice(end, end + len(response))
            ids[r, span] = torch.tensor(response, dtype=torch.long)
            positions[r, span] = torch.arange(len(row.prompt), len(row.prompt) + len(response))
            segment[r, span] = k
            # The first token of a response is predicted by the end of the prompt, each other one by the token before
            # it.
            where += [(r, len(row.prompt) - 1), *((r, c) for c in range(end, end + len(response) - 1))][: len(response)]
            end += len(response)
    samples = tuple(sample for row in rows for sample in row.samples)
    place = torch.tensor(where, dtype=torch.long).reshape(-1, 2)
    target = torch.tensor([t for s in samples for t in sequences[s].response], dtype=torch.long)
    alone = all(len(row.samples) == 1 for row in rows)
    mask = None if alone or not shared else _mask(segment)
    return Pass(samples, ids, positions, mask, place[:, 0], place[:, 1], target)


def _mask(segment: Tensor) -> Tensor:
    """Each token sees the prompt and its own segment up to itself; padding sees itself, so that no row is empty."""
    causal = torch.ones(segment.shape[1], segment.shape[1], dtype=torch.bool).tril()
    seen, seer = segment[:, None, :], segment[:, :, None]
    allowed = ((seen == seer) | ((seen == 0) & (seer > 0))) & causal
    return allowed[:, None]
