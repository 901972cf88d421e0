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
    """Per-token terms by name, and what weighs their tokens.

    `reduction` weighs the tokens of a mini-batch, `correction` gives the importance weights of the
    policy terms, and `term_reductions` has the reductions of the terms that name their own.
    """

    terms: Sequence[tuple[str, Term]]
    reduction: Callable[[Batch], Tensor]
    correction: Callable[[Batch], Tensor | None] = uncorrected
    term_reductions: Mapping[str, Callable[[Batch], Tensor]] = field(default_factory=dict)
    # the terms that are zero, with their slope, where the advantage is
    signal: frozenset[str] = frozenset()

    def weigh_tokens(self, minibatch: Batch) -> dict[str, Tensor]:
        """Return the weight of every token in every term, by the name of the term.   -> [T] each"""
        weights: dict[str, Tensor] = {}
        for name, _ in self.terms:
            reduction = self.reduction
            if name in self.term_reductions:
                reduction = self.term_reductions[name]
            weights[name] = reduction(minibatch)
        return weights

    def split_by_gradient(
        self,
        minibatch: Batch,
        weights: Mapping[str, Tensor],
    ) -> tuple[list[int], list[int]]:
        """Return the samples that the gradient depends on, and those on which every term is zero
        whatever the model says.

        The first sample of all counts to the former where none would, since an optimiser moves on
        by what it remembers.
        """
        has_advantage = minibatch.advantage != 0
        by_term: list[Tensor] = []
        for name, weight in weights.items():
            matters = weight != 0
            if name in self.signal:
                matters = matters & has_advantage
            by_term.append(matters)
        tokens = torch.stack(by_term).any(0)
        samples = torch.zeros_like(minibatch.group, dtype=torch.bool)
        samples[minibatch.sample[tokens]] = True
        samples[:1] |= ~samples.any()
        with_gradient = samples.nonzero()[:, 0]
        without_gradient = (~samples).nonzero()[:, 0]
        return with_gradient.tolist(), without_gradient.tolist()
