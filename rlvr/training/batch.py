"""From groups to tensors, and from sequences to forward passes.

Response tokens of all samples lie end to end in one dimension, so no padding reaches the maths: the
one place that pads, and the one place that shares prompts, is `passes`. A row of a pass holds a
prompt once and the responses to it side by side; a mask lets each response see the prompt and
itself only. Where a model cannot take such a mask, each row holds one response, and causality alone
keeps the padding out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from rlvr.models.packing import Tokens
from rlvr.models.policy import Forward
from rlvr.seeds import permutation
from rlvr.types import RewardedGroup, Sample


@dataclass(frozen=True, slots=True)
class Scored:
    """What an advantage estimator may read; shapes are checked here and nowhere else."""

    reward: Tensor  # [N]
    group: Tensor  # [N] which group a sample belongs to
    sample: Tensor  # [T] which sample a token belongs to
    mask: Tensor  # [T] 1 = sampled by the policy
    rollout_logprob: Tensor  # [T] by the engine
    # [T] before this step's updates; None where there is one update, see Batch.anchor
    old_logprob: Tensor | None
    ref_logprob: Tensor | None  # [T] by the reference policy; None where no term needs one
    # [T] what the critic expected before the token; None without a critic
    value: Tensor | None = None
    returns: Tensor | None = None  # [T] what it should have expected
    # [N] the reward of a greedy answer; None where no estimator asks for it
    baseline: Tensor | None = None
    # [T] what is taken off each token's reward (KL); None for nothing
    penalty: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.reward.shape == self.group.shape, (
            f"group is {self.group.shape}, expected {self.reward.shape}"
        )
        _check_tokens(
            self,
            (
                "mask",
                "rollout_logprob",
                "old_logprob",
                "ref_logprob",
                "value",
                "returns",
                "penalty",
            ),
        )

    @property
    def token_reward(self) -> Tensor:
        """The reward on the last sampled token of each sample, minus the penalty of every
        token.   -> [T]
        """
        return self.placed(self.reward)

    def placed(self, reward: Tensor) -> Tensor:
        """Rewards on the last sampled token of each sample, minus the penalty of every token.   [N]
        -> [T]
        """
        places = torch.arange(len(self.mask), device=self.mask.device).where(self.mask > 0, -1)
        last = places.new_full((len(reward),), -1).scatter_reduce(0, self.sample, places, "amax")
        some = last >= 0  # a sample may have no token that is trained on
        found = torch.zeros_like(self.mask).index_put(
            (last[some],), reward[some].to(self.mask.dtype)
        )
        return found if self.penalty is None else found - self.penalty

    @property
    def total(self) -> Tensor:
        """The sum of each sample's token rewards: its reward where nothing is taken off.   -> [N]"""
        if self.penalty is None:
            return self.reward
        return self.reward - torch.zeros_like(self.reward).index_add(
            0, self.sample, self.penalty * self.mask
        )


