"""The policy: log-probability and entropy of every response token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlvr.models.lora import merge_adapters
from rlvr.models.packing import Pass, Tokens
from rlvr.models.packing_probe import probe_packing, use_packed_attention
from rlvr.models.token_logprobs import TokenLogProbs, has_plain_lm_head
from rlvr.models.trainable import TrainableModel


@dataclass(frozen=True, slots=True)
class Forward:
    """What one forward pass computes for each response token."""

    logprob: Tensor  # [T]
    entropy: Tensor  # [T]


class Policy(TrainableModel):
    """A causal language model that scores responses and is trained.

    Adapters (LoRA) are merged where weights leave it. `temperature`, given with each call, divides
    the logits before every log-probability and entropy.
    """

    module: PreTrainedModel

    def __init__(
        self,
        module: PreTrainedModel,
        compute: torch.dtype,
        tokens_per_pass: int,
        tokenizer: PreTrainedTokenizerBase,
        *,
        offload: bool = False,
        shard: bool = False,
    ) -> None:
        super().__init__(
            module,
            compute,
            tokens_per_pass,
            offload=offload,
            shard=shard,
        )
        self.tokenizer = tokenizer
        self.chunked_head = has_plain_lm_head(module)
        if probe_packing(self, module, lambda tokens: self.logprobs(tokens, 1.0)):
            use_packed_attention(self, module)

    def forward(self, part: Pass, temperature: float) -> Forward:
        """Return log-probability and entropy of the response tokens of one pass.   -> [t]"""
        return Forward(*self.run(part, temperature))

    def compute_outputs(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        (temperature,) = options
        target = part.target.to(self.device)
        scale = 1 / temperature
        if self.chunked_head:
            hidden = self.read_outputs(self.module.base_model, part, "last_hidden_state")
            head = cast(nn.Linear, self.module.get_output_embeddings())
            return TokenLogProbs.apply(hidden, head.weight, target, scale)
        logits = self.read_outputs(self.module, part, "logits")
        accum_dtype = torch.promote_types(logits.dtype, torch.float32)
        logp = (logits.to(accum_dtype) * scale).log_softmax(-1)
        logprob = logp.gather(1, target[:, None])[:, 0]
        entropy = -(logp.exp() * logp).sum(-1)
        return logprob, entropy

    def logprobs(self, sequences: Sequence[Tokens], temperature: float) -> Tensor:
        """Return the log-probabilities of all response tokens, in the order of the samples.

        Nothing here has a gradient.   -> [T]
        """
        return self.evaluate_tokens(sequences, lambda part: self.forward(part, temperature).logprob)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight by the name that the plain model gives it.

        Engines load these, and exports hold them.
        """
        return merge_adapters(self)
