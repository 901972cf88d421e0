"""Starting the processes of a run on this machine, and ending them together.

Each is told its rank by the variables of torchrun, so what runs does not know who launched it.
`ray_cluster.py` starts them on the nodes of a Ray cluster by the same launcher.
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
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from rlvr.distributed.world import LOOPBACK, LOST

# A command line and how it says in one line why it failed give its exit status.
Entry = Callable[..., int]
LAUNCHED = "RLVR_LAUNCHED"  # in the environment of what was started here


# When one process has failed, the others have so many seconds to end by themselves.
GRACE = 5.0


# The first Ctrl-C ends the step, the second the run, this one the processes that did not listen.
ENDING_INTERRUPT = 3

# The exit status of a launcher that SIGTERM has ended, as shells have it.
TERMINATED = 128 + signal.SIGTERM


# Ray takes about 15 seconds to see that a node is gone, while the processes of the others see it at
# once.
NODE_GRACE = 45.0


@dataclass(frozen=True, slots=True)
class Started:
    """A process of the run, and the pipe by which it tells why it ended."""

    rank: int
    process: BaseProcess
    pipe: connection.Connection

    def read_failure(self, size: int) -> tuple[int, str] | None:
        """Return its exit status and reason; None where it ended well or only since another one
        ended.
        """
        status = self.process.exitcode or 0
        reason = self._receive_reason()
        if status == 0 or reason == LOST:
            return None
        if status > 0:
            unnamed = f"process {self.rank} of {size} failed; what it raised stands above"
            return status, reason or unnamed
        name = signal.Signals(-status).name
        return 1, f"process {self.rank} of {size} was killed by {name}; --resume goes on"

    def _receive_reason(self) -> str | None:
        with suppress(EOFError):  # it ended without a reason
            if self.pipe.poll():
                return self.pipe.recv()
        return None


class LocalLauncher:
    """The processes of a run on one machine, which begin in `folder`.

    A `marker` there is a file of the launcher's, by which a node sees that it shares the folder.
    """

    def __init__(self, folder: str = ".", marker: str = ".") -> None:
        self.folder = folder
        self.marker = marker
        self.started: list[Started] = []
        self.interrupts = 0

    def find_address(self) -> tuple[str, str]:
        """Return where rank 0 of a cluster can be met: this node's address and a free port."""
        import ray

        return ray.util.get_node_ip_address(), str(_find_free_port())

    def run(
        self,
        count: int,
        argv: Sequence[str],
        entry: Entry,
        node: int = 0,
        nodes: int = 1,
        meet: tuple[str, str] | None = None,
    ) -> tuple[int, str]:
        """Run `entry(argv)` in so many processes of this machine, which is one of `nodes`.

        Rank 0 is met at the address and port of `meet`.   -> as `launch`
        """
        if not os.path.exists(self.marker):
            reason = f"node {node} of {nodes} sees another {self.folder}; start in a folder that all nodes share"
            return 1, reason
        size = nodes * count
        environment = _describe_world(size, count, meet)
        for local_rank in range(count):
            rank = node * count + local_rank
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(local_rank)}
            self.started.append(self._start(rank, argv, entry, dict(environment)))
        if self.interrupts:
            self._pass_interrupt_on()
        ended = _wait_for_all(self.started, size)
        if self.interrupts >= ENDING_INTERRUPT:
            return 130, "stopped at once; what was saved stays"
        return ended

    def _start(
        self,
        rank: int,
        argv: Sequence[str],
        entry: Entry,
        environment: Mapping[str, str],
    ) -> Started:
        """Start one process, forked from a server that has loaded torch once for all."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["rlvr.run.train", "torch.distributed.checkpoint"])
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_run_child,
            args=(entry, list(argv), self.folder, environment, sender),
        )
        process.start()
        sender.close()
        return Started(rank, process, receiver)

    def interrupt(self) -> None:
        """Pass Ctrl-C on; the third one ends all processes, of which one may hang."""
        self.interrupts += 1
        if self.interrupts < ENDING_INTERRUPT:
            self._pass_interrupt_on()
            return
        self._end_all(signal.SIGTERM)
        # What waits inside a library does not see the first signal.
        killer = threading.Timer(GRACE, self._end_all, [signal.SIGKILL])
        killer.daemon = True
        killer.start()

    def _end_all(self, number: signal.Signals) -> None:
        for one in self.started:
            if one.process.exitcode is None:
                with suppress(ProcessLookupError):
                    os.kill(one.process.pid or 0, number)

    def _pass_interrupt_on(self) -> None:
        """Send Ctrl-C to rank 0, which tells the others when the step has ended."""
        for first in self.started[:1]:
            with suppress(ProcessLookupError):
                os.kill(first.process.pid or 0, signal.SIGINT)


def launch(count: int, argv: Sequence[str], entry: Entry) -> tuple[int, str]:
    """Run `entry(argv)` in so many processes of this machine.   -> exit status and, where it is not 0,
    why
    """
    launcher = LocalLauncher()
    try:
        with forward_interrupts(launcher.interrupt):
            return launcher.run(count, argv, entry)
    finally:
        _end_processes([one.process for one in launcher.started])


def _describe_world(size: int, count: int, meet: tuple[str, str] | None) -> dict[str, str]:
    """Return the variables of torchrun that are the same for all processes of a node."""
    environment = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(count)}
    if meet is None:
        address = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(_find_free_port())}
        return environment | address
    import ray

    host, port = meet
    environment |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    # for engines that live in processes of their own
    environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    return environment


def _wait_for_all(started: Sequence[Started], size: int) -> tuple[int, str]:
    """Wait for all processes, and once one has failed end the others.

    The first process that failed by itself gives the exit status and the reason of the run.
    """
    running = {one.process.sentinel: one.process for one in started}
    while running and not _has_failure(started):
        for sentinel in connection.wait(list(running)):
            running.pop(sentinel).join()  # type: ignore[call-overload]
    _join_within(GRACE, list(running.values()))
    # read before the others are ended by us, which is no failure of theirs
    failures: list[tuple[int, str]] = []
    for one in started:
        failure = None
        if one.process.exitcode is not None:
            failure = one.read_failure(size)
        if failure is not None:
            failures.append(failure)
    _end_processes(list(running.values()))
    if failures:
        return failures[0]
    return int(_has_failure(started)), LOST


def _has_failure(started: Sequence[Started]) -> bool:
    return any(one.process.exitcode for one in started)


def _end_processes(processes: Sequence[BaseProcess]) -> None:
    """Terminate what still runs, and kill what does not end by that."""
    for stop in (BaseProcess.terminate, BaseProcess.kill):
        left = [process for process in processes if process.exitcode is None]
        for process in left:
            stop(process)
        _join_within(GRACE, left)


def _join_within(seconds: float, processes: Sequence[BaseProcess]) -> None:
    """Wait for processes, for all of them together no longer than so many seconds."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))


def _run_child(
    entry: Entry,
    argv: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
    pipe: connection.Connection,
) -> None:
    os.setpgid(0, 0)  # Ctrl-C reaches the launcher, which passes it on once
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it
    # the terminal is given back on the way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    os.environ.update(environment)
    os.environ[LAUNCHED] = "yes"
    os.chdir(folder)
    sys.exit(entry(argv, say=pipe.send))


def _end_with_the_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os._exit(1)


@contextmanager
def forward_interrupts(interrupt: Callable[[], Any]) -> Iterator[None]:
    """Call `interrupt` on Ctrl-C instead of ending the launcher, which SIGTERM ends in good order."""
    handlers = {
        signal.SIGINT: lambda *_: interrupt(),
        signal.SIGTERM: lambda *_: sys.exit(TERMINATED),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]
