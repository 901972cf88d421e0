"""The policy: log-probability and entropy of every response token, without the full logits ever
existing; and how far an engine lies from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlvr import models
from rlvr.batch import Batch, Forward, Pass, Tokens
from rlvr.engines import Engine
from rlvr.errors import RunError
from rlvr.metrics import Metrics
from rlvr.seeds import key_of
from rlvr.types import Generation, Request, Sampling
from rlvr.weights import Trained, add_to, takes_rows

# How many logits exist at a time, in the forward as in the backward pass (2**25 in float32 are 128
# MiB), and of how many of them a processor takes the softmax at a time.
CHUNK_LOGITS, CACHED = 2**25, 2**19


class _LogProb(torch.autograd.Function):
    """Log-probability and entropy of the targets from hidden states, in chunks, so that the full
    logits never exist; on a processor few rows of a chunk are converted at a time, which stay in
    its cache.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprob, entropy = (
            torch.empty(len(target), dtype=wide, device=hidden.device) for _ in range(2)
        )
        for part, logits in _logits(hidden, weight):
            for rows, logp in _normalised(part, logits, scale, wide):
                logprob[rows] = logp.gather(1, target[rows, None])[:, 0]
                entropy[rows] = -(logp.exp().mul_(logp)).sum(-1)
        ctx.save_for_backward(hidden, weight, target, entropy)
        ctx.scale, ctx.wide = scale, wide
        ctx.set_materialize_grads(False)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, target, entropy = ctx.saved_tensors
        to_logprob, to_entropy = grads
        given = torch.zeros_like(entropy) if to_logprob is None else to_logprob
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=ctx.wide) if ctx.needs_input_grad[1] else None
        for part, slopes in _logits(hidden, weight):
            for rows, logp in _normalised(part, slopes, ctx.scale, ctx.wide):
                if to_entropy is None:  # d logprob / d logits = onehot - p
                    slope = logp.exp_().mul_(-given[rows, None])
                else:  # d entropy / d logits = -p (log p + entropy)
                    wanted = (logp + entropy[rows, None]).mul_(-to_entropy[rows, None])
                    slope = logp.exp_().mul_(wanted.sub_(given[rows, None]))
                slope.scatter_add_(1, target[rows, None], given[rows, None])
                slopes[rows.start - part.start : rows.stop - part.start] = slope.mul_(ctx.scale)
            grad_hidden[part] = slopes @ weight
            if grad_weight is not None and grad_weight.dtype is slopes.dtype:
                grad_weight.addmm_(slopes.T, hidden[part])  # no second tensor of the head's size
            elif grad_weight is not None:
                add_to(grad_weight, slopes.T @ hidden[part])
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None,
        )


