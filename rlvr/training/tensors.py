"""Tensor arithmetic that estimators and losses share: group means, whitening, discounted sums, KL estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.training.batch import Batch
    from rlvr.training.scored import Scored


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """Return the mean of each sample's group.   [N], [N] -> [N]"""
    count = sum_by_group(values.new_ones(values.shape), group)
    return sum_by_group(values, group) / count


def centre(values: Tensor, group: Tensor) -> Tensor:
    """Return each value minus its group's mean, and exactly 0 where all of a group are equal.

    [N], [N] -> [N]. The mean of eight times 0.7 is not 0.7 in float32, and a deviation of 0 would
    blow the difference up, so the smallest value is taken off first.
    """
    zeros = values.new_zeros(_count_groups(group))
    lowest = zeros.scatter_reduce(0, group, values, "amin", include_self=False)
    above = values - lowest[group]
    return above - group_mean(above, group)


def group_deviation(
    values: Tensor,
    group: Tensor,
    ddof: int = 1,
) -> Tensor:
    """Return the standard deviation of each sample's group, 0 for a group of one.

    [N], [N] -> [N]
    """
    count = sum_by_group(values.new_ones(values.shape), group)
    squares = centre(values, group) ** 2
    variance = sum_by_group(squares, group) / (count - ddof).clamp(min=1)
    return variance**0.5


def sum_by_group(values: Tensor, group: Tensor) -> Tensor:
    """Return the sum of each sample's group.   [N], [N] -> [N]"""
    zeros = values.new_zeros(_count_groups(group))
    return zeros.index_add(0, group, values)[group]


def count_samples(scored: Scored) -> Tensor:
    """Return how many samples each sample's group has.   -> [N]"""
    ones = scored.total.new_ones(scored.total.shape)
    return sum_by_group(ones, scored.group)


def _count_groups(group: Tensor) -> int:
    if len(group) == 0:
        return 0
    return int(group.max()) + 1


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
    """Return values with mean 0 and variance 1 over the sampled tokens of the batch, and 0
    elsewhere (verl, masked_whiten).   [T], [T] -> [T]

    `shift=False` keeps the mean. The variance has one degree of freedom less than there are tokens;
    a single token has none and is returned as it is. `count_eps` is added to the count of tokens
    (newer verl: 1e-8). OpenRLHF has `ddof` 0, no `eps`, and a least variance (`min_variance`) of
    1e-8.
    """
    count = mask.sum()
    divisor = (count + count_eps).clamp(min=1)
    mean = (values * mask).sum() / divisor
    squares = (values - mean) ** 2 * mask
    variance = squares.sum() / divisor * count / (count - ddof).clamp(min=1)
    if count <= 1:
        return values * mask
    inverse_deviation = (variance.clamp(min=min_variance) + eps) ** -0.5
    whitened = (values - mean) * inverse_deviation
    if not shift:
        whitened = whitened + mean
    return whitened * mask


def reward_to_go(
    token_reward: Tensor,
    sample: Tensor,
    mask: Tensor,
    gamma: float = 1.0,
) -> Tensor:
    """Return the discounted sum of what follows each token; tokens of others do not discount.

    [T] -> [T]. With rewards 0, 0, 1 and gamma 0.9 it is 0.81, 0.9, 1.
    """
    return discount(token_reward * mask, sample, mask, gamma)


def discount(
    step: Tensor,
    sample: Tensor,
    mask: Tensor,
    factor: float,
) -> Tensor:
    """Return step[t] + factor * step[next sampled token] + factor^2 ..., within each sample.

    [T] -> [T]. All samples go back one token at a time together, so the loop is as long as the
    longest response.
    """
    first, last = _find_ends(sample)
    sums = step.new_zeros(step.shape)
    carried = step.new_zeros(len(last))
    position = last
    while len(position):
        here = step[position] + factor * carried
        # a token of others passes on what follows it, undiscounted
        carried = here.where(mask[position] > 0, carried)
        sums = sums.index_put((position,), carried * mask[position])
        unfinished = position > first
        position = position[unfinished] - 1
        carried = carried[unfinished]
        first = first[unfinished]
    return sums


def _find_ends(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the first and of the last token of each sample.   [T] -> [N], [N]"""
    changes = (sample[1:] != sample[:-1]).nonzero()[:, 0]
    if len(sample) == 0:
        return changes, changes
    first = changes.new_tensor([0, *(changes + 1).tolist()])
    last = changes.new_tensor([*changes.tolist(), len(sample) - 1])
    return first, last


def average_by_response(values: Tensor, batch: Batch) -> Tensor:
    """Return the mean of each response's sampled tokens, at every token.   [T] -> [T]"""
    zeros = batch.mask.new_zeros(len(batch.sequences))
    count = zeros.index_add(0, batch.sample, batch.mask).clamp(min=1)
    total = zeros.index_add(0, batch.sample, values * batch.mask)
    return (total / count)[batch.sample]


Estimator = Literal["k1", "abs", "k2", "k3"]


def estimate_kl(
    logprob: Tensor,
    ref_logprob: Tensor,
    estimator: Estimator,
    clamp: float | None = None,
) -> Tensor:
    """Return k1 = -d, abs = |d|, k2 = d^2/2 or k3 = e^d - d - 1 with d = ref - policy, bounded to
    +-clamp where given.   -> [T]

    Schulman, "Approximating KL divergence" (2020). In k3 d is bounded to +-20, where e^d is still
    safe in float32: the forks' gradient is NaN from 88 on. `clamp` 10 is what verl's low_var_kl
    does. d = 1 gives -1, 1, 0.5, 0.718.
    """
    d = ref_logprob - logprob
    match estimator:
        case "k1":
            estimate = -d
        case "abs":
            estimate = d.abs()
        case "k2":
            estimate = d**2 / 2
        case "k3":
            bounded = d.clamp(-20, 20)
            estimate = bounded.exp() - bounded - 1
    if clamp is None:
        return estimate
    return estimate.clamp(-clamp, clamp)
