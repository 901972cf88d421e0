"""The KV cache of a decoding batch: prompts once, decoded tokens in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicLayer

# Room is made for so many decoded tokens at a time, and what is there is copied then. A copy for
# every token would cost more than the attention itself.
BLOCK_TOKENS = 32


class KvCacheLayer(DynamicLayer):
    """The keys and values of a layer: of prompts as they are read, then of the rows' decoded tokens.

    Decoded tokens lie without gaps between the rows, since a product copies what has some.
    """

    keys: Any  # [P, K, S, d], as are `values`
    values: Any
    is_decoding = False
    # [B * K, n, d] both, full up to `decoded_count`
    decoded_keys: Tensor
    decoded_values: Tensor
    decoded_count = 0
    # [B, K, 1, d], the mean of a prompt's keys, which is taken off all keys of its rows: scores are
    # smaller then, and attention weights the same.
    key_center: Tensor

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Add the keys and values of prompts, or of one decoded token of each row."""
        if not self.is_decoding:
            return super().update(key_states, value_states)
        if self.decoded_count % BLOCK_TOKENS == 0:
            self.decoded_keys = F.pad(self.decoded_keys, (0, 0, 0, BLOCK_TOKENS))
            self.decoded_values = F.pad(self.decoded_values, (0, 0, 0, BLOCK_TOKENS))
        # Written in place: the buffer of a block serves all its steps.
        centered_keys = key_states - self.key_center
        self.decoded_keys[:, self.decoded_count] = centered_keys.flatten(0, 2)
        self.decoded_values[:, self.decoded_count] = value_states.flatten(0, 2)
        self.decoded_count += 1
        return key_states, value_states

    def get_seq_length(self) -> int:
        if self.is_decoding:
            return self.decoded_count
        return super().get_seq_length()

    def start_decoding(self, owner: Tensor) -> None:
        """Keep from here on the decoded tokens of rows.   owner: [B], the prompt of each row"""
        center = self.keys.mean(2, keepdim=True)
        self.keys = self.keys - center
        self.key_center = center[owner]
        _prompts, heads, _length, key_size = self.keys.shape
        value_size = self.values.shape[3]
        rows_and_heads = len(owner) * heads
        self.decoded_keys = self.keys.new_empty(rows_and_heads, 0, key_size)
        self.decoded_values = self.values.new_empty(rows_and_heads, 0, value_size)
        self.is_decoding = True

    def keep_rows(self, prompts: Tensor, rows: Tensor) -> None:
        """Keep these prompts and rows, in their order."""
        heads = self.keys.shape[1]
        self.key_center = self.key_center[rows]
        self.keys = self.keys[prompts]
        self.values = self.values[prompts]
        self.decoded_keys = _select_rows(self.decoded_keys, rows, heads)
        self.decoded_values = _select_rows(self.decoded_values, rows, heads)


def _select_rows(decoded: Tensor, rows: Tensor, heads: int) -> Tensor:
    """Return the keys or values of some rows.   [B * K, n, d], [b] -> [b * K, n, d]"""
    by_row = decoded.unflatten(0, (-1, heads))
    return by_row[rows].flatten(0, 1)


