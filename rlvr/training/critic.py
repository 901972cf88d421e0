"""The critic of PPO: a full model of its own with a value head, its own optimiser and its own loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from rlvr.metrics.mergeable import Metrics
from rlvr.models.value import PREFIX, ValueModel
from rlvr.training.batch import Batch
from rlvr.training.loss import value_loss
from rlvr.training.optimizer import OptimizerStepper
from rlvr.training.scored import Scored


@dataclass(frozen=True, slots=True)
class Critic:
    """A value model and how it learns: `target` gives the advantage whose sum with the value it
    should have expected, `warmup` counts the updates that it has for itself before the policy
    moves.
    """

    model: ValueModel
    updates: OptimizerStepper
    target: Callable[[Scored], Tensor]
    reduction: Callable[[Batch], Tensor]
    clip: float | None
    warmup: int

    @property
    def warming(self) -> bool:
        return self.updates.count < self.warmup

    def estimate_values(self, scored: Scored) -> Scored:
        """Return the samples with the value of every token and what it should have been."""
        value = self.model.values(scored.sequences) * scored.mask
        scored = replace(scored, value=value)
        return replace(scored, returns=self.target(scored) + value)

    def update(self, minibatch: Batch) -> Metrics:
        """One optimiser step on the clipped squared error."""
        assert minibatch.value is not None and minibatch.returns is not None
        metrics = Metrics()
        weights = self.reduction(minibatch)
        for part in self.model.passes(minibatch.sequences):
            piece = minibatch.select(part.samples)
            weight = minibatch.take_tokens(weights, part.samples)
            error, clipped = value_loss(self.model.forward(part), piece, self.clip)
            loss = (weight * error).sum()
            loss.backward()
            self.model.collect_gradients()
            count = float(piece.mask.sum())
            metrics += Metrics.sum(**{f"{PREFIX}loss": float(loss.detach())})
            metrics += Metrics.mean(f"{PREFIX}clipped", float((clipped * piece.mask).sum()), count)
        kept = minibatch.mask > 0  # the variance that the values explained before the update
        columns = (minibatch.returns - minibatch.value, minibatch.returns)
        explained = Metrics.explained(
            f"{PREFIX}explained_variance", *(c[kept].double().tolist() for c in columns)
        )
        return explained + metrics.over(self.model.world) + self.updates.step(PREFIX)
