"""Advantage estimators: how much better each response was than expected.

An estimator reads `Scored` and returns one advantage for every response token. Only methods of
tensors are used, so that reading a recipe does not load torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from rlvr.loss import Estimator, kl_estimate
from rlvr.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.batch import Scored
    from rlvr.world import World


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """The mean of each sample's group.   [N], [N] -> [N]"""
    return _sums(values, group) / _sums(values.new_ones(values.shape), group)


def centre(values: Tensor, group: Tensor) -> Tensor:
    """Each value minus its group's mean, and exactly 0 where all of a group are equal.   [N], [N]
    -> [N]

    The mean of eight times 0.7 is not 0.7 in float32, and a deviation of 0 would blow the
    difference up, so the smallest value is taken off first.
    """
    lowest = values.new_zeros(int(group.max()) + 1 if len(group) else 0)
    above = values - lowest.scatter_reduce(0, group, values, "amin", include_self=False)[group]
    return above - group_mean(above, group)


def group_deviation(values: Tensor, group: Tensor, ddof: int = 1) -> Tensor:
    """The standard deviation of each sample's group, 0 for a group of one.   [N], [N] -> [N]"""
    count = _sums(values.new_ones(values.shape), group)
    square = centre(values, group) ** 2
    return (_sums(square, group) / (count - ddof).clamp(min=1)) ** 0.5


def _sums(values: Tensor, group: Tensor) -> Tensor:
    count = int(group.max()) + 1 if len(group) else 0
    return values.new_zeros(count).index_add(0, group, values)[group]


def whiten(
    values: Tensor,
    mask: Tensor,
    *,
    shift: bool = True,
    eps: float = 1e-8,
    slack: float = 0.0,
    ddof: int = 1,
    floor: float = 0.0,
) -> Tensor:
    """Values with mean 0 and variance 1 over the sampled tokens of the batch, and 0 elsewhere
    (verl, masked_whiten). [T], [T] -> [T]

    `shift=False` keeps the mean. The variance has one degree of freedom less than there are tokens;
    a single token has none and is returned as it is. `slack` is added to the count of tokens (newer
    verl: 1e-8). OpenRLHF has `ddof` 0, no `eps`, and a least variance (`floor`) of 1e-8.
    """
    count = mask.sum()
    divisor = (count + slack).clamp(min=1)
    mean = (values * mask).sum() / divisor
    square = (((values - mean) ** 2) * mask).sum() / divisor * count / (count - ddof).clamp(min=1)
    scaled = (values - mean) * (square.clamp(min=floor) + eps) ** -0.5 + (0 if shift else mean)
    return (scaled if count > 1 else values) * mask


