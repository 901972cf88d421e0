"""Attention of packed rows in bf16 on a processor, by plain products over blocks of queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvr.models.packing import Rows, list_lengths
from rlvr.models.tensors import pad_left

# So many queries of an update meet their keys at a time.
QUERIES = 256

# Far below every score, and yet a number: a softmax of nothing else is one.
MASKED_SCORE = -1e30

# Padding of [L, H, d] by one token at its end.
ONE_TOKEN = (0, 0, 0, 0, 0, 1)


class PackedAttention(torch.autograd.Function):
    """Attention of packed rows, where plain products take a third of the fused kernel's backward.

    The attention weights of a block of queries are computed anew in the backward pass, so no scores
    are kept.

    [1, H, L, d], [1, K, L, d] twice -> [1, L, H, d]
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Rows,
        scaling: float,
    ) -> Tensor:
        key = _center_keys(key, rows)
        # [L + 1, H, d] and [L + 1, K, d] twice, the last token nobody's
        query = _append_token(query * scaling)
        key = _append_token(key)
        value = _append_token(value)
        heads = key.shape[1]
        blocks = _plan_blocks(rows, QUERIES)
        ctx.save_for_backward(query, key, value)
        ctx.blocks = blocks
        ctx.scaling = scaling
        ctx.heads = heads
        out = value.new_empty(len(query), query.shape[1], value.shape[2])
        for block in blocks:
            by_head = _attend_block(block, query, key, value, heads)
            # Where a block is filled up, nobody's token is written, which is cut off below.
            out[block.query_tokens.flatten()] = _split_by_token(by_head, block.query_tokens, out)
        return out[None, :-1]

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        # Under checkpointing what was saved may be read once.
        query, key, value = ctx.saved_tensors
        heads = ctx.heads
        grad_out = F.pad(grad_out[0], ONE_TOKEN)
        # Every token is a query once, but a key of several blocks, whose parts are added up.
        grad_query = torch.empty_like(query)
        grad_key = torch.zeros_like(key)
        grad_value = torch.zeros_like(value)
        for block in ctx.blocks:
            query_block = _gather_by_head(query, block.query_tokens, heads)
            grad_block = _gather_by_head(grad_out, block.query_tokens, heads)
            key_block = _gather_by_head(key, block.key_tokens, heads)
            value_block = _gather_by_head(value, block.key_tokens, heads)
            weights = block.attention_weights(query_block, key_block)
            grad_scores = torch.ops.aten._softmax_backward_data(
                grad_block @ value_block.mT,
                weights,
                -1,
                weights.dtype,
            )
            query_index = block.query_tokens.flatten()
            key_index = block.key_tokens.flatten()
            grad_query[query_index] = _split_by_token(
                grad_scores @ key_block,
                block.query_tokens,
                query,
            )
            grad_key.index_add_(
                0,
                key_index,
                _split_by_token(grad_scores.mT @ query_block, block.key_tokens, key),
            )
            grad_value.index_add_(
                0,
                key_index,
                _split_by_token(weights.mT @ grad_block, block.key_tokens, value),
            )
        # The saved queries are scaled already, so the gradient of the keys is whole.
        grad_query.mul_(ctx.scaling)
        return _drop_token(grad_query), _drop_token(grad_key), _drop_token(grad_value), None, None


