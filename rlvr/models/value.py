"""The value model of PPO: a causal model with a head of one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.models.packing import Pass, Tokens
from rlvr.models.trainable import TrainableModel, takes_rows
from rlvr.seeds import key_of

PREFIX = "critic/"  # of the names of its metrics


class _WithHead(nn.Module):
    def __init__(self, body: Any, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head


class ValueModel(TrainableModel):
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
