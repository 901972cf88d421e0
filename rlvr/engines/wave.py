"""The responses that are decoded together: those with the same tokens so far are one branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlvr.engines.drafts import Guess
from rlvr.engines.reader import Cache, Logits
from rlvr.types import Finish


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

    def count_read(self) -> int:
        """Return how many of its tokens are read: all but the last."""
        return len(self.prompt) + len(self.tokens) - 1


@dataclass
class Wave:
    """The branches that are decoded together, with what their next tokens are drawn from."""

    branches: list[Branch]
    logits: Logits
    cache: Cache

    def continue_with(self, children: list[Branch], parents: Sequence[int]) -> None:
        """Go on with these branches, each of which continues a parent, in their order.

        A parent may have several children or none. Where none parts, those that have ended may wait
        until they are worth leaving out.
        """
        count = len(self.branches)
        if parents == list(range(count)) or not children:
            self.branches = children
            return
        parts = len(set(parents)) < len(parents)
        if parts or len(parents) <= count * (1 - self.cache.waiting_share):
            self.branches = children
            self.cache.take_branches(parents, [child.count_read() for child in children])
            return
        self.branches = [Branch([]) for _ in range(count)]
        for number, child in zip(parents, children, strict=True):
            self.branches[number] = child
