"""The world of a run: its rank among `size` equal processes, and their collectives.

Every process runs the same loop (SPMD). What costs time is sharded: problems to ask and verify, and
passes over the samples. Its results are gathered or reduced on all ranks, so everything between is
the same code on the same data in any world. In the world of one process each collective is an
identity, and torch is not loaded.
"""

from __future__ import annotations

import os
import socket
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


LOOPBACK = "127.0.0.1"


# A rank may wait for the longest response of another; what has died is seen at once, by its
# connection or its launcher.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class World:
    """One of `size` equal processes; rank 0 alone writes.

    Every rank has to call the same collectives in the same order; each raises RunError where
    another rank has ended.
    """

    rank: int = 0
    size: int = 1
    group: Any = None  # a process group of torch.distributed; None is the default group

    def new_group(self) -> World:
        """Return the same processes with a process group of their own, for a thread beside the loop.

        It is a collective itself.
        """
        if self.size == 1:
            return self
        import torch.distributed as dist

        with _translate_errors():
            group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return replace(self, group=group)

    @property
    def writes(self) -> bool:
        """Whether the files and the display of the run are this process's."""
        return self.rank == 0

    def local_shard(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's shard of what all ranks drew, every `size`-th item."""
        return items[self.rank :: self.size]

    def all_gather(self, items: Sequence[T]) -> Sequence[T]:
        """Return the shards of all ranks on every rank, in the order before `local_shard`."""
        if self.size == 1:
            return items
        shards = self._gather_objects(list(items))
        gathered: list[Any] = [None] * sum(map(len, shards))
        for rank, shard in enumerate(shards):
            gathered[rank :: self.size] = shard
        return gathered

    def all_reduce_dict(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """Return the sums over all ranks by name; a name that a rank does not have adds nothing."""
        if self.size == 1:
            return values
        sums: dict[str, float] = {}
        for part in self._gather_objects(dict(values)):
            for name, value in part.items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return any(self._gather_objects(flag))

    def broadcast(self, compute: Callable[[], T]) -> T:
        """Return on every rank what rank 0 computes; the others wait for it."""
        value = None
        if self.rank == 0:
            value = compute()
        return self._gather_objects(value)[0]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the tensor, overwritten with its sum over all ranks."""
        if self.size > 1:
            import torch.distributed as dist

            with _translate_errors():
                dist.all_reduce(tensor, group=self.group)
        return tensor

    def _gather_objects(self, item: Any) -> list[Any]:
        """Return the items of all ranks, by rank."""
        if self.size == 1:
            return [item]
        import torch.distributed as dist

        items: list[Any] = [None] * self.size
        with _translate_errors():
            dist.all_gather_object(items, item, group=self.group)
        return items


SINGLE_PROCESS = World()


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the tensor itself, or gathered from all ranks where it is sharded (a DTensor)."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    if gather is None:
        return tensor
    return gather()


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise RunError in place of what a collective raises where another rank has ended."""
    try:
        yield
    except RuntimeError as error:  # gloo has no kind of its own for a connection that has closed
        raise RunError(LOST) from error


def open_store(size: int) -> dict[str, Any]:
    """Return what the ranks of one machine meet by: a store that listens on the loopback alone.

    PyTorch's own would listen on all addresses, without a password. Under torchrun, and between
    machines, the store is theirs.
    """
    host = os.environ["MASTER_ADDR"]
    if host != LOOPBACK or "TORCHELASTIC_RUN_ID" in os.environ:
        return {}
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    rank = int(os.environ["RANK"])
    address = host, int(os.environ["MASTER_PORT"])
    listener = None
    if rank == 0:
        listener = socket.create_server(address, backlog=size).detach()
    store = TCPStore(*address, size, rank == 0, PATIENCE, master_listen_fd=listener)
    return {"store": store, "rank": rank, "world_size": size}


@contextmanager
def init_world() -> Iterator[World]:
    """Join the processes that were started together, by the variables that torchrun sets.

    Without them the process is alone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    import torch
    import torch.distributed as dist

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE, **open_store(size))
    yield World(dist.get_rank(), size)
    dist.destroy_process_group()  # not after an error, since it may wait for a rank that is gone
