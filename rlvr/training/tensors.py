"""Tensor arithmetic that estimators and losses share: group means, whitening, discounted sums, KL estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.training.batch import Batch
    from rlvr.training.scored import Scored


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """The mean of each sample's group.   [N], [N] -> [N]"""
    return sum_by_group(values, group) / sum_by_group(values.new_ones(values.shape), group)


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
    count = sum_by_group(values.new_ones(values.shape), group)
    square = centre(values, group) ** 2
    return (sum_by_group(square, group) / (count - ddof).clamp(min=1)) ** 0.5


def sum_by_group(values: Tensor, group: Tensor) -> Tensor:
    count = int(group.max()) + 1 if len(group) else 0
    return values.new_zeros(count).index_add(0, group, values)[group]


def whiten(
    values: Tensor,
    mask: Tensor,
    *,
    shift: bool = True,
    eps: float = 1e-8,
    count_eps: float = 0.0,
    ddof: int = 1,
    min_variance: float = 0.0,
) -> Tensor:
    """Values with mean 0 and variance 1 over the sampled tokens of the batch, and 0 elsewhere
    (verl, masked_whiten). [T], [T] -> [T]

    `shift=False` keeps the mean. The variance has one degree of freedom less than there are tokens;
    a single token has none and is returned as it is. `count_eps` is added to the count of tokens (newer
    verl: 1e-8). OpenRLHF has `ddof` 0, no `eps`, and a least variance (`min_variance`) of 1e-8.
    """
    count = mask.sum()
    divisor = (count + count_eps).clamp(min=1)
    mean = (values * mask).sum() / divisor
    square = (((values - mean) ** 2) * mask).sum() / divisor * count / (count - ddof).clamp(min=1)
    scaled = (values - mean) * (square.clamp(min=min_variance) + eps) ** -0.5 + (
        0 if shift else mean
    )
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


def count_samples(scored: Scored) -> Tensor:
    return sum_by_group(scored.total.new_ones(scored.total.shape), scored.group)


def sequence_mean_of(values: Tensor, batch: Batch) -> Tensor:
    """The mean of each response's sampled tokens, at every token.   [T] -> [T]"""
    zeros = batch.mask.new_zeros(len(batch.sequences))
    count = zeros.index_add(0, batch.sample, batch.mask).clamp(min=1)
    return (zeros.index_add(0, batch.sample, values * batch.mask) / count)[batch.sample]


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
