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
    """A value model and how it learns.

    `target` gives the advantage whose sum with the value it should have expected. `warmup` counts
    the updates that it has for itself before the policy moves.
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
        valued = replace(scored, value=value)
        returns = self.target(valued) + value
        return replace(valued, returns=returns)

    def update(self, minibatch: Batch) -> Metrics:
        """Make one optimiser step on the clipped squared error."""
        explained = _explain_variance(minibatch)  # by the values before the update
        metrics = Metrics()
        weights = self.reduction(minibatch)
        for part in self.model.passes(minibatch.sequences):
            piece = minibatch.select(part.samples)
            weight = minibatch.take_tokens(weights, part.samples)
            values = self.model.forward(part)
            error, clipped = value_loss(values, piece, self.clip)
            loss = (weight * error).sum()
            loss.backward()
            self.model.collect_gradients()
            count = float(piece.mask.sum())
            clipped_count = float((clipped * piece.mask).sum())
            value = float(loss.detach())
            metrics += Metrics.sum(**{f"{PREFIX}loss": value})
            metrics += Metrics.mean(f"{PREFIX}clip_fraction", clipped_count, count)
        return explained + metrics.all_reduce(self.model.world) + self.updates.step(PREFIX)


def _explain_variance(minibatch: Batch) -> Metrics:
    """Return the share of the variance of the targets that the values explain."""
    assert minibatch.value is not None
    assert minibatch.returns is not None
    sampled = minibatch.mask > 0
    returns = minibatch.returns[sampled].double()
    errors = (minibatch.returns - minibatch.value)[sampled].double()
    name = f"{PREFIX}explained_variance"
    return Metrics.explain_variance(name, errors.tolist(), returns.tolist())
