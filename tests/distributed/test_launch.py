"""The third Ctrl-C ends the processes of a run, also those that hear no signal, and SIGTERM the launcher
with them.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

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


LAUNCHING = """
import sys, time
from pathlib import Path
from rlvr.distributed.launch import launch

def work(argv, say):
    Path(argv[0], str(__import__("os").getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    sys.exit(launch(2, sys.argv[1:], work)[0])
"""


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_sigterm_ends_the_launcher_and_its_processes_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    (tmp_path / "started").mkdir()
    # A socket of multiprocessing stands in it, whose path may not be long.
    temporary = Path(tempfile.mkdtemp(prefix="rlvr-"))
    script = tmp_path / "launching.py"
    script.write_text(LAUNCHING, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "started")],
        env=os.environ | {"TMPDIR": str(temporary)},
        cwd=tmp_path,
    )
    try:
        until = time.monotonic() + 120
        while len(list((tmp_path / "started").iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        started = [int(path.name) for path in (tmp_path / "started").iterdir()]
        assert len(started) == 2, process.poll()
        assert list(temporary.glob("pymp-*"))  # where the processes are asked for
        process.terminate()
        assert process.wait(30) == launch.TERMINATED
        assert list(temporary.glob("pymp-*")) == []
        assert not any(is_alive(number) for number in started)
    finally:
        process.kill()
        shutil.rmtree(temporary)
