"""Advantage estimators: how much better each response was than expected.

An estimator reads `Scored` and returns one advantage for every response token. Only methods of
tensors are used, so that reading a recipe does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rlvr.registry import register
from rlvr.training.tensors import (
    centre,
    count_samples,
    discounted,
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
    single = count_samples(scored) == 1
    centred = _singleton(centre(scored.total, scored.group), scored, singleton)
    if std:
        owner = scored.group if scale == "group" else scored.group.new_zeros(scored.group.shape)
        deviation = (group_deviation(scored.total, owner, ddof) ** 2).clamp(min=min_variance) ** 0.5
        single = single if scale == "group" else single.new_zeros(single.shape)
        centred = centred / (deviation.where(~single, deviation * 0 + 1) + eps)
    return centred[scored.sample] * scored.mask


@register("advantage", "rloo")
def rloo(scored: Scored, world: World, *, singleton: Singleton = "zero") -> Tensor:
    """Reward minus the mean of the others of its group (Ahmadian et al., 2024).

    Rewards 1, 0, 0, 1 give 2/3, -2/3, -2/3, 2/3.
    """
    count = count_samples(scored)
    centred = centre(scored.total, scored.group) * count / (count - 1).clamp(min=1)
    return _singleton(centred, scored, singleton)[scored.sample] * scored.mask


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
    count = count_samples(scored)
    reward = {
        "none": lambda: scored.reward,
        "mean": lambda: centred,
        "others": lambda: centred * count / (count - 1).clamp(min=1),
        "deviation": lambda: centred / (group_deviation(scored.reward, scored.group) + eps),
    }[baseline]()
    reward = reward if clip is None else reward.clamp(-clip, clip)
    found = reward_to_go(scored.place_rewards(reward), scored.sample, scored.mask, gamma)
    return whiten(found, scored.mask, ddof=0, eps=0.0, min_variance=1e-8) if normalise else found


@register("advantage", "reinforce_pp")
def reinforce_pp(
    scored: Scored, world: World, *, gamma: float = 1.0, eps: float = 1e-8, count_eps: float = 0.0
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
    centred = _singleton(centre(scored.total, scored.group), scored, singleton)
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
def opo(scored: Scored, world: World, *, singleton: Singleton = "zero") -> Tensor:
    """Reward minus the mean of the group weighted by response length (OPO, Hao et al., 2025, eq.
    9).
    """
    length = scored.mask.new_zeros(scored.reward.shape).index_add(0, scored.sample, scored.mask)
    baseline = sum_by_group(length * scored.total, scored.group) / sum_by_group(
        length, scored.group
    ).clamp(min=1)
    return _singleton(scored.total - baseline, scored, singleton)[scored.sample] * scored.mask


@register("advantage", "gpg")
def gpg(
    scored: Scored, world: World, *, norm: float = 1.0, singleton: Singleton = "zero"
) -> Tensor:
    """Reward minus the group's mean, times samples over samples with a reward (GPG, Chu et al.,
    2025, eq. 5).
    """
    rewarded = (scored.total != 0).to(scored.total.dtype).sum().clamp(min=1)
    centred = _singleton(centre(scored.total, scored.group), scored, singleton)
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
    count_eps: float = 0.0,
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
        return whiten(found, scored.mask, count_eps=count_eps)
    return whiten(found, scored.mask, ddof=0, eps=0.0, min_variance=1e-8)


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


def _singleton(centred: Tensor, scored: Scored, singleton: Singleton) -> Tensor:
    """The same with what a group of one gets: nothing, or its reward.   [N] -> [N]"""
    single = scored.total if singleton == "reward" else scored.total * 0
    return centred.where(count_samples(scored) > 1, single)
