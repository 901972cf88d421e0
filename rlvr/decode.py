"""Decoding in process: each prompt is read once, its keys and values are shared by its samples, the
finished leave.

A token is decided by one uniform number that is a function of the sample's key and the position, so
a sample depends on nothing else: not on its neighbours, their order, or an earlier interruption.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache

from rlvr import models
from rlvr.models import Prompts
from rlvr.seeds import uniforms
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
        self.ours = models.full_attention(module)
        self.module = copy.deepcopy(module).requires_grad_(False)
        if self.ours:  # other models keep the attention, masks and caches of transformers
            self.module.set_attn_implementation(models.ATTENTION)
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
        self.direct_head = models.bare_head(self.module)
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
    ) -> tuple[Tensor, Tensor, Tensor, Any, Prompts | None]:
        """Each prompt of a wave, once: the logits and next position of each row, and the mask of
        the cache.
        """
        asked = list(dict.fromkeys(row.request for row in rows))
        ids = models.front_padded([requests[i].token_ids for i in asked], -1).to(self.device)
        mask = ids >= 0
        cache: Any = DynamicCache(config=self.module.config)
        if shared:
            cache = Cache(layer_class_to_replicate=models.Kept)
        logits = self._forward(
            ids.clamp(min=0), mask.long().cumsum(1).sub(1).clamp(min=0), mask, cache, None
        )
        owner = torch.tensor([asked.index(row.request) for row in rows], device=self.device)
        logits, position = logits[owner], mask.sum(1)[owner]
        if shared:
            prompts = Prompts.shared(cache.layers, mask, owner)
            return logits, position, mask.new_ones(len(rows), 0), cache, prompts
        cache.reorder_cache(owner)
        return logits, position, mask[owner], cache, None

    def _decode(self, rows: list[_Row], requests: Sequence[Request], sampling: Sampling) -> None:
        """Fill the rows of a wave."""
        logits, position, mask, cache, prompts = self._read(rows, requests, self.shares)
        for step in range(sampling.max_tokens):
            token, logprob = choose(logits, [row.key for row in rows], step, sampling)
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
        self, ids: Tensor, position: Tensor, mask: Tensor, cache: Cache, prompts: Prompts | None
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


# Rows handled at a time, so that their probabilities stay in the processor's cache; and the width
# of a block of tokens.
ROWS = 8
BLOCK = 256


def choose(
    logits: Tensor, keys: Sequence[int], position: int | Sequence[int], sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """The token of each row at its position, and its log-probability (see types.Sampling).   [B, V]
    -> [B], [B]
    """
    key, place = np.array(keys, np.uint64), np.full(len(keys), position, np.uint64)
    u = torch.from_numpy(uniforms(key, place)).to(logits.device)
    parts = [
        _choose(logits[i : i + ROWS], u[i : i + ROWS], sampling) for i in range(0, len(keys), ROWS)
    ]
    return torch.cat([token for token, _ in parts]), torch.cat([logprob for _, logprob in parts])


def _choose(logits: Tensor, u: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if sampling.temperature > 0:
        scaled = scaled / sampling.temperature
    p = scaled.softmax(-1)  # the one pass of exponentials, for the draw and for the log-probability
    if sampling.temperature > 0:
        kept = _cut(scaled, sampling)
        token = _draw(p if kept is scaled else p.masked_fill(kept == -torch.inf, 0), u)
    else:
        token = scaled.argmax(-1)
    return token, p.gather(1, token[:, None])[:, 0].log()


def _draw(p: Tensor, u: Tensor) -> Tensor:
    """The first token at which the cumulative weight passes u times the whole, found by block and
    then within it.
    """
    blocks = F.pad(p, (0, -p.shape[1] % BLOCK)).view(len(p), -1, BLOCK)
    before = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    wanted = u[:, None] * before[:, -1:]
    block = torch.searchsorted(before, wanted, right=True).clamp(max=before.shape[1] - 1)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    rest = wanted - before.gather(1, block) + inside[:, -1:]
    # Rounding may leave `rest` at the block's whole weight; just below it, a token of no weight is
    # never found.
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
