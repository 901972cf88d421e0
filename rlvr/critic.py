"""The critic of PPO: a full model of its own with a value head, its own optimiser and its own loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.batch import Batch, Pass, Scored, Tokens
from rlvr.loss import value_loss
from rlvr.metrics import Metrics
from rlvr.seeds import key_of
from rlvr.weights import Trained, Updates, takes_rows

PREFIX = "critic/"  # of the names of its metrics


class _WithHead(nn.Module):
    def __init__(self, body: Any, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head


class ValueModel(Trained):
    """The value of every response token, read where the token is predicted."""

    def __init__(
        self, body: Any, head: nn.Linear, compute: torch.dtype, tokens_per_pass: int, **held: bool
    ) -> None:
        super().__init__(_WithHead(body, head), compute, tokens_per_pass, **held)
        self.packed = takes_rows(self, body, self._directions)

    def forward(self, part: Pass) -> Tensor:
        """The values of the response tokens of one pass.   -> [t]"""
        return self.call(part)[0]

    def outputs_of(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        value = self.module.head(self._hidden(part))[:, 0]
        return (value.to(torch.promote_types(value.dtype, torch.float32)),)

    def values(self, sequences: Sequence[Tokens]) -> Tensor:
        """The values of all response tokens, without gradients, in the order of the samples.   ->
        [T]
        """
        return self.gathered(sequences, self.forward)

    def _hidden(self, part: Pass) -> Tensor:
        return self.outputs(self.module.body, part, "last_hidden_state")

    def _directions(self, sequences: Sequence[Tokens]) -> Tensor:
        return self.gathered(
            sequences, lambda part: nn.functional.normalize(self._hidden(part).float(), dim=-1)
        )


def value_head(width: int, dtype: torch.dtype, device: torch.device, *seed: int | str) -> nn.Linear:
    """A linear head with weights from N(0, (1/(width+1))^2), as SimpleRL v0's critic has."""
    head = nn.Linear(width, 1, bias=False, dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(key_of(*seed) >> 1)
    head.weight.data.copy_(
        torch.randn(1, width, generator=generator, dtype=torch.float64) / (width + 1)
    )
    return head


@dataclass(frozen=True, slots=True)
class Critic:
    """A value model and how it learns: `target` gives the advantage whose sum with the value it
    should have expected, `warmup` counts the updates that it has for itself before the policy
    moves.
    """

    model: ValueModel
    updates: Updates
    target: Callable[[Scored], Tensor]
    reduction: Callable[[Batch], Tensor]
    clip: float | None
    warmup: int

    @property
    def warming(self) -> bool:
        return self.updates.count < self.warmup

    def expect(self, scored: Scored, sequences: Sequence[Tokens]) -> Scored:
        """The same with the value of every token and what it should have been."""
        value = self.model.values(sequences) * scored.mask
        scored = replace(scored, value=value)
        return replace(scored, returns=self.target(scored) + value)

    def update(self, minibatch: Batch) -> Metrics:
        """One optimiser step on the clipped squared error."""
        assert minibatch.value is not None and minibatch.returns is not None
        metrics = Metrics()
        weights = self.reduction(minibatch)
        for part in self.model.passes(minibatch.sequences):
            piece, weight = minibatch.select(part.samples), minibatch.rows(weights, part.samples)
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