@dataclass(frozen=True, slots=True)
class SharedPromptCache:
    """Prompts whose keys and values are read once for all the rows that go on from them."""

    layers: Sequence[KvCacheLayer]  # of P prompts and B rows
    mask: Tensor  # [P, S], minus infinity where the prompt is padded, else 0
    rows: Tensor  # [P, n], the rows of each prompt, the shorter filled up with any
    owner: Tensor  # [B], the prompt of each row
    slot: Tensor  # [B], where each row stands among the n of its prompt
    even: bool  # whether all prompts have n rows, one prompt's after the other's

    @classmethod
    def build(
        cls,
        layers: Sequence[KvCacheLayer],
        tokens: Tensor,
        owner: Tensor,
    ) -> SharedPromptCache:
        """Return the cache of prompts that each have a row at least, the rows of one together.

        tokens: [P, S], False where the prompt is padded; owner: [B], the prompt of each row
        """
        row = torch.arange(len(owner), device=owner.device)
        sizes = owner.bincount()
        first_row = sizes.cumsum(0) - sizes
        slot = row - first_row[owner]
        most_rows = int(sizes.max())
        rows = row.new_zeros(len(sizes), most_rows)
        rows = rows.index_put((owner, slot), row)
        for layer in layers:
            if not layer.is_decoding:
                layer.start_decoding(owner)
        mask = torch.zeros_like(tokens, dtype=layers[0].keys.dtype)
        return cls(
            layers=layers,
            mask=mask.masked_fill(~tokens, -torch.inf),
            rows=rows,
            owner=owner,
            slot=slot,
            even=torch.equal(rows.flatten(), row),
        )

    def keep_rows(self, rows: Tensor) -> SharedPromptCache:
        """Return the cache of these rows, in their order, without prompts that none goes on from."""
        prompts, owner = self.owner[rows].unique(return_inverse=True)
        for layer in self.layers:
            layer.keep_rows(prompts, rows)
        tokens = self.mask[prompts] == 0
        return self.build(self.layers, tokens, owner)

    def step_mask(self, decoded_count: int) -> Tensor:
        """Return what a step adds to the scores of all layers.   -> [B, 1, 1, S + n]

        Each row will have decoded so many tokens. The padding of its prompt and what is not yet
        written of the last block get minus infinity.
        """
        decoded = self.mask.new_zeros(len(self.owner), decoded_count)
        unwritten = -decoded_count % BLOCK_TOKENS
        decoded = F.pad(decoded, (0, unwritten), value=-torch.inf)
        mask = torch.cat([self.mask[self.owner], decoded], 1)
        return mask[:, None, None]

    def attend(self, layer_index: int, query: Tensor, step_mask: Tensor) -> Tensor:
        """Attend to the prompt and to the decoded tokens, in plain products.

        [B, K, R, d] -> [B, K, R, d]
        """
        layer = self.layers[layer_index]
        prompt_keys = layer.keys.flatten(0, 1)  # [P * K, S, d]
        prompt_values = layer.values.flatten(0, 1)
        prompt_length = prompt_keys.shape[1]
        # One product for all the rows of a prompt reads its keys once, and they are most of the
        # memory that a step reads.
        prompt_scores = torch.bmm(self._group_by_prompt(query), prompt_keys.mT)
        prompt_scores = self._split_by_row(prompt_scores, query)
        decoded_scores = torch.bmm(query.flatten(0, 1), layer.decoded_keys.mT)
        decoded_scores = decoded_scores.view(*query.shape[:3], -1)
        # The softmax is over both, so the two products are those of one attention.
        weights = (torch.cat([prompt_scores, decoded_scores], -1) + step_mask).softmax(-1)
        on_prompt, on_decoded = weights.tensor_split([prompt_length], -1)
        out = torch.bmm(self._group_by_prompt(on_prompt), prompt_values)
        out = self._split_by_row(out, query)
        from_decoded = torch.bmm(on_decoded.flatten(0, 1), layer.decoded_values)
        return out.add_(from_decoded.view_as(out))

    def _group_by_prompt(self, x: Tensor) -> Tensor:
        """Put the rows of a prompt below each other.   [B, K, R, x] -> [P * K, n * R, x]"""
        # Where all prompts have n rows this is a view, and otherwise a gather.
        by_prompt = x.unflatten(0, self.rows.shape) if self.even else x[self.rows]
        return by_prompt.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def _split_by_row(self, x: Tensor, like: Tensor) -> Tensor:
        """Undo `_group_by_prompt`; `like` has the shape.   [P * K, n * R, x] -> [B, K, R, x]"""
        prompts, most_rows = self.rows.shape
        _rows, heads, positions, _size = like.shape
        by_prompt = x.view(prompts, heads, most_rows, positions, -1)
        if self.even:
            return by_prompt.transpose(1, 2).flatten(0, 1)
        return by_prompt[self.owner, :, self.slot]
