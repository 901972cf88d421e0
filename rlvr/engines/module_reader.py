"""The model as transformers has it, with a KV cache that branches of one prompt share where it may."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel

from rlvr.engines.packed_linear import replace_linears
from rlvr.engines.reader import Logits
from rlvr.models.attention import ATTENTION, has_full_attention
from rlvr.models.kv_cache import KvCacheLayer, SharedPromptCache
from rlvr.models.tensors import pad_left
from rlvr.models.token_logprobs import has_plain_lm_head

# Logits may differ by this share of theirs between two ways to compute them, for models in bf16 by more.
PROBE_TOLERANCE = 1e-3
BF16_PROBE_TOLERANCE = 0.3

# Branches that have ended stay until they are so many: a copy of the cache costs about one step.
WAITING_SHARE = 0.25


class ModuleCache:
    """The cache of transformers, with the prompts of all branches or beside prompts that they share."""

    waiting_share = WAITING_SHARE

    def __init__(self, cache: Any, mask: Tensor, prompts: SharedPromptCache | None) -> None:
        self.cache = cache
        self.mask = mask  # [N, S], what each branch sees of the cache, where prompts are not shared
        self.prompts = prompts
        self.takes_guesses = prompts is not None

    def take_branches(self, parents: Sequence[int], lengths: Sequence[int]) -> None:
        index = torch.tensor(parents, device=self.mask.device)
        self.mask = self.mask[index]
        if self.prompts is not None:
            self.prompts = self.prompts.take_branches(index)
        else:
            self.cache.reorder_cache(index)

    def close(self) -> None:
        """Hold nothing: the memory goes with the cache."""


class ModuleReader:
    """A replica of the model in the compute dtype."""

    def __init__(self, module: PreTrainedModel, compute: torch.dtype) -> None:
        self.has_own_attention = has_full_attention(module)
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.device = self.module.device
        if self.has_own_attention:
            # other models keep the attention, masks and caches of transformers
            self.module.set_attn_implementation(ATTENTION)
        self.plain_head: nn.Module | None = None
        if has_plain_lm_head(self.module):
            self.plain_head = self.module.get_output_embeddings()
        may_share = self.has_own_attention and self.device.type == "cpu"
        # Tried before weights are rounded, which may change such short texts a lot.
        self.shares_prompts = may_share and self._probe_shared_prompts()
        # buffers, such as those of rotary embeddings, keep their precision
        self.parameters = dict(self.module.named_parameters())
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(compute)
        self.packed_linears = replace_linears(self.module, compute)

    @torch.inference_mode()
    def _probe_shared_prompts(self) -> bool:
        """Return whether shared prompts give what whole rows give.

        It is tried, since a model may change what its cache holds, or may not hand on to its
        attention what it is given for it.
        """
        prompts = ((5, 6, 7, 8), (8, 9))
        tokens = ((5,), (6,), (8,), (9,))
        starts = (4, 4, 2, 2)
        parents = (0, 0, 1, 1)
        found: list[Tensor] = []
        try:
            for read in (self._read_padded, self._read_end_to_end):
                cache, _logits = read(prompts)
                cache.take_branches(parents, starts)
                found.append(self.read_tokens(cache, tokens, starts).values)
        except RuntimeError:  # of shapes that do not fit
            return False
        unshared, shared = found
        tolerance = PROBE_TOLERANCE
        if unshared.dtype is torch.bfloat16:
            tolerance = BF16_PROBE_TOLERANCE
        return bool((unshared - shared).norm() < tolerance * unshared.norm())

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        with torch.no_grad():
            for name, weight in weights:
                self.parameters[name].copy_(weight)

    def open(self, sequences: int) -> None:
        for layer in self.packed_linears:
            layer.pack_weight(sequences)

    def close(self) -> None:
        """Give up the packed weights: an update needs the memory, and the weights change with it."""
        for layer in self.packed_linears:
            layer.pack_weight(0)

    def read_prompts(self, prompts: Sequence[tuple[int, ...]]) -> tuple[ModuleCache, Logits]:
        if self.shares_prompts:
            return self._read_end_to_end(prompts)
        return self._read_padded(prompts)

    def _read_padded(self, prompts: Sequence[tuple[int, ...]]) -> tuple[ModuleCache, Logits]:
        cache = DynamicCache(config=self.module.config)
        ids = pad_left(prompts, -1).to(self.device)
        mask = ids >= 0
        inputs: dict[str, Any] = {
            "input_ids": ids.clamp(min=0),
            "position_ids": mask.long().cumsum(1).sub(1).clamp(min=0),
            "attention_mask": self._make_attention_mask(mask, ids.shape[1]),
            "past_key_values": cache,
        }
        logits = self._forward(inputs, torch.tensor([ids.shape[1] - 1], device=self.device))
        return ModuleCache(cache, mask, None), _lay_out(logits)

    def _read_end_to_end(self, prompts: Sequence[tuple[int, ...]]) -> tuple[ModuleCache, Logits]:
        """Read prompts without padding, for a cache that all branches of a prompt share."""
        lengths = [len(prompt) for prompt in prompts]
        positions = itertools.chain.from_iterable(map(range, lengths))
        cache: Any = Cache(layer_class_to_replicate=KvCacheLayer)
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([list(itertools.chain(*prompts))], device=self.device),
            "position_ids": torch.tensor([list(positions)], device=self.device),
            "past_key_values": cache,
            "prompts": lengths,
        }
        ends = torch.tensor(lengths, device=self.device).cumsum(0) - 1
        logits = self._forward(inputs, ends).transpose(0, 1)
        mask = torch.ones(len(prompts), 0, dtype=torch.bool, device=self.device)
        shared = SharedPromptCache.start(cache.layers, lengths)
        return ModuleCache(cache, mask, shared), _lay_out(logits)

    def read_tokens(
        self, cache: ModuleCache, tokens: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> Logits:
        length = max(map(len, tokens))
        # What fills up the shorter is drawn from by nobody.
        ids = [[*read, *[read[-1]] * (length - len(read))] for read in tokens]
        position = torch.tensor(starts)[:, None] + torch.arange(length)
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor(ids, device=self.device),
            "position_ids": position.to(self.device),
            "past_key_values": cache.cache,
        }
        if cache.prompts is not None:
            step = cache.prompts.open_step(starts, length)
            inputs |= {"attention_mask": step.mask, "step": step}
        else:
            cache.mask = F.pad(cache.mask, (0, 1), value=True)
            inputs["attention_mask"] = self._make_attention_mask(cache.mask, 1)
        return _lay_out(self._forward(inputs, torch.arange(length, device=self.device)))

    def _forward(self, inputs: dict[str, Any], places: Tensor) -> Tensor:
        """Return the logits at these places of the rows.   [B, T] ids, [L] -> [B, L, V]"""
        if self.plain_head is None:
            return self.module(**inputs, use_cache=True, logits_to_keep=places).logits
        hidden = self.module.base_model(**inputs, use_cache=True).last_hidden_state
        # A copy: the product of a strided slice would copy the head for each row.
        return self.plain_head(hidden[:, places])

    def _make_attention_mask(self, mask: Tensor, length: int) -> Tensor:
        """Return the mask of prompts that are not shared.   [B, S] -> [B, S], ours [B, 1, 1 or L, S]"""
        if not self.has_own_attention:
            return mask
        width = mask.shape[1]
        mask = mask[:, None, None, :]
        if length == 1:
            return mask
        # a padded position sees itself, so that no row of the mask is empty
        itself = torch.eye(width, dtype=torch.bool, device=self.device)
        causal = torch.ones_like(itself).tril()
        return (mask & causal) | itself


def _lay_out(logits: Tensor) -> Logits:
    """Return logits of branches, each of the same length.   [N, L, V]"""
    branches, length, _vocabulary = logits.shape
    return Logits(logits.flatten(0, 1), range(0, branches * length, length))
