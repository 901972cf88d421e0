"""The attention that models of transformers are given, for packed rows and for decoding batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from rlvr.models.kv_cache import SharedPromptCache
from rlvr.models.packed_attention import PackedAttention
from rlvr.models.packing import Rows

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
    prompts: SharedPromptCache | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers asks; `rows` and `prompts` come from our own calls through the model.

    Packed rows attend each within itself, one decoded token to its prompt and its row, and all else
    is plain causal or masked.

    [B, H, L, d], [B, K, S, d] twice -> [B, L, H, d]
    """
    if rows is not None:
        return _attend_rows(query, key, value, rows, scaling), None
    if query.shape[2] > 1:
        return _attend_fused(query, key, value, attention_mask, scaling), None
    batch, heads, _length, size = query.shape
    key_heads = key.shape[1]
    # The query heads that share a key head become its query positions, so no key is repeated.
    grouped = query.view(batch, key_heads, heads // key_heads, size)
    if prompts is not None and attention_mask is not None:
        scaled = grouped * (scaling or size**-0.5)
        out = prompts.attend(module.layer_idx, scaled, attention_mask)
    else:
        out = F.scaled_dot_product_attention(
            grouped,
            key,
            value,
            attn_mask=attention_mask,
            scale=scaling,
        )
    return out.reshape(batch, 1, heads, -1), None


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
    lengths = [sum(sizes) for sizes in rows]
    queries = query.split(lengths, 2)
    keys = key.split(lengths, 2)
    values = value.split(lengths, 2)
    outputs: list[Tensor] = []
    for row_query, row_key, row_value, sizes in zip(queries, keys, values, rows, strict=True):
        outputs.append(_attend_row(row_query, row_key, row_value, sizes, scaling))
    return torch.cat(outputs, 1)


def _attend_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    scaling: float | None,
) -> Tensor:
    """Attend within one text, or from a prompt to itself and each response to both.

    A response never sees another one, so its log-probabilities are those of a row of its own.
    """
    if len(sizes) < 3:
        return _attend_fused(query, key, value, None, scaling)
    prompt_query, *queries = query.split(sizes, 2)
    prompt_key, *keys = key.split(sizes, 2)
    prompt_value, *values = value.split(sizes, 2)
    prompt_length = sizes[0]
    outputs = [_attend_fused(prompt_query, prompt_key, prompt_value, None, scaling)]
    for own_query, own_key, own_value in zip(queries, keys, values, strict=True):
        length = own_key.shape[2]
        visible = query.new_ones(length, prompt_length + length, dtype=torch.bool)
        visible = visible.tril(prompt_length)
        seen_keys = torch.cat([prompt_key, own_key], 2)
        seen_values = torch.cat([prompt_value, own_value], 2)
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
