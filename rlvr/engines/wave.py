"""The responses that are decoded together: those with the same tokens so far are one branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlvr.engines.drafts import Guess
from rlvr.models.kv_cache import SharedPromptCache
from rlvr.types import Finish

# Waves shrink when at least this share of their branches has finished: a copy of the cache costs
# about one step.
FINISHED_SHARE = 0.25


@dataclass
class Row:
    """One response in the making."""

    prompt: tuple[int, ...]
    key: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish = Finish.LENGTH
    ended: bool = False


@dataclass
class Branch:
    """Responses that have the same tokens so far, and guesses at what they go on with.

    One without responses waits for its removal.
    """

    rows: list[Row]
    guesses: list[Guess] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)  # the first of them, which are read

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.rows[0].prompt if self.rows else ()

    @property
    def tokens(self) -> Sequence[int]:
        return self.rows[0].tokens if self.rows else (0,)


@dataclass
class Wave:
    """The branches that are decoded together, with what their next tokens are drawn from."""

    branches: list[Branch]
    logits: Tensor  # [N, L, V], after the last token and after each draft
    mask: Tensor  # [N, S], what each branch sees of the cache, where prompts are not shared
    cache: Any  # of transformers
    prompts: SharedPromptCache | None

    def continue_with(self, children: list[Branch], parents: Sequence[int]) -> None:
        """Go on with these branches, each of which continues a parent, in their order.

        A parent may have several children or none. The cache is copied where a branch parts, or
        where many have ended; until then those that have wait.
        """
        count = len(self.branches)
        if parents == list(range(count)) or not children:
            self.branches = children
            return
        parts = len(set(parents)) < len(parents)
        if parts or len(parents) <= count * (1 - FINISHED_SHARE):
            self.take_branches(children, parents)
            return
        self.branches = [Branch([]) for _ in range(count)]
        for number, child in zip(parents, children, strict=True):
            self.branches[number] = child

    def take_branches(self, branches: list[Branch], parents: Sequence[int]) -> None:
        """Copy of the cache what these branches continue, in their order."""
        self.branches = branches
        index = torch.tensor(parents, device=self.mask.device)
        self.mask = self.mask[index]
        if self.prompts is not None:
            self.prompts = self.prompts.take_branches(index)
        else:
            self.cache.reorder_cache(index)
