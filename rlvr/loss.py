"""Loss terms and reductions: the loss is the sum over tokens of weight times the sum of the recipe's terms.

A term returns one value for each response token and never reduces. A reduction returns one weight for each response
token of a whole mini-batch, before that is split for execution, so the split cannot change the result. Only methods of
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


def sequence_mean_of(values: Tensor, batch: Batch) -> Tensor:
    """The mean of each response's sampled tokens, at every token.   [T] -> [T]"""
    zeros = batch.mask.new_zeros(len(batch.sequences))
    count = zeros.index_add(0, batch.sample, batch.mask).clamp(min=1)
    return (zeros.index_add(0, batch.sample, values * batch.mask) / count)[batch.sample]


@register("loss", "gspo")
def gspo(out: Forward, batch: Batch, *, low: float = 3e-4, high: float = 4e-4) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped loss with one ratio for a response, exp of the mean log-ratio of its tokens (GSPO, 2025, eq. 5).

    To be reduced by `sequence`. Each token carries its share of the gradient (GSPO-token, eq. 14).   -> [T]
    """
    whole = sequence_mean_of(out.logprob - batch.anchor(out), batch)
    ratio = (out.logprob - out.logprob.detach() + whole.detach()).clamp(max=10).exp()
    gain = ratio * batch.advantage
    bounded = ratio.clamp(1 - low, 1 + high) * batch.advantage
    return -gain.minimum(bounded), {"clipped": (bounded < gain).to(ratio.dtype)}


@register("loss", "cispo")
def cispo(
    out: Forward, batch: Batch, *, low: float | None = None, high: float = 4.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """-A logprob with the bounded ratio as a constant weight, so that no token loses its gradient (MiniMax-M1, 2025,
    eq. 4).

    The weight lies between 1 - low (0 without) and 1 + high.   -> [T]
    """
    ratio = (out.logprob - batch.anchor(out)).clamp(-20, 20).exp().detach()
    bounded = ratio.clamp(0.0 if low is None else 1 - low, 1 + high)
    return -batch.advantage * bounded * out.logprob, {"clipped": (bounded != ratio).to(ratio.dtype)}


@register("loss", "sapo")
def sapo(out: Forward, batch: Batch, *, positive: float = 1.0, negative: float = 1.05) -> Tensor:
    """-A times a smooth gate of the ratio, 4/tau sigmoid(tau (r - 1)), with a temperature for each sign of the
    advantage (SAPO, 2025, eq. 5).   -> [T]"""
    ratio = (out.logprob - batch.anchor(out)).clamp(-20, 20).exp()
    tau = ratio * 0 + positive
    tau = tau.where(batch.advantage > 0, tau * 0 + negative).detach()
    return -batch.advantage * (tau * (ratio - 1)).sigmoid() * 4 / tau


@register("loss", "reinforce")
def reinforce(out: Forward, batch: Batch) -> Tensor:
    """The plain policy gradient -A logprob, for strictly on-policy batches (Williams, 1992).   -> [T]"""
    return -batch.advantage * out.logprob


Estimator = Literal["k1", "abs", "k2", "k3"]


def kl_estimate(logprob: Tensor, ref_logprob: Tensor, estimator: Estimator, clamp: float | None = None) -> Tensor:
    """k1 = -d, abs = |d|, k2 = d^2/2, k3 = e^d - d - 1 with d = ref - policy, bounded to +-clamp where given.   -> [T]

    Schulman, "Approximating KL divergence" (2020). In k3 d is bounded to +-20, where e^d is still safe in float32: the
    forks' gradient is NaN from 88 on. `clamp` 10 is what verl's low_var_kl does. d = 1 gives -1, 1, 0.5, 0.718.
    """
    d = ref_logprob - logprob
    bounded = d.clamp(-20, 20)
    value = {"k1": -d, "abs": d.abs(), "k2": d**2 / 2, "k3": bounded.exp() - bounded - 1}[estimator]
    return value if clamp is None else value.clamp(-clamp, clamp)


@register("loss", "kl", needs={"ref"})
def kl(
    out: Forward, batch: Batch, *, coef: float, estimator: Estimator = "k3", clamp: float | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """An estimate of KL(policy || reference) at each token, times `coef` (see kl_estimate).   -> [T]"""
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


@register("reduction", "token")
def token_mean(batch: Batch, *, slack: float = 0.0) -> Tensor:
    """Every response token of the mini-batch weighs the same (DAPO, 2025); what was filtered has its share.   -> [T]

    `slack` is added to the count of tokens (newer verl: 1e-8).
    """
    return batch.mask / (batch.total_tokens + slack)


@register("reduction", "sequence")
def sequence_mean(batch: Batch, *, slack: float = 0.0) -> Tensor:
    """Every response weighs the same, its tokens share that (GRPO, DeepSeekMath, 2024).   -> [T]

    `slack` is added to the count of each response's tokens (newer verl: 1e-8).
    """
    lengths = batch.mask.new_zeros(len(batch.sequences)).index_add(0, batch.sample, batch.mask)
    return batch.mask / (lengths.clamp(min=1) + slack)[batch.sample] / batch.total_samples


@register("reduction", "constant")
def constant(batch: Batch, *, length: int) -> Tensor:
    """Every response token weighs 1/(responses x length), whatever the lengths are (Dr.GRPO, 2025).   -> [T]"""
    return batch.mask / (batch.total_samples * length)


@register("reduction", "sequence_sum")
def sequence_sum(batch: Batch) -> Tensor:
    """The tokens of a response are added up, responses averaged (verl, seq-mean-token-sum).   -> [T]"""
    return batch.mask / batch.total_samples
