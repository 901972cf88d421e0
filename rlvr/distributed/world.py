"""Where a run runs: one of `size` equal processes, and what they tell one another.

Every process runs the same loop. What costs time is shared out: problems to ask and verify, and
passes over the samples. What comes of it is brought together again on all of them, so everything
between is the same code on the same data in any world. In the world of one each exchange is an
identity, and torch is not loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from rlvr.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


T = TypeVar("T")


LOST = "another process of the run has ended"


# A rank may wait for the longest response of another; what has died is seen at once, by its
# connection or its launcher.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class World:
    """One of `size` equal processes; rank 0 alone writes. Every rank has to make the same exchanges
    in the same order; each raises RunError where another rank has ended.
    """

    rank: int = 0
    size: int = 1
    group: Any = None  # of torch.distributed; None is that of all processes

    def new_group(self) -> World:
        """The same processes with exchanges of their own, for a thread beside the loop; all ranks
        ask together.
        """
        if self.size == 1:
            return self
        import torch.distributed as dist

        with _exchange_errors():
            return replace(self, group=dist.new_group(backend="gloo", timeout=PATIENCE))

    @property
    def writes(self) -> bool:
        """Whether the files and the display of the run are this process's."""
        return self.rank == 0

    def local_shard(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of what all ranks drew; a group never spans ranks."""
        return items[self.rank :: self.size]

    def all_gather(self, items: Sequence[T]) -> Sequence[T]:
        """The shares of all ranks in the order of what was shared out; the same on every rank."""
        if self.size == 1:
            return items
        parts = self._all(list(items))
        whole: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def all_reduce_dict(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """The values added over all ranks by name; a name that a rank does not have adds nothing."""
        if self.size == 1:
            return values
        found: dict[str, float] = {}
        for part in self._all(dict(values)):
            for name, value in part.items():
                found[name] = found.get(name, 0.0) + value
        return found

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised on any rank."""
        return any(self._all(flag))

    def broadcast(self, find: Callable[[], T]) -> T:
        """What rank 0 finds, on every rank; the others wait for it."""
        return self._all(find() if self.writes else None)[0]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The tensor, written over with its sum over all ranks."""
        if self.size > 1:
            import torch.distributed as dist

            with _exchange_errors():
                dist.all_reduce(tensor, group=self.group)
        return tensor

    def _all(self, item: Any) -> list[Any]:
        """The items of all ranks, in their order."""
        if self.size == 1:
            return [item]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with _exchange_errors():
            dist.all_gather_object(found, item, group=self.group)
        return found


SINGLE_PROCESS = World()


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself, or gathered from all ranks where it is sharded."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return gather() if gather else tensor


@contextmanager
def _exchange_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no kind of its own for a connection that has closed
        raise RunError(LOST) from error


@contextmanager
def init_world() -> Iterator[World]:
    """This process's place among those started together, from the variables that torchrun sets;
    alone without them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    import torch
    import torch.distributed as dist

    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE
    )
    yield World(dist.get_rank(), size)
    dist.destroy_process_group()  # not after an error, since it may wait for a rank that is gone
