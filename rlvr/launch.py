"""Starting the processes of a run on this machine, and ending them together.

Each is told its place by the variables of torchrun, so what runs does not know who launched it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType

from rlvr.world import LOST

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
