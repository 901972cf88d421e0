"""Keys and values in pages of a few tokens, which branches of a response share until they part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PAGE_TOKENS = 16  # PAGE in transformer.c
CHUNK_PAGES = 64  # that are allocated at a time


class PagePool:
    """Memory for pages, which are taken and given back by number."""

    def __init__(self, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self.addresses: NDArray[np.int64] = np.zeros(0, np.int64)  # by number
        self._chunks: list[Tensor] = []
        self._users: list[int] = []
        self._free: list[int] = []

    def take(self) -> int:
        """Return a page that nobody uses."""
        if not self._free:
            self._grow()
        page = self._free.pop()
        self._users[page] = 1
        return page

    def share(self, page: int) -> None:
        """Count one more user of a page."""
        self._users[page] += 1

    def give_back(self, page: int) -> None:
        """Count one user less; a page without users is free."""
        self._users[page] -= 1
        if not self._users[page]:
            self._free.append(page)

    def own(self, page: int) -> int:
        """Return a page with the same content that has one user: itself, or else a copy of it."""
        if self._users[page] == 1:
            return page
        copy = self.take()
        self._view(copy).copy_(self._view(page))
        self.give_back(page)
        return copy

    def count_used(self) -> int:
        """Return how many pages have users."""
        return len(self._users) - len(self._free)

    def _view(self, page: int) -> Tensor:
        return self._chunks[page // CHUNK_PAGES][page % CHUNK_PAGES]

    def _grow(self) -> None:
        chunk = torch.empty(CHUNK_PAGES, self.page_bytes, dtype=torch.uint8)
        self._chunks.append(chunk)
        first = len(self._users)
        added = chunk.data_ptr() + self.page_bytes * np.arange(CHUNK_PAGES)
        self.addresses = np.concatenate([self.addresses, added])
        self._users += [0] * CHUNK_PAGES
        self._free += reversed(range(first, first + CHUNK_PAGES))


class PageTables:
    """The pages of each branch, in the order of their tokens."""

    def __init__(self, pool: PagePool, branches: int) -> None:
        self.pool = pool
        self.tables: list[list[int]] = [[] for _ in range(branches)]

    def make_room(self, branch: int, start: int, stop: int) -> None:
        """Have pages for the tokens from `start` to `stop` of a branch, which no other branch uses."""
        table = self.tables[branch]
        for index in range(start // PAGE_TOKENS, len(table)):
            table[index] = self.pool.own(table[index])
        while len(table) * PAGE_TOKENS < stop:
            table.append(self.pool.take())

    def take_branches(self, parents: Sequence[int], lengths: Sequence[int]) -> None:
        """Go on with branches that continue these parents, of which each keeps so many tokens."""
        before = self.tables
        self.tables = []
        for parent, length in zip(parents, lengths, strict=True):
            kept = before[parent][: -(-length // PAGE_TOKENS)]
            for page in kept:
                self.pool.share(page)
            self.tables.append(list(kept))
        for table in before:
            for page in table:
                self.pool.give_back(page)

    def close(self) -> None:
        """Give all pages back."""
        self.take_branches((), ())

    def lay_out(self) -> NDArray[np.int32]:
        """Return the pages of all branches as a table.   [branches, most pages]"""
        width = max(map(len, self.tables), default=0)
        laid_out = np.zeros((len(self.tables), width), np.int32)
        for branch, table in enumerate(self.tables):
            laid_out[branch, : len(table)] = table
        return laid_out
