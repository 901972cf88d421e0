"""Importance weights for the gap between engine and learner."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from rlvr.registry import register
from rlvr.training.tensors import sequence_mean_of

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
    # an engine may not know a token's
    gap = (batch.old_logprob - batch.rollout_logprob).nan_to_num(0.0) * batch.mask
    own = gap.clamp(-20, 20).exp()
    weight = own if level == "token" else _response_ratio(gap, batch, mean=level == "mean")
    if mode == "truncate":
        found = weight.clamp(low, high)
    else:
        inside = (weight <= high) if low is None else (weight >= low) & (weight <= high)
        found = (own if mode == "filter" else weight) * inside
    found = found * batch.mask
    return found / _mean_weight(found, batch, level, count_eps) if normalise else found


def _response_ratio(gap: Tensor, batch: Batch, *, mean: bool) -> Tensor:
    """The product of a response's ratios, or their geometric mean, at every token.   [T] -> [T]"""
    total = gap.new_zeros(len(batch.sequences)).index_add(0, batch.sample, gap)[batch.sample]
    return (sequence_mean_of(gap, batch) if mean else total).clamp(-20, 20).exp()


def _mean_weight(weight: Tensor, batch: Batch, level: str, count_eps: float) -> Tensor:
    """The mean over tokens, or where a response has one weight over responses."""
    if level == "token":
        return _or_one(weight.sum() / (batch.mask.sum().clamp(min=1) + count_eps))
    zeros = weight.new_zeros(len(batch.sequences))
    count = zeros.index_add(0, batch.sample, batch.mask).clamp(min=1)
    return _or_one((zeros.index_add(0, batch.sample, weight) / (count + count_eps)).mean())


def _or_one(mean: Tensor) -> Tensor:
    """What can be divided by: a mini-batch without a token that counts has no mean."""
    return mean.where(mean > 0, mean * 0 + 1)


@register("correction", "rejection", needs={"old", "rollout"})
def rejection(
    batch: Batch, *, level: Literal["token", "mean", "max"] = "token", limit: float
) -> Tensor:
    """Weight 1, and 0 where the k3 estimate of the gap between engine and learner is above the
    limit (verl).   -> [T]

    `level`: the estimate of each token, or the mean or largest of the response.
    """
    assert batch.old_logprob is not None
    gap = (batch.old_logprob - batch.rollout_logprob).clamp(-20, 20)
    estimate = (gap.exp() - 1 - gap) * batch.mask
    if level == "mean":
        estimate = sequence_mean_of(estimate, batch)
    if level == "max":
        largest = estimate.new_zeros(len(batch.sequences)).scatter_reduce(
            0, batch.sample, estimate, "amax"
        )
        estimate = largest[batch.sample]
    return (estimate <= limit) * batch.mask


def corrected(batch: Batch, weight: Tensor | None) -> Batch:
    """The batch with importance weights on its advantages, in which every policy term is linear."""
    return batch if weight is None else replace(batch, advantage=batch.advantage * weight)
