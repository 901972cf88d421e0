"""How far policy and engine lie apart on the tokens of a pass."""

from __future__ import annotations

import math

from rlvr.metrics.mergeable import Metrics
from rlvr.models.policy import Forward
from rlvr.training.batch import Batch


def measure_mismatch(out: Forward, piece: Batch) -> Metrics:
    """Measure the entropy of a pass, and how far policy and engine lie apart on its tokens.

    That is the mean distance of their log-probabilities, the k3 estimate of KL(engine || policy),
    and the share of ratios beyond a factor of 2.
    """
    gap = (out.logprob.detach() - piece.rollout_logprob) * piece.mask
    distance = gap.abs()
    bounded = gap.clamp(-20, 20)
    is_extreme = distance > math.log(2)
    per_token = {
        "entropy": out.entropy.detach() * piece.mask,
        "mismatch": distance,
        "mismatch_kl": bounded.expm1() - bounded,
        "mismatch_beyond_2x": is_extreme.to(gap.dtype),
    }
    count = float(piece.mask.sum())
    means: dict[str, tuple[float, float]] = {}
    for name, values in per_token.items():
        total = float(values.sum())
        means[name] = (total, count)
    return Metrics(means)
