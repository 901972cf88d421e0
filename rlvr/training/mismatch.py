"""How far policy and engine lie apart on the tokens of a pass."""

from __future__ import annotations

import math

from rlvr.metrics.mergeable import Metrics
from rlvr.models.policy import Forward
from rlvr.training.batch import Batch


def measure_mismatch(out: Forward, piece: Batch) -> Metrics:
    """The entropy of a pass, and how far policy and engine lie apart on its tokens: the mean
    distance of their log-probabilities, the k3 estimate of KL(engine || policy), and the share of
    ratios beyond a factor of 2.
    """
    gap = (out.logprob.detach() - piece.rollout_logprob) * piece.mask
    found = {"entropy": out.entropy.detach() * piece.mask, "mismatch": gap.abs()}
    found["mismatch_kl"] = gap.clamp(-20, 20).expm1() - gap.clamp(-20, 20)
    found["mismatch_extreme"] = (gap.abs() > math.log(2)).to(gap.dtype)
    count = float(piece.mask.sum())
    return Metrics({name: (float(values.sum()), count) for name, values in found.items()})
