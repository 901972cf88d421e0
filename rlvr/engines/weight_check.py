"""Check that weights arrived in an engine that holds its own copy."""

from __future__ import annotations

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
PROBE, PROBE_KEYS = "What is 17 + 25?", tuple(key_of("weight_sync", number) for number in range(4))


PROBE_SAMPLING = Sampling(max_tokens=16, temperature=1.5)


# How far engine and policy may lie apart on the average token of a probe, by the dtype of the
# arithmetic.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(slots=True)
class WeightSyncCheck:
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
        answers = policy.world.all_gather(engine.generate(each, PROBE_SAMPLING))
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
