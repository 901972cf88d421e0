"""A cold start: supervised steps on the problems' own solutions, through the same learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlvr.data.prompts import Renderer
from rlvr.data.sources import Sources
from rlvr.errors import UserError
from rlvr.models.packing import Tokens
from rlvr.rollouts.generate import Rollouts
from rlvr.step import State, StepResult
from rlvr.training.batch import Batch
from rlvr.training.learner import Learner
from rlvr.training.scored import Scored
from rlvr.types import Problem, Prompt


@dataclass(frozen=True, slots=True)
class ColdStart:
    """The parts of a supervised step."""

    problems: int
    sources: Sources
    render: Renderer
    rollouts: Rollouts
    learner: Learner
    turn_end: int | None = None  # by which the chat template ends a turn


def cold_step(cold: ColdStart, state: State) -> StepResult:
    """Problems -> prompts and solutions -> batch -> update -> new weights in the engine."""
    draws, after = cold.sources.draw(state.source, cold.problems)
    sequences: list[Tokens] = []
    for prompt in cold.render(draws):
        solution = tokenise_solution(prompt, cold.render.tokenizer, cold.turn_end)
        sequences.append(Tokens(prompt.token_ids, solution))
    batch = make_batch(sequences, cold.learner)
    metrics = cold.learner.update(batch)
    cold.rollouts.load(cold.learner.weights(), version=state.step + 1)
    return StepResult(State(state.step + 1, after), metrics, (), ())


def tokenise_solution(
    prompt: Prompt, tokenizer: Any, turn_end: int | None = None
) -> tuple[int, ...]:
    """Return the solution as the model should have written it: without what the prompt already
    opened, with the end of the turn in a chat and the end of text elsewhere.
    """
    solution = prompt.problem.solution or ""
    unopened = solution.removeprefix(prompt.prefill.strip())
    ids = tokenizer(unopened, add_special_tokens=False)["input_ids"]
    if prompt.is_chat and turn_end is not None:
        return (*ids, turn_end)
    return (*ids, tokenizer.eos_token_id)


def make_batch(sequences: Sequence[Tokens], learner: Learner) -> Batch:
    """Return given responses as a batch whose rewards and advantages are zero.   [N] sequences"""
    device = learner.policy.device
    lengths = torch.tensor([len(s.response) for s in sequences])
    count = int(lengths.sum())
    zeros = torch.zeros(count, dtype=learner.policy.accum_dtype, device=device)
    scored = Scored(
        sequences=tuple(sequences),
        total_samples=len(sequences),
        total_tokens=count,
        reward=zeros.new_zeros(len(sequences)),
        group=torch.arange(len(sequences), device=device),
        sample=torch.repeat_interleave(lengths).to(device),
        mask=torch.ones_like(zeros),
        rollout_logprob=zeros,
    )
    return Batch(scored, advantage=zeros)


def check_solutions(problems: Sequence[Problem]) -> None:
    """Refuse a cold start on problems that bring no solution."""
    for problem in problems:
        if not problem.solution:
            raise UserError(
                f"cold_start: problem '{problem.id}' has no solution to learn from; add one or leave it out"
            )