@dataclass(frozen=True, slots=True)
class MinibatchPlan:
    """How often a step goes over its batch, in how many shuffled parts, and whether a part holds
    whole groups.
    """

    parts: int = 1
    epochs: int = 1
    groups: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step trains on. `total_*` count also the groups that a filter left out: they are the
    one denominator of the loss. Of a sample that carries no loss itself, `total_samples` counts the
    sample and `total_tokens` nothing.
    """

    sequences: tuple[Tokens, ...]  # [N]
    group: tuple[int, ...]  # [N] which group a sample belongs to
    sample: Tensor  # [T]
    mask: Tensor  # [T]
    advantage: Tensor  # [T]
    rollout_logprob: Tensor  # [T]
    total_samples: float
    total_tokens: float
    old_logprob: Tensor | None = None  # [T]
    ref_logprob: Tensor | None = None  # [T]
    value: Tensor | None = None  # [T] by the critic before this step's updates; None without one
    returns: Tensor | None = None  # [T] the critic's target

    def __post_init__(self) -> None:
        assert len(self.group) == len(self.sequences), (
            f"{len(self.group)} groups for {len(self.sequences)} samples"
        )
        _check_tokens(
            self,
            (
                "mask",
                "advantage",
                "rollout_logprob",
                "old_logprob",
                "ref_logprob",
                "value",
                "returns",
            ),
        )

    def anchor(self, out: Forward) -> Tensor:
        """The log-probabilities that a ratio is taken to: with one update a step they are the
        current ones.   [T]
        """
        return out.logprob.detach() if self.old_logprob is None else self.old_logprob

    def select(self, rows: Sequence[int]) -> Batch:
        """The samples of the given rows, in that order, with the totals of the whole."""
        lengths = torch.tensor(
            [len(self.sequences[row].response) for row in rows], dtype=torch.long
        )
        index = self.rows(torch.arange(len(self.mask), device=self.mask.device), rows)
        named = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        cut: dict[str, Any] = {name: tensor[index] for name, tensor in named.items()}
        cut["sample"] = torch.repeat_interleave(lengths).to(self.mask.device)
        cut["sequences"], cut["group"] = (
            tuple(column[row] for row in rows) for column in (self.sequences, self.group)
        )
        return replace(self, **cut)

    def rows(self, tokens: Tensor, rows: Sequence[int]) -> Tensor:
        """The entries of the given rows, in that order.   [T] -> [t]"""
        pieces = tokens.split([len(s.response) for s in self.sequences])
        return torch.cat([tokens[:0], *(pieces[row] for row in rows)])

    def minibatches(self, split: MinibatchPlan, *seed: int | str) -> Iterator[Batch]:
        """The shuffled parts of each epoch, each with an equal part of the one denominator.

        So a token weighs the same whichever part it falls into, and what a filter left out stays
        counted.
        """
        shares = {
            "total_samples": self.total_samples / split.parts,
            "total_tokens": self.total_tokens / split.parts,
        }
        units: dict[int, list[int]] = {}
        for row, group in enumerate(self.group):
            units.setdefault(group if split.groups else row, []).append(row)
        members = list(units.values())
        for epoch in range(split.epochs):
            order = (
                permutation(len(members), *seed, epoch).tolist()
                if split.parts > 1
                else range(len(members))
            )
            for part in range(split.parts):
                rows = sorted(row for unit in order[part :: split.parts] for row in members[unit])
                yield replace(self.select(rows), **shares)


def _check_tokens(stage: Scored | Batch, names: Sequence[str]) -> None:
    wanted = stage.sample.shape
    for name in names:
        tensor = getattr(stage, name)
        assert tensor is None or tensor.shape == wanted, (
            f"{name} is {tensor.shape}, expected {wanted}"
        )


def tokens_of(samples: Sequence[Sample]) -> tuple[Tokens, ...]:
    """The sequences of the samples; a response is never tokenised again."""
    return tuple(Tokens(s.rollout.prompt.token_ids, s.rollout.token_ids) for s in samples)


def score(
    groups: Sequence[RewardedGroup],
    old: Tensor | None,
    ref: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Scored:
    """The tensors of the samples that are trained on."""
    samples = trained(groups)
    lengths = [len(s.rollout.token_ids) for s in samples]
    owner = [
        i
        for i, group in enumerate(group for group in groups if group.trained)
        for _ in group.samples
    ]
    # of the whole group alike
    greedy = [group.baseline for group in groups if group.trained for _ in group.samples]
    return Scored(
        reward=torch.tensor([s.reward.value for s in samples], dtype=dtype, device=device),
        group=torch.tensor(owner, dtype=torch.long, device=device),
        sample=torch.repeat_interleave(torch.tensor(lengths, dtype=torch.long, device=device)),
        mask=torch.tensor(
            [m * s.trained for s in samples for m in s.rollout.mask], dtype=dtype, device=device
        ),
        rollout_logprob=torch.tensor(
            [lp for s in samples for lp in s.rollout.logprobs], dtype=dtype, device=device
        ),
        old_logprob=old,
        ref_logprob=ref,
        baseline=None if None in greedy else torch.tensor(greedy, dtype=dtype, device=device),
    )


def pack(groups: Sequence[RewardedGroup], scored: Scored, advantage: Tensor) -> Batch:
    """The batch of the trained groups, with the counts of all groups as denominators."""
    everything = [sample for group in groups for sample in group.samples]
    return Batch(
        sequences=tokens_of(trained(groups)),
        group=tuple(scored.group.tolist()),
        sample=scored.sample,
        mask=scored.mask,
        advantage=advantage,
        rollout_logprob=scored.rollout_logprob,
        old_logprob=scored.old_logprob,
        ref_logprob=scored.ref_logprob,
        value=scored.value,
        returns=scored.returns,
        total_samples=len(everything),
        total_tokens=float(
            sum(sum(sample.rollout.mask) for sample in everything if sample.trained)
        ),
    )


def trained(groups: Sequence[RewardedGroup]) -> list[Sample]:
    """The samples of the groups that no filter marked.   -> [N]"""
    return [sample for group in groups if group.trained for sample in group.samples]
