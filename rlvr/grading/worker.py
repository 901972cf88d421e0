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
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

START_SECONDS = 120.0  # importing a large library on a busy machine
PATIENCE = 10.0  # the clock may show so many times the processor seconds, and this many more
REMEMBERED = 1024  # questions whose answer is known or on its way

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
        self._environment = {"PYTHONPATH": _extend_python_path(), **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = False
        atexit.register(self.close)

    def ask(self, request: Any, seconds: float, *, clock: float | None = None) -> Any:
        """Return the answer to a request within so many processor seconds; raises Late or Died,
        after which the process is gone.
        """
        clock = clock or PATIENCE * (seconds + 1)
        with self._lock:
            process = self._ensure_running()
            try:
                return self._exchange(process, request, seconds, clock)
            except (Late, Died):
                self._kill()
                raise

    def start(self) -> None:
        """Start the process if it does not run, so that the next question need not wait for it."""
        with self._lock:
            self._ensure_running()

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._kill()

    def stop(self) -> None:
        """End the process now and for good, also while another thread waits for its answer."""
        self._stopped = True
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _ensure_running(self) -> subprocess.Popen[bytes]:
        """Return the process, a fresh one where none runs; raises Late or Died."""
        if self._stopped:
            raise Died("the helper process was stopped")
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._process = subprocess.Popen(  # noqa: S603 - a script of ours
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | self._environment,
            start_new_session=True,
        )
        try:
            self._exchange(self._process, "ready?", START_SECONDS, START_SECONDS)
        except (Late, Died):
            self._kill()
            raise
        return self._process

    def _exchange(
        self,
        process: subprocess.Popen[bytes],
        request: Any,
        seconds: float,
        clock: float,
    ) -> Any:
        """Send one request and return its answer; raises Late or Died."""
        assert process.stdin and process.stdout
        message = json.dumps([seconds, request])
        try:
            process.stdin.write(message.encode() + b"\n")
            process.stdin.flush()
            deadline = time.monotonic() + clock
            return json.loads(_read_line(process.stdout.fileno(), deadline))
        except (OSError, EOFError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            # The signal of the timer that `serve` sets.
            if process.returncode == -signal.SIGPROF:
                raise Late(
                    f"the helper process used more than {seconds:g} s of processor time"
                ) from None
            raise Died("the helper process has ended") from None

    def _kill(self) -> None:
        process = self._process
        self._process = None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what was not sent any more cannot be flushed
                if pipe:
                    pipe.close()


def _extend_python_path() -> str:
    """Return the search path of a helper: this package, then what the environment names."""
    folders = [_ROOT]
    inherited = os.environ.get("PYTHONPATH", "")
    if inherited:
        folders.append(inherited)
    return os.pathsep.join(folders)


def _read_line(descriptor: int, deadline: float) -> bytes:
    """Return what arrives up to the end of a line; raises Died at the deadline, EOFError at the end."""
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        remaining = max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([descriptor], [], [], remaining)
        if not readable:
            raise Died("the helper process fell silent")
        part = os.read(descriptor, 1 << 16)
        if not part:
            raise EOFError
        parts.append(part)
    return b"".join(parts)


class HelperPool:
    """Several killable processes behind one queue, and one warm spare, so that a kill delays nobody
    else.

    They start with the first question. Questions may come from any thread; the answer is a future,
    which `asyncio.wrap_future` makes awaitable.
    """

    def __init__(self, script: str, environment: Mapping[str, str], size: int) -> None:
        self._askers = ThreadPoolExecutor(size, thread_name_prefix="verify")
        self._menders = ThreadPoolExecutor(size, thread_name_prefix="verify-start")
        self._ready: queue.SimpleQueue[Killable] = queue.SimpleQueue()
        self._helpers = [Killable(script, environment) for _ in range(size + 1)]
        for helper in self._helpers:
            self._ready.put(helper)
        self._recent: OrderedDict[str, Future[Any]] = OrderedDict()  # by question
        self._lock = threading.Lock()
        _call_before_threads_are_joined(self.close)

    def ask(self, request: Any, seconds: float) -> Future[Any]:
        """Return the future answer to a request; its exception is Late or Died.

        The same question again is not worked on again, while it is among the last ones: an answer
        that many samples of a problem have in common takes its time once, also where it is late.
        """
        answer: Future[Any] = Future()
        self._submit_once(request, seconds).add_done_callback(partial(_copy_outcome, answer))
        return answer

    def _submit_once(self, request: Any, seconds: float) -> Future[Any]:
        """Return the future of a question, which may have been asked before."""
        question = json.dumps([seconds, request])
        with self._lock:
            known = self._recent.pop(question, None)
            if known is None or _has_failed(known):
                known = self._askers.submit(self._ask, request, seconds)
            self._recent[question] = known
            if len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
        return known

    def close(self) -> None:
        """End the helpers and give up all questions that wait."""
        for pool in (self._askers, self._menders):
            pool.shutdown(wait=False, cancel_futures=True)
        for helper in self._helpers:
            helper.stop()
            self._ready.put(helper)  # whoever waits for one learns that it was stopped

    def _ask(self, request: Any, seconds: float) -> Any:
        helper = self._ready.get()
        try:
            answer = helper.ask(request, seconds)
        except (Late, Died):
            with contextlib.suppress(RuntimeError):  # closed, so nothing is mended any more
                self._menders.submit(self._mend, helper)
            raise
        self._ready.put(helper)
        return answer

    def _mend(self, helper: Killable) -> None:
        # It will be started again, and fail again, where it is asked.
        with contextlib.suppress(Late, Died):
            helper.start()
        self._ready.put(helper)


def _copy_outcome(answer: Future[Any], known: Future[Any]) -> None:
    """Settle a future as another one was, unless whoever waited for it has given it up."""
    if not answer.set_running_or_notify_cancel():
        return
    if known.cancelled():
        answer.set_exception(Died("the helper process was stopped"))
        return
    error = known.exception()
    if error is None:
        answer.set_result(known.result())
    else:
        answer.set_exception(error)


def _has_failed(known: Future[Any]) -> bool:
    """Return whether a question got no answer through no fault of its own."""
    return known.cancelled() or (known.done() and isinstance(known.exception(), Died))


def _call_before_threads_are_joined(close: Callable[[], None]) -> None:
    """Call `close` when Python ends, before it waits for the threads of all pools.

    `atexit` comes after that, when every question in the queue has been worked on.
    """
    register = getattr(threading, "_register_atexit", atexit.register)
    register(close)


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
