"""The learner: one policy, one optimiser, one objective. It scores samples, makes updates and hands its weights
over."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlvr import batch as batches
from rlvr.batch import Batch, Forward, Scored, tokens_of
from rlvr.errors import RunError
from rlvr.loss import corrected, uncorrected
from rlvr.metrics import Metrics, timed
from rlvr.policy import Policy
from rlvr.types import SampleGroup
from rlvr.world import World

# After so many updates in a row without a finite gradient the run stops.
BROKEN_IN_A_ROW = 3

Term = Callable[[Forward, Batch], Any]


@dataclass(frozen=True, slots=True)
class Objective:
    """Per-token terms by name, the reduction that weighs the tokens of a mini-batch, the importance weights of the
    policy terms, and the reductions of terms that name their own."""

    terms: Sequence[tuple[str, Term]]
    reduction: Callable[[Batch], Tensor]
    correction: Callable[[Batch], Tensor | None] = uncorrected
    own: Mapping[str, Callable[[Batch], Tensor]] = field(default_factory=dict)

    def weights(self, minibatch: Batch) -> dict[str, Tensor]:
        """The weight of every token in every term.   -> [T] each"""
        return {name: self.own.get(name, self.reduction)(minibatch) for name, _ in self.terms}


@dataclass(slots=True)
class KlInReward:
    """The penalty on token rewards; its coefficient is the one thing that changes from step to step."""

    coef: float
    shape: Callable[[Scored, float], tuple[Scored, float]]
    adapt: Callable[[float, float, int], float]

    def __call__(self, scored: Scored) -> Scored:
        shaped, current = self.shape(scored, self.coef)
        self.coef = self.adapt(self.coef, current, len(scored.reward))
        return shaped


@dataclass(frozen=True, slots=True)
class Rate:
    """The learning rate of the n-th update: linear warm-up, then the schedule over the rest."""

    peak: float
    warmup: int
    total: int
    schedule: Callable[[float], float]

    def at(self, update: int) -> float:
        if update < self.warmup:
            return self.peak * (update + 1) / self.warmup
        return self.peak * self.schedule(min(1.0, (update - self.warmup) / max(1, self.total - self.warmup)))


class Learner:
    """Scores and updates a policy; `updates` counts optimiser steps, skipped ones included."""

    def __init__(
        self,
        policy: Policy,
        reference: Policy | None,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        rate: Rate,
        clip: float | None,
        keeps_old: bool,
        world: World,
    ) -> None:
        self.penalty: KlInReward | None = None
        self.policy, self.reference, self.objective, self.world = policy, reference, objective, world
        self.optimizer, self.rate, self.clip, self.keeps_old = optimizer, rate, clip, keeps_old
        self.updates = self.broken = 0

    @timed("score")
    def score(self, groups: Sequence[SampleGroup]) -> Scored:
        """What estimators read of the groups that are trained on; log-probabilities only where something needs them."""
        sequences = tokens_of(batches.trained(groups))
        old = self.policy.logprobs(sequences) if self.keeps_old else None
        ref = self.reference.logprobs(sequences) if self.reference else None
        scored = batches.score(groups, old, ref, self.policy.dtype, self.policy.device)
        return self.penalty(scored) if self.penalty else scored

    @timed("update")
    def update(self, minibatch: Batch) -> Metrics:
        """One optimiser step: the gradient is a sum over tokens, so the split into passes cannot change it."""
        metrics = Metrics.mean("kl_coef", self.penalty.coef, 1) if self.penalty else Metrics()
        weights = self.objective.weights(minibatch)  # before the split, as are the importance weights
        minibatch = corrected(minibatch, self.objective.correction(minibatch))
        for part in self.policy.passes(minibatch.sequences):
            piece = minibatch.select(part.samples)
            weight = {name: self._rows(minibatch, every, part.samples) for name, every in weights.items()}
            loss, found = self._loss(self.policy.forward(part), piece, weight)
            loss.backward()
            self.policy.collect_gradients()
            metrics += found
        return metrics + self._step()

    def _rows(self, minibatch: Batch, weight: Tensor, rows: Sequence[int]) -> Tensor:
        pieces = weight.split([len(s.response) for s in minibatch.sequences])
        return torch.cat([pieces[row] for row in rows])

    def _loss(self, out: Forward, piece: Batch, weight: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        count, mask = float(piece.mask.sum()), piece.mask
        gap = ((out.logprob.detach() - piece.rollout_logprob) * mask).abs().sum()
        metrics = Metrics.mean("entropy", float((out.entropy.detach() * mask).sum()), count)
        metrics += Metrics.mean("mismatch", float(gap), count)
        total = out.logprob.new_zeros(())
        for name, term in self.objective.terms:
            result = term(out, piece)
            value, shares = result if isinstance(result, tuple) else (result, {})
            reduced = (weight[name] * value).sum()
            total = total + reduced
            metrics += Metrics.sum(**{f"losses/{name}": float(reduced.detach()), "loss": float(reduced.detach())})
            for share, per_token in shares.items():
                metrics += Metrics.mean(share, float((per_token * mask).sum()), count)
        return total, metrics

    def _step(self) -> Metrics:
        rate = self.rate.at(self.updates)
        self.updates += 1
        parameters = [p for p in self.policy.master if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.clip or math.inf)) if parameters else 0.0
        finite = math.isfinite(norm)
        self.broken = 0 if finite else self.broken + 1
        if self.broken >= BROKEN_IN_A_ROW:
            raise RunError(f"{self.broken} updates in a row had no finite gradient; lower optimizer.lr")
        if finite and parameters:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.policy.publish()
        self.optimizer.zero_grad(set_to_none=True)
        return (
            Metrics.sum(skipped_updates=float(not finite))
            + Metrics.mean("grad_norm", norm, 1)
            + Metrics.mean("lr", rate, 1)
        )

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        return self.policy.weights()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights."""
        kept = {"optimizer": self.optimizer.state_dict(), "updates": self.updates, "broken": self.broken}
        return kept | ({"kl_coef": self.penalty.coef} if self.penalty else {})

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates, self.broken = state["updates"], state["broken"]
        if self.penalty:
            self.penalty.coef = state["kl_coef"]
