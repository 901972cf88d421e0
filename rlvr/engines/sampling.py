"""Draw tokens from logits with a random number that is a function of key and position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rlvr.seeds import uniforms
from rlvr.types import Sampling

# Rows handled at a time, so that their probabilities stay in the processor's cache; and the width
# of a block of tokens.
ROWS = 8


BLOCK = 256


def sample_tokens(
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
        kept = apply_top_k_top_p(scaled, sampling)
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


def apply_top_k_top_p(scaled: Tensor, sampling: Sampling) -> Tensor:
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
