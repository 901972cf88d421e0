"""Importance weights for the gap between engine and learner."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from rlvr.registry import register
from rlvr.training.tensors import average_by_response

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.training.batch import Batch


@register("correction", "none")
def uncorrected(batch: Batch) -> Tensor | None:
    """No correction: the engine's log-probabilities are taken for the learner's."""
    return None


@register("correction", "importance", needs={"old", "rollout"})
def importance(
    batch: Batch,
    *,
    level: Literal["token", "sequence", "mean"] = "token",
    mode: Literal["truncate", "mask", "filter"] = "truncate",
    low: float | None = None,
    high: float = 2.0,
    normalise: bool = False,
    count_eps: float = 0.0,
) -> Tensor:
    """Weights old/rollout for the policy terms, against the gap between engine and learner.   ->
    [T]

    `level`: the ratio of each token, of the whole response (the product), or its geometric mean.
    `truncate` bounds the weight to [low, high], `mask` makes it 0 outside, `filter` makes it 0
    outside and leaves it as the token's own ratio inside. Truncated importance sampling (Yao et
    al., 2025), IcePop (Ling team, 2025), sequence-masked TIS (OpenRLHF); exponents are bounded to
    +-20 (verl). `normalise` gives the weights the mean 1; `count_eps` is added to the counts of tokens
    in that mean (verl: 1e-8).
    """
    assert batch.old_logprob is not None
    # an engine may not know the log-probability of a token
    gap = (batch.old_logprob - batch.rollout_logprob).nan_to_num(0.0) * batch.mask
    token_ratio = gap.clamp(-20, 20).exp()
    ratio = token_ratio
    if level != "token":
        ratio = _compute_response_ratio(gap, batch, level)
    match mode:
        case "truncate":
            weight = ratio.clamp(low, high)
        case "mask":
            weight = ratio * _lies_between(ratio, low, high)
        case "filter":
            weight = token_ratio * _lies_between(ratio, low, high)
    weight = weight * batch.mask
    if normalise:
        weight = weight / _average_weights(weight, batch, level, count_eps)
    return weight


def _compute_response_ratio(
    gap: Tensor,
    batch: Batch,
    level: str,
) -> Tensor:
    """Return the product of a response's ratios, or their geometric mean (`mean`), at every token.

    [T] -> [T]
    """
    if level == "mean":
        exponent = average_by_response(gap, batch)
    else:
        zeros = gap.new_zeros(len(batch.sequences))
        exponent = zeros.index_add(0, batch.sample, gap)[batch.sample]
    return exponent.clamp(-20, 20).exp()


def _lies_between(
    ratio: Tensor,
    low: float | None,
    high: float,
) -> Tensor:
    """Return where a ratio lies within [low, high]; without `low` there is no lower bound."""
    inside = ratio <= high
    if low is not None:
        inside = inside & (ratio >= low)
    return inside


def _average_weights(
    weight: Tensor,
    batch: Batch,
    level: str,
    count_eps: float,
) -> Tensor:
    """Return the mean over tokens, or over responses where each has one weight."""
    if level == "token":
        count = batch.mask.sum().clamp(min=1)
        mean = weight.sum() / (count + count_eps)
    else:
        zeros = weight.new_zeros(len(batch.sequences))
        count = zeros.index_add(0, batch.sample, batch.mask).clamp(min=1)
        total = zeros.index_add(0, batch.sample, weight)
        mean = (total / (count + count_eps)).mean()
    # a mini-batch without a token that counts has no mean, and 1 can be divided by
    return mean.where(mean > 0, mean * 0 + 1)


@register("correction", "rejection", needs={"old", "rollout"})
def rejection(
    batch: Batch,
    *,
    level: Literal["token", "mean", "max"] = "token",
    limit: float,
) -> Tensor:
    """Weight 1, and 0 where the k3 estimate of the gap between engine and learner is above the
    limit (verl).   -> [T]

    `level`: the estimate of each token, or the mean or largest of the response.
    """
    assert batch.old_logprob is not None
    gap = (batch.old_logprob - batch.rollout_logprob).clamp(-20, 20)
    estimate = (gap.exp() - 1 - gap) * batch.mask
    match level:
        case "token":
            compared = estimate
        case "mean":
            compared = average_by_response(estimate, batch)
        case "max":
            zeros = estimate.new_zeros(len(batch.sequences))
            largest = zeros.scatter_reduce(0, batch.sample, estimate, "amax")
            compared = largest[batch.sample]
    return (compared <= limit) * batch.mask


def weigh_advantages(batch: Batch, weight: Tensor | None) -> Batch:
    """Return the batch with importance weights on its advantages, in which every policy term is
    linear.
    """
    if weight is None:
        return batch
    return replace(batch, advantage=batch.advantage * weight)
