"""A model as the learner uses it: master weights, a copy in the compute dtype, and the log-probabilities of
responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlvr import models
from rlvr.batch import Forward, Tokens
from rlvr.layout import Pass, passes

# How many logits exist at a time, in the forward as in the backward pass (2**24 in float32 are 64 MiB).
CHUNK_LOGITS = 2**24


class _LogProb(torch.autograd.Function):
    """Log-probability and entropy of the targets from hidden states, in chunks, so that the full logits never exist."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        normaliser, logprob, entropy = (torch.empty(len(target), dtype=wide, device=hidden.device) for _ in range(3))
        for part in _chunks(len(target), len(weight)):
            logits = (hidden[part] @ weight.T).to(wide)
            logits = logits if scale == 1 else logits.mul_(scale)
            normaliser[part] = logits.logsumexp(-1)
            logits -= normaliser[part, None]
            logprob[part] = logits.gather(1, target[part, None])[:, 0]
            entropy[part] = -(logits.exp().mul_(logits)).sum(-1)
        ctx.save_for_backward(hidden, weight, target, normaliser, entropy)
        ctx.scale, ctx.wide = scale, wide
        ctx.set_materialize_grads(False)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, target, normaliser, entropy = ctx.saved_tensors
        to_logprob, to_entropy = grads
        given = torch.zeros_like(normaliser) if to_logprob is None else to_logprob
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=ctx.wide)
        for part in _chunks(len(target), len(weight)):
            slope = (hidden[part] @ weight.T).to(ctx.wide)
            slope = (slope if ctx.scale == 1 else slope.mul_(ctx.scale)).sub_(normaliser[part, None])
            if to_entropy is None:  # d logprob / d logits = onehot - p
                slope = slope.exp_().mul_(-given[part, None])
            else:  # d entropy / d logits = -p (log p + entropy)
                wanted = (slope + entropy[part, None]).mul_(-to_entropy[part, None])
                slope = slope.exp_().mul_(wanted.sub_(given[part, None]))
            slope.scatter_add_(1, target[part, None], given[part, None])
            slope = slope.mul_(ctx.scale).to(hidden.dtype)
            grad_hidden[part] = slope @ weight
            grad_weight += slope.T @ hidden[part]
        return grad_hidden, grad_weight.to(weight.dtype), None, None


def _chunks(count: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class Policy:
    """A causal language model with master weights in `dtype` and arithmetic in `compute`.

    As in FSDP2's mixed precision, gradients of the compute copy are added up in the master's dtype. Where the dtypes
    agree the two are one. `temperature` divides the logits before every log-probability and entropy.
    """

    def __init__(
        self, module: Any, compute: torch.dtype, temperature: float, tokens_per_pass: int, tokenizer: Any
    ) -> None:
        self.module, self.tokenizer = module.eval(), tokenizer
        self.temperature, self.tokens_per_pass = temperature, tokens_per_pass
        self.dtype, self.device = next(module.parameters()).dtype, next(module.parameters()).device
        self.names = [name for name, _ in module.named_parameters()]
        parameters = list(module.parameters())
        if compute is self.dtype:
            self.master = parameters
        else:
            self.master = [nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad) for p in parameters]
            for parameter in parameters:  # buffers, such as those of rotary embeddings, keep their precision
                parameter.data = parameter.data.to(compute)
        self.separate = compute is not self.dtype
        self.chunked_head = models.bare_head(module)
        self.shared_prompts = _takes_shared_prompts(self)

    def passes(self, sequences: Sequence[Tokens]) -> Iterator[Pass]:
        return passes(sequences, self.tokens_per_pass, self.shared_prompts)

    def forward(self, part: Pass) -> Forward:
        """Log-probability and entropy of the response tokens of one pass.   -> [t]"""
        target, scale = part.target.to(self.device), 1 / self.temperature
        if self.chunked_head:
            hidden = self._run(self.module.base_model, part, "last_hidden_state")
            return Forward(*_LogProb.apply(hidden, self.module.get_output_embeddings().weight, target, scale))
        logits = self._run(self.module, part, "logits")
        logp = (logits.to(torch.promote_types(logits.dtype, torch.float32)) * scale).log_softmax(-1)
        return Forward(logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1))

    def _run(self, module: Any, part: Pass, field: str) -> Tensor:
        mask = None if part.mask is None else part.mask.to(self.device)
        ids, positions = part.input_ids.to(self.device), part.position_ids.to(self.device)
        out = module(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
        return getattr(out, field)[part.row.to(self.device), part.column.to(self.device)]

    def logprobs(self, sequences: Sequence[Tokens]) -> Tensor:
        """Log-probabilities of all response tokens, without gradients, in the order of the samples.   -> [T]"""
        found: dict[int, Tensor] = {}
        with torch.inference_mode():
            for part in self.passes(sequences):
                lengths = [len(sequences[i].response) for i in part.samples]
                found.update(zip(part.samples, self.forward(part).logprob.split(lengths), strict=True))
        joined = torch.cat([found[i] for i in range(len(sequences))]) if found else torch.empty(0)
        return joined.to(self.dtype).clone()

    def collect_gradients(self) -> None:
        """Add the gradients of the compute copy to the master's."""
        if self.separate:
            for master, parameter in zip(self.master, self.module.parameters(), strict=True):
                if parameter.grad is not None:
                    master.grad = (
                        parameter.grad.to(self.dtype) if master.grad is None else master.grad.add_(parameter.grad)
                    )
                    parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the compute copy up to date with the master weights."""
        if self.separate:
            for parameter, master in zip(self.module.parameters(), self.master, strict=True):
                parameter.copy_(master)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every master weight by name; what engines load and checkpoints save."""
        return ((name, master.detach()) for name, master in zip(self.names, self.master, strict=True))

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        for name, master in zip(self.names, self.master, strict=True):
            master.copy_(weights[name])
        self.publish()


def _takes_shared_prompts(policy: Policy) -> bool:
    """Whether rows that share a prompt give what plain rows give; tried, since a model may ignore such a mask."""
    tokens = [Tokens((5, 6, 7, 8), (9, 10, 11)), Tokens((5, 6, 7, 8), (12, 13))]
    if not models.full_attention(policy.module):
        return False
    policy.shared_prompts = False
    plain = policy.logprobs(tokens)
    policy.shared_prompts = True
    tolerance = 0.15 if next(policy.module.parameters()).dtype is torch.bfloat16 else 1e-3
    return bool((plain - policy.logprobs(tokens)).abs().max() < tolerance)
