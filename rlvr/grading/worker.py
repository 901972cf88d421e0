"""Helper processes that can be killed, behind one queue."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

START_SECONDS = 120.0  # importing a large library on a busy machine


PATIENCE = 10.0  # the clock may show so many times the processor seconds, and this many more


_ROOT = str(Path(__file__).parents[2])


class Late(Exception):
    """The helper used up its processor time and was ended."""


class Died(Exception):
    """The helper ended or fell silent without an answer."""


class Killable:
    """One long-lived Python process that answers one JSON line for each JSON line; the next call
    starts a fresh one.

    It is an own process from the first instruction (no fork), so it holds no lock, no GPU and no
    thread of this one. The script calls `serve`.
    """

    def __init__(self, script: str, environment: Mapping[str, str]) -> None:
        # -P: the folder of the script must not shadow the library
        self._command = [sys.executable, "-P", script]
        path = os.pathsep.join(p for p in (_ROOT, os.environ.get("PYTHONPATH", "")) if p)
        self._environment = {"PYTHONPATH": path, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, request: Any, seconds: float, *, clock: float | None = None) -> Any:
        """The answer to a request within so many processor seconds; raises Late or Died, after
        which the process is gone.
        """
        with self._lock:
            process = self._running()
            try:
                return self._exchange(
                    process, [seconds, request], clock or PATIENCE * (seconds + 1)
                )
            except (Late, Died):
                self._kill()
                raise

    def start(self) -> None:
        """Start the process if it does not run, so that the next question need not wait for it."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._kill()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(  # noqa: S603 - a script of ours
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | self._environment,
                start_new_session=True,
            )
            try:
                self._exchange(self._process, [START_SECONDS, "ready?"], START_SECONDS)
            except (Late, Died):
                self._kill()
                raise
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], message: list[Any], clock: float) -> Any:
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            return json.loads(_read_line(process.stdout.fileno(), time.monotonic() + clock))
        except (OSError, EOFError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            if process.returncode == -signal.SIGPROF:
                raise Late(
                    f"the helper process used more than {message[0]:g} s of processor time"
                ) from None
            raise Died("the helper process has ended") from None

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what was not sent any more cannot be flushed
                if pipe:
                    pipe.close()


def _read_line(descriptor: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise Died("the helper process fell silent")
        part = os.read(descriptor, 1 << 16)
        if not part:
            raise EOFError
        parts.append(part)
    return b"".join(parts)


class Helpers:
    """Several killable processes behind one queue, and one warm spare, so that a kill delays nobody
    else.

    They start with the first question. Questions may come from any thread; the answer is a future,
    which `asyncio.wrap_future` makes awaitable.
    """

    def __init__(self, script: str, environment: Mapping[str, str], size: int) -> None:
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="verify")
        self._menders = ThreadPoolExecutor(size, thread_name_prefix="verify-start")
        self._ready: queue.SimpleQueue[Killable] = queue.SimpleQueue()
        self._all = [Killable(script, environment) for _ in range(size + 1)]
        for helper in self._all:
            self._ready.put(helper)

    def ask(self, request: Any, seconds: float) -> Future[Any]:
        """The future answer to a request; its exception is Late or Died."""
        return self._threads.submit(self._ask, request, seconds)

    def _ask(self, request: Any, seconds: float) -> Any:
        helper = self._ready.get()
        try:
            answer = helper.ask(request, seconds)
        except (Late, Died):
            self._menders.submit(self._mend, helper)
            raise
        self._ready.put(helper)
        return answer

    def _mend(self, helper: Killable) -> None:
        # it will be started again, and fail again, where it is asked
        with contextlib.suppress(Late, Died):
            helper.start()
        self._ready.put(helper)


def serve(handle: Callable[[Any], Any], *, memory: int = 2 << 30) -> None:
    """Answer every line of standard input with one line; what `handle` prints goes nowhere.

    A request that uses more processor time than it was given ends the process by a signal that
    Python cannot delay.
    """
    import resource

    with contextlib.suppress(ValueError, OSError):  # not every system lets the limits be set
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        seconds, request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = handle(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), file=replies, flush=True)
