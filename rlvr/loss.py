"""Loss terms and reductions: the loss is the sum over tokens of weight times the sum of the
recipe's terms.

A term returns one value for each response token and never reduces. A reduction returns one weight
for each response token of a whole mini-batch, before that is split for execution, so the split
cannot change the result. Only methods of tensors are used, so that reading a recipe does not load
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from rlvr.registry import Count, register

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.batch import Batch, Forward


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


def sequence_mean_of(values: Tensor, batch: Batch) -> Tensor:
    """The mean of each response's sampled tokens, at every token.   [T] -> [T]"""
    zeros = batch.mask.new_zeros(len(batch.sequences))
    count = zeros.index_add(0, batch.sample, batch.mask).clamp(min=1)
    return (zeros.index_add(0, batch.sample, values * batch.mask) / count)[batch.sample]


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


Estimator = Literal["k1", "abs", "k2", "k3"]


def kl_estimate(
    logprob: Tensor, ref_logprob: Tensor, estimator: Estimator, clamp: float | None = None
) -> Tensor:
    """k1 = -d, abs = |d|, k2 = d^2/2, k3 = e^d - d - 1 with d = ref - policy, bounded to +-clamp
    where given.   -> [T]

    Schulman, "Approximating KL divergence" (2020). In k3 d is bounded to +-20, where e^d is still
    safe in float32: the forks' gradient is NaN from 88 on. `clamp` 10 is what verl's low_var_kl
    does. d = 1 gives -1, 1, 0.5, 0.718.
    """
    d = ref_logprob - logprob
    bounded = d.clamp(-20, 20)
    value = {"k1": -d, "abs": d.abs(), "k2": d**2 / 2, "k3": bounded.exp() - bounded - 1}[estimator]
    return value if clamp is None else value.clamp(-clamp, clamp)


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


@register("reduction", "token")
def token_mean(batch: Batch, *, slack: float = 0.0) -> Tensor:
    """Every response token of the mini-batch weighs the same (DAPO, 2025); what was filtered has
    its share.   -> [T]

    `slack` is added to the count of tokens (newer verl: 1e-8).
    """
    # no token where all responses were cut off
    return batch.mask / ((batch.total_tokens + slack) or 1.0)


@register("reduction", "sequence")
def sequence_mean(batch: Batch, *, slack: float = 0.0) -> Tensor:
    """Every response weighs the same, its tokens share that (GRPO, DeepSeekMath, 2024).   -> [T]

    `slack` is added to the count of each response's tokens (newer verl: 1e-8).
    """
    lengths = batch.mask.new_zeros(len(batch.sequences)).index_add(0, batch.sample, batch.mask)
    return batch.mask / (lengths.clamp(min=1) + slack)[batch.sample] / batch.total_samples


@register("reduction", "constant")
def constant(batch: Batch, *, length: int) -> Tensor:
    """Every response token weighs 1/(responses x length), whatever the lengths are (Dr.GRPO,
    2025).   -> [T]
    """
    return batch.mask / (batch.total_samples * length)


@register("reduction", "sequence_sum")
def sequence_sum(batch: Batch) -> Tensor:
    """The tokens of a response are added up, responses averaged (verl, seq-mean-token-sum).   ->
    [T]
    """
    return batch.mask / batch.total_samples


@register("reduction", "micro_token")
def micro_token_mean(
    batch: Batch,
    *,
    size: Count | None = None,
    tokens: Count | None = None,
    ranks: Count = 1,
    divisor: Count | None = None,
) -> Tensor:
    """The published runs' loss: a token mean in every micro-batch, averaged over micro-batches and
    ranks (verl's dp_actor).   -> [T]

    A token of a short micro-batch weighs more than one of a long one. The partition is that of the
    reference, not of our passes: each of `ranks` has a contiguous share of the mini-batch, in
    micro-batches of `size` samples or of about `tokens` tokens (prompts included), which count by
    their samples. `divisor` takes the place of the number of micro-batches: Logic-RL divides by
    mini over micro also where the batch is smaller. Groups that a filter left out have no share
    here: what is left weighs more.
    """
    lengths = [len(s.prompt) + len(s.response) for s in batch.sequences]
    weight, part_of, number = [0.0] * len(lengths), [0] * len(lengths), 0
    for rows in _shares(len(lengths), ranks):
        parts = _micro_batches(rows, lengths, size, tokens)
        for part in parts:
            for row in part:
                part_of[row] = number
                weight[row] = (
                    len(part) / len(rows) if tokens else 1 / (divisor or len(parts))
                ) / ranks
            number += 1
    part = batch.sample.new_tensor(part_of)[batch.sample]
    counted = batch.mask.new_zeros(number).index_add(0, part, batch.mask).clamp(min=1)
    return batch.mask / counted[part] * batch.mask.new_tensor(weight)[batch.sample]


