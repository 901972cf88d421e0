"""The tensors of the samples that a step trains on, as advantage estimators read them.

Response tokens of all samples lie end to end in one dimension, so no padding reaches the maths.
What lays sequences out as forward passes is `rlvr/models/packing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlvr.models.packing import Tokens
from rlvr.types import RewardedGroup, Sample, flatten

PER_SAMPLE = ("reward", "group", "baseline")
PER_TOKEN = (
    "mask",
    "rollout_logprob",
    "old_logprob",
    "ref_logprob",
    "value",
    "returns",
    "penalty",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What an advantage estimator may read; shapes are checked here and nowhere else.

    `total_samples` and `total_tokens` count also the groups that a filter left out: they are the
    one denominator of the loss. Of a sample that carries no loss itself, `total_samples` counts the
    sample and `total_tokens` nothing.
    """

    sequences: tuple[Tokens, ...]  # [N]
    total_samples: float
    total_tokens: float
    reward: Tensor  # [N]
    group: Tensor  # [N] which group a sample belongs to
    sample: Tensor  # [T] which sample a token belongs to
    mask: Tensor  # [T] 1 = sampled by the policy
    rollout_logprob: Tensor  # [T] by the engine
    # [T] before this step's updates; None where there is one update, see Batch.anchor
    old_logprob: Tensor | None = None
    # [T] by the reference policy; None where no term needs one
    ref_logprob: Tensor | None = None
    # [T] what the critic expected before the token, before this step's updates; None without one
    value: Tensor | None = None
    # [T] what the critic should have expected: its target
    returns: Tensor | None = None
    # [N] the reward of a greedy answer; None where no estimator asks for it
    baseline: Tensor | None = None
    # [T] what is taken off each token's reward (KL); None for nothing
    penalty: Tensor | None = None

    def __post_init__(self) -> None:
        assert len(self.group) == len(self.sequences), (
            f"{len(self.group)} groups for {len(self.sequences)} samples"
        )
        for name in PER_SAMPLE:
            check_shape(name, getattr(self, name), self.reward.shape)
        for name in PER_TOKEN:
            check_shape(name, getattr(self, name), self.sample.shape)

    @property
    def token_reward(self) -> Tensor:
        """The reward on the last sampled token of each sample, minus the penalty of every
        token.   -> [T]
        """
        return self.place_rewards(self.reward)

    @property
    def total(self) -> Tensor:
        """The sum of each sample's token rewards: its reward where nothing is taken off.   -> [N]"""
        if self.penalty is None:
            return self.reward
        zeros = torch.zeros_like(self.reward)
        return self.reward - zeros.index_add(0, self.sample, self.penalty * self.mask)

    def place_rewards(self, reward: Tensor) -> Tensor:
        """Put rewards on the last sampled token of each sample, minus the penalty of every token.

        [N] -> [T]
        """
        positions = torch.arange(len(self.mask), device=self.mask.device)
        sampled = positions.where(self.mask > 0, -1)
        nowhere = sampled.new_full((len(reward),), -1)
        last = nowhere.scatter_reduce(0, self.sample, sampled, "amax")
        some = last >= 0  # a sample may have no token that is trained on
        values = reward[some].to(self.mask.dtype)
        placed = torch.zeros_like(self.mask).index_put((last[some],), values)
        if self.penalty is None:
            return placed
        return placed - self.penalty

    def select(self, rows: Sequence[int]) -> Scored:
        """Return the samples of the given rows, in that order, with the totals of all."""
        device = self.mask.device
        sequences = tuple(self.sequences[row] for row in rows)
        samples = torch.tensor(rows, dtype=torch.long, device=device)
        tokens = self.take_tokens(torch.arange(len(self.mask), device=device), rows)
        lengths = torch.tensor([len(s.response) for s in sequences], dtype=torch.long)
        selected: dict[str, Any] = {"sample": torch.repeat_interleave(lengths).to(device)}
        index_of = dict.fromkeys(PER_SAMPLE, samples) | dict.fromkeys(PER_TOKEN, tokens)
        for name, index in index_of.items():
            tensor = getattr(self, name)
            if tensor is not None:
                selected[name] = tensor[index]
        return replace(self, sequences=sequences, **selected)

    def take_tokens(self, values: Tensor, rows: Sequence[int]) -> Tensor:
        """Return the entries at the tokens of the given rows, in that order.   [T] -> [t]"""
        lengths = [len(s.response) for s in self.sequences]
        pieces = values.split(lengths)
        selected = [pieces[row] for row in rows]
        return torch.cat([values[:0], *selected])

    def divide_totals(self, parts: int) -> Scored:
        """Return the same samples with an equal part of the denominators."""
        return replace(
            self,
            total_samples=self.total_samples / parts,
            total_tokens=self.total_tokens / parts,
        )


