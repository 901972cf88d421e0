"""Check that weights arrived in an engine that holds its own copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlvr.engines.base import Engine
from rlvr.errors import RunError
from rlvr.models.packing import Tokens
from rlvr.models.policy import Policy
from rlvr.seeds import key_of
from rlvr.types import Generation, Request, Sampling

# What is asked of an engine after each load. The temperature makes unlikely tokens of even a
# settled policy, and those tell weights apart.
PROBE = "What is 17 + 25?"
PROBE_KEYS = tuple(key_of("weight_sync", number) for number in range(4))
PROBE_SAMPLING = Sampling(max_tokens=16, temperature=1.5)

# How far engine and policy may lie apart on the average token of a probe, by the dtype of the
# arithmetic.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the engine of one rank answered to the probe, and the policy's log-probabilities of it."""

    generations: Sequence[Generation]
    scores: Tensor  # [T]


@dataclass(slots=True)
class WeightSyncCheck:
    """Sees whether weights arrived in an engine that holds a copy of them.

    The engine's log-probabilities of a probe have to be the policy's. An update may be too small
    for that in bf16, so an answer that is the one before, to the bit, does not pass either once the
    policy has moved. Every rank's engine is asked, and the same error ends all of them.
    """

    policy: Policy
    last: list[_Answer] = field(default_factory=list)  # one a rank

    def __call__(self, engine: Engine) -> None:
        """Raise RunError where the weights did not arrive."""
        before = self.last
        self.last = self._ask(engine)
        for rank, answer in enumerate(self.last):
            self._check_scores(engine, answer)
            if before:
                self._check_change(engine, before[rank], answer)

    def _ask(self, engine: Engine) -> list[_Answer]:
        """Return the answers of all ranks' engines, the same on every rank."""
        policy = self.policy
        prompt = tuple(policy.tokenizer(PROBE, add_special_tokens=False)["input_ids"])
        # one for each of several engines
        probes = [Request(prompt, PROBE_KEYS)] * getattr(engine, "count", 1)
        generations = policy.world.all_gather(engine.generate(probes, PROBE_SAMPLING))
        sequences = [Tokens(prompt, generation.token_ids) for generation in generations]
        scores = policy.logprobs(sequences, PROBE_SAMPLING.temperature)
        scores_of = scores.split([len(generation.token_ids) for generation in generations])
        size = policy.world.size
        answers: list[_Answer] = []
        for rank in range(size):
            answers.append(_Answer(list(generations[rank::size]), torch.cat(scores_of[rank::size])))
        return answers

    def _check_scores(self, engine: Engine, answer: _Answer) -> None:
        """Compare the engine's log-probabilities with the policy's."""
        logprobs: list[float] = []
        for generation in answer.generations:
            logprobs.extend(generation.logprobs)
        gap = (answer.scores - answer.scores.new_tensor(logprobs)).abs().mean()
        tolerance = TOLERANCE[self.policy.compute]
        if not gap <= tolerance:  # so written, NaN does not pass
            dtype = str(self.policy.compute).removeprefix("torch.")
            _fail(
                engine,
                f"its answer to a probe is {gap:.2g} from the policy's ({dtype} allows {tolerance:g})",
            )

    def _check_change(self, engine: Engine, before: _Answer, answer: _Answer) -> None:
        """Refuse the answer before, to the bit, once the policy has moved."""
        if before.generations != answer.generations:
            return
        moved = (answer.scores - before.scores).abs().mean()
        if moved > TOLERANCE[self.policy.compute] / 1000:
            _fail(
                engine,
                f"its answer to a probe is the one before, while the policy's moved by {moved:.2g}",
            )


def _fail(engine: Engine, what: str) -> None:
    raise RunError(
        f"rollout.engine: the weights of version {engine.version} did not arrive in the engine: {what}, in mean"
        " log-probability; rollout.engine=local shows whether the engine is at fault"
    )
