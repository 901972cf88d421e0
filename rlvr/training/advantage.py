"""Advantage estimators: how much better each response was than expected.

An estimator reads `Scored` and returns one advantage for every response token. `scored.total` [N]
compares samples: the reward of each less its penalties; `scored.token_reward` [T] is for estimators
that discount. The advantage is multiplied by `scored.mask` at the end. Only methods of tensors are
used, so that reading a recipe does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rlvr.registry import register
from rlvr.training.tensors import (
    centre,
    count_samples,
    discount,
    group_deviation,
    reward_to_go,
    sum_by_group,
    whiten,
)

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.distributed.world import World
    from rlvr.training.scored import Scored


Scale = Literal["group", "batch"]


Singleton = Literal["zero", "reward"]


@register("advantage", "grpo")
def grpo(
    scored: Scored,
    world: World,
    *,
    std: bool = True,
    ddof: int = 1,
    eps: float = 1e-6,
    scale: Scale = "group",
    min_variance: float = 0.0,
    singleton: Singleton = "zero",
) -> Tensor:
    """Reward minus the group's mean, divided by a deviation unless `std` is false (DeepSeekMath,
    2024, eq. 3).

    `std: false` is Dr.GRPO (2025, eq. 2), `scale: batch` the deviation over all samples (TRL),
    `min_variance` the least variance (verl's vectorised estimator: 1e-6). A group of one has nothing to
    compare with and gives 0, or as in verl keeps its `reward`. Rewards 1, 0, 0, 1 give +-0.5
    without, and +-0.866 with the deviation of one degree of freedom.
    """
    centred = _replace_singletons(centre(scored.total, scored.group), scored, singleton)
    if not std:
        return centred[scored.sample] * scored.mask
    if scale == "group":
        pool = scored.group
        has_no_deviation = count_samples(scored) == 1
    else:
        pool = scored.group.new_zeros(scored.group.shape)
        has_no_deviation = pool != 0  # the batch has one
    variance = group_deviation(scored.total, pool, ddof) ** 2
    deviation = variance.clamp(min=min_variance) ** 0.5
    divisor = deviation.where(~has_no_deviation, deviation * 0 + 1) + eps
    return (centred / divisor)[scored.sample] * scored.mask


@register("advantage", "rloo")
def rloo(
    scored: Scored,
    world: World,
    *,
    singleton: Singleton = "zero",
) -> Tensor:
    """Reward minus the mean of the others of its group (Ahmadian et al., 2024).

    Rewards 1, 0, 0, 1 give 2/3, -2/3, -2/3, 2/3.
    """
    ahead_of_others = _subtract_others(scored.total, scored)
    advantage = _replace_singletons(ahead_of_others, scored, singleton)
    return advantage[scored.sample] * scored.mask


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
    match baseline:
        case "none":
            reward = scored.reward
        case "mean":
            reward = centre(scored.reward, scored.group)
        case "others":
            reward = _subtract_others(scored.reward, scored)
        case "deviation":
            deviation = group_deviation(scored.reward, scored.group)
            reward = centre(scored.reward, scored.group) / (deviation + eps)
    if clip is not None:
        reward = reward.clamp(-clip, clip)
    token_reward = scored.place_rewards(reward)
    advantage = reward_to_go(token_reward, scored.sample, scored.mask, gamma)
    if not normalise:
        return advantage
    return whiten(advantage, scored.mask, ddof=0, eps=0.0, min_variance=1e-8)


@register("advantage", "reinforce_pp")
def reinforce_pp(
    scored: Scored,
    world: World,
    *,
    gamma: float = 1.0,
    eps: float = 1e-8,
    count_eps: float = 0.0,
) -> Tensor:
    """The discounted reward that follows a token, whitened over all tokens of the batch
    (REINFORCE++, Hu 2025).
    """
    follows = reward_to_go(scored.token_reward, scored.sample, scored.mask, gamma)
    return whiten(follows, scored.mask, eps=eps, count_eps=count_eps)


@register("advantage", "reinforce_pp_baseline")
def reinforce_pp_baseline(
    scored: Scored,
    world: World,
    *,
    eps: float = 1e-8,
    singleton: Singleton = "zero",
    count_eps: float = 0.0,
) -> Tensor:
    """Reward minus the group's mean, whitened over all tokens of the batch (REINFORCE++-baseline,
    Hu 2025).
    """
    centred = _replace_singletons(centre(scored.total, scored.group), scored, singleton)
    return whiten(centred[scored.sample], scored.mask, eps=eps, count_eps=count_eps)


@register("advantage", "remax", needs={"greedy"})
def remax(scored: Scored, world: World) -> Tensor:
    """The reward that follows a token minus that of a greedy answer, which is not trained on
    (ReMax, Li et al., 2023, eq. 5).
    """
    assert scored.baseline is not None
    follows = reward_to_go(scored.token_reward, scored.sample, scored.mask)
    return (follows - scored.baseline[scored.sample]) * scored.mask


@register("advantage", "opo")
def opo(
    scored: Scored,
    world: World,
    *,
    singleton: Singleton = "zero",
) -> Tensor:
    """Reward minus the mean of the group weighted by response length (OPO, Hao et al., 2025, eq.
    9).
    """
    zeros = scored.mask.new_zeros(scored.reward.shape)
    length = zeros.index_add(0, scored.sample, scored.mask)
    group_length = sum_by_group(length, scored.group).clamp(min=1)
    baseline = sum_by_group(length * scored.total, scored.group) / group_length
    advantage = _replace_singletons(scored.total - baseline, scored, singleton)
    return advantage[scored.sample] * scored.mask


@register("advantage", "gpg")
def gpg(
    scored: Scored,
    world: World,
    *,
    norm: float = 1.0,
    singleton: Singleton = "zero",
) -> Tensor:
    """Reward minus the group's mean, times samples over samples with a reward (GPG, Chu et al.,
    2025, eq. 5).
    """
    has_reward = (scored.total != 0).to(scored.total.dtype)
    rewarded = has_reward.sum().clamp(min=1)
    centred = _replace_singletons(centre(scored.total, scored.group), scored, singleton)
    advantage = centred / norm * len(scored.total) / rewarded
    return advantage[scored.sample] * scored.mask


@register("advantage", "grpo_passk")
def grpo_passk(
    scored: Scored,
    world: World,
    *,
    eps: float = 1e-6,
    std: bool = True,
) -> Tensor:
    """Only the best of a group, by how far it is ahead of the second best (verl, grpo_passk)."""
    advantage = scored.total.new_zeros(scored.total.shape)
    deviation = group_deviation(scored.total, scored.group)
    for group in scored.group.unique():
        members = (scored.group == group).nonzero()[:, 0]
        if len(members) < 2:
            continue
        ranking = scored.total[members].topk(2)
        winner = members[ranking.indices[0]]
        lead = ranking.values[0] - ranking.values[1]
        if std:
            lead = lead / (deviation[winner] + eps)
        advantage = advantage.index_put((winner,), lead)
    return advantage[scored.sample] * scored.mask


@register("advantage", "gae", needs={"value"})
def gae(
    scored: Scored,
    world: World,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    normalise: bool = True,
    ddof: Literal[0, 1] = 1,
    count_eps: float = 0.0,
) -> Tensor:
    """Generalised advantage estimation over the sampled tokens, whitened over the batch (Schulman
    et al., 2015).

    `ddof` 0 whitens as OpenRLHF does, 1 as verl. With values 0.5, 0.5, reward 1 at the end, gamma 1
    and lambda 1: 0.5, 0.5 before whitening.
    """
    advantage = estimate_gae(scored, gamma, lam)
    if not normalise:
        return advantage
    if ddof == 0:
        return whiten(advantage, scored.mask, ddof=0, eps=0.0, min_variance=1e-8)
    return whiten(advantage, scored.mask, count_eps=count_eps)


def estimate_gae(
    scored: Scored,
    gamma: float,
    lam: float,
) -> Tensor:
    """Return the advantage before whitening; with the value it is what a critic should have
    expected.   -> [T]
    """
    assert scored.value is not None
    value = scored.value * scored.mask
    next_value = _take_next_sampled(value, scored.sample, scored.mask)
    delta = (scored.token_reward + gamma * next_value - value) * scored.mask
    return discount(delta, scored.sample, scored.mask, gamma * lam)


def _take_next_sampled(
    value: Tensor,
    sample: Tensor,
    mask: Tensor,
) -> Tensor:
    """Return the value at the next sampled token of the same sample, 0 at its end.   [T] -> [T]"""
    next_value = value.new_zeros(value.shape)
    sampled = (mask > 0).nonzero()[:, 0]
    if len(sampled) < 2:
        return next_value
    here = sampled[:-1]
    after = sampled[1:]
    in_one_sample = sample[here] == sample[after]
    return next_value.index_put((here[in_one_sample],), value[after[in_one_sample]])


def _subtract_others(reward: Tensor, scored: Scored) -> Tensor:
    """Return each reward minus the mean of the others of its group.   [N] -> [N]"""
    count = count_samples(scored)
    return centre(reward, scored.group) * count / (count - 1).clamp(min=1)


def _replace_singletons(
    centred: Tensor,
    scored: Scored,
    singleton: Singleton,
) -> Tensor:
    """Return the same with what a group of one gets: nothing, or its reward.   [N] -> [N]"""
    alone = scored.total * 0
    if singleton == "reward":
        alone = scored.total
    return centred.where(count_samples(scored) > 1, alone)
