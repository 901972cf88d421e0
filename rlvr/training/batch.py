"""What the updates of a step train on: scored samples with their advantages, in mini-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from rlvr.models.packing import Tokens
from rlvr.models.policy import Forward
from rlvr.seeds import permutation
from rlvr.training.scored import Scored, check_shape
from rlvr.types import RewardedGroup


@dataclass(frozen=True, slots=True)
class MinibatchPlan:
    """How often a step goes over its batch, in how many shuffled parts, and whether a part holds
    whole groups.
    """

    parts: int = 1
    epochs: int = 1
    groups: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Scored samples and the advantage of each of their tokens: what terms and reductions read."""

    scored: Scored
    advantage: Tensor  # [T]

    def __post_init__(self) -> None:
        check_shape("advantage", self.advantage, self.scored.sample.shape)

    @property
    def sequences(self) -> tuple[Tokens, ...]:  # [N]
        return self.scored.sequences

    @property
    def total_samples(self) -> float:
        return self.scored.total_samples

    @property
    def total_tokens(self) -> float:
        return self.scored.total_tokens

    @property
    def group(self) -> Tensor:  # [N]
        return self.scored.group

    @property
    def sample(self) -> Tensor:  # [T]
        return self.scored.sample

    @property
    def mask(self) -> Tensor:  # [T]
        return self.scored.mask

    @property
    def rollout_logprob(self) -> Tensor:  # [T]
        return self.scored.rollout_logprob

    @property
    def old_logprob(self) -> Tensor | None:  # [T]
        return self.scored.old_logprob

    @property
    def ref_logprob(self) -> Tensor | None:  # [T]
        return self.scored.ref_logprob

    @property
    def value(self) -> Tensor | None:  # [T]
        return self.scored.value

    @property
    def returns(self) -> Tensor | None:  # [T]
        return self.scored.returns

    def anchor(self, out: Forward) -> Tensor:
        """Return the log-probabilities that a ratio is taken to: with one update a step they are the
        current ones.   -> [T]
        """
        if self.old_logprob is None:
            return out.logprob.detach()
        return self.old_logprob

    def select(self, rows: Sequence[int]) -> Batch:
        """Return the samples of the given rows, in that order, with the totals of all."""
        return Batch(self.scored.select(rows), self.take_tokens(self.advantage, rows))

    def take_tokens(self, values: Tensor, rows: Sequence[int]) -> Tensor:
        """Return the entries at the tokens of the given rows, in that order.   [T] -> [t]"""
        return self.scored.take_tokens(values, rows)

    def minibatches(self, plan: MinibatchPlan, *seed: int | str) -> Iterator[Batch]:
        """Yield the shuffled parts of each epoch, each with an equal part of the one denominator.

        So a token weighs the same whichever part it falls into, and what a filter left out stays
        counted.
        """
        shared = Batch(self.scored.divide_totals(plan.parts), self.advantage)
        units = self._collect_units(plan.groups)
        for epoch in range(plan.epochs):
            order = _order_units(len(units), plan.parts, *seed, epoch)
            for part in range(plan.parts):
                rows: list[int] = []
                for unit in order[part :: plan.parts]:
                    rows += units[unit]
                yield shared.select(sorted(rows))

    def _collect_units(self, whole_groups: bool) -> list[list[int]]:
        """Return the rows that stay together in one part: those of a group, or each alone."""
        if not whole_groups:
            return [[row] for row in range(len(self.sequences))]
        units: dict[int, list[int]] = {}
        for row, group in enumerate(self.group.tolist()):
            units.setdefault(group, []).append(row)
        return list(units.values())


def _order_units(
    count: int,
    parts: int,
    *seed: int | str,
) -> Sequence[int]:
    """Return the order in which units are dealt to parts; a single part needs no shuffling."""
    if parts == 1:
        return range(count)
    return permutation(count, *seed).tolist()


def average_advantages(groups: Sequence[RewardedGroup], batch: Batch) -> list[float | None]:
    """Return the mean advantage of each sample of `flatten(groups)`, None where its group is not
    trained.
    """
    pieces = iter(batch.advantage.cpu().split([len(s.response) for s in batch.sequences]))
    means: list[float | None] = []
    for group in groups:
        for _ in group.samples:
            mean = None
            if group.trained:
                mean = _mean(next(pieces).tolist())
            means.append(mean)
    return means


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean, None where there is nothing to average."""
    if not values:
        return None
    return sum(values) / len(values)
