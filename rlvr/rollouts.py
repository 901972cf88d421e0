"""From drawn problems to rollouts: rendering, the keys of the samples, the engine, and the text of
what came back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.engines import Engine
from rlvr.errors import UserError
from rlvr.metrics import timed
from rlvr.seeds import key_of
from rlvr.types import Draw, Generation, Problem, Prompt, Rendered, Request, Rollout, Sampling

if TYPE_CHECKING:
    from torch import Tensor

Template = Callable[[Problem, Any], Rendered]


@dataclass(frozen=True, slots=True)
class Renderer:
    """Turns a drawn problem into token ids by the template of its source."""

    templates: Sequence[Template]
    tokenizer: Any
    limit: int

    @timed("render")
    def __call__(self, draws: Sequence[Draw]) -> list[Prompt]:
        return [self._render(draw) for draw in draws]

    def _render(self, draw: Draw) -> Prompt:
        rendered = self.templates[draw.source](draw.problem, self.tokenizer)
        ids = self.tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
        if len(ids) > self.limit:
            raise UserError(
                f"rollout.max_prompt_tokens: the prompt of problem '{draw.problem.id}' has {len(ids)} tokens, more than"
                f" {self.limit}; raise the limit or leave the problem out"
            )
        return Prompt(draw, tuple(ids), rendered.text, rendered.prefill)


def unproven(engine: Engine) -> None:
    """For engines whose weights are in plain sight."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Samples responses from an engine; `load` hands it new weights, and lets `proof` see whether
    they arrived.
    """

    engine: Engine
    tokenizer: Any
    proof: Callable[[Engine], None] = unproven

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
