"""A helper process for work that may hang, crash or eat memory: it answers JSON lines and is killed when it is late."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

START_SECONDS = 120.0  # importing a large library on a busy machine


class Late(Exception):
    """The helper did not answer in time and was killed."""


class Died(Exception):
    """The helper ended without an answer."""


class Killable:
    """One long-lived Python process that answers one JSON line for each JSON line; the next call starts a fresh one.

    It is an own process from the first instruction (no fork), so it holds no lock, no GPU and no thread of this one.
    """

    def __init__(self, script: str, environment: Mapping[str, str]) -> None:
        self._command = [sys.executable, "-P", script]  # -P: the folder of the script must not shadow the library
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, request: Mapping[str, Any] | str, seconds: float) -> Any:
        """The answer to a request; raises Late or Died, after which the process is gone."""
        with self._lock:
            process = self._running()
            try:
                return self._exchange(process, json.dumps(request), seconds)
            except (Late, Died):
                self._kill()
                raise

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
                self._exchange(self._process, '"ready?"', START_SECONDS)
            except (Late, Died):
                self._kill()
                raise
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], line: str, seconds: float) -> Any:
        assert process.stdin and process.stdout
        try:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise Died("the helper process has ended") from None
        return json.loads(_read_line(process.stdout.fileno(), time.monotonic() + seconds))

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
            raise Late("the helper process did not answer in time")
        part = os.read(descriptor, 1 << 16)
        if not part:
            raise Died("the helper process has ended")
        parts.append(part)
    return b"".join(parts)
