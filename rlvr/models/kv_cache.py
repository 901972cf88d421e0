"""The KV cache of a decoding batch: prompts once, decoded tokens in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicLayer

# For so many decoded tokens room is made at a time, for which what is there moves.
BLOCK = 32


class KvCacheLayer(DynamicLayer):
    """The keys and values of a layer: of prompts as they are read, and then of what the rows say,
    without gaps between the rows, since a product copies what has some.
    """

    keys: Any  # [P, K, S, d], as are `values`
    values: Any
    said: Any = None  # [B * K, n, d], keys and values, full up to `used`; None while reading
    used = 0
    # [B, K, 1, d], a mean of keys that is taken off them all: scores are smaller, and shares the
    # same
    center: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.said is None:
            return super().update(key_states, value_states)
        if self.used % BLOCK == 0:
            self.said = [F.pad(kept, (0, 0, 0, BLOCK)) for kept in self.said]
        for kept, new in zip(self.said, (key_states - self.center, value_states), strict=True):
            kept[:, self.used] = new.flatten(0, 2)
        self.used += 1
        return key_states, value_states

    def get_seq_length(self) -> int:
        return super().get_seq_length() if self.said is None else self.used

    def start(self, owner: Tensor) -> None:
        """From here on keep what the rows say."""
        center = self.keys.mean(2, keepdim=True)
        self.keys, self.center = self.keys - center, center[owner]
        self.said = [
            x.new_empty(len(owner) * x.shape[1], 0, x.shape[3]) for x in (self.keys, self.values)
        ]

    def only(self, prompts: Tensor, rows: Tensor) -> None:
        """Keep these, in their order."""
        heads, self.center = self.keys.shape[1], self.center[rows]
        self.keys, self.values = self.keys[prompts], self.values[prompts]
        self.said = [x.unflatten(0, (-1, heads))[rows].flatten(0, 1) for x in self.said]


@dataclass(frozen=True, slots=True)
class SharedPromptCache:
    """Prompts whose keys and values are read once for all the rows that go on from them."""

    layers: Sequence[KvCacheLayer]  # of P prompts and B rows
    mask: Tensor  # [P, S], minus infinity where the prompt is padded, else 0
    rows: Tensor  # [P, n], the rows of each prompt, the shorter filled up with any
    place: tuple[Tensor, Tensor]  # [B] twice, where each row stands among P and n
    even: bool  # whether all prompts have n rows, one prompt's after the other's

    @classmethod
    def shared(
        cls, layers: Sequence[KvCacheLayer], tokens: Tensor, owner: Tensor
    ) -> SharedPromptCache:
        """Of prompts that each have a row at least, the rows of one together.

        tokens: [P, S], False where the prompt is padded; owner: [B], the prompt of each row
        """
        row, sizes = torch.arange(len(owner), device=owner.device), owner.bincount()
        place = row - (sizes.cumsum(0) - sizes)[owner]
        rows = row.new_zeros(len(sizes), int(sizes.max())).index_put((owner, place), row)
        for layer in layers:
            if layer.said is None:
                layer.start(owner)
        mask = torch.zeros_like(tokens, dtype=layers[0].keys.dtype).masked_fill(~tokens, -torch.inf)
        return cls(layers, mask, rows, (owner, place), torch.equal(rows.flatten(), row))

    def only(self, rows: Tensor) -> SharedPromptCache:
        """For these rows alone, in their order; a prompt that none of them goes on from is dropped."""
        used, owner = self.place[0][rows].unique(return_inverse=True)
        for layer in self.layers:
            layer.only(used, rows)
        return self.shared(self.layers, self.mask[used] == 0, owner)

    def seen(self, said: int) -> Tensor:
        """What a step adds to the scores of all layers, where each row will have said so many
        tokens: minus infinity for the padding of its prompt and the rest of the block that fills
        up.   -> [B, 1, 1, S + n]
        """
        own = F.pad(
            self.mask.new_zeros(len(self.place[0]), said), (0, -said % BLOCK), value=-torch.inf
        )
        return torch.cat([self.mask[self.place[0]], own], 1)[:, None, None]

    def attend(self, layer: int, query: Tensor, seen: Tensor) -> Tensor:
        """Attention to the prompt and to what the row has said, in plain products.   [B, K, R, d]
        -> [B, K, R, d]
        """
        kept, flat = self.layers[layer], query.flatten(0, 1)
        (own, said), keys, values = kept.said, kept.keys.flatten(0, 1), kept.values.flatten(0, 1)
        of_prompt = self._by_row(torch.bmm(self._by_prompt(query), keys.mT), query)
        of_own = torch.bmm(flat, own.mT).view(*query.shape[:3], -1)
        share = (torch.cat([of_prompt, of_own], -1) + seen).softmax(-1)
        prompt, row = share.tensor_split([keys.shape[1]], -1)
        out = self._by_row(torch.bmm(self._by_prompt(prompt), values), query)
        return out.add_(torch.bmm(row.flatten(0, 1), said).view_as(out))

    def _by_prompt(self, x: Tensor) -> Tensor:
        """[B, K, R, x] -> [P * K, n * R, x]"""
        asking = x.unflatten(0, self.rows.shape) if self.even else x[self.rows]
        return asking.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def _by_row(self, x: Tensor, like: Tensor) -> Tensor:
        """[P * K, n * R, x] -> [B, K, R, x]"""
        answers = x.view(len(self.rows), like.shape[1], self.rows.shape[1], like.shape[2], -1)
        prompt, place = self.place
        return answers.transpose(1, 2).flatten(0, 1) if self.even else answers[prompt, :, place]
