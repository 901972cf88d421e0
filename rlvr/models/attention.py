"""Attention over packed rows that share prompts, and over the keys of a decoding batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

from rlvr.models.kv_cache import SharedPromptCache
from rlvr.models.packing import Rows

# So many queries of an update meet their keys at a time, in bf16 on a processor.
QUERIES = 256


# Far below every score, and yet a number: a softmax of nothing else is one. And where a token is
# added.
FAR, LAST = -1e30, (0, 0, 0, 0, 0, 1)


def full_attention(module: Any) -> bool:
    """Whether every layer attends to all that its mask allows, so that masks and caches of our own
    are exact.
    """
    kinds = set(getattr(module.config, "layer_types", None) or ["full_attention"])
    window = getattr(module.config, "sliding_window", None) and getattr(
        module.config, "use_sliding_window", True
    )
    return bool(module._supports_attention_backend) and kinds == {"full_attention"} and not window


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    rows: Rows | None = None,
    prompts: SharedPromptCache | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Our attention for transformers: for packed rows, each within itself; for decoding, where the
    query heads that share a key head become its query positions, so that no key is repeated, and
    prompts may be shared; and for plain causal or masked rows.

    [B, H, L, d], [B, K, S, d] twice -> [B, L, H, d]
    """
    batch, heads, length, size = query.shape
    if rows is not None and query.dtype is torch.bfloat16 and query.device.type == "cpu":
        return _Products.apply(query, key, value, rows, scaling or size**-0.5), None
    if rows is not None:
        cut = [sum(sizes) for sizes in rows]
        parts = zip(query.split(cut, 2), key.split(cut, 2), value.split(cut, 2), rows, strict=True)
        return torch.cat([_row(*part, scaling) for part in parts], 1), None
    if length == 1:
        grouped = query.view(batch, key.shape[1], heads // key.shape[1], size)
        if prompts is not None and attention_mask is not None:
            out = prompts.attend(
                module.layer_idx, grouped * (scaling or size**-0.5), attention_mask
            )
        else:
            out = F.scaled_dot_product_attention(
                grouped, key, value, attn_mask=attention_mask, scale=scaling
            )
        return out.reshape(batch, 1, heads, -1), None
    return _attended(query, key, value, attention_mask, scaling), None


def _row(
    query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int], scaling: float | None
) -> Tensor:
    """Attention of a row: of one text, or of a prompt and then of each response to the prompt and
    itself.
    """
    if len(sizes) < 3:
        return _attended(query, key, value, None, scaling)
    (first, *queries), (prompt, *keys), (start, *values) = (
        x.split(sizes, 2) for x in (query, key, value)
    )
    found = [_attended(first, prompt, start, None, scaling)]
    for asking, own, said in zip(queries, keys, values, strict=True):
        seen = query.new_ones(own.shape[2], sizes[0] + own.shape[2], dtype=torch.bool).tril(
            sizes[0]
        )
        found.append(
            _attended(
                asking, torch.cat([prompt, own], 2), torch.cat([start, said], 2), seen, scaling
            )
        )
    return torch.cat(found, 1)