def check_shape(
    name: str,
    tensor: Tensor | None,
    expected: torch.Size,
) -> None:
    """Refuse a tensor of another shape; one that is not there has none."""
    assert tensor is None or tensor.shape == expected, (
        f"{name} is {tensor.shape}, expected {expected}"
    )


def trained(groups: Sequence[RewardedGroup]) -> list[Sample]:
    """Return the samples of the groups that no filter marked.   -> [N]"""
    return flatten([group for group in groups if group.trained])


def tokens_of(samples: Sequence[Sample]) -> tuple[Tokens, ...]:
    """Return the sequences of the samples; a response is never tokenised again."""
    sequences: list[Tokens] = []
    for sample in samples:
        rollout = sample.rollout
        sequences.append(Tokens(rollout.prompt.token_ids, rollout.token_ids))
    return tuple(sequences)


def collate(
    groups: Sequence[RewardedGroup],
    dtype: torch.dtype,
    device: torch.device,
) -> Scored:
    """Return the tensors of the samples that are trained on, and the totals of all groups.

    Only models know the other log-probabilities and the values; the learner adds them.
    """
    samples = trained(groups)
    group, greedy = _number_groups(groups)
    rewards: list[float] = []
    lengths: list[int] = []
    mask: list[int] = []
    logprobs: list[float] = []
    for sample in samples:
        rewards.append(sample.reward.value)
        lengths.append(len(sample.rollout.token_ids))
        mask += [sampled * sample.trained for sampled in sample.rollout.mask]
        logprobs += sample.rollout.logprobs
    baseline = None
    if None not in greedy:
        baseline = torch.tensor(greedy, dtype=dtype, device=device)
    numbers = torch.repeat_interleave(torch.tensor(lengths, dtype=torch.long))
    return Scored(
        sequences=tokens_of(samples),
        total_samples=len(flatten(groups)),
        total_tokens=_count_tokens(groups),
        reward=torch.tensor(rewards, dtype=dtype, device=device),
        group=torch.tensor(group, dtype=torch.long, device=device),
        sample=numbers.to(device),
        mask=torch.tensor(mask, dtype=dtype, device=device),
        rollout_logprob=torch.tensor(logprobs, dtype=dtype, device=device),
        baseline=baseline,
    )


def _number_groups(groups: Sequence[RewardedGroup]) -> tuple[list[int], list[float | None]]:
    """Return the number and the greedy baseline of its group for each trained sample.   -> [N], [N]"""
    numbers: list[int] = []
    baselines: list[float | None] = []
    trained_groups = [group for group in groups if group.trained]
    for number, group in enumerate(trained_groups):
        numbers += [number] * len(group.samples)
        baselines += [group.baseline] * len(group.samples)
    return numbers, baselines


def _count_tokens(groups: Sequence[RewardedGroup]) -> float:
    """Return how many tokens of all groups may carry a loss."""
    count = 0
    for sample in flatten(groups):
        if sample.trained:
            count += sum(sample.rollout.mask)
    return float(count)
