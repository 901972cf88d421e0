"""What the decoder asks of a model: to read tokens behind others that it has read before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Logits:
    """What the next tokens of branches are drawn from."""

    values: Tensor  # [M, V]
    first: Sequence[int]
    """The row after the first token that was read of each branch; those of the others follow.   [N]"""


class Cache(Protocol):
    """What was read of branches, which a reader goes on from."""

    waiting_share: float
    """Branches that have ended may stay until they are so many, since it costs to leave them out."""

    takes_guesses: bool
    """Whether several tokens of a branch may be read at a time, of which some are then read again."""

    def take_branches(self, parents: Sequence[int], lengths: Sequence[int]) -> None:
        """Go on with branches that continue these parents, in their order.

        A parent may have several children or none.   lengths: the tokens that each has read and keeps
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Reader(Protocol):
    """A model in the compute dtype."""

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None: ...

    def open(self, sequences: int) -> None:
        """Get ready for passes over so many sequences; more memory is held until `close`."""
        ...

    def close(self) -> None: ...

    def read_prompts(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Cache, Logits]:
        """Read each prompt once; each is one branch, whose logits are those after its last token."""
        ...

    def read_tokens(
        self, cache: Cache, tokens: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> Logits:
        """Read the next tokens of each branch, at least one, from that position on."""
        ...
