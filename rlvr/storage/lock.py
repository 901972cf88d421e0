"""The lock of a folder that one process at a time writes: of a run, an evaluation, a sweep.

The system holds it for the process, so one that is killed leaves none behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from rlvr.errors import RunError, UserError

LOCK_FILE = ".lock"
PATIENCE = 5.0  # seconds that the processes of a killed writer may take to end
PAUSE = 0.1  # seconds between two tries


@contextlib.contextmanager
def lock_folder(folder: Path, writer: str, *, stays: bool = False) -> Iterator[int]:
    """Hold the folder, which is made where there is none, for this process and its children.

    Yields the descriptor that children may inherit: the folder is free when the last of them has
    ended. The file of the lock `stays` where they may outlive this process; else it goes at the
    end, with the folders that were made for it and have nothing in them. Raises UserError where
    another process holds it, RunError where it cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        lock = _take(folder, writer)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror}") from None
    with lock:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield lock.fileno()
        finally:
            if not stays:
                _remove(folder, made)


def _take(folder: Path, writer: str) -> TextIO:
    """Return the open file of the lock, held; raises UserError where another holds it for too long."""
    until = time.monotonic() + PATIENCE
    while True:
        lock = _open(folder)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(lock, folder):
                return lock
        with lock:
            if time.monotonic() > until:
                lock.seek(0)
                holder = lock.read().strip() or "?"
                raise UserError(
                    f"{folder}: {writer} is at work here (process {holder}); wait, or stop it"
                )
        time.sleep(PAUSE)


def _open(folder: Path) -> TextIO:
    """Open the file of the lock, which is made where there is none."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        # another that failed may remove the folder just then
        with contextlib.suppress(FileNotFoundError):
            return (folder / LOCK_FILE).open("a+")


def _is_current(lock: TextIO, folder: Path) -> bool:
    """Return whether the file is still the lock: another may have ended and removed it."""
    try:
        there = (folder / LOCK_FILE).stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(lock.fileno()))


def _remove(folder: Path, made: Sequence[Path]) -> None:
    """Remove the file of the lock, and what was made for it as long as it is empty."""
    with contextlib.suppress(OSError):
        (folder / LOCK_FILE).unlink()
        for path in made or [folder]:
            path.rmdir()  # which the system refuses where something lies in it
