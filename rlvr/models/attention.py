"""The attention that models of transformers are given, for packed rows and for decoding batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from rlvr.models.kv_cache import DecodingStep
from rlvr.models.packed_attention import PackedAttention
from rlvr.models.packing import Rows, list_lengths
from rlvr.models.prefix_tree import Segments, list_ancestors

# The name by which a model is told to use `attend`.
ATTENTION = "rlvr"


class AttentionLayer(Protocol):
    """The layer of transformers that asks."""

    layer_idx: int


def has_full_attention(module: PreTrainedModel) -> bool:
    """Return whether every layer attends to all that its mask allows.

    Only then are masks and caches of our own exact.
    """
    config: Any = module.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    has_window = getattr(config, "sliding_window", None)
    if has_window:
        has_window = getattr(config, "use_sliding_window", True)
    supported = bool(module._supports_attention_backend)
    return supported and kinds == {"full_attention"} and not has_window


def attend(
    module: AttentionLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    rows: Rows | None = None,
    prompts: Sequence[int] | None = None,
    step: DecodingStep | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers asks; `rows`, `prompts` and `step` come from our own calls through the model.

    Packed rows attend each within itself, as do prompts of the lengths `prompts` that lie end to end;
    the tokens of a decoding step attend to their prompt and their branch; all else is plain causal
    or masked.

    [B, H, L, d], [B, K, S, d] twice -> [B, L, H, d]
    """
    if rows is not None:
        return _attend_rows(query, key, value, rows, scaling), None
    if prompts is not None:
        return _attend_each(query, key, value, prompts, scaling), None
    batch, heads, length, size = query.shape
    if step is not None:
        # The query heads that share a key head lie beside each other, so no key is repeated.
        grouped = query.view(batch, key.shape[1], -1, length, size)
        out = step.attend(module.layer_idx, grouped * (scaling or size**-0.5), key, value)
        return out.flatten(1, 2).transpose(1, 2), None
    if length > 1:
        return _attend_fused(query, key, value, attention_mask, scaling), None
    # Here they become the query positions of that key head.
    grouped = query.view(batch, key.shape[1], -1, size)
    out = F.scaled_dot_product_attention(
        grouped,
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
    )
    return out.reshape(batch, 1, heads, -1), None


def _attend_each(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scaling: float | None
) -> Tensor:
    """Attend within each of the texts that lie end to end, by itself: no text sees its neighbours,
    in its last digit neither.

    [1, H, T, d], [1, K, T, d] twice -> [1, T, H, d]
    """
    texts = zip(
        query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True
    )
    return torch.cat([_attend_fused(*text, None, scaling) for text in texts], 1)


def _attend_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Rows,
    scaling: float | None,
) -> Tensor:
    """Attend within each of the rows that lie end to end.

    [1, H, L, d], [1, K, L, d] twice -> [1, L, H, d]
    """
    if query.dtype is torch.bfloat16 and query.device.type == "cpu":
        scale = scaling or query.shape[-1] ** -0.5
        return PackedAttention.apply(query, key, value, rows, scale)
    lengths = list_lengths(rows)
    queries = query.split(lengths, 2)
    keys = key.split(lengths, 2)
    values = value.split(lengths, 2)
    outputs: list[Tensor] = []
    for row_query, row_key, row_value, segments in zip(queries, keys, values, rows, strict=True):
        outputs.append(_attend_row(row_query, row_key, row_value, segments, scaling))
    return torch.cat(outputs, 1)


def _attend_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scaling: float | None,
) -> Tensor:
    """Attend from each segment to itself and to those that it goes on from.

    A response never sees what another one has for itself, so its log-probabilities are those of a
    row of its own.
    """
    if len(segments) == 1:
        return _attend_fused(query, key, value, None, scaling)
    sizes = [segment.length for segment in segments]
    queries = query.split(sizes, 2)
    keys = key.split(sizes, 2)
    values = value.split(sizes, 2)
    outputs: list[Tensor] = []
    for number, ancestors in enumerate(list_ancestors(segments)):
        own_query = queries[number]
        if not ancestors:
            outputs.append(_attend_fused(own_query, keys[number], values[number], None, scaling))
            continue
        path = [*ancestors, number]
        seen_keys = torch.cat([keys[segment] for segment in path], 2)
        seen_values = torch.cat([values[segment] for segment in path], 2)
        length = own_query.shape[2]
        seen = seen_keys.shape[2]
        visible = query.new_ones(length, seen, dtype=torch.bool).tril(seen - length)
        outputs.append(_attend_fused(own_query, seen_keys, seen_values, visible, scaling))
    return torch.cat(outputs, 1)


def _attend_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
) -> Tensor:
    """Attend by PyTorch's kernel, causally without a mask.   -> [B, L, H, d]"""
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=True,
    )
    return out.transpose(1, 2)


AttentionInterface.register(ATTENTION, attend)
