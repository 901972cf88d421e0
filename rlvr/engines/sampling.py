"""Draw tokens from logits with a random number that is a function of key and position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rlvr.errors import RunError
from rlvr.seeds import uniforms
from rlvr.types import Sampling

# Rows handled at a time, so that their probabilities stay in the processor's cache.
ROWS = 8

# The width of a block of tokens: a drawn one is found among the blocks and then within its block.
BLOCK = 256


def sample_tokens(
    logits: Tensor,
    keys: Sequence[int],
    position: int | Sequence[int],
    sampling: Sampling,
    source: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the token of each draw at its position, and its log-probability (see types.Sampling).

    `source` names the row of the logits that each draw is from, in ascending order; without it
    there is one draw a row. Draws from one row share its pass of exponentials.

    [B, V], [D] keys -> [D], [D]
    """
    if source is None:
        source = range(len(keys))
    key_array = np.array(keys, np.uint64)
    position_array = np.full(len(keys), position, np.uint64)
    uniform = torch.from_numpy(uniforms(key_array, position_array)).to(logits.device)
    row_of_draw = np.asarray(source)
    tokens: list[Tensor] = []
    logprobs: list[Tensor] = []
    for start in range(0, len(logits), ROWS):
        first, end = np.searchsorted(row_of_draw, (start, start + ROWS)).tolist()
        if first == end:
            continue
        rows = torch.from_numpy(row_of_draw[first:end] - start).to(logits.device)
        token, logprob = _sample_rows(
            logits[start : start + ROWS], rows, uniform[first:end], sampling
        )
        tokens.append(token)
        logprobs.append(logprob)
    return torch.cat(tokens), torch.cat(logprobs)


def check_finite(logprobs: Sequence[float], sampling: Sampling) -> None:
    """Refuse log-probabilities of logits that are no numbers; raises RunError."""
    if any(map(math.isnan, logprobs)):
        raise RunError(
            f"the model's logits divided by the temperature {sampling.temperature:g} are no finite numbers;"
            " its weights may hold NaN, the dtype be too small, or the temperature too low"
        )


def _sample_rows(
    logits: Tensor, rows: Tensor, uniform: Tensor, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Return a token of each draw and its log-probability.   [B, V], [D], [D] -> [D], [D]"""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    scaled = logits.to(dtype)
    if sampling.temperature > 0:
        scaled = scaled / sampling.temperature
    p = scaled.softmax(-1)  # the one pass of exponentials, for the draw and for the log-probability
    if sampling.temperature > 0:
        allowed = apply_top_k_top_p(scaled, sampling)
        weights = p
        if allowed is not scaled:
            # The draw divides by their sum, so what is left needs no second softmax.
            weights = p.masked_fill(allowed == -torch.inf, 0)
        token = _draw(weights, rows, uniform)
    else:
        token = scaled.argmax(-1)[rows]
    return token, p[rows, token].log()


def _draw(weights: Tensor, rows: Tensor, uniform: Tensor) -> Tensor:
    """Return the first token at which the cumulative weight passes `uniform` times the whole.

    It is found by block and then within it, so that few numbers are converted to float64. `rows`
    says whose weights each draw is from.

    [B, V], [D], [D] -> [D]
    """
    count, vocabulary = weights.shape
    padding = -vocabulary % BLOCK
    padded = F.pad(weights, (0, padding))
    blocks = padded.view(count, -1, BLOCK)

    # In which block the sum passes.
    cumulative = blocks.sum(-1).cumsum(-1, dtype=torch.float64)[rows]
    total = cumulative[:, -1:]
    wanted = uniform[:, None] * total
    block = torch.searchsorted(cumulative, wanted, right=True)
    last_block = cumulative.shape[1] - 1
    block = block.clamp(max=last_block)

    # At which token of that block.
    chosen = blocks[rows, block[:, 0]]
    inside = chosen.double().cumsum(-1)
    block_weight = inside[:, -1:]
    through_block = cumulative.gather(1, block)
    remaining = wanted - through_block + block_weight
    # Rounding may leave `remaining` at the block's whole weight; just below it, a token of no
    # weight is never found.
    just_below = block_weight * (1 - 1e-12)
    remaining = remaining.minimum(just_below).clamp(min=0)
    offset = torch.searchsorted(inside, remaining, right=True)
    token = block * BLOCK + offset
    # Weights that are no numbers have no such token; `check_finite` says so.
    return token[:, 0].clamp(max=vocabulary - 1)


def apply_top_k_top_p(scaled: Tensor, sampling: Sampling) -> Tensor:
    """Put minus infinity on what top-k and top-p leave out; ties at the edge stay in."""
    if sampling.top_k > 0:
        vocabulary = scaled.shape[1]
        likeliest = scaled.topk(min(sampling.top_k, vocabulary))
        edge = likeliest.values[:, -1:]
        scaled = scaled.masked_fill(scaled < edge, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = scaled.sort(descending=True)
        p = ordered.softmax(-1)
        # The token that passes top_p is the last one in: what counts is the sum before each.
        sum_before = p.cumsum(-1) - p
        # The likeliest stays in, also where top_p is too small for the dtype.
        left_out = sum_before >= max(sampling.top_p, torch.finfo(p.dtype).tiny)
        # From the order of the logits back to that of the vocabulary.
        left_out = left_out.scatter(1, order, left_out)
        scaled = scaled.masked_fill(left_out, -torch.inf)
    return scaled
