"""Prompts, rollouts and samples of known tokens, as renderer, engine and reward would have made them."""

from __future__ import annotations

from rlvr.types import (
    Draw,
    Finish,
    Problem,
    Prompt,
    Reward,
    Rollout,
    Sample,
    Status,
    Verdict,
)


def make_prompt(
    problem: Problem, token_ids: tuple[int, ...] = (1,), text: str = "", prefill: str = ""
) -> Prompt:
    return Prompt(Draw(problem, 0), token_ids, text, prefill)


def make_rollout(
    prompt: Prompt,
    index: int = 0,
    token_ids: tuple[int, ...] = (1, 2),
    *,
    text: str = "",
    logprobs: tuple[float, ...] | None = None,
    mask: tuple[int, ...] | None = None,
    finish: Finish = Finish.STOP,
) -> Rollout:
    """A response whose tokens were certain and all sampled, where nothing else is said."""
    count = len(token_ids)
    if logprobs is None:
        logprobs = (0.0,) * count
    if mask is None:
        mask = (1,) * count
    return Rollout(prompt, index, token_ids, logprobs, mask, text, finish, 0)


def give_reward(rollout: Rollout, value: float) -> Sample:
    """A sample whose verdict does not matter, only what it was worth."""
    return Sample(rollout, Verdict(Status.WRONG), Reward(value, {}))
