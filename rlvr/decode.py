"""Decoding in process: each prompt is read once, its keys and values are shared by its samples, the finished leave.

A token is decided by one uniform number that is a function of the sample's key and the position, so a sample depends on
nothing else: not on its neighbours, their order, or an earlier interruption.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from rlvr import models
from rlvr.models import Prompts
from rlvr.seeds import uniforms
from rlvr.types import Finish, Generation, Request, Sampling

# From so many rows on MKL's own layout of a weight pays.
LAID = 4
# Prompts are kept once for all their rows from so many rows a prompt on: two parts of attention cost more than one.
SHARED = 2
# Waves shrink when at least this share of their rows has finished: a copy of the cache costs about one step.
FINISHED_SHARE = 0.25


class _Layer(DynamicLayer):
    """Keys and values of one layer in a buffer with room for the whole response, so that a step copies one position."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.used = room, 0

    def take(self) -> tuple[Tensor, Tensor]:
        """All that was kept, which the layer keeps no longer."""
        keys, values, used = self.keys, self.values, self.used
        self.keys, self.values, self.used = None, None, 0
        assert keys is not None and values is not None
        return keys[:, :, :used].contiguous(), values[:, :, :used].contiguous()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self.used + key_states.shape[2]
        if self.keys is None or self.values is None:
            self.keys = key_states.new_empty(*key_states.shape[:2], end + self.room, key_states.shape[3])
            self.values = value_states.new_empty(*value_states.shape[:2], end + self.room, value_states.shape[3])
            self.is_initialized = True
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.used


