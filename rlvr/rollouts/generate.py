"""From drawn problems to rollouts: rendering, the keys of the samples, the engine, and the text of
what came back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.engines.base import Engine
from rlvr.metrics.timing import timed
from rlvr.seeds import key_of
from rlvr.types import Generation, Prompt, Request, Rollout, Sampling

if TYPE_CHECKING:
    from torch import Tensor


def no_check(engine: Engine) -> None:
    """For engines whose weights are in plain sight."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Samples responses from an engine; `load` hands it new weights, and lets `proof` see whether
    they arrived.
    """

    engine: Engine
    tokenizer: Any
    proof: Callable[[Engine], None] = no_check

    @timed("generate")
    def __call__(
        self, prompts: Sequence[Prompt], sampling: Sampling, *seed: int | str
    ) -> list[Rollout]:
        """`sampling.samples` rollouts of each prompt, in order.   [P] -> [P*G]

        A sample's key is a function of the seed, its problem and its number, so that no other
        sample can change it.
        """
        count = sampling.samples
        numbers = [range(p.draw.copy * count, (p.draw.copy + 1) * count) for p in prompts]
        keys = [
            tuple(key_of(*seed, p.problem.id, n) for n in ns)
            for p, ns in zip(prompts, numbers, strict=True)
        ]
        requests = [Request(p.token_ids, k) for p, k in zip(prompts, keys, strict=True)]
        generations = iter(self.engine.generate(requests, sampling))
        asked = [(p, n) for p, ns in zip(prompts, numbers, strict=True) for n in ns]
        return [self._rollout(p, n, next(generations), sampling) for p, n in asked]

    def _rollout(
        self, prompt: Prompt, number: int, generation: Generation, sampling: Sampling
    ) -> Rollout:
        text = self.tokenizer.decode(generation.token_ids, skip_special_tokens=True)
        ends = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        return Rollout(
            prompt=prompt,
            index=number,
            token_ids=generation.token_ids,
            logprobs=generation.logprobs,
            mask=(1,) * len(generation.token_ids),
            text=text[: min(ends)] if ends else text,
            finish=generation.finish,
            version=self.engine.version,
        )

    @timed("load")
    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.engine.load(weights, version)
        self.proof(self.engine)
