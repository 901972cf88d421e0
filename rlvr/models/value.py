"""The value model of PPO: a causal model with a head of one number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlvr.models.packing import Pass, Tokens
from rlvr.models.packing_probe import probe_packing, use_packed_attention
from rlvr.models.trainable import TrainableModel
from rlvr.seeds import key_of

PREFIX = "critic/"  # of the names of its metrics


class _WithHead(nn.Module):
    """A body with a head; checkpoints have the names of both."""

    def __init__(self, body: PreTrainedModel, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head


class ValueModel(TrainableModel):
    """The value of every response token, read where the token is predicted."""

    module: _WithHead

    def __init__(
        self,
        body: PreTrainedModel,
        head: nn.Linear,
        compute: torch.dtype,
        tokens_per_pass: int,
        *,
        offload: bool = False,
        shard: bool = False,
    ) -> None:
        with_head = _WithHead(body, head)
        super().__init__(
            with_head,
            compute,
            tokens_per_pass,
            offload=offload,
            shard=shard,
        )
        # Hidden states are compared, since the values of a fresh head are all nearly zero.
        if probe_packing(self, body, self._hidden_directions):
            use_packed_attention(self, body)

    def forward(self, part: Pass) -> Tensor:
        """Return the values of the response tokens of one pass.   -> [t]"""
        return self.run(part)[0]

    def compute_outputs(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        hidden = self._compute_hidden(part)
        value = self.module.head(hidden)[:, 0]
        accum_dtype = torch.promote_types(value.dtype, torch.float32)
        return (value.to(accum_dtype),)

    def values(self, sequences: Sequence[Tokens]) -> Tensor:
        """Return the values of all response tokens, in the order of the samples.

        Nothing here has a gradient.   -> [T]
        """
        return self.evaluate_tokens(sequences, self.forward)

    def _compute_hidden(self, part: Pass) -> Tensor:
        """Return the last hidden states that predict tokens.   -> [u, d]"""
        return self.read_outputs(self.module.body, part, "last_hidden_state")

    def _hidden_directions(self, sequences: Sequence[Tokens]) -> Tensor:
        """Return the hidden states of all response tokens, each of length one.   -> [T, d]"""

        def compute_directions(part: Pass) -> Tensor:
            hidden = self._compute_hidden(part)[part.source.to(self.device)].float()
            return nn.functional.normalize(hidden, dim=-1)

        return self.evaluate_tokens(sequences, compute_directions)


def value_head(width: int, dtype: torch.dtype, device: torch.device, *seed: int | str) -> nn.Linear:
    """Return a linear head with weights from N(0, (1/(width+1))^2), as SimpleRL v0's critic has."""
    head = nn.Linear(width, 1, bias=False, dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(key_of(*seed) >> 1)
    weight = torch.randn(1, width, generator=generator, dtype=torch.float64)
    head.weight.data.copy_(weight / (width + 1))
    return head