class _Linear(torch.nn.Linear):
    """A linear layer whose weight lies as MKL's product of exactly so many rows reads it, which takes 0.3 to 0.9 of the
    time of the plain one on a processor."""

    rows = 0
    laid: Tensor | None = None

    def lay(self, rows: int) -> None:
        """For steps of so many rows; few take no less time so, and give the memory back."""
        self.rows = rows if rows >= LAID else 0
        self.laid = None  # before the next is made
        if self.rows:
            self.laid = torch.ops.mkl._mkl_reorder_linear_weight(self.weight, rows)

    def forward(self, input: Tensor) -> Tensor:
        if self.laid is None or input.numel() != self.rows * self.in_features:
            return super().forward(input)
        return torch.ops.mkl._mkl_linear(input, self.laid, self.weight, self.bias, self.rows)


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

    def __init__(self, module: Any, tokenizer: Any, compute: torch.dtype, max_sequences: int) -> None:
        self.buffered = models.full_attention(module)
        self.module = copy.deepcopy(module).requires_grad_(False)
        if self.buffered:  # other models keep the attention, masks and caches of transformers
            self.module.set_attn_implementation(models.ATTENTION)
        self.parameters = dict(self.module.named_parameters())
        for parameter in self.parameters.values():  # buffers, such as those of rotary embeddings, keep their precision
            parameter.data = parameter.data.to(compute)
        self.tokenizer, self.max_sequences, self.version = tokenizer, max_sequences, -1
        self.device = module.device
        self.ends = end_tokens(module, tokenizer)
        self.head = self.module.get_output_embeddings()
        self.layers: list[Any] = [layer for layer in self.module.modules() if type(layer) is torch.nn.Linear]
        if self.device.type != "cpu" or compute is not torch.float32 or not torch.backends.mkl.is_available():
            self.layers = []
        for layer in self.layers:
            layer.__class__ = _Linear
        self.direct_head = models.bare_head(self.module)
        self.shares = self.buffered and self.device.type == "cpu" and self._shared_as_whole()

    @torch.inference_mode()
    def _shared_as_whole(self) -> bool:
        """Whether prompts kept apart give what whole rows give; tried, since a model may change what its cache holds,
        or keep from its attention what it is told."""
        asked, rows = [Request((5, 6, 7, 8), ()), Request((8, 9), ())], [_Row(i, 0) for i in (0, 0, 1, 1)]
        found, token = [], torch.tensor([[5], [6], [7], [8]], device=self.device)
        try:
            for shared in (False, True):
                _, position, mask, cache, prompts = self._read(rows, asked, 1, shared)
                found.append(self._forward(token, position[:, None], F.pad(mask, (0, 1), value=True), cache, prompts))
        except RuntimeError:  # of shapes that do not fit
            return False
        return bool((found[0] - found[1]).norm() < torch.finfo(found[0].dtype).eps ** 0.5 * found[0].norm())

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        with torch.no_grad():
            for name, weight in weights:
                self.parameters[name].copy_(weight)
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """One generation for each key of each request, in order; longest prompts first, so that waves are even."""
        rows = [_Row(i, key) for i, request in enumerate(requests) for key in request.keys]
        order = sorted(rows, key=lambda row: -len(requests[row.request].token_ids))
        with torch.inference_mode():
            try:
                for start in range(0, len(order), self.max_sequences):
                    self._decode(order[start : start + self.max_sequences], requests, sampling)
            finally:
                self._lay(0)
        return [Generation(tuple(row.tokens), tuple(row.logprobs), row.finish) for row in rows]

    def _read(
        self, rows: Sequence[_Row], requests: Sequence[Request], room: int, shared: bool
    ) -> tuple[Tensor, Tensor, Tensor, Any, Prompts | None]:
        """Each prompt of a wave, once: the logits and next position of each row, and the mask of the cache."""
        asked = list(dict.fromkeys(row.request for row in rows))
        ids, mask = self._left_padded([requests[i].token_ids for i in asked])
        layer: Any = functools.partial(_Layer, room)
        cache: Any = Cache(layer_class_to_replicate=layer) if self.buffered else DynamicCache(config=self.module.config)
        logits = self._forward(ids, mask.long().cumsum(1).sub(1).clamp(min=0), mask, cache, None)
        owner = torch.tensor([asked.index(row.request) for row in rows], device=self.device)
        logits, position = logits[owner], mask.sum(1)[owner]
        if shared:
            prompts = Prompts.shared([layer.take() for layer in cache.layers], mask, owner)
            return logits, position, mask.new_ones(len(rows), 0), cache, prompts
        cache.reorder_cache(owner)
        return logits, position, mask[owner], cache, None

    def _decode(self, rows: list[_Row], requests: Sequence[Request], sampling: Sampling) -> None:
        """Fill the rows of a wave."""
        shared = self.shares and len(rows) >= SHARED * len({row.request for row in rows})
        logits, position, mask, cache, prompts = self._read(rows, requests, sampling.max_tokens, shared)
        self._lay(len(rows))
        for step in range(sampling.max_tokens):
            token, logprob = choose(logits, [row.key for row in rows], step, sampling)
            self._record(rows, token.tolist(), logprob.tolist(), sampling, step)
            alive = torch.tensor([i for i, row in enumerate(rows) if not row.ended], device=self.device)
            if not len(alive):
                break
            if len(alive) <= len(rows) * (1 - FINISHED_SHARE):
                rows = [rows[i] for i in alive.tolist()]
                token, position, mask = token[alive], position[alive], mask[alive]
                cache.reorder_cache(alive)
                prompts = prompts and prompts.only(alive)
                self._lay(len(rows))
            mask = F.pad(mask, (0, 1), value=True)
            logits = self._forward(token[:, None], position[:, None], mask, cache, prompts)
            position = position + 1

    def _lay(self, rows: int) -> None:
        for layer in self.layers:
            layer.lay(rows)

    def _record(
        self, rows: list[_Row], tokens: list[int], logprobs: list[float], sampling: Sampling, step: int
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

    def _forward(self, ids: Tensor, position: Tensor, mask: Tensor, cache: Cache, prompts: Prompts | None) -> Tensor:
        """Logits of the last position; the mask is of what the cache holds.   [B, L] -> [B, V]"""
        if self.buffered:
            length = ids.shape[1]
            causal = torch.ones(length, mask.shape[1], dtype=torch.bool, device=self.device).tril(
                mask.shape[1] - length
            )
            # A padded position sees itself, so that no row of the mask is empty.
            own = torch.eye(length, mask.shape[1], dtype=torch.bool, device=self.device)
            mask = (mask[:, None, None, :] & causal) | own if length > 1 else mask[:, None, None, :]
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "position_ids": position,
            "attention_mask": mask,
            "past_key_values": cache,
            "use_cache": True,
            **({"prompts": prompts} if prompts else {}),
        }
        if self.direct_head:
            # Through the model the last position would be a strided slice, whose product copies the head for each row.
            return self.head(self.module.base_model(**inputs).last_hidden_state[:, -1])
        return self.module(**inputs, logits_to_keep=1).logits[:, -1]

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=self.device)
        return ids, mask


