"""The model in compiled code, whose keys and values stand in pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor
from transformers import PreTrainedModel

from rlvr.engines.reader import Logits
from rlvr.kernels.pages import PAGE_TOKENS, PagePool, PageTables
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
        """Read what all prompts begin with once, then the rest of each."""
        count = len(prompts)
        shared = _find_shared_length(prompts)
        cache = PagedCache(PageTables(self.pool, count))
        if shared:
            cache = PagedCache(PageTables(self.pool, 1))
            self._read(cache, [prompts[0][:shared]], [0], [shared])
            cache.take_branches([0] * count, [shared] * count)
        rest = [prompt[shared:] for prompt in prompts]
        last = [len(prompt) - 1 for prompt in rest]
        values = self._read(cache, rest, [shared] * count, last)
        return cache, Logits(values, range(count))

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


def _find_shared_length(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all prompts begin with, of which each keeps one for itself.

    Nothing where that is less than a page, since each prompt would copy it.
    """
    first = min(prompts)
    last = max(prompts)
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    shared = min(shared, min(map(len, prompts)) - 1)
    return shared if len(prompts) > 1 and shared >= PAGE_TOKENS else 0