def reward_to_go(token_reward: Tensor, sample: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """The discounted sum of what follows each token, tokens of others left out of the
    discount.   [T] -> [T]

    With rewards 0, 0, 1 and gamma 0.9 it is 0.81, 0.9, 1.
    """
    return discounted(token_reward * mask, sample, mask, gamma)


def discounted(step: Tensor, sample: Tensor, mask: Tensor, factor: float) -> Tensor:
    """step[t] + factor * step[next sampled token] + factor^2 ..., within each sample.   [T] -> [T]

    All samples go back one token at a time together, so the loop is as long as the longest
    response.
    """
    found = step.new_zeros(step.shape)
    ends = (sample[1:] != sample[:-1]).nonzero()[:, 0]
    last = ends.new_tensor([*ends.tolist(), len(sample) - 1]) if len(sample) else ends
    first = ends.new_tensor([0, *(ends + 1).tolist()]) if len(sample) else ends
    carried, place = step.new_zeros(len(last)), last
    while len(place):
        here = step[place] + factor * carried
        carried = here.where(mask[place] > 0, carried)
        found = found.index_put((place,), carried * mask[place])
        going = place > first
        place, carried, first = place[going] - 1, carried[going], first[going]
    return found


def penalised(
    scored: Scored,
    coef: float,
    *,
    estimator: Estimator = "k1",
    clamp: float | None = None,
    clip: float | None = None,
) -> tuple[Scored, float]:
    """The same with `coef` times the KL to the reference taken off every token's reward, and the
    mean KL of a response.

    The reward, and a greedy baseline with it, is bounded to +-clip first (OpenRLHF: 10). The mean
    KL, over responses of the means over their tokens, is what an adaptive coefficient follows
    (verl, apply_kl_penalty).
    """
    assert scored.old_logprob is not None and scored.ref_logprob is not None
    kl = kl_estimate(scored.old_logprob, scored.ref_logprob, estimator, clamp) * scored.mask
    zeros = scored.reward.new_zeros(scored.reward.shape)
    length = zeros.index_add(0, scored.sample, scored.mask).clamp(min=1)
    mean = (zeros.index_add(0, scored.sample, kl) / length).mean()
    bounded = {} if clip is None else {"reward": scored.reward.clamp(-clip, clip)}
    if clip is not None and scored.baseline is not None:
        bounded["baseline"] = scored.baseline.clamp(-clip, clip)
    return replace(scored, **bounded, penalty=coef * kl), float(mean) if len(length) else 0.0


def adapted(coef: float, current: float, count: int, *, target: float, horizon: int) -> float:
    """The coefficient after `count` more samples with that KL (Ziegler et al., 2019, section 2.2).

    At twice the target it grows by 0.2 count / horizon.
    """
    error = min(max(current / target - 1, -0.2), 0.2)
    return coef * (1 + error * count / horizon)


Scale = Literal["group", "batch"]
Alone = Literal["zero", "reward"]


@register("advantage", "grpo")
def grpo(
    scored: Scored,
    world: World,
    *,
    std: bool = True,
    ddof: int = 1,
    eps: float = 1e-6,
    scale: Scale = "group",
    floor: float = 0.0,
    alone: Alone = "zero",
) -> Tensor:
    """Reward minus the group's mean, divided by a deviation unless `std` is false (DeepSeekMath,
    2024, eq. 3).

    `std: false` is Dr.GRPO (2025, eq. 2), `scale: batch` the deviation over all samples (TRL),
    `floor` the least variance (verl's vectorised estimator: 1e-6). A group of one has nothing to
    compare with and gives 0, or as in verl keeps its `reward`. Rewards 1, 0, 0, 1 give +-0.5
    without, and +-0.866 with the deviation of one degree of freedom.
    """
    single = _counts(scored) == 1
    centred = _alone(centre(scored.total, scored.group), scored, alone)
    if std:
        owner = scored.group if scale == "group" else scored.group.new_zeros(scored.group.shape)
        deviation = (group_deviation(scored.total, owner, ddof) ** 2).clamp(min=floor) ** 0.5
        single = single if scale == "group" else single.new_zeros(single.shape)
        centred = centred / (deviation.where(~single, deviation * 0 + 1) + eps)
    return centred[scored.sample] * scored.mask


@register("advantage", "rloo")
def rloo(scored: Scored, world: World, *, alone: Alone = "zero") -> Tensor:
    """Reward minus the mean of the others of its group (Ahmadian et al., 2024).

    Rewards 1, 0, 0, 1 give 2/3, -2/3, -2/3, 2/3.
    """
    count = _counts(scored)
    centred = centre(scored.total, scored.group) * count / (count - 1).clamp(min=1)
    return _alone(centred, scored, alone)[scored.sample] * scored.mask


@register("advantage", "reinforce")
def reinforce(
    scored: Scored,
    world: World,
    *,
    gamma: float = 1.0,
    baseline: Literal["none", "mean", "others", "deviation"] = "none",
    clip: float | None = None,
    normalise: bool = False,
    eps: float = 1e-9,
) -> Tensor:
    """The discounted reward that follows a token (Williams, 1992), as OpenRLHF 0.11 builds its
    estimators.

    The reward loses the `mean` of its group (reinforce_baseline, dr_grpo), the mean of the `others`
    (rloo), or is divided by the `deviation` too (group_norm); it is bounded to +-clip, the KL comes
    off token by token, and what follows is added up; `normalise` gives the batch mean 0 and
    variance 1.
    """
    centred = centre(scored.reward, scored.group)
    count = _counts(scored)
    reward = {
        "none": lambda: scored.reward,
        "mean": lambda: centred,
        "others": lambda: centred * count / (count - 1).clamp(min=1),
        "deviation": lambda: centred / (group_deviation(scored.reward, scored.group) + eps),
    }[baseline]()
    reward = reward if clip is None else reward.clamp(-clip, clip)
    found = reward_to_go(scored.placed(reward), scored.sample, scored.mask, gamma)
    return whiten(found, scored.mask, ddof=0, eps=0.0, floor=1e-8) if normalise else found


@register("advantage", "reinforce_pp")
def reinforce_pp(
    scored: Scored, world: World, *, gamma: float = 1.0, eps: float = 1e-8, slack: float = 0.0
) -> Tensor:
    """The discounted reward that follows a token, whitened over all tokens of the batch
    (REINFORCE++, Hu 2025).
    """
    follows = reward_to_go(scored.token_reward, scored.sample, scored.mask, gamma)
    return whiten(follows, scored.mask, eps=eps, slack=slack)


@register("advantage", "reinforce_pp_baseline")
def reinforce_pp_baseline(
    scored: Scored, world: World, *, eps: float = 1e-8, alone: Alone = "zero", slack: float = 0.0
) -> Tensor:
    """Reward minus the group's mean, whitened over all tokens of the batch (REINFORCE++-baseline,
    Hu 2025).
    """
    centred = _alone(centre(scored.total, scored.group), scored, alone)
    return whiten(centred[scored.sample], scored.mask, eps=eps, slack=slack)


@register("advantage", "remax", needs={"greedy"})
def remax(scored: Scored, world: World) -> Tensor:
    """The reward that follows a token minus that of a greedy answer, which is not trained on
    (ReMax, Li et al., 2023, eq. 5).
    """
    assert scored.baseline is not None
    follows = reward_to_go(scored.token_reward, scored.sample, scored.mask)
    return (follows - scored.baseline[scored.sample]) * scored.mask


@register("advantage", "opo")
def opo(scored: Scored, world: World, *, alone: Alone = "zero") -> Tensor:
    """Reward minus the mean of the group weighted by response length (OPO, Hao et al., 2025, eq.
    9).
    """
    length = scored.mask.new_zeros(scored.reward.shape).index_add(0, scored.sample, scored.mask)
    baseline = _sums(length * scored.total, scored.group) / _sums(length, scored.group).clamp(min=1)
    return _alone(scored.total - baseline, scored, alone)[scored.sample] * scored.mask


@register("advantage", "gpg")
def gpg(scored: Scored, world: World, *, norm: float = 1.0, alone: Alone = "zero") -> Tensor:
    """Reward minus the group's mean, times samples over samples with a reward (GPG, Chu et al.,
    2025, eq. 5).
    """
    rewarded = (scored.total != 0).to(scored.total.dtype).sum().clamp(min=1)
    centred = _alone(centre(scored.total, scored.group), scored, alone)
    return (centred / norm * len(scored.total) / rewarded)[scored.sample] * scored.mask


@register("advantage", "grpo_passk")
def grpo_passk(scored: Scored, world: World, *, eps: float = 1e-6, std: bool = True) -> Tensor:
    """Only the best of a group, by how far it is ahead of the second best (verl, grpo_passk)."""
    found = scored.total.new_zeros(scored.total.shape)
    deviation = group_deviation(scored.total, scored.group)
    for group in range(int(scored.group.max()) + 1 if len(scored.group) else 0):
        members = (scored.group == group).nonzero()[:, 0]
        if len(members) < 2:
            continue
        best = scored.total[members].topk(2)
        lead = (best.values[0] - best.values[1]) / (deviation[members[0]] + eps if std else 1)
        found = found.index_put((members[best.indices[0]],), lead)
    return found[scored.sample] * scored.mask


@register("advantage", "gae", needs={"value"})
def gae(
    scored: Scored,
    world: World,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    normalise: bool = True,
    ddof: Literal[0, 1] = 1,
    slack: float = 0.0,
) -> Tensor:
    """Generalised advantage estimation over the sampled tokens, whitened over the batch (Schulman
    et al., 2015).

    `ddof` 0 whitens as OpenRLHF does, 1 as verl. With values 0.5, 0.5, reward 1 at the end, gamma 1
    and lambda 1: 0.5, 0.5 before whitening.
    """
    found = gae_of(scored, gamma, lam)
    if not normalise:
        return found
    if ddof:
        return whiten(found, scored.mask, slack=slack)
    return whiten(found, scored.mask, ddof=0, eps=0.0, floor=1e-8)


def gae_of(scored: Scored, gamma: float, lam: float) -> Tensor:
    """The advantage before whitening; with the value it is what a critic should have expected.   ->
    [T]
    """
    assert scored.value is not None
    value = scored.value * scored.mask
    following = _next_sampled(value, scored.sample, scored.mask)
    delta = (scored.token_reward + gamma * following - value) * scored.mask
    return discounted(delta, scored.sample, scored.mask, gamma * lam)


def _next_sampled(value: Tensor, sample: Tensor, mask: Tensor) -> Tensor:
    """The value at the next sampled token of the same sample, 0 at its end.   [T] -> [T]"""
    kept = (mask > 0).nonzero()[:, 0]
    following = value.new_zeros(value.shape)
    if len(kept) < 2:
        return following
    here, after = kept[:-1], kept[1:]
    joined = sample[here] == sample[after]
    return following.index_put((here[joined],), value[after[joined]])


def _alone(centred: Tensor, scored: Scored, alone: Alone) -> Tensor:
    """The same with what a group of one gets: nothing, or its reward.   [N] -> [N]"""
    single = scored.total if alone == "reward" else scored.total * 0
    return centred.where(_counts(scored) > 1, single)


def _counts(scored: Scored) -> Tensor:
    return _sums(scored.total.new_ones(scored.total.shape), scored.group)
