"""The weight of each token in the loss, fixed before a batch is split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rlvr.registry import Count, register

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.training.batch import Batch


@register("reduction", "token")
def token_mean(
    batch: Batch,
    *,
    count_eps: float = 0.0,
) -> Tensor:
    """Every response token of the mini-batch weighs the same (DAPO, 2025); what was filtered has
    its share.   -> [T]

    `count_eps` is added to the count of tokens (newer verl: 1e-8).
    """
    divisor = batch.total_tokens + count_eps
    if divisor == 0:  # all responses were cut off
        divisor = 1.0
    return batch.mask / divisor


@register("reduction", "sequence")
def sequence_mean(
    batch: Batch,
    *,
    count_eps: float = 0.0,
) -> Tensor:
    """Every response weighs the same, its tokens share that (GRPO, DeepSeekMath, 2024).   -> [T]

    `count_eps` is added to the count of each response's tokens (newer verl: 1e-8).
    """
    zeros = batch.mask.new_zeros(len(batch.sequences))
    lengths = zeros.index_add(0, batch.sample, batch.mask)
    divisor = lengths.clamp(min=1) + count_eps
    return batch.mask / divisor[batch.sample] / batch.total_samples


@register("reduction", "constant")
def constant(
    batch: Batch,
    *,
    length: int,
) -> Tensor:
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
    lengths: list[int] = []
    for sequence in batch.sequences:
        lengths.append(len(sequence.prompt) + len(sequence.response))
    micro_batches: list[list[int]] = []  # the rows of each
    weights: list[float] = []
    for share in _split_into_shares(len(lengths), ranks):
        parts = _split_into_micro_batches(share, lengths, size, tokens)
        micro_batches += parts
        for part in parts:
            weight_in_share = 1 / (divisor or len(parts))
            if tokens is not None:
                weight_in_share = len(part) / len(share)
            weights.append(weight_in_share / ranks)
    number_of_row = [0] * len(lengths)
    for number, rows in enumerate(micro_batches):
        for row in rows:
            number_of_row[row] = number
    number = batch.sample.new_tensor(number_of_row)[batch.sample]
    zeros = batch.mask.new_zeros(len(micro_batches))
    count = zeros.index_add(0, number, batch.mask).clamp(min=1)
    weight = batch.mask.new_tensor(weights)
    return batch.mask / count[number] * weight[number]


def _split_into_shares(count: int, ranks: int) -> list[range]:
    """Return the rows of each rank, contiguous and about equally many; a rank may have none."""
    bounds = [round(rank * count / ranks) for rank in range(ranks + 1)]
    shares: list[range] = []
    for low, high in pairwise(bounds):
        if high > low:
            shares.append(range(low, high))
    return shares


def _split_into_micro_batches(
    share: range,
    lengths: Sequence[int],
    size: int | None,
    tokens: int | None,
) -> list[list[int]]:
    """Return the rows of each micro-batch of a share: of `size` rows, or of about `tokens` tokens."""
    micro_batches: list[list[int]] = []
    if tokens is None:
        step = size or len(share)
        for start in range(0, len(share), step):
            micro_batches.append(list(share[start : start + step]))
        return micro_batches
    share_lengths = [lengths[row] for row in share]
    count = math.ceil(sum(share_lengths) / tokens)
    for part in balance_lengths(share_lengths, min(len(share), count)):
        micro_batches.append([share[i] for i in part])
    return micro_batches


# A sum of lengths and the indices that make it up.
_IndexSet = tuple[int, list[int]]


def balance_lengths(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Return indices in `parts` groups of about equal sums, by the largest differencing method
    (Karmarkar and Karp, 1982).

    The two groupings with the largest gaps are always joined crosswise:
    balance_lengths([8, 7, 6, 5, 4], 2) is [[1, 3, 4], [0, 2]], of sums 16 and 14.
    """
    heap: list[Any] = []
    for index, length in enumerate(lengths):
        grouping: list[_IndexSet] = [(length, [index])]
        grouping += [(0, [])] * (parts - 1)
        heappush(heap, _rank_grouping(grouping))
    while len(heap) > 1:
        one = heappop(heap)[-1]
        other = heappop(heap)[-1]
        heappush(heap, _rank_grouping(_join_crosswise(one, other)))
    if not heap:
        return []
    groups: list[list[int]] = []
    for _, indices in heap[0][-1]:
        if indices:
            groups.append(sorted(indices))
    return groups


def _join_crosswise(one: list[_IndexSet], other: list[_IndexSet]) -> list[_IndexSet]:
    """Join the heaviest set of one grouping with the lightest of the other, and so on."""
    joined: list[_IndexSet] = []
    for heavy, light in zip(one, reversed(other), strict=True):
        total = heavy[0] + light[0]
        indices = heavy[1] + light[1]
        joined.append((total, indices))
    return joined


def _rank_grouping(grouping: list[_IndexSet]) -> tuple[Any, ...]:
    """Return the sets from the heaviest, behind a key that puts the largest gap first in a heap."""
    ordered = sorted(grouping, key=_weigh_set, reverse=True)
    heaviest, indices = ordered[0]
    lightest, _ = ordered[-1]
    return (
        lightest - heaviest,
        -heaviest,
        -len(indices),
        [-index for index in indices],
        ordered,
    )


def _weigh_set(one: _IndexSet) -> tuple[int, int, list[int]]:
    """Return what sets are ordered by: their sum, then their size, then their indices."""
    total, indices = one
    return total, len(indices), indices
