"""Batches of known samples, and an optimiser that records gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rlvr.types import Problem, RewardedGroup
from support import tiny
from support.rollouts import give_reward, make_prompt, make_rollout

PROMPTS = [4, 11, 2, 7]


LENGTHS = [[3, 9, 1], [5, 5, 12], [1, 1, 4], [8, 2, 6]]


@pytest.fixture(autouse=True)
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers normalises in float32 whatever the model's dtype is, which hides agreement
    beyond seven digits.
    """

    def forward(self: Any, hidden: Tensor) -> Tensor:
        return (
            self.weight
            * hidden
            * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


class Recorder:
    """An optimiser that keeps the gradients of each update and moves nothing."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters, self.param_groups, self.seen = parameters, [{"lr": 0.0}], []

    def step(self) -> None:
        self.seen.append(
            [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        )

    def zero_grad(self, set_to_none: bool) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def sharp(seed: int, dtype: torch.dtype = torch.float64) -> Any:
    """The tiny model with weights so large that every token depends on those before it."""
    return tiny.sharpen(tiny.model(seed, dtype), 6)


def groups_of(
    rewards: Sequence[Sequence[float]] | None = None, equal_lengths: bool = False
) -> list[RewardedGroup]:
    """Four ragged groups of three samples of random tokens, some of them written by a tool."""
    draw = torch.Generator().manual_seed(7)
    groups = []
    for g, size in enumerate(PROMPTS):
        problem = Problem(f"p{g}", "math", "q", "a")
        prompt = make_prompt(problem, tokens(size, draw))
        samples = []
        for i, length in enumerate(LENGTHS[g]):
            length = 5 if equal_lengths else length
            mask = (
                (1,) * length if equal_lengths or length < 8 else (1, 1, 0, 0, *(1,) * (length - 4))
            )
            logprobs = tuple((-torch.rand(length, generator=draw)).tolist())
            ids = tokens(length, draw)
            value = rewards[g][i] if rewards else float(torch.rand((), generator=draw))
            rollout = make_rollout(prompt, i, ids, logprobs=logprobs, mask=mask)
            samples.append(give_reward(rollout, value))
        groups.append(RewardedGroup(problem, tuple(samples)))
    return groups


def tokens(count: int, draw: torch.Generator) -> tuple[int, ...]:
    return tuple(torch.randint(3, 80, (count,), generator=draw).tolist())


def close(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> bool:
    assert other.abs().max() > 1e-3
    return float((one - other).abs().max() / other.abs().max()) < tolerance