def _logits(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The logits of each chunk of rows, all in the same memory."""
    chunks = list(_chunks(len(hidden), CHUNK_LOGITS // len(weight)))
    room = hidden.new_empty(
        max((part.stop - part.start for part in chunks), default=0), len(weight)
    )
    for part in chunks:
        yield part, torch.mm(hidden[part], weight.T, out=room[: part.stop - part.start])


def _normalised(
    part: slice, logits: Tensor, scale: float, wide: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """The log-probabilities of all tokens for some rows of a chunk at a time."""
    most = CACHED if logits.device.type == "cpu" else CHUNK_LOGITS // 2
    for piece in _chunks(len(logits), most // logits.shape[1]):
        rows = logits[piece].to(wide)
        # this alone is kept while it is used
        rows = (rows if scale == 1 else rows * scale).log_softmax(-1)
        yield slice(part.start + piece.start, part.start + piece.stop), rows


def _chunks(count: int, most: int) -> Iterator[slice]:
    # even: a small one takes nearly as long
    size = math.ceil(count / math.ceil(count / max(1, most))) if count else 1
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class Policy(Trained):
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
        self.chunked_head = models.bare_head(module)
        self.packed = takes_rows(self, module, lambda tokens: self.logprobs(tokens, 1.0))

    def forward(self, part: Pass, temperature: float) -> Forward:
        """Log-probability and entropy of the response tokens of one pass.   -> [t]"""
        return Forward(*self.call(part, temperature))

    def outputs_of(self, part: Pass, *options: float) -> tuple[Tensor, ...]:
        target, scale = part.target.to(self.device), 1 / options[0]
        if self.chunked_head:
            hidden = self.outputs(self.module.base_model, part, "last_hidden_state")
            return _LogProb.apply(hidden, self.module.get_output_embeddings().weight, target, scale)
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
        return models.merged(self)


def measured(out: Forward, piece: Batch) -> Metrics:
    """The entropy of a pass, and how far policy and engine lie apart on its tokens: the mean
    distance of their log-probabilities, the k3 estimate of KL(engine || policy), and the share of
    ratios beyond a factor of 2.
    """
    gap = (out.logprob.detach() - piece.rollout_logprob) * piece.mask
    found = {"entropy": out.entropy.detach() * piece.mask, "mismatch": gap.abs()}
    found["mismatch_kl"] = gap.clamp(-20, 20).expm1() - gap.clamp(-20, 20)
    found["mismatch_extreme"] = (gap.abs() > math.log(2)).to(gap.dtype)
    count = float(piece.mask.sum())
    return Metrics({name: (float(values.sum()), count) for name, values in found.items()})


# What is asked of an engine after each load. The temperature makes unlikely tokens of even a
# settled policy, and those tell weights apart.
PROBE, PROBE_KEYS = "What is 17 + 25?", tuple(key_of("proof", number) for number in range(4))
PROBE_SAMPLING = Sampling(max_tokens=16, temperature=1.5)
# How far engine and policy may lie apart on the average token of a probe, by the dtype of the
# arithmetic.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(slots=True)
class Proof:
    """Sees whether weights arrived in an engine that holds them apart: its log-probabilities of a
    probe are the policy's. An update may be too small for that in bf16, so an answer that is the
    one before, to the bit, does not pass either once the policy has moved. Every rank's engine is
    asked, and the same error ends all of them.
    """

    policy: Policy
    last: list[tuple[list[Generation], Tensor]] = field(default_factory=list)

    def __call__(self, engine: Engine) -> None:
        """Raises RunError where the weights did not arrive."""
        policy, size, tolerance = (
            self.policy,
            self.policy.world.size,
            TOLERANCE[self.policy.compute],
        )
        prompt = tuple(policy.tokenizer(PROBE, add_special_tokens=False)["input_ids"])
        # one for each of several engines
        each = [Request(prompt, PROBE_KEYS)] * getattr(engine, "count", 1)
        answers = policy.world.joined(engine.generate(each, PROBE_SAMPLING))
        scores = policy.logprobs(
            [Tokens(prompt, a.token_ids) for a in answers], PROBE_SAMPLING.temperature
        )
        parts = scores.split([len(a.token_ids) for a in answers])
        before = self.last
        self.last = [
            (list(answers[rank::size]), torch.cat(parts[rank::size])) for rank in range(size)
        ]
        for rank, (own, scored) in enumerate(self.last):
            gap = (
                (
                    scored
                    - scored.new_tensor([logprob for answer in own for logprob in answer.logprobs])
                )
                .abs()
                .mean()
            )
            if not gap <= tolerance:
                dtype = str(policy.compute).removeprefix("torch.")
                _fail(
                    engine,
                    f"its answer to a probe is {gap:.2g} from the policy's ({dtype} allows {tolerance:g})",
                )
            if before and before[rank][0] == own:
                moved = (scored - before[rank][1]).abs().mean()
                if moved > tolerance / 1000:
                    _fail(
                        engine,
                        f"its answer to a probe is the one before, while the policy's moved by {moved:.2g}",
                    )


def _fail(engine: Engine, what: str) -> None:
    raise RunError(
        f"rollout.engine: the weights of version {engine.version} did not arrive in the engine: {what}, in mean"
        " log-probability; rollout.engine=local shows whether the engine is at fault"
    )
