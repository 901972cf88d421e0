"""What an engine is: it generates from token ids, and weights reach it through `load` alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from rlvr.types import Generation, Request, Sampling

if TYPE_CHECKING:
    from torch import Tensor


class Engine(Protocol):
    """What a step needs of an engine.

    A registered engine is called with the model, its tokenizer and the dtype of the arithmetic. An
    engine that needs no weights still has to read them to their end, since ranks gather them together.
    """

    version: int

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over a stream of named weights, the only way in.

        `version` counts the updates that they have seen.
        """
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """Return one generation for each key of each request, in order.

        [P] requests -> [P*G] generations
        """
        ...
