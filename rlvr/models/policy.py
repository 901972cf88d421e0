"""The policy: log-probability and entropy of every response token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvr.models import attention, lora
from rlvr.models.packing import Pass, Tokens
from rlvr.models.token_logprobs import TokenLogProbs
from rlvr.models.trainable import TrainableModel, takes_rows


@dataclass(frozen=True, slots=True)
class Forward:
    """What one forward pass says of each response token."""

    logprob: Tensor  # [T]
    entropy: Tensor  # [T]


class Policy(TrainableModel):
    """A causal language model that scores responses and is trained; adapters (LoRA) are merged
    where weights leave it.

    `temperature`, given with each call, divides the logits before every log-probability and
    entropy.
    """

    def __init__(
        self, module: Any, compute: torch.dtype, tokens_per_pass: int, tokenizer: Any, **held: bool
    ) -> None:
        super().__init__(module, compute, tokens_per_pass, **held)
        self.tokenizer = tokenizer
        self.chunked_head = attention.has_plain_lm_head(module)
        self.packed = takes_rows(self, module, lambda tokens: self.logprobs(tokens, 1.0))

    def forward(self, part: Pass, temperature: float) -> Forward:
        """Log-probability and entropy of the response tokens of one pass.   -> [t]"""
        return Forward(*self.call(part, temperature))

    def outputs_of(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        target, scale = part.target.to(self.device), 1 / options[0]
        if self.chunked_head:
            hidden = self.outputs(self.module.base_model, part, "last_hidden_state")
            return TokenLogProbs.apply(
                hidden, self.module.get_output_embeddings().weight, target, scale
            )
        logits = self.outputs(self.module, part, "logits")
        logp = (logits.to(torch.promote_types(logits.dtype, torch.float32)) * scale).log_softmax(-1)
        return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)

    def logprobs(self, sequences: Sequence[Tokens], temperature: float) -> Tensor:
        """Log-probabilities of all response tokens, without gradients, in the order of the
        samples.   -> [T]
        """
        return self.gathered(sequences, lambda part: self.forward(part, temperature).logprob)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by the name that the plain model gives it: what engines load and exports
        hold.
        """
        return lora.merged_weights(self)
