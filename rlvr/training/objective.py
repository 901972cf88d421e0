"""The sum of loss terms, each with its reduction, over a mini-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlvr.models.policy import Forward
from rlvr.training.batch import Batch
from rlvr.training.corrections import uncorrected

Term = Callable[[Forward, Batch], Any]


@dataclass(frozen=True, slots=True)
class Objective:
    """Per-token terms by name, the reduction that weighs the tokens of a mini-batch, the importance
    weights of the policy terms, and the reductions of terms that name their own.
    """

    terms: Sequence[tuple[str, Term]]
    reduction: Callable[[Batch], Tensor]
    correction: Callable[[Batch], Tensor | None] = uncorrected
    own: Mapping[str, Callable[[Batch], Tensor]] = field(default_factory=dict)
    # the terms that are zero, with their slope, where the advantage is
    signal: frozenset[str] = frozenset()

    def weights(self, minibatch: Batch) -> dict[str, Tensor]:
        """The weight of every token in every term.   -> [T] each"""
        return {name: self.own.get(name, self.reduction)(minibatch) for name, _ in self.terms}

    def split_by_gradient(
        self, minibatch: Batch, weights: Mapping[str, Tensor]
    ) -> tuple[list[int], list[int]]:
        """The samples that the gradient hears of, and those on which every term is zero whatever
        the model says; the first of all is heard where none would be, since an optimiser moves on
        by what it remembers.
        """
        speaks = [
            (w != 0) & ((minibatch.advantage != 0) | (name not in self.signal))
            for name, w in weights.items()
        ]
        heard = torch.zeros(
            len(minibatch.sequences), dtype=torch.bool, device=minibatch.mask.device
        )
        heard[minibatch.sample[torch.stack(speaks).any(0)]] = True
        heard[:1] |= ~heard.any()
        return heard.nonzero()[:, 0].tolist(), (~heard).nonzero()[:, 0].tolist()
