"""The weight of each token in the loss, fixed before a batch is split."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rlvr.registry import Count, register

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.training.batch import Batch


@register("reduction", "token")
def token_mean(batch: Batch, *, count_eps: float = 0.0) -> Tensor:
    """Every response token of the mini-batch weighs the same (DAPO, 2025); what was filtered has
    its share.   -> [T]

    `count_eps` is added to the count of tokens (newer verl: 1e-8).
    """
    # no token where all responses were cut off
    return batch.mask / ((batch.total_tokens + count_eps) or 1.0)


@register("reduction", "sequence")
def sequence_mean(batch: Batch, *, count_eps: float = 0.0) -> Tensor:
    """Every response weighs the same, its tokens share that (GRPO, DeepSeekMath, 2024).   -> [T]

    `count_eps` is added to the count of each response's tokens (newer verl: 1e-8).
    """
    lengths = batch.mask.new_zeros(len(batch.sequences)).index_add(0, batch.sample, batch.mask)
    return batch.mask / (lengths.clamp(min=1) + count_eps)[batch.sample] / batch.total_samples


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