def end_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a response, of the model and of its tokenizer."""
    configured = module.generation_config.eos_token_id if module.generation_config is not None else None
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*several, tokenizer.eos_token_id] if token is not None)


# Rows handled at a time, so that their probabilities stay in the processor's cache; and the width of a block of tokens.
ROWS = 8
BLOCK = 256


def choose(
    logits: Tensor, keys: Sequence[int], position: int | Sequence[int], sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """The token of each row at its position, and its log-probability (see types.Sampling).   [B, V] -> [B], [B]"""
    key, place = np.array(keys, np.uint64), np.full(len(keys), position, np.uint64)
    u = torch.from_numpy(uniforms(key, place)).to(logits.device)
    parts = [_choose(logits[i : i + ROWS], u[i : i + ROWS], sampling) for i in range(0, len(keys), ROWS)]
    return torch.cat([token for token, _ in parts]), torch.cat([logprob for _, logprob in parts])


def _choose(logits: Tensor, u: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if sampling.temperature > 0:
        scaled = scaled / sampling.temperature
    top = scaled.amax(-1, keepdim=True)
    weight = (scaled - top).exp_()  # the one pass of exponentials, for the draw and for the normaliser
    normaliser = top + weight.sum(-1, keepdim=True).log()
    if sampling.temperature > 0:
        kept = _cut(scaled, sampling)
        token = _draw(weight if kept is scaled else weight.masked_fill_(kept == -torch.inf, 0), u)
    else:
        token = scaled.argmax(-1)
    return token, (scaled.gather(1, token[:, None]) - normaliser)[:, 0]


def _draw(p: Tensor, u: Tensor) -> Tensor:
    """The first token at which the cumulative weight passes u times the whole, found by block and then within it."""
    blocks = F.pad(p, (0, -p.shape[1] % BLOCK)).view(len(p), -1, BLOCK)
    before = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    wanted = u[:, None] * before[:, -1:]
    block = torch.searchsorted(before, wanted, right=True).clamp(max=before.shape[1] - 1)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    rest = wanted - before.gather(1, block) + inside[:, -1:]
    # Rounding may leave `rest` at the block's whole weight; just below it, a token of no weight is never found.
    rest = rest.minimum(inside[:, -1:] * (1 - 1e-12)).clamp(min=0)
    return (block * BLOCK + torch.searchsorted(inside, rest, right=True))[:, 0]


def _cut(scaled: Tensor, sampling: Sampling) -> Tensor:
    """Minus infinity for what top-k and top-p leave out; ties at the edge stay in."""
    if sampling.top_k > 0:
        edge = scaled.topk(min(sampling.top_k, scaled.shape[1])).values[:, -1:]
        scaled = scaled.masked_fill(scaled < edge, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = scaled.sort(descending=True)
        p = ordered.softmax(-1)
        out = p.cumsum(-1) - p >= sampling.top_p
        scaled = scaled.masked_fill(out.scatter(1, order, out), -torch.inf)
    return scaled
