"""The third Ctrl-C ends the processes of a run, also those that hear no signal."""

from __future__ import annotations

import multiprocessing
import signal
import time
from multiprocessing.connection import Connection

import pytest

from rlvr.distributed import launch
from rlvr.distributed.launch import LocalLauncher, Started


def sleep_deaf(ready: Connection, deaf_to: list[int]) -> None:
    """Stands for a process that waits inside a library."""
    for number in deaf_to:
        signal.signal(number, signal.SIG_IGN)
    ready.send("ready")
    time.sleep(60)


def start(rank: int, *deaf_to: int) -> Started:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=sleep_deaf, args=(theirs, list(deaf_to)))
    process.start()
    assert ours.poll(60) and ours.recv() == "ready"
    return Started(rank, process, ours)


@pytest.mark.parametrize("deaf_to", [(signal.SIGINT,), (signal.SIGINT, signal.SIGTERM)])
def test_the_third_ctrl_c_ends_all_processes(
    monkeypatch: pytest.MonkeyPatch, deaf_to: tuple[int, ...]
) -> None:
    monkeypatch.setattr(launch, "GRACE", 0.3)
    launcher = LocalLauncher()
    launcher.started = [start(0, *deaf_to), start(1, *deaf_to)]
    try:
        launcher.interrupt()
        launcher.interrupt()
        time.sleep(0.1)
        assert all(one.process.is_alive() for one in launcher.started)
        launcher.interrupt()
        for one in launcher.started:
            one.process.join(10)
        assert not any(one.process.is_alive() for one in launcher.started)
    finally:
        for one in launcher.started:
            one.process.kill()
