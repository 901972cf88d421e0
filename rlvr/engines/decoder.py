"""The engine of this process: batched decoding with a shared KV cache."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rlvr.engines.packed_linear import replace_linears
from rlvr.engines.sampling import check_finite, sample_tokens
from rlvr.models.attention import ATTENTION, has_full_attention
from rlvr.models.kv_cache import KvCacheLayer, SharedPromptCache
from rlvr.models.tensors import pad_left
from rlvr.models.token_logprobs import has_plain_lm_head
from rlvr.types import Finish, Generation, Request, Sampling

# Waves shrink when at least this share of their rows has finished: a copy of the cache costs about
# one step.
FINISHED_SHARE = 0.25


@dataclass
class _Row:
    """One response in the making."""

    request: int
    key: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish = Finish.LENGTH
    ended: bool = False


@dataclass
class _Wave:
    """The rows that are decoded together, with what their next step needs."""

    rows: list[_Row]
    logits: Tensor  # [B, V], of the next token
    position: Tensor  # [B], of the next token
    mask: Tensor  # [B, S], what each row sees of the cache, shared prompts aside
    cache: Any  # of transformers
    prompts: SharedPromptCache | None

    def keep_rows(self, alive: Sequence[int]) -> None:
        """Keep these rows, in their order; the logits, which have been drawn from, stay."""
        index = torch.tensor(alive, device=self.position.device)
        self.rows = [self.rows[i] for i in alive]
        self.position = self.position[index]
        self.mask = self.mask[index]
        if self.prompts is not None:
            self.prompts = self.prompts.keep_rows(index)
        else:
            self.cache.reorder_cache(index)


class Decoder:
    """The local engine: a replica of the model in the compute dtype, which `load` fills."""

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        compute: torch.dtype,
        max_sequences: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_sequences = max_sequences
        self.version = -1
        self.end_tokens = find_end_tokens(module, tokenizer)
        self.has_own_attention = has_full_attention(module)
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.device = self.module.device
        if self.has_own_attention:
            # other models keep the attention, masks and caches of transformers
            self.module.set_attn_implementation(ATTENTION)
        # buffers, such as those of rotary embeddings, keep their precision
        self.parameters = dict(self.module.named_parameters())
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(compute)
        self.packed_linears = replace_linears(self.module, compute)
        self.plain_head: nn.Module | None = None
        if has_plain_lm_head(self.module):
            self.plain_head = self.module.get_output_embeddings()
        may_share = self.has_own_attention and self.device.type == "cpu"
        self.shares_prompts = may_share and self._probe_shared_prompts()

    @torch.inference_mode()
    def _probe_shared_prompts(self) -> bool:
        """Return whether shared prompts give what whole rows give.

        It is tried, since a model may change what its cache holds, or may not hand on to its
        attention what it is given for it.
        """
        requests = [Request((5, 6, 7, 8), ()), Request((8, 9), ())]
        rows = [_Row(request, 0) for request in (0, 0, 1, 1)]
        token = torch.tensor([5, 6, 7, 8], device=self.device)
        try:
            unshared = self._read(rows, requests, shared=False)
            self._advance(unshared, token)
            shared = self._read(rows, requests, shared=True)
            self._advance(shared, token)
        except RuntimeError:  # of shapes that do not fit
            return False
        tolerance = torch.finfo(unshared.logits.dtype).eps ** 0.5
        distance = (unshared.logits - shared.logits).norm()
        return bool(distance < tolerance * unshared.logits.norm())

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        with torch.no_grad():
            for name, weight in weights:
                self.parameters[name].copy_(weight)
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """Return one generation for each key of each request, in order."""
        rows: list[_Row] = []
        for number, request in enumerate(requests):
            for key in request.keys:
                rows.append(_Row(number, key))
        # Longest prompts first, so that waves are even.
        ordered = sorted(rows, key=lambda row: -len(requests[row.request].token_ids))
        with torch.inference_mode():
            try:
                for layer in self.packed_linears:
                    layer.pack_weight(min(len(rows), self.max_sequences))
                for start in range(0, len(ordered), self.max_sequences):
                    wave_rows = ordered[start : start + self.max_sequences]
                    self._decode(wave_rows, requests, sampling)
            finally:
                # An update needs the memory, and the weights change with it.
                for layer in self.packed_linears:
                    layer.pack_weight(0)
        return [Generation(tuple(row.tokens), tuple(row.logprobs), row.finish) for row in rows]

    def _decode(self, rows: list[_Row], requests: Sequence[Request], sampling: Sampling) -> None:
        """Fill the rows of a wave."""
        wave = self._read(rows, requests, self.shares_prompts)
        for step in range(sampling.max_tokens):
            keys = [row.key for row in wave.rows]
            token, logprob = sample_tokens(wave.logits, keys, step, sampling)
            is_last = step + 1 == sampling.max_tokens
            logprobs = logprob.tolist()
            check_finite(logprobs, sampling)
            self._record(
                wave.rows,
                token.tolist(),
                logprobs,
                sampling,
                is_last,
            )
            alive = [number for number, row in enumerate(wave.rows) if not row.ended]
            if not alive:
                break
            if len(alive) <= len(wave.rows) * (1 - FINISHED_SHARE):
                wave.keep_rows(alive)
                token = token[torch.tensor(alive, device=self.device)]
            self._advance(wave, token)

    def _read(self, rows: list[_Row], requests: Sequence[Request], shared: bool) -> _Wave:
        """Read each prompt of a wave once, and return the wave before its first token."""
        numbers = list(dict.fromkeys(row.request for row in rows))
        token_ids = [requests[number].token_ids for number in numbers]
        ids = pad_left(token_ids, -1).to(self.device)
        mask = ids >= 0
        cache: Any = DynamicCache(config=self.module.config)
        if shared:
            cache = Cache(layer_class_to_replicate=KvCacheLayer)
        position = mask.long().cumsum(1).sub(1).clamp(min=0)
        logits = self._forward(ids.clamp(min=0), position, mask, cache, None)
        # [B], the prompt of each row among those that were read
        owner = torch.tensor([numbers.index(row.request) for row in rows], device=self.device)
        logits = logits[owner]
        prompts = None
        if shared:
            prompts = SharedPromptCache.build(cache.layers, mask, owner)
            decoded_mask = mask.new_ones(len(rows), 0)
        else:
            cache.reorder_cache(owner)
            decoded_mask = mask[owner]
        return _Wave(
            rows=rows,
            logits=logits,
            position=mask.sum(1)[owner],
            mask=decoded_mask,
            cache=cache,
            prompts=prompts,
        )

    def _advance(self, wave: _Wave, token: Tensor) -> None:
        """Run the model on one token of each row, which gives the logits of the next.

        token: [B]
        """
        wave.mask = F.pad(wave.mask, (0, 1), value=True)
        wave.logits = self._forward(
            token[:, None],
            wave.position[:, None],
            wave.mask,
            wave.cache,
            wave.prompts,
        )
        wave.position = wave.position + 1

    def _record(
        self,
        rows: list[_Row],
        tokens: list[int],
        logprobs: list[float],
        sampling: Sampling,
        is_last: bool,
    ) -> None:
        """Append the tokens of a step; a row that ended earlier waits for its removal."""
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            if row.ended:
                continue
            row.tokens.append(token)
            row.logprobs.append(logprob)
            stopped = token in self.end_tokens or self._has_stop_text(row, sampling)
            if stopped:
                row.finish = Finish.STOP
            row.ended = stopped or is_last

    def _has_stop_text(self, row: _Row, sampling: Sampling) -> bool:
        if not sampling.stop:
            return False
        longest = max(len(stop.encode()) for stop in sampling.stop)  # a token may be a single byte
        tail = self.tokenizer.decode(row.tokens[-longest - 1 :])
        return any(stop in tail for stop in sampling.stop)

    def _forward(
        self,
        ids: Tensor,
        position: Tensor,
        mask: Tensor,
        cache: Cache,
        prompts: SharedPromptCache | None,
    ) -> Tensor:
        """Return the logits of the last position.   ids: [B, L], mask: [B, S] -> [B, V]"""
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "position_ids": position,
            "attention_mask": mask,
            "past_key_values": cache,
            "use_cache": True,
        }
        if self.has_own_attention:
            inputs["attention_mask"] = self._make_attention_mask(mask, ids.shape[1], prompts)
        if prompts is not None:
            inputs["prompts"] = prompts
        if self.plain_head is not None:
            # Through the model the last position would be a strided slice, whose product copies the
            # head for each row.
            hidden = self.module.base_model(**inputs).last_hidden_state
            return self.plain_head(hidden[:, -1])
        return self.module(**inputs, logits_to_keep=1).logits[:, -1]

    def _make_attention_mask(
        self,
        mask: Tensor,
        length: int,
        prompts: SharedPromptCache | None,
    ) -> Tensor:
        """Return the mask of our attention.   mask: [B, S] -> [B, 1, 1 or L, S]"""
        width = mask.shape[1]
        if prompts is not None:
            return prompts.step_mask(width)
        mask = mask[:, None, None, :]
        if length == 1:
            return mask
        # a padded position sees itself, so that no row of the mask is empty
        itself = torch.eye(width, dtype=torch.bool, device=self.device)
        causal = torch.ones_like(itself).tril()
        return (mask & causal) | itself


def find_end_tokens(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end a response, of the model and of its tokenizer."""
    candidates: list[Any] = [tokenizer.eos_token_id]
    if module.generation_config is not None:
        configured = module.generation_config.eos_token_id
        candidates.extend(configured if isinstance(configured, list) else [configured])
    return frozenset(token for token in candidates if token is not None)
