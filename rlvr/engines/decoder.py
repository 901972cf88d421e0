"""The engine of this process: batched decoding with a shared KV cache."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache

from rlvr.engines.sampling import sample_tokens
from rlvr.models import attention, kv_cache
from rlvr.models.kv_cache import SharedPromptCache
from rlvr.types import Finish, Generation, Request, Sampling

# Waves shrink when at least this share of their rows has finished: a copy of the cache costs about
# one step.
FINISHED_SHARE = 0.25


class _Linear(torch.nn.Linear):
    """A linear layer whose weight lies as oneDNN's product reads it on a processor, in 0.4 to 0.9
    of the time of the plain one.
    """

    laid: Tensor | None = None

    def lay(self, rows: int) -> None:
        """For steps of about so many rows; none gives the memory back."""
        self.laid = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows) if rows else None

    def forward(self, input: Tensor) -> Tensor:
        if self.laid is None:
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self.laid, self.bias, "none", [], "")


@dataclass
class _Row:
    """One response in the making."""

    request: int
    key: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish = Finish.LENGTH
    ended: bool = False


class Decoder:
    """The local engine: a replica of the model in the compute dtype, which `load` fills."""

    def __init__(
        self, module: Any, tokenizer: Any, compute: torch.dtype, max_sequences: int
    ) -> None:
        self.ours = attention.full_attention(module)
        self.module = copy.deepcopy(module).requires_grad_(False)
        if self.ours:  # other models keep the attention, masks and caches of transformers
            self.module.set_attn_implementation(attention.ATTENTION)
        self.parameters = dict(self.module.named_parameters())
        # buffers, such as those of rotary embeddings, keep their precision
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(compute)
        self.tokenizer, self.max_sequences, self.version = tokenizer, max_sequences, -1
        self.device = self.module.device
        self.ends = end_tokens(module, tokenizer)
        self.head = self.module.get_output_embeddings()
        fast = compute is torch.float32 or (
            compute is torch.bfloat16 and torch.cpu._is_avx512_bf16_supported()
        )
        lays = fast and self.device.type == "cpu" and torch.backends.mkldnn.is_available()
        self.layers: list[Any] = [
            m for m in self.module.modules() if lays and type(m) is torch.nn.Linear
        ]
        for layer in self.layers:
            layer.__class__ = _Linear
        self.direct_head = attention.has_plain_lm_head(self.module)
        self.shares = self.ours and self.device.type == "cpu" and self._shared_as_whole()

    @torch.inference_mode()
    def _shared_as_whole(self) -> bool:
        """Whether prompts kept apart give what whole rows give; tried, since a model may change
        what its cache holds, or keep from its attention what it is told.
        """
        asked, rows = (
            [Request((5, 6, 7, 8), ()), Request((8, 9), ())],
            [_Row(i, 0) for i in (0, 0, 1, 1)],
        )
        found, token = [], torch.tensor([[5], [6], [7], [8]], device=self.device)
        try:
            for shared in (False, True):
                _, position, mask, cache, prompts = self._read(rows, asked, shared)
                found.append(
                    self._forward(
                        token, position[:, None], F.pad(mask, (0, 1), value=True), cache, prompts
                    )
                )
        except RuntimeError:  # of shapes that do not fit
            return False
        return bool(
            (found[0] - found[1]).norm() < torch.finfo(found[0].dtype).eps ** 0.5 * found[0].norm()
        )

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        with torch.no_grad():
            for name, weight in weights:
                self.parameters[name].copy_(weight)
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """One generation for each key of each request, in order; longest prompts first, so that
        waves are even.
        """
        rows = [_Row(i, key) for i, request in enumerate(requests) for key in request.keys]
        order = sorted(rows, key=lambda row: -len(requests[row.request].token_ids))
        with torch.inference_mode():
            try:
                for layer in self.layers:
                    layer.lay(min(len(rows), self.max_sequences))
                for start in range(0, len(order), self.max_sequences):
                    self._decode(order[start : start + self.max_sequences], requests, sampling)
            finally:
                for layer in self.layers:
                    layer.lay(0)
        return [Generation(tuple(row.tokens), tuple(row.logprobs), row.finish) for row in rows]

    def _read(
        self, rows: Sequence[_Row], requests: Sequence[Request], shared: bool
    ) -> tuple[Tensor, Tensor, Tensor, Any, SharedPromptCache | None]:
        """Each prompt of a wave, once: the logits and next position of each row, and the mask of
        the cache.
        """
        asked = list(dict.fromkeys(row.request for row in rows))
        ids = attention.front_padded([requests[i].token_ids for i in asked], -1).to(self.device)
        mask = ids >= 0
        cache: Any = DynamicCache(config=self.module.config)
        if shared:
            cache = Cache(layer_class_to_replicate=kv_cache.KvCacheLayer)
        logits = self._forward(
            ids.clamp(min=0), mask.long().cumsum(1).sub(1).clamp(min=0), mask, cache, None
        )
        owner = torch.tensor([asked.index(row.request) for row in rows], device=self.device)
        logits, position = logits[owner], mask.sum(1)[owner]
        if shared:
            prompts = SharedPromptCache.shared(cache.layers, mask, owner)
            return logits, position, mask.new_ones(len(rows), 0), cache, prompts
        cache.reorder_cache(owner)
        return logits, position, mask[owner], cache, None

    def _decode(self, rows: list[_Row], requests: Sequence[Request], sampling: Sampling) -> None:
        """Fill the rows of a wave."""
        logits, position, mask, cache, prompts = self._read(rows, requests, self.shares)
        for step in range(sampling.max_tokens):
            token, logprob = sample_tokens(logits, [row.key for row in rows], step, sampling)
            self._record(rows, token.tolist(), logprob.tolist(), sampling, step)
            alive = torch.tensor(
                [i for i, row in enumerate(rows) if not row.ended], device=self.device
            )
            if not len(alive):
                break
            if len(alive) <= len(rows) * (1 - FINISHED_SHARE):
                rows = [rows[i] for i in alive.tolist()]
                token, position, mask = token[alive], position[alive], mask[alive]
                prompts = prompts.only(alive) if prompts else cache.reorder_cache(alive)
            mask = F.pad(mask, (0, 1), value=True)
            logits = self._forward(token[:, None], position[:, None], mask, cache, prompts)
            position = position + 1

    def _record(
        self,
        rows: list[_Row],
        tokens: list[int],
        logprobs: list[float],
        sampling: Sampling,
        step: int,
    ) -> None:
        """Append the tokens. A row that ended earlier waits for its removal."""
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            if not row.ended:
                row.tokens.append(token)
                row.logprobs.append(logprob)
                stopped = token in self.ends or self._stops(row, sampling)
                row.finish = Finish.STOP if stopped else Finish.LENGTH
                row.ended = stopped or step + 1 == sampling.max_tokens

    def _stops(self, row: _Row, sampling: Sampling) -> bool:
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
        """Logits of the last position; the mask is of what the cache holds.   [B, L] -> [B, V]"""
        if self.ours:
            width = mask.shape[1]
            mask = mask[:, None, None, :] if prompts is None else prompts.seen(width)
            # a padded position sees itself, so that no row of the mask is empty
            if ids.shape[1] > 1:
                own = torch.eye(width, dtype=torch.bool, device=self.device)
                mask = (mask & torch.ones_like(own).tril()) | own
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "position_ids": position,
            "attention_mask": mask,
        }
        inputs |= {"past_key_values": cache, "use_cache": True} | (
            {"prompts": prompts} if prompts else {}
        )
        if self.direct_head:
            # Through the model the last position would be a strided slice, whose product copies the
            # head for each row.
            return self.head(self.module.base_model(**inputs).last_hidden_state[:, -1])
        return self.module(**inputs, logits_to_keep=1).logits[:, -1]


def end_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a response, of the model and of its tokenizer."""
    configured = (
        module.generation_config.eos_token_id if module.generation_config is not None else None
    )
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*several, tokenizer.eos_token_id] if token is not None)
