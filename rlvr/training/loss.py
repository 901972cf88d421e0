"""Loss terms: the loss is the sum over tokens of weight times the sum of the recipe's terms.

A term returns one value for each response token and never reduces. A reduction returns one weight
for each response token of a whole mini-batch, before that is split for execution, so the split
cannot change the result. Only methods of tensors are used, so that reading a recipe does not load
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvr.registry import register
from rlvr.training.tensors import Estimator, average_by_response, estimate_kl

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.models.policy import Forward
    from rlvr.training.batch import Batch


@register("loss", "clip", needs={"signal"})
def clip(
    out: Forward,
    batch: Batch,
    *,
    low: float = 0.2,
    high: float | None = None,
    dual: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped policy loss -min(r A, clip(r, 1-low, 1+high) A), bounded by `dual` times A where
    A < 0.   -> [T]

    r = exp(logprob - old), its exponent bounded to +-20. PPO (Schulman et al., 2017, eq. 7); a
    `high` of its own is DAPO's clip-higher; dual clip by Ye et al., 2020. With r = 1.5, A = 1 and
    the defaults the loss is -1.2 and its gradient zero.
    """
    if high is None:
        high = low
    ratio = _compute_ratio(out, batch)
    unclipped = ratio * batch.advantage
    clipped = ratio.clamp(1 - low, 1 + high) * batch.advantage
    gain = unclipped.minimum(clipped)
    if dual is not None:
        bounded = gain.maximum(dual * batch.advantage)
        gain = gain.where(batch.advantage >= 0, bounded)
    is_clipped = clipped < unclipped
    return -gain, {"clip_fraction": is_clipped.to(ratio.dtype)}


@register("loss", "gspo", needs={"signal"})
def gspo(
    out: Forward,
    batch: Batch,
    *,
    low: float = 3e-4,
    high: float = 4e-4,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped loss with one ratio for a response, exp of the mean log-ratio of its tokens
    (GSPO, 2025, eq. 5).

    To be reduced by `sequence`. Each token carries its share of the gradient (GSPO-token, eq.
    14).   -> [T]
    """
    response_log_ratio = average_by_response(out.logprob - batch.anchor(out), batch)
    # the value of the response's ratio with the gradient of the token's
    log_ratio = out.logprob - out.logprob.detach() + response_log_ratio.detach()
    ratio = log_ratio.clamp(max=10).exp()
    unclipped = ratio * batch.advantage
    clipped = ratio.clamp(1 - low, 1 + high) * batch.advantage
    is_clipped = clipped < unclipped
    return -unclipped.minimum(clipped), {"clip_fraction": is_clipped.to(ratio.dtype)}


@register("loss", "cispo", needs={"signal"})
def cispo(
    out: Forward,
    batch: Batch,
    *,
    low: float | None = None,
    high: float = 4.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-A logprob with the bounded ratio as a constant weight, so that no token loses its gradient
    (MiniMax-M1, 2025, eq. 4).

    The weight lies between 1 - low (0 without) and 1 + high.   -> [T]
    """
    least = 0.0
    if low is not None:
        least = 1 - low
    ratio = _compute_ratio(out, batch).detach()
    weight = ratio.clamp(least, 1 + high)
    is_clipped = weight != ratio
    loss = -batch.advantage * weight * out.logprob
    return loss, {"clip_fraction": is_clipped.to(ratio.dtype)}


@register("loss", "sapo", needs={"signal"})
def sapo(
    out: Forward,
    batch: Batch,
    *,
    positive: float = 1.0,
    negative: float = 1.05,
) -> Tensor:
    """-A times a smooth gate of the ratio, 4/tau sigmoid(tau (r - 1)), with a temperature for each
    sign of the advantage (SAPO, 2025, eq. 5).   -> [T]
    """
    ratio = _compute_ratio(out, batch)
    zeros = ratio.detach() * 0
    tau = (zeros + positive).where(batch.advantage > 0, zeros + negative)
    gate = (tau * (ratio - 1)).sigmoid()
    return -batch.advantage * gate * 4 / tau


@register("loss", "reinforce", needs={"signal"})
def reinforce(out: Forward, batch: Batch) -> Tensor:
    """The plain policy gradient -A logprob, for strictly on-policy batches (Williams, 1992).   ->
    [T]
    """
    return -batch.advantage * out.logprob


def _compute_ratio(out: Forward, batch: Batch) -> Tensor:
    """Return exp(logprob - old), its exponent bounded to +-20.   -> [T]"""
    log_ratio = out.logprob - batch.anchor(out)
    return log_ratio.clamp(-20, 20).exp()


def value_loss(
    value: Tensor,
    batch: Batch,
    clip: float | None,
) -> tuple[Tensor, Tensor]:
    """Return half the larger of two squared errors, and where the second is the larger.

    They are those of the value and of the value kept within +-clip of the old one: PPO's value
    clipping, as in the reference implementations.   [T] -> [T], [T]

    Value 2, old value 1, target 0, clip 0.5: 0.5 * max(4, 2.25) = 2.
    """
    assert batch.value is not None
    assert batch.returns is not None
    error = (value - batch.returns) ** 2
    if clip is None:
        return error / 2, error.detach() * 0
    clipped_value = value.clamp(batch.value - clip, batch.value + clip)
    clipped_error = (clipped_value - batch.returns) ** 2
    is_clipped = clipped_error > error
    return error.maximum(clipped_error) / 2, is_clipped.to(error.dtype)


@register("loss", "kl", needs={"ref"})
def kl(
    out: Forward,
    batch: Batch,
    *,
    coef: float,
    estimator: Estimator = "k3",
    clamp: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """An estimate of KL(policy || reference) at each token, times `coef` (see estimate_kl).   ->
    [T]
    """
    assert batch.ref_logprob is not None
    estimate = estimate_kl(out.logprob, batch.ref_logprob, estimator, clamp)
    return coef * estimate, {"kl": estimate.detach()}


@register("loss", "entropy")
def entropy(
    out: Forward,
    batch: Batch,
    *,
    coef: float,
) -> Tensor:
    """Minus the entropy times `coef`: a positive coefficient keeps the policy broad.   -> [T]"""
    return -coef * out.entropy


@register("loss", "supervised")
def supervised(out: Forward, batch: Batch) -> Tensor:
    """Minus the log-probability of the given tokens: the cold start on solutions.   -> [T]"""
    return -out.logprob
