"""Log-probability and entropy of targets without the full logits ever existing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlvr.models.tensors import add_to

# How many logits exist at a time, in the forward as in the backward pass (2**25 in float32 are 128
# MiB), and of how many of them a processor takes the softmax at a time.
CHUNK_LOGITS, CACHED = 2**25, 2**19


class TokenLogProbs(torch.autograd.Function):
    """Log-probability and entropy of the targets from hidden states, in chunks, so that the full
    logits never exist; on a processor few rows of a chunk are converted at a time, which stay in
    its cache.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprob, entropy = (
            torch.empty(len(target), dtype=wide, device=hidden.device) for _ in range(2)
        )
        for part, logits in _logits(hidden, weight):
            for rows, logp in _normalised(part, logits, scale, wide):
                logprob[rows] = logp.gather(1, target[rows, None])[:, 0]
                entropy[rows] = -(logp.exp().mul_(logp)).sum(-1)
        ctx.save_for_backward(hidden, weight, target, entropy)
        ctx.scale, ctx.accum_dtype = scale, wide
        ctx.set_materialize_grads(False)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, target, entropy = ctx.saved_tensors
        to_logprob, to_entropy = grads
        given = torch.zeros_like(entropy) if to_logprob is None else to_logprob
        grad_hidden = torch.empty_like(hidden)
        grad_weight = (
            torch.zeros_like(weight, dtype=ctx.accum_dtype) if ctx.needs_input_grad[1] else None
        )
        for part, slopes in _logits(hidden, weight):
            for rows, logp in _normalised(part, slopes, ctx.scale, ctx.accum_dtype):
                if to_entropy is None:  # d logprob / d logits = onehot - p
                    slope = logp.exp_().mul_(-given[rows, None])
                else:  # d entropy / d logits = -p (log p + entropy)
                    wanted = (logp + entropy[rows, None]).mul_(-to_entropy[rows, None])
                    slope = logp.exp_().mul_(wanted.sub_(given[rows, None]))
                slope.scatter_add_(1, target[rows, None], given[rows, None])
                slopes[rows.start - part.start : rows.stop - part.start] = slope.mul_(ctx.scale)
            grad_hidden[part] = slopes @ weight
            if grad_weight is not None and grad_weight.dtype is slopes.dtype:
                grad_weight.addmm_(slopes.T, hidden[part])  # no second tensor of the head's size
            elif grad_weight is not None:
                add_to(grad_weight, slopes.T @ hidden[part])
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None,
        )


def _logits(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The logits of each chunk of rows, all in the same memory."""
    chunks = list(_chunks(len(hidden), CHUNK_LOGITS // len(weight)))
    room = hidden.new_empty(
        max((part.stop - part.start for part in chunks), default=0), len(weight)
    )
    for part in chunks:
        yield part, torch.mm(hidden[part], weight.T, out=room[: part.stop - part.start])


def _normalised(
    part: slice, logits: Tensor, scale: float, wide: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """The log-probabilities of all tokens for some rows of a chunk at a time."""
    most = CACHED if logits.device.type == "cpu" else CHUNK_LOGITS // 2
    for piece in _chunks(len(logits), most // logits.shape[1]):
        rows = logits[piece].to(wide)
        # this alone is kept while it is used
        rows = (rows if scale == 1 else rows * scale).log_softmax(-1)
        yield slice(part.start + piece.start, part.start + piece.stop), rows


def _chunks(count: int, most: int) -> Iterator[slice]:
    # even: a small one takes nearly as long
    size = math.ceil(count / math.ceil(count / max(1, most))) if count else 1
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
