"""Loss terms and reductions: the loss is the sum over tokens of weight times the sum of the
recipe's terms.

A term returns one value for each response token and never reduces. A reduction returns one weight
for each response token of a whole mini-batch, before that is split for execution, so the split
cannot change the result. Only methods of tensors are used, so that reading a recipe does not load
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvr.registry import register
from rlvr.training.tensors import Estimator, kl_estimate, sequence_mean_of

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
    ratio = (out.logprob - batch.anchor(out)).clamp(-20, 20).exp()
    bounded = ratio.clamp(1 - low, 1 + (low if high is None else high))
    gain = (ratio * batch.advantage).minimum(bounded * batch.advantage)
    active = (bounded * batch.advantage) < (ratio * batch.advantage)
    if dual is not None:
        gain = gain.where(batch.advantage >= 0, gain.maximum(dual * batch.advantage))
    return -gain, {"clipped": active.to(ratio.dtype)}


@register("loss", "gspo", needs={"signal"})
def gspo(
    out: Forward, batch: Batch, *, low: float = 3e-4, high: float = 4e-4
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped loss with one ratio for a response, exp of the mean log-ratio of its tokens
    (GSPO, 2025, eq. 5).

    To be reduced by `sequence`. Each token carries its share of the gradient (GSPO-token, eq.
    14).   -> [T]
    """
    whole = sequence_mean_of(out.logprob - batch.anchor(out), batch)
    ratio = (out.logprob - out.logprob.detach() + whole.detach()).clamp(max=10).exp()
    gain = ratio * batch.advantage
    bounded = ratio.clamp(1 - low, 1 + high) * batch.advantage
    return -gain.minimum(bounded), {"clipped": (bounded < gain).to(ratio.dtype)}


@register("loss", "cispo", needs={"signal"})
def cispo(
    out: Forward, batch: Batch, *, low: float | None = None, high: float = 4.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """-A logprob with the bounded ratio as a constant weight, so that no token loses its gradient
    (MiniMax-M1, 2025, eq. 4).

    The weight lies between 1 - low (0 without) and 1 + high.   -> [T]
    """
    ratio = (out.logprob - batch.anchor(out)).clamp(-20, 20).exp().detach()
    bounded = ratio.clamp(0.0 if low is None else 1 - low, 1 + high)
    return -batch.advantage * bounded * out.logprob, {"clipped": (bounded != ratio).to(ratio.dtype)}


@register("loss", "sapo", needs={"signal"})
def sapo(out: Forward, batch: Batch, *, positive: float = 1.0, negative: float = 1.05) -> Tensor:
    """-A times a smooth gate of the ratio, 4/tau sigmoid(tau (r - 1)), with a temperature for each
    sign of the advantage (SAPO, 2025, eq. 5).   -> [T]
    """
    ratio = (out.logprob - batch.anchor(out)).clamp(-20, 20).exp()
    tau = ratio * 0 + positive
    tau = tau.where(batch.advantage > 0, tau * 0 + negative).detach()
    return -batch.advantage * (tau * (ratio - 1)).sigmoid() * 4 / tau


@register("loss", "reinforce", needs={"signal"})
def reinforce(out: Forward, batch: Batch) -> Tensor:
    """The plain policy gradient -A logprob, for strictly on-policy batches (Williams, 1992).   ->
    [T]
    """
    return -batch.advantage * out.logprob


def value_loss(value: Tensor, batch: Batch, clip: float | None) -> tuple[Tensor, Tensor]:
    """Half the larger of the squared errors of the value and of the value kept within +-clip of the
    old one, and where the second is the larger (PPO's value clipping, as in the reference
    implementations).   [T] -> [T], [T]

    Value 2, old value 1, target 0, clip 0.5: 0.5 * max(4, 2.25) = 2.
    """
    assert batch.value is not None and batch.returns is not None
    plain = (value - batch.returns) ** 2
    if clip is None:
        return plain / 2, plain.detach() * 0
    bounded = (value.clamp(batch.value - clip, batch.value + clip) - batch.returns) ** 2
    return plain.maximum(bounded) / 2, (bounded > plain).to(plain.dtype)


@register("loss", "kl", needs={"ref"})
def kl(
    out: Forward,
    batch: Batch,
    *,
    coef: float,
    estimator: Estimator = "k3",
    clamp: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """An estimate of KL(policy || reference) at each token, times `coef` (see kl_estimate).   ->
    [T]
    """
    assert batch.ref_logprob is not None
    value = kl_estimate(out.logprob, batch.ref_logprob, estimator, clamp)
    return coef * value, {"kl": value.detach()}


@register("loss", "entropy")
def entropy(out: Forward, batch: Batch, *, coef: float) -> Tensor:
    """Minus the entropy times `coef`: a positive coefficient keeps the policy broad.   -> [T]"""
    return -coef * out.entropy


@register("loss", "supervised")
def supervised(out: Forward, batch: Batch) -> Tensor:
    """Minus the log-probability of the given tokens: the cold start on solutions.   -> [T]"""
    return -out.logprob
