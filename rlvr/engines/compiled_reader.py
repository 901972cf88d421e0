"""The model in compiled code, whose keys and values stand in pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor
from transformers import PreTrainedModel

from rlvr.engines.reader import Logits
from rlvr.kernels.pages import PagePool, PageTables
from rlvr.kernels.transformer import CompiledTransformer, Rows


class PagedCache:
    """Branches that share the pages of the tokens that they have in common."""

    waiting_share = 0.0
    takes_guesses = True

    def __init__(self, tables: PageTables) -> None:
        self.tables = tables

    def take_branches(self, parents: Sequence[int], lengths: Sequence[int]) -> None:
        self.tables.take_branches(parents, lengths)

    def close(self) -> None:
        self.tables.close()


class CompiledReader:
    """Reads tokens of branches of any length side by side, none of which changes another's bits."""

    def __init__(self, module: PreTrainedModel, bits: Literal[8, 16] = 16) -> None:
        self.transformer = CompiledTransformer(module, bits)
        self.pool = PagePool(self.transformer.page_bytes)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.transformer.load(weights)

    def open(self, sequences: int) -> None:
        pass

    def close(self) -> None:
        """Give the memory of all pages back, which an update needs."""
        self.pool = PagePool(self.transformer.page_bytes)

    def read_prompts(self, prompts: Sequence[tuple[int, ...]]) -> tuple[PagedCache, Logits]:
        cache = PagedCache(PageTables(self.pool, len(prompts)))
        last = [len(prompt) - 1 for prompt in prompts]
        values = self._read(cache, prompts, [0] * len(prompts), last)
        return cache, Logits(values, range(len(prompts)))

    def read_tokens(
        self, cache: PagedCache, tokens: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> Logits:
        values = self._read(cache, tokens, starts, [0] * len(tokens))
        first: list[int] = []
        count = 0
        for of_branch in tokens:
            first.append(count)
            count += len(of_branch)
        return Logits(values, first)

    def _read(
        self,
        cache: PagedCache,
        tokens: Sequence[Sequence[int]],
        starts: Sequence[int],
        wanted: Sequence[int],
    ) -> Tensor:
        """Read tokens of each branch; the logits of each from its token `wanted` on are returned."""
        rows = Rows([], [], [], [])
        for branch, (of_branch, start) in enumerate(zip(tokens, starts, strict=True)):
            stop = start + len(of_branch)
            cache.tables.make_room(branch, start, stop)
            first_row = len(rows.tokens)
            rows.outputs.extend(range(first_row + wanted[branch], first_row + len(of_branch)))
            rows.tokens.extend(of_branch)
            rows.positions.extend(range(start, stop))
            rows.branches.extend([branch] * len(of_branch))
        return self.transformer.run(rows, cache.tables)
