"""Where a run runs: one of `size` equal processes, and what they tell one another.

Every process runs the same loop. What costs time is shared out: problems to ask and verify, and passes over the
samples. What comes of it is brought together again on all of them, so everything between is the same code on the same
data in any world. In the world of one each exchange is an identity, and torch is not loaded. `launch` starts the
processes of a run on this machine and ends them together; each is told its place by the variables of torchrun, so what
runs does not know who launched it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from rlvr.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

LOST = "another process of the run has ended"
# A rank may wait for the longest response of another; what has died is seen at once, by its connection or its launcher.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class World:
    """One of `size` equal processes; rank 0 alone writes. Every rank has to make the same exchanges in the same order;
    each raises RunError where another rank has ended."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether the files and the display of the run are this process's."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of what all ranks drew; a group never spans ranks."""
        return items[self.rank :: self.size]

    def joined(self, items: Sequence[T]) -> Sequence[T]:
        """The shares of all ranks in the order of what was shared out; the same on every rank."""
        if self.size == 1:
            return items
        parts = self._all(list(items))
        whole: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def sum(self, values: Mapping[str, float]) -> Mapping[str, float]:
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

    def told(self, find: Callable[[], T]) -> T:
        """What rank 0 finds, on every rank; the others wait for it."""
        return self._all(find() if self.writes else None)[0]

    def add(self, tensor: Tensor) -> Tensor:
        """The tensor, written over with its sum over all ranks."""
        if self.size > 1:
            import torch.distributed as dist

            with _together():
                dist.all_reduce(tensor)
        return tensor

    def _all(self, item: Any) -> list[Any]:
        """The items of all ranks, in their order."""
        if self.size == 1:
            return [item]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(found, item)
        return found


ALONE = World()


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or gathered from all ranks where it is sharded."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return gather() if gather else tensor


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no kind of its own for a connection that has closed
        raise RunError(LOST) from error


@contextmanager
def placed() -> Iterator[World]:
    """This process's place among those started together, from the variables that torchrun sets; alone without them."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    yield World(dist.get_rank(), size)
    dist.destroy_process_group()  # not after an error, since it may wait for a rank that is gone


# When one process has failed, the others have so many seconds to end by themselves.
GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Started:
    """A process of the run, and where it says why it ended."""

    rank: int
    process: BaseProcess
    said: connection.Connection

    def reason(self, size: int) -> tuple[int, str] | None:
        """Its exit status and last words; None where it ended well or only since another one ended."""
        status = self.process.exitcode or 0
        words = None
        with suppress(EOFError):  # it ended without a word
            words = self.said.recv() if self.said.poll() else None
        if status == 0 or words == LOST:
            return None
        if status > 0:
            return status, words or f"process {self.rank} of {size} failed; what it raised stands above"
        return 1, f"process {self.rank} of {size} was killed by {signal.Signals(-status).name}; --resume goes on"


def launch(size: int, words: Sequence[str]) -> tuple[int, str]:
    """`rlvr WORDS` in so many processes of this machine.   -> exit status and, where it is not 0, why"""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlvr.run", "torch.distributed.checkpoint"])  # torch is loaded once
    place = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    place["MASTER_PORT"] = str(_free_port())
    started: list[Started] = []
    with _passing_on(started):
        for rank in range(size):
            said, pipe = context.Pipe(duplex=False)
            own = place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = context.Process(target=_child, args=(list(words), own, pipe))
            process.start()
            pipe.close()
            started.append(Started(rank, process, said))
        return _ended(started)


def _ended(started: Sequence[Started]) -> tuple[int, str]:
    """Wait for all; once one has failed the others are ended, and the first reason of their own is that of the run."""
    running = {s.process.sentinel: s.process for s in started}
    while running and not any(s.process.exitcode for s in started):
        for done in connection.wait(list(running)):
            running.pop(done).join()  # type: ignore[call-overload]
    until = time.monotonic() + GRACE
    for process in running.values():
        process.join(max(0.0, until - time.monotonic()))
    found = [reason for s in started if s.process.exitcode is not None and (reason := s.reason(len(started)))]
    for stop in (BaseProcess.terminate, BaseProcess.kill):
        left = [process for process in running.values() if process.exitcode is None]
        for process in left:
            stop(process)
        for process in left:
            process.join(GRACE)
    return found[0] if found else (int(any(s.process.exitcode for s in started)), LOST)


def _child(words: Sequence[str], place: dict[str, str], pipe: connection.Connection) -> None:
    from rlvr import cli

    os.setpgid(0, 0)  # Ctrl-C reaches the launcher, which passes it on once
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the terminal is given back on the way out
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    os.environ |= place
    sys.exit(cli.main(words, say=pipe.send))


def _end_with_the_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os._exit(1)


@contextmanager
def _passing_on(started: Sequence[Started]) -> Iterator[None]:
    """Ctrl-C goes to rank 0, which tells the others when the step has ended."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for first in started[:1]:
            with suppress(ProcessLookupError):
                os.kill(first.process.pid or 0, number)

    before = signal.signal(signal.SIGINT, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
