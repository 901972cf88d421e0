"""Advantage estimators: how much better each response was than expected.

An estimator reads `Scored` and returns one advantage for every response token. Only methods of tensors are used, so
that reading a recipe does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvr.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.batch import Scored
    from rlvr.world import World


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """The mean of each sample's group.   [N], [N] -> [N]"""
    return _sums(values, group) / _sums(values.new_ones(values.shape), group)


def centre(values: Tensor, group: Tensor) -> Tensor:
    """Each value minus its group's mean, and exactly 0 where all of a group are equal.   [N], [N] -> [N]

    The mean of eight times 0.7 is not 0.7 in float32, and a deviation of 0 would blow the difference up, so the
    smallest value is taken off first.
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


@register("advantage", "grpo")
def grpo(scored: Scored, world: World, *, std: bool = True, ddof: int = 1, eps: float = 1e-6) -> Tensor:
    """Reward minus the group's mean, divided by its deviation unless `std` is false (DeepSeekMath, 2024, eq. 3).

    Rewards 1, 0, 0, 1 give +-0.5 without, and +-0.866 with the deviation of one degree of freedom.
    """
    centred = centre(scored.reward, scored.group)
    scale = group_deviation(scored.reward, scored.group, ddof) + eps
    return (centred / scale if std else centred)[scored.sample]


@register("advantage", "rloo")
def rloo(scored: Scored, world: World) -> Tensor:
    """Reward minus the mean of the others of its group (Ahmadian et al., 2024); a group of one has no baseline.

    Rewards 1, 0, 0, 1 give 2/3, -2/3, -2/3, 2/3.
    """
    count = _sums(scored.reward.new_ones(scored.reward.shape), scored.group)
    centred = centre(scored.reward, scored.group)
    return (centred * count / (count - 1).clamp(min=1))[scored.sample]
