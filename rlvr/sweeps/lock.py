"""The lock of a sweep's folder, which its runs inherit."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rlvr.errors import RunError, UserError
from rlvr.sweeps.planning import LOCK_FILE

PATIENCE = 5.0  # seconds that the processes of a killed sweep may take to end
PAUSE = 0.1  # seconds between two tries


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[int]:
    """Hold the folder for this process and the runs that it starts.

    Yields the descriptor that they inherit: the folder is free when the last of them has ended.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a+")
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror}") from None
    with lock:
        _wait_for(lock, folder)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def _wait_for(lock: TextIO, folder: Path) -> None:
    """Take the lock; raises UserError where another sweep holds it for too long."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                lock.seek(0)
                holder = lock.read().strip() or "?"
                raise UserError(
                    f"{folder}: a sweep is at work here (process {holder}); wait, or stop it"
                ) from None
            time.sleep(PAUSE)