class _Products(torch.autograd.Function):
    """Attention of packed rows in bf16 on a processor, where plain products take a third of the
    fused kernel's time for the backward pass. What a block of queries gives to its keys is computed
    anew there, so no scores are kept.

    [1, H, L, d], [1, K, L, d] twice -> [1, L, H, d]
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Rows, scaling: float
    ) -> Tensor:
        # Smaller scores lose less in bf16, and shares are the same; each row by itself, whatever
        # its neighbours are.
        parts = key.split([sum(sizes) for sizes in rows], 2)
        key = torch.cat([part - part.mean(2, keepdim=True) for part in parts], 2)
        # [L + 1, H, d] and [L + 1, K, d] twice, the last token nobody's
        kept = query, key, value = [
            F.pad(x[0].transpose(0, 1), LAST) for x in (query * scaling, key, value)
        ]
        ctx.save_for_backward(*kept)
        ctx.how = blocks, scaling, heads = _blocks(rows, QUERIES), scaling, key.shape[1]
        out = value.new_empty(len(query), query.shape[1], value.shape[2])
        for block in blocks:
            share = block.shares(
                _by_head(query, block.asks, heads), _by_head(key, block.sees, heads)
            )
            out[block.asks.flatten()] = _flat(
                share @ _by_head(value, block.sees, heads), block.asks, out
            )
        return out[None, :-1]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        # Under checkpointing what was saved may be read once.
        (query, key, value), (blocks, scaling, heads), given = (
            ctx.saved_tensors,
            ctx.how,
            F.pad(slope[0], LAST),
        )
        to_query, to_key, to_value = (
            torch.empty_like(query),
            torch.zeros_like(key),
            torch.zeros_like(value),
        )
        for block in blocks:
            asked, part = (_by_head(x, block.asks, heads) for x in (query, given))
            keys, values = (_by_head(x, block.sees, heads) for x in (key, value))
            share = block.shares(asked, keys)
            inner = torch.ops.aten._softmax_backward_data(part @ values.mT, share, -1, share.dtype)
            to_query[block.asks.flatten()] = _flat(inner @ keys, block.asks, query)
            to_key.index_add_(0, block.sees.flatten(), _flat(inner.mT @ asked, block.sees, key))
            to_value.index_add_(0, block.sees.flatten(), _flat(share.mT @ part, block.sees, value))
        found = to_query.mul_(scaling), to_key, to_value
        return *(x[:-1].transpose(0, 1)[None] for x in found), None, None


@dataclass(frozen=True, slots=True)
class _Block:
    """Parts of texts of similar length whose queries meet their keys together, filled up at the
    front with a token that is nobody's, after the last.
    """

    asks: Tensor  # [n, l], the tokens whose queries these are
    # [n, s], the tokens whose keys they see: of the prompt, and the part's own up to its end
    sees: Tensor
    padded: Tensor  # [n, 1, s], far below all scores where nobody's token stands

    def shares(self, asked: Tensor, keys: Tensor) -> Tensor:
        """What each query gives to each key; of the last keys, its own, it sees those up to its own
        place. [n * K, R * l, d], [n * K, s, d] -> [n * K, R * l, s]
        """
        scores, length = torch.bmm(asked, keys.mT), self.asks.shape[1]
        later = torch.full((length, length), FAR, dtype=scores.dtype).triu(1)
        scores.unflatten(1, (-1, length))[..., -length:].add_(later)
        scores.unflatten(0, (len(self.asks), -1)).add_(self.padded[:, None])
        return scores.softmax(-1)


@lru_cache(maxsize=2)
def _blocks(rows: Rows, most: int) -> Sequence[_Block]:
    """The tokens of rows end to end, each row a prompt and then its responses. A text has `most`
    queries in a block, and texts of similar length share one of four times as many keys.
    """
    parts, begin = list[tuple[Tensor, Tensor]](), 0
    for sizes in rows:
        prompt = torch.arange(begin, begin + sizes[0])
        for number, size in enumerate(sizes):
            for start in range(begin, begin + size, most):
                own = torch.arange(begin, min(start + most, begin + size))
                parts.append(
                    (own[start - begin :], torch.cat([prompt[: sizes[0] if number else 0], own]))
                )
            begin += size
    parts.sort(key=lambda part: (len(part[1]), len(part[0])))
    blocks, last = list[_Block](), len(parts)
    while last:
        # none asks more than it sees
        first = max(0, last - max(1, 4 * most // len(parts[last - 1][1])))
        asks, sees = (front_padded(x, begin) for x in zip(*parts[first:last], strict=True))
        blocks.append(
            _Block(
                asks,
                sees,
                torch.zeros(sees.shape).masked_fill(sees == begin, FAR)[:, None].bfloat16(),
            )
        )
        last = first
    return blocks


def front_padded(rows: Iterable[Sequence[int] | Tensor], filler: int) -> Tensor:
    """[n] rows of ids -> [n, L]"""
    return pad_sequence([torch.as_tensor(row) for row in rows], True, filler, "left")


def _by_head(x: Tensor, places: Tensor, heads: int) -> Tensor:
    """[L, K * R, d], [n, l] -> [n * K, R * l, d]"""
    found = x.index_select(0, places.flatten()).view(*places.shape, heads, -1, x.shape[2])
    return found.permute(0, 2, 3, 1, 4).reshape(len(places) * heads, -1, x.shape[2])


def _flat(x: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """[n * K, R * l, d], [n, l], [L, K * R, d] -> [n * l, K * R, d]"""
    return x.view(len(places), like.shape[1], places.shape[1], -1).transpose(1, 2).flatten(0, 1)


def _attended(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    how: dict[str, Any] = {
        "attn_mask": mask,
        "is_causal": mask is None,
        "scale": scaling,
        "enable_gqa": True,
    }
    return F.scaled_dot_product_attention(query, key, value, **how).transpose(1, 2)


ATTENTION = "rlvr"


AttentionInterface.register(ATTENTION, attend)


@torch.inference_mode()
def has_plain_lm_head(module: Any) -> bool:
    """Whether the logits are a linear head of the last hidden state and nothing more: no bias,
    scale or bound.
    """
    head = module.get_output_embeddings()
    bounded = getattr(module.config, "final_logit_softcapping", None)
    if not isinstance(head, torch.nn.Linear) or head.bias is not None or bounded:
        return False
    ids = torch.arange(3, 9, device=module.device)[None]
    logits = module(input_ids=ids).logits.float()
    direct = head(module.base_model(input_ids=ids).last_hidden_state).float()
    return bool((logits - direct).norm() <= 0.01 * logits.norm())
