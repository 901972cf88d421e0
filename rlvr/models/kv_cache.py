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
# every token would cost more than the attention itself. Prompts are filled up to a multiple of it
# too: what a softmax and a product add up then begins at the same place of a vector register,
# whatever lies beside it, so that a row has the same bits in any company.
BLOCK_TOKENS = 32


class KvCacheLayer(DynamicLayer):
    """The keys and values of a layer: of prompts as they are read, then of the branches' decoded tokens.

    Decoded tokens lie without gaps between the branches, since a product copies what has some.
    """

    keys: Any  # [1, K, T, d] of prompts end to end, then [P, K, S, d], as are `values`
    values: Any
    is_decoding = False
    # [N * K, n, d] both, of which each branch has written the first few
    decoded_keys: Tensor
    decoded_values: Tensor
    # [N, K, 1, d], the mean of a prompt's keys, which is taken off all keys of its branches: scores
    # are smaller then, and attention weights the same.
    key_center: Tensor

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Add the keys and values of prompts; those of decoded tokens are written by `write`."""
        if not self.is_decoding:
            return super().update(key_states, value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        if self.is_decoding:
            return self.decoded_keys.shape[1]
        return super().get_seq_length()

    def start_decoding(self, lengths: Sequence[int], width: int) -> None:
        """Keep from here on the decoded tokens of one branch of each prompt.

        lengths: [P], those of the prompts that lie end to end; width: S
        """
        _one, heads, _tokens, key_size = self.keys.shape
        value_size = self.values.shape[3]
        keys = self.keys.new_zeros(len(lengths), heads, width, key_size)
        values = self.values.new_zeros(len(lengths), heads, width, value_size)
        centers: list[Tensor] = []
        prompts = zip(self.keys[0].split(lengths, 1), self.values[0].split(lengths, 1), strict=True)
        for number, (prompt_keys, prompt_values) in enumerate(prompts):
            # Each prompt by itself: a mean over padded ones would depend on the longest.
            center = prompt_keys.mean(1, keepdim=True)
            keys[number, :, : lengths[number]] = prompt_keys - center
            values[number, :, : lengths[number]] = prompt_values
            centers.append(center)
        self.keys = keys
        self.values = values
        self.key_center = torch.stack(centers)
        self.decoded_keys = keys.new_zeros(len(lengths) * heads, 0, key_size)
        self.decoded_values = keys.new_zeros(len(lengths) * heads, 0, value_size)
        self.is_decoding = True

    def make_room(self, tokens: int) -> None:
        """Have room for so many decoded tokens of each branch."""
        missing = tokens - self.decoded_keys.shape[1]
        if missing > 0:
            missing += -tokens % BLOCK_TOKENS
            self.decoded_keys = F.pad(self.decoded_keys, (0, 0, 0, missing))
            self.decoded_values = F.pad(self.decoded_values, (0, 0, 0, missing))

    def write(self, key: Tensor, value: Tensor, places: Tensor) -> None:
        """Write the keys and values of tokens of each branch in place.

        [N, K, L, d] twice; places: [N * K * L], counted over branches, heads and tokens
        """
        centered_keys = key - self.key_center
        keys = self.decoded_keys.flatten(0, 1)
        values = self.decoded_values.flatten(0, 1)
        keys[places] = centered_keys.flatten(0, 2)
        values[places] = value.flatten(0, 2)

    def take_branches(self, prompts: Tensor, parents: Tensor) -> None:
        """Go on with branches that continue these parents, in their order."""
        heads = self.keys.shape[1]
        self.key_center = self.key_center[parents]
        self.keys = self.keys[prompts]
        self.values = self.values[prompts]
        self.decoded_keys = _select_branches(self.decoded_keys, parents, heads)
        self.decoded_values = _select_branches(self.decoded_values, parents, heads)


def _select_branches(decoded: Tensor, parents: Tensor, heads: int) -> Tensor:
    """Return the keys or values of some branches.   [N * K, n, d], [m] -> [m * K, n, d]"""
    by_branch = decoded.unflatten(0, (-1, heads))
    return by_branch[parents].flatten(0, 1)


@dataclass(frozen=True, slots=True)
class SharedPromptCache:
    """Prompts whose keys and values are read once for all the branches that go on from them."""

    layers: Sequence[KvCacheLayer]  # of P prompts and N branches
    lengths: Tensor  # [P], of the prompts
    rows: Tensor  # [P, n], the branches of each prompt, the shorter filled up with any
    owner: Tensor  # [N], the prompt of each branch
    slot: Tensor  # [N], where each branch stands among the n of its prompt
    even: bool  # whether all prompts have n branches, one prompt's after the other's

    @classmethod
    def start(cls, layers: Sequence[KvCacheLayer], lengths: Sequence[int]) -> SharedPromptCache:
        """Return the cache of prompts that were read end to end, with one branch each.

        lengths: [P]
        """
        width = max(lengths) + -max(lengths) % BLOCK_TOKENS
        for layer in layers:
            layer.start_decoding(lengths, width)
        device = layers[0].keys.device
        owner = torch.arange(len(lengths), device=device)
        return cls._group(layers, torch.tensor(lengths, device=device), owner)

    @classmethod
    def _group(
        cls, layers: Sequence[KvCacheLayer], lengths: Tensor, owner: Tensor
    ) -> SharedPromptCache:
        """Return the cache of branches whose prompts are `owner`, those of one prompt together."""
        branch = torch.arange(len(owner), device=owner.device)
        sizes = owner.bincount()
        first = sizes.cumsum(0) - sizes
        slot = branch - first[owner]
        rows = branch.new_zeros(len(sizes), int(sizes.max()))
        rows = rows.index_put((owner, slot), branch)
        return cls(
            layers=layers,
            lengths=lengths,
            rows=rows,
            owner=owner,
            slot=slot,
            even=torch.equal(rows.flatten(), branch),
        )

    def take_branches(self, parents: Tensor) -> SharedPromptCache:
        """Return the cache of branches that continue these, without prompts that none goes on from.

        A parent may have several children, which lie beside each other, or none.   [m]
        """
        prompts, owner = self.owner[parents].unique(return_inverse=True)
        for layer in self.layers:
            layer.take_branches(prompts, parents)
        return self._group(self.layers, self.lengths[prompts], owner)

    def open_step(self, starts: Sequence[int], length: int) -> DecodingStep:
        """Make room for so many tokens of each branch, and return the step that writes them.

        starts: [N], their first position; what a branch has behind it is written over
        """
        device = self.owner.device
        # A branch that has ended begins anywhere.
        counts = (torch.tensor(starts, device=device) - self.lengths[self.owner]).clamp(min=0)
        for layer in self.layers:
            layer.make_room(int(counts.max()) + length)
        _prompts, heads, width, _size = self.layers[0].keys.shape
        room = self.layers[0].decoded_keys.shape[1]
        column = counts[:, None] + torch.arange(length, device=device)  # [N, L]
        line = torch.arange(len(starts) * heads, device=device)
        places = line.view(-1, heads, 1) * room + column[:, None]
        # Each token sees its prompt, what its branch has decoded, and itself.
        on_prompt = torch.arange(width, device=device) < self.lengths[self.owner, None]
        on_decoded = torch.arange(room, device=device) <= column[..., None]
        seen = torch.cat([on_prompt[:, None].expand(-1, length, -1), on_decoded], 2)
        mask = torch.zeros(seen.shape, dtype=self.layers[0].keys.dtype, device=device)
        return DecodingStep(self, places.flatten(), mask.masked_fill_(~seen, -torch.inf)[:, None])

    def group_by_prompt(self, x: Tensor) -> Tensor:
        """Put the branches of a prompt below each other.   [N, K, R, x] -> [P * K, n * R, x]"""
        # Where all prompts have n branches this is a view, and otherwise a gather.
        by_prompt = x.unflatten(0, self.rows.shape) if self.even else x[self.rows]
        return by_prompt.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def split_by_branch(self, x: Tensor, like: Tensor) -> Tensor:
        """Undo `group_by_prompt`; `like` has the shape.   [P * K, n * R, x] -> [N, K, R, x]"""
        prompts, most_branches = self.rows.shape
        _branches, heads, positions, _size = like.shape
        by_prompt = x.view(prompts, heads, most_branches, positions, -1)
        if self.even:
            return by_prompt.transpose(1, 2).flatten(0, 1)
        return by_prompt[self.owner, :, self.slot]


@dataclass(frozen=True, slots=True)
class DecodingStep:
    """What every layer needs to know of one pass over the next tokens of all branches."""

    cache: SharedPromptCache
    places: Tensor  # [N * K * L], where the keys and values of the tokens are written
    mask: Tensor  # [N, 1, L, S + n], minus infinity at what a token does not see, else 0

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Write the tokens and attend to the prompt and to what was decoded, in plain products.

        [N, K, R, L, d], [N, K, L, d] twice -> [N, K, R, L, d]
        """
        cache = self.cache
        layer = cache.layers[layer_index]
        layer.write(key, value, self.places)
        prompt_keys = layer.keys.flatten(0, 1)  # [P * K, S, d]
        prompt_values = layer.values.flatten(0, 1)
        prompt_length = prompt_keys.shape[1]
        queries = query.flatten(2, 3)  # [N, K, R * L, d]
        # One product for all the branches of a prompt reads its keys once, and they are most of the
        # memory that a step reads.
        prompt_scores = torch.bmm(cache.group_by_prompt(queries), prompt_keys.mT)
        prompt_scores = cache.split_by_branch(prompt_scores, queries)
        decoded_scores = torch.bmm(queries.flatten(0, 1), layer.decoded_keys.mT)
        decoded_scores = decoded_scores.view(*queries.shape[:3], -1)
        # The softmax is over both, so the two products are those of one attention.
        scores = torch.cat([prompt_scores, decoded_scores], -1)
        scores = scores.view(*query.shape[:4], -1) + self.mask[:, :, None]
        weights = scores.softmax(-1).flatten(2, 3)
        on_prompt, on_decoded = weights.tensor_split([prompt_length], -1)
        out = torch.bmm(cache.group_by_prompt(on_prompt), prompt_values)
        out = cache.split_by_branch(out, queries)
        from_decoded = torch.bmm(on_decoded.flatten(0, 1), layer.decoded_values)
        out = out.add_(from_decoded.view_as(out))
        return out.view(*query.shape[:4], -1)
