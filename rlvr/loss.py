"""Loss terms and reductions: the loss is the sum over tokens of weight times the sum of the recipe's terms.

A term returns one value for each response token and never reduces. A reduction returns one weight for each response
token
of a whole mini-batch, before that is split for execution, so the split cannot change the result. Only methods of
tensors are used, so that reading a recipe does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rlvr.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.batch import Batch, Forward


@register("loss", "clip")
def clip(
    out: Forward, batch: Batch, *, low: float = 0.2, high: float | None = None, dual: float | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped policy loss -min(r A, clip(r, 1-low, 1+high) A), bounded by `dual` times A where A < 0.   -> [T]

    r = exp(logprob - old), its exponent bounded to +-20. PPO (Schulman et al., 2017, eq. 7); a `high` of its own is
    DAPO's clip-higher; dual clip by Ye et al., 2020. With r = 1.5, A = 1 and the defaults the loss is -1.2 and its
    gradient zero.
    """
    ratio = (out.logprob - batch.anchor(out)).clamp(-20, 20).exp()
    bounded = ratio.clamp(1 - low, 1 + (low if high is None else high))
    gain = (ratio * batch.advantage).minimum(bounded * batch.advantage)
    active = (bounded * batch.advantage) < (ratio * batch.advantage)
    if dual is not None:
        gain = gain.where(batch.advantage >= 0, gain.maximum(dual * batch.advantage))
    return -gain, {"clipped": active.to(ratio.dtype)}


@register("loss", "reinforce")
def reinforce(out: Forward, batch: Batch) -> Tensor:
    """The plain policy gradient -A logprob, for strictly on-policy batches (Williams, 1992).   -> [T]"""
    return -batch.advantage * out.logprob


@register("loss", "kl", needs={"ref"})
def kl(
    out: Forward, batch: Batch, *, coef: float, estimator: Literal["k1", "k2", "k3"] = "k3"
) -> tuple[Tensor, dict[str, Tensor]]:
    """An estimate of KL(policy || reference) times `coef`: k1 = -d, k2 = d^2/2, k3 = e^d - d - 1 with d = ref - policy.

    Schulman, "Approximating KL divergence" (2020). d is bounded to +-20, where e^d is still safe in float32.   -> [T]
    """
    assert batch.ref_logprob is not None
    d = (batch.ref_logprob - out.logprob).clamp(-20, 20)
    value = {"k1": -d, "k2": d**2 / 2, "k3": d.exp() - d - 1}[estimator]
    return coef * value, {"kl": value.detach()}


@register("loss", "entropy")
def entropy(out: Forward, batch: Batch, *, coef: float) -> Tensor:
    """Minus the entropy times `coef`: a positive coefficient keeps the policy broad.   -> [T]"""
    return -coef * out.entropy


@register("loss", "supervised")
def supervised(out: Forward, batch: Batch) -> Tensor:
    """Minus the log-probability of the given tokens: the cold start on solutions.   -> [T]"""
    return -out.logprob


@register("reduction", "token")
def token_mean(batch: Batch) -> Tensor:
    """Every response token of the mini-batch weighs the same (DAPO, 2025).   -> [T], summing to 1 with what was
    filtered"""
    return batch.mask / batch.total_tokens


@register("reduction", "sequence")
def sequence_mean(batch: Batch) -> Tensor:
    """Every response weighs the same, its tokens share that (GRPO, DeepSeekMath, 2024).   -> [T]"""
    lengths = batch.mask.new_zeros(len(batch.sequences)).index_add(0, batch.sample, batch.mask)
    return batch.mask / lengths.clamp(min=1)[batch.sample] / batch.total_samples


@register("reduction", "constant")
def constant(batch: Batch, *, length: int) -> Tensor:
    """Every response token weighs 1/(responses x length), whatever the lengths are (Dr.GRPO, 2025).   -> [T]"""
    return batch.mask / (batch.total_samples * length)