def _shares(count: int, ranks: int) -> list[range]:
    bounds = [round(rank * count / ranks) for rank in range(ranks + 1)]
    return [range(low, high) for low, high in pairwise(bounds) if high > low]


def _micro_batches(
    rows: range, lengths: Sequence[int], size: int | None, tokens: int | None
) -> list[list[int]]:
    if tokens is None:
        return [
            list(rows[i : i + (size or len(rows))]) for i in range(0, len(rows), size or len(rows))
        ]
    share = [lengths[row] for row in rows]
    parts = balanced(share, min(len(share), -(-sum(share) // tokens)))
    return [[rows[i] for i in part] for part in parts]


def balanced(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices in `parts` groups of about equal sums, by the largest differencing method (Karmarkar
    and Karp, 1982).

    The two groupings with the largest gaps are always joined crosswise: balanced([8, 7, 6, 5, 4],
    2) is [[1, 3, 4], [0, 2]], of sums 16 and 14.
    """
    heap: list[Any] = []
    for index, length in enumerate(lengths):
        heappush(heap, _ranked([(length, [index])] + [(0, [])] * (parts - 1)))
    while len(heap) > 1:
        one, other = heappop(heap)[-1], heappop(heap)[-1]
        heappush(
            heap,
            _ranked([(a + c, b + d) for (a, b), (c, d) in zip(one, reversed(other), strict=True)]),
        )
    return [sorted(indices) for _, indices in heap[0][-1] if indices] if heap else []


def _ranked(sets: list[tuple[int, list[int]]]) -> tuple[Any, ...]:
    """The sets from the heaviest, behind a key that puts the largest gap first."""
    ordered = sorted(sets, key=lambda one: (one[0], len(one[1]), one[1]), reverse=True)
    total, indices = ordered[0]
    return (ordered[-1][0] - total, -total, -len(indices), [-index for index in indices], ordered)


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
    slack: float = 0.0,
) -> Tensor:
    """Weights old/rollout for the policy terms, against the gap between engine and learner.   ->
    [T]

    `level`: the ratio of each token, of the whole response (the product), or its geometric mean.
    `truncate` bounds the weight to [low, high], `mask` makes it 0 outside, `filter` makes it 0
    outside and leaves it as the token's own ratio inside. Truncated importance sampling (Yao et
    al., 2025), IcePop (Ling team, 2025), sequence-masked TIS (OpenRLHF); exponents are bounded to
    +-20 (verl). `normalise` gives the weights the mean 1; `slack` is added to the counts of tokens
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
    return found / _mean_weight(found, batch, level, slack) if normalise else found


def _response_ratio(gap: Tensor, batch: Batch, *, mean: bool) -> Tensor:
    """The product of a response's ratios, or their geometric mean, at every token.   [T] -> [T]"""
    total = gap.new_zeros(len(batch.sequences)).index_add(0, batch.sample, gap)[batch.sample]
    return (sequence_mean_of(gap, batch) if mean else total).clamp(-20, 20).exp()


def _mean_weight(weight: Tensor, batch: Batch, level: str, slack: float) -> Tensor:
    """The mean over tokens, or where a response has one weight over responses."""
    if level == "token":
        return _or_one(weight.sum() / (batch.mask.sum().clamp(min=1) + slack))
    zeros = weight.new_zeros(len(batch.sequences))
    count = zeros.index_add(0, batch.sample, batch.mask).clamp(min=1)
    return _or_one((zeros.index_add(0, batch.sample, weight) / (count + slack)).mean())


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
