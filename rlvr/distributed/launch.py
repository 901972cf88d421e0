"""Starting the processes of a run, on this machine or on the nodes of a Ray cluster, and ending
them together.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from rlvr.distributed.world import LOST

# A command line and how it says in one line why it failed give its exit status.
Entry = Callable[..., int]
LAUNCHED = "RLVR_LAUNCHED"  # in the environment of what was started here


# When one process has failed, the others have so many seconds to end by themselves.
GRACE = 5.0


# Ray takes about 15 seconds to see that a node is gone, while the processes of the others see it at
# once.
NODE_GRACE = 45.0


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
            return (
                status,
                words or f"process {self.rank} of {size} failed; what it raised stands above",
            )
        return (
            1,
            f"process {self.rank} of {size} was killed by {signal.Signals(-status).name}; --resume goes on",
        )


class LocalLauncher:
    """The processes of a run on one machine, which begin in `folder`; a `marker` there is a file of
    the launcher's.
    """

    def __init__(self, folder: str = ".", marker: str = ".") -> None:
        self.folder, self.marker = folder, marker
        self.started: list[Started] = []
        self.asked = False

    def address(self) -> tuple[str, str]:
        """Where rank 0 of a cluster can be met: this node's address and a free port."""
        import ray

        return ray.util.get_node_ip_address(), str(_free_port())

    def run(
        self,
        count: int,
        argv: Sequence[str],
        entry: Entry,
        node: int = 0,
        nodes: int = 1,
        meet: tuple[str, str] | None = None,
    ) -> tuple[int, str]:
        """Run `entry(argv)` in so many processes of this machine, which is one of `nodes`.   -> as
        `launch`
        """
        if not os.path.exists(self.marker):
            return (
                1,
                f"node {node} of {nodes} sees another {self.folder}; start in a folder that all nodes share",
            )
        context = multiprocessing.get_context("forkserver")
        # torch is loaded once
        context.set_forkserver_preload(["rlvr.run.train", "torch.distributed.checkpoint"])
        host, port = meet or ("127.0.0.1", str(_free_port()))
        place = {
            "WORLD_SIZE": str(nodes * count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": host,
        }
        if meet:
            import ray

            # for engines that live apart
            place["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        for local in range(count):
            said, pipe = context.Pipe(duplex=False)
            rank = node * count + local
            own = place | {"MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(local)}
            process = context.Process(
                target=_child, args=(entry, list(argv), self.folder, own, pipe)
            )
            process.start()
            pipe.close()
            self.started.append(Started(rank, process, said))
        if self.asked:
            self.interrupt()
        return _ended(self.started, nodes * count)

    def interrupt(self) -> None:
        """Ctrl-C for rank 0, which tells the others when the step has ended."""
        self.asked = True
        for first in self.started[:1]:
            with suppress(ProcessLookupError):
                os.kill(first.process.pid or 0, signal.SIGINT)


def launch(count: int, argv: Sequence[str], entry: Entry) -> tuple[int, str]:
    """Run `entry(argv)` in so many processes of this machine.   -> exit status and, where it is not 0,
    why
    """
    launcher = LocalLauncher()
    with forward_interrupts(launcher.interrupt):
        return launcher.run(count, argv, entry)


def _ended(started: Sequence[Started], size: int) -> tuple[int, str]:
    """Wait for all; once one has failed the others are ended, and the first reason of their own is
    that of the run.
    """
    running = {s.process.sentinel: s.process for s in started}
    while running and not any(s.process.exitcode for s in started):
        for done in connection.wait(list(running)):
            running.pop(done).join()  # type: ignore[call-overload]
    until = time.monotonic() + GRACE
    for process in running.values():
        process.join(max(0.0, until - time.monotonic()))
    found = [
        reason for s in started if s.process.exitcode is not None and (reason := s.reason(size))
    ]
    for stop in (BaseProcess.terminate, BaseProcess.kill):
        left = [process for process in running.values() if process.exitcode is None]
        for process in left:
            stop(process)
        until = time.monotonic() + GRACE
        for process in left:
            process.join(max(0.0, until - time.monotonic()))
    return found[0] if found else (int(any(s.process.exitcode for s in started)), LOST)


def _child(
    entry: Entry,
    argv: Sequence[str],
    folder: str,
    place: dict[str, str],
    pipe: connection.Connection,
) -> None:
    os.setpgid(0, 0)  # Ctrl-C reaches the launcher, which passes it on once
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it
    # the terminal is given back on the way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    os.environ |= place | {LAUNCHED: "yes"}
    os.chdir(folder)
    sys.exit(entry(argv, say=pipe.send))


def _end_with_the_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os._exit(1)


@contextmanager
def forward_interrupts(interrupt: Callable[[], Any]) -> Iterator[None]:
    """Ctrl-C does this instead of ending the launcher."""

    before = signal.signal(signal.SIGINT, lambda *_: interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
