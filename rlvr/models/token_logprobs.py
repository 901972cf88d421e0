"""Log-probability and entropy of targets without the full logits ever existing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.models.tensors import add_to

# How many logits exist at a time, in the forward as in the backward pass; 2**25 in float32 are 128
# MiB.
CHUNK_LOGITS = 2**25

# Of how many of them a processor takes the softmax at a time, so that they stay in its cache.
CACHED_LOGITS = 2**19


@torch.inference_mode()
def has_plain_lm_head(module: PreTrainedModel) -> bool:
    """Return whether the logits are a linear head of the last hidden state and nothing more.

    Nothing more means no bias, no scale and no bound. A scale is in no common field of the
    configurations, so it is tried.
    """
    head = module.get_output_embeddings()
    bounded = getattr(module.config, "final_logit_softcapping", None)
    if not isinstance(head, torch.nn.Linear) or head.bias is not None or bounded:
        return False
    ids = torch.arange(3, 9, device=module.device)[None]
    logits = module(input_ids=ids).logits.float()
    hidden = module.base_model(input_ids=ids).last_hidden_state
    direct = head(hidden).float()
    distance = (logits - direct).norm()
    return bool(distance <= 0.01 * logits.norm())


class TokenLogProbs(torch.autograd.Function):
    """Log-probability and entropy of the targets from hidden states, in chunks.

    The full logits never exist. On a processor few rows of a chunk are converted at a time, which
    stay in its cache.

    hidden: [T, d], weight: [V, d], target: [T] -> [T], [T]
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        accum_dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprob = torch.empty(len(target), dtype=accum_dtype, device=hidden.device)
        entropy = torch.empty_like(logprob)
        for chunk, logits in _compute_logits(hidden, weight):
            for rows, logp in _normalise_rows(chunk, logits, scale, accum_dtype):
                chosen = logp.gather(1, target[rows, None])
                logprob[rows] = chosen[:, 0]
                entropy[rows] = -(logp.exp().mul_(logp)).sum(-1)
        ctx.save_for_backward(hidden, weight, target, entropy)
        ctx.scale = scale
        ctx.accum_dtype = accum_dtype
        # Without an entropy term the backward pass gets None and not zeros, and does less.
        ctx.set_materialize_grads(False)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, target, entropy = ctx.saved_tensors
        grad_logprob, grad_entropy = grads
        if grad_logprob is None:
            grad_logprob = torch.zeros_like(entropy)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight, dtype=ctx.accum_dtype)
        # The gradient of the logits is written over the logits, in the same memory.
        for chunk, grad_logits in _compute_logits(hidden, weight):
            for rows, logp in _normalise_rows(chunk, grad_logits, ctx.scale, ctx.accum_dtype):
                given = grad_logprob[rows, None]
                if grad_entropy is None:
                    # d logprob / d logits = onehot - p
                    grad_rows = logp.exp_().mul_(-given)
                else:
                    # d entropy / d logits = -p (log p + entropy)
                    given_entropy = grad_entropy[rows, None]
                    factor = (logp + entropy[rows, None]).mul_(-given_entropy)
                    grad_rows = logp.exp_().mul_(factor.sub_(given))
                grad_rows.scatter_add_(1, target[rows, None], given)
                start = rows.start - chunk.start
                stop = rows.stop - chunk.start
                grad_logits[start:stop] = grad_rows.mul_(ctx.scale)
            grad_hidden[chunk] = grad_logits @ weight
            if grad_weight is not None:
                _add_product(grad_weight, grad_logits.T, hidden[chunk])
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a product in place, without a second tensor of the head's size where dtypes agree."""
    if total.dtype is left.dtype:
        total.addmm_(left, right)
    else:
        add_to(total, left @ right)


def _compute_logits(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the logits of each chunk of rows, all in the same memory."""
    vocabulary = len(weight)
    chunks = list(_split_evenly(len(hidden), CHUNK_LOGITS // vocabulary))
    longest = max((chunk.stop - chunk.start for chunk in chunks), default=0)
    buffer = hidden.new_empty(longest, vocabulary)
    for chunk in chunks:
        count = chunk.stop - chunk.start
        logits = torch.mm(hidden[chunk], weight.T, out=buffer[:count])
        yield chunk, logits


def _normalise_rows(
    chunk: slice,
    logits: Tensor,
    scale: float,
    accum_dtype: torch.dtype,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the log-probabilities of all tokens for some rows of a chunk at a time."""
    count, vocabulary = logits.shape
    most_logits = CHUNK_LOGITS // 2
    if logits.device.type == "cpu":
        most_logits = CACHED_LOGITS
    for piece in _split_evenly(count, most_logits // vocabulary):
        rows = logits[piece].to(accum_dtype)
        if scale != 1:
            rows = rows * scale
        # Bound to the same name, so that this alone is kept while it is used.
        rows = rows.log_softmax(-1)
        start = chunk.start + piece.start
        stop = chunk.start + piece.stop
        yield slice(start, stop), rows


def _split_evenly(count: int, most: int) -> Iterator[slice]:
    """Yield slices of at most `most` rows, of even size: a small one takes nearly as long.

    >>> [(part.start, part.stop) for part in _split_evenly(7, 3)]
    [(0, 3), (3, 6), (6, 7)]
    """
    if count == 0:
        return
    pieces = math.ceil(count / max(1, most))
    size = math.ceil(count / pieces)
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield slice(start, stop)