def _attend_block(block: _Block, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Return what the values give to the queries of a block.

    [L + 1, H, d], [L + 1, K, d] twice -> [n * K, R * l, d]
    """
    query_block = _gather_by_head(query, block.query_tokens, heads)
    key_block = _gather_by_head(key, block.key_tokens, heads)
    weights = block.attention_weights(query_block, key_block)
    value_block = _gather_by_head(value, block.key_tokens, heads)
    return weights @ value_block


def _center_keys(key: Tensor, rows: Rows) -> Tensor:
    """Take the mean of each row's keys off them: smaller scores lose less in bf16.

    Attention weights stay the same, so the mean has no part in the backward pass. Each row has a
    mean of its own, so that its attention does not depend on its neighbours.
    """
    centered: list[Tensor] = []
    for part in key.split(list_lengths(rows), 2):
        centered.append(part - part.mean(2, keepdim=True))
    return torch.cat(centered, 2)


def _append_token(x: Tensor) -> Tensor:
    """Add a token that is nobody's, of zeros.   [1, H, L, d] -> [L + 1, H, d]"""
    return F.pad(x[0].transpose(0, 1), ONE_TOKEN)


def _drop_token(x: Tensor) -> Tensor:
    """Undo `_append_token`.   [L + 1, H, d] -> [1, H, L, d]"""
    return x[:-1].transpose(0, 1)[None]


def _gather_by_head(x: Tensor, tokens: Tensor, heads: int) -> Tensor:
    """Gather tokens with the query heads of a key head below each other.

    [L, K * R, d], [n, l] -> [n * K, R * l, d]
    """
    count, length = tokens.shape
    size = x.shape[2]
    gathered = x.index_select(0, tokens.flatten())
    by_token = gathered.view(count, length, heads, -1, size)
    by_head = by_token.permute(0, 2, 3, 1, 4)
    return by_head.reshape(count * heads, -1, size)


def _split_by_token(x: Tensor, tokens: Tensor, like: Tensor) -> Tensor:
    """Undo `_gather_by_head`; `like` has the number of heads.

    [n * K, R * l, d], [n, l], [L, K * R, d] -> [n * l, K * R, d]
    """
    count, length = tokens.shape
    heads = like.shape[1]
    by_head = x.view(count, heads, length, -1)
    return by_head.transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class _Block:
    """Parts of texts of similar length whose queries meet their keys together.

    The shorter are filled up at the front with the token that is nobody's, after the last.
    """

    query_tokens: Tensor  # [n, l]
    # [n, s], the tokens whose keys they see: of the prompt, and the part's own up to its end
    key_tokens: Tensor
    padding: Tensor  # [n, 1, s], far below all scores where nobody's token stands, else 0

    def attention_weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Return what each query gives to each key.

        Of the last keys, those of the queries' own tokens, each sees those up to its own token.

        [n * K, R * l, d], [n * K, s, d] -> [n * K, R * l, s]
        """
        scores = torch.bmm(query, key.mT)
        length = self.query_tokens.shape[1]
        future = torch.full((length, length), MASKED_SCORE, dtype=scores.dtype).triu(1)
        # Both views are written in place: scores are the largest tensor of the pass.
        own_scores = scores.unflatten(1, (-1, length))[..., -length:]
        own_scores.add_(future)
        by_text = scores.unflatten(0, (len(self.query_tokens), -1))
        by_text.add_(self.padding[:, None])
        return scores.softmax(-1)


@lru_cache(maxsize=2)  # every layer asks for the same, in the forward and in the backward pass
def _plan_blocks(rows: Rows, most_queries: int) -> Sequence[_Block]:
    """Return the blocks of rows that lie end to end, each row the segments of its texts.

    A text has at most `most_queries` queries in a block, and texts of similar length share one of
    four times as many keys.
    """
    parts = _list_parts(rows, most_queries)
    parts.sort(key=lambda part: (len(part[1]), len(part[0])))
    nobody = sum(list_lengths(rows))
    blocks: list[_Block] = []
    last = len(parts)
    while last > 0:
        # The bound is on keys, since no part has more queries than keys: many short answers to a
        # long prompt would otherwise gather that prompt as often at once.
        _, longest = parts[last - 1]
        count = max(1, 4 * most_queries // len(longest))
        first = max(0, last - count)
        together = parts[first:last]
        query_tokens = pad_left([queries for queries, _ in together], nobody)
        key_tokens = pad_left([keys for _, keys in together], nobody)
        padding = torch.zeros(key_tokens.shape)
        padding = padding.masked_fill(key_tokens == nobody, MASKED_SCORE)
        blocks.append(_Block(query_tokens, key_tokens, padding[:, None].bfloat16()))
        last = first
    return blocks


def _list_parts(rows: Rows, most_queries: int) -> list[tuple[Tensor, Tensor]]:
    """Return the queries and the keys of each part of at most `most_queries` tokens."""
    parts: list[tuple[Tensor, Tensor]] = []
    begin = 0
    for segments in rows:
        seen: list[Tensor] = []  # of each segment, what its last token sees
        for segment in segments:
            before = torch.arange(0) if segment.parent < 0 else seen[segment.parent]
            end = begin + segment.length
            for start in range(begin, end, most_queries):
                text = torch.arange(begin, min(start + most_queries, end))
                queries = text[start - begin :]
                keys = torch.cat([before, text])
                parts.append((queries, keys))
            seen.append(torch.cat([before, torch.arange(begin, end)]))
            begin = end
    return parts
