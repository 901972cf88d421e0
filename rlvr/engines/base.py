"""Engines generate. Whatever an engine is, weights reach it only through `load`, and it speaks
token ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from rlvr.types import Generation, Request, Sampling

if TYPE_CHECKING:
    from torch import Tensor


class Engine(Protocol):
    """What a step needs of an engine. A registered engine is called with the model and its
    tokenizer.
    """

    version: int

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over a stream of named weights, the only way in; `version` counts the updates they
        have seen.
        """
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """One generation for each key of each request, in order.   [P] requests -> [P*G]
        generations
        """
        ...
