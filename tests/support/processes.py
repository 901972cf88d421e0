"""Runs in processes of their own: started, killed, resumed, and compared file by file."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


PLUGINS = '''
import os
import signal
import time

from rlvr.types import Reward


def digits(group, context):
    """The share of digits: the tiny model earns it often, so every step has a gradient."""
    if os.environ.get("TEST_KILL_IN_STEP") == str(context.step):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ.get("TEST_PAUSE", 0)))
    texts = [member.rollout.text for member in group.members]
    return [Reward(sum(c.isdigit() for c in text) / (1 + len(text)), {}) for text in texts]


class Stop:
    """Sends its own process a signal once the records of a step are written, before anything is saved."""

    def __init__(self, run_name, config, folder, *, step: int, sign: int = signal.SIGINT):
        self.step, self.sign = step, sign

    def log(self, record, kind):
        if kind == "step" and record["step"] == self.step:
            os.kill(os.getpid(), self.sign)

    def close(self):
        pass
'''


PRELOAD = [
    "rlvr.run.train",
    "rlvr.report.run_page",
    "transformers.models.llama",
    "torch.distributed.checkpoint",
    "tiny",
]


WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


@dataclass(frozen=True)
class Ended:
    """How a process ended; `writes` counts the changes it made to the file system (see _watch)."""

    status: int
    out: str = ""
    err: str = ""
    writes: int = 0


def in_process(
    *words: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    kill_before_write: int = 0,
    largest_file: int = 0,
) -> Ended:
    """`rlvr …` in a process of its own; `status` is the exit status, or minus the signal that
    killed it.

    `kill_before_write` sends SIGKILL just before the n-th change to the file system, `largest_file`
    is a full disk.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with _importable():
        ours, theirs = context.Pipe(duplex=False)
        plan = (
            theirs,
            list(words),
            str(cwd or Path.cwd()),
            env or {},
            kill_before_write,
            largest_file,
        )
        process = context.Process(target=_child, args=plan)
        process.start()
    theirs.close()
    try:
        ended: Ended | None = ours.recv() if ours.poll(300) else None
    except EOFError:  # killed
        ended = None
    process.join(10)
    assert process.exitcode is not None, "the process did not end"
    return ended or Ended(process.exitcode)


def importable_folders() -> list[str]:
    """The folders from which a process that is started anew finds the package and every test file."""
    tests = ROOT / "tests"
    rooms = sorted(path for path in tests.iterdir() if path.is_dir())
    return [str(folder) for folder in (ROOT, tests, *rooms)]


@contextlib.contextmanager
def _importable() -> Any:
    """The server that forks finds the package and this folder by PYTHONPATH."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(importable_folders())
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _child(
    pipe: Connection,
    words: Sequence[str],
    cwd: str,
    env: dict[str, str],
    kill_at: int,
    largest_file: int,
) -> None:
    from rlvr.cli import main as cli

    os.chdir(cwd)
    os.environ |= env
    # The bytecode of a plug-in is written by the first run that loads it, and would count as its change of a file.
    sys.dont_write_bytecode = True
    writes = _watch(kill_at)
    out, err = io.StringIO(), io.StringIO()
    if largest_file:
        _fill_disk(largest_file)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(words)
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException:
            status = 1
            traceback.print_exc()
    pipe.send(Ended(status, out.getvalue(), err.getvalue(), len(writes)))


def _fill_disk(largest_file: int) -> None:
    """Writing beyond this size fails from now on, as on a full disk (Python ignores SIGXFSZ)."""
    import resource

    resource.setrlimit(
        resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )


def _watch(kill_at: int) -> list[str]:
    """Note every file that is opened for writing, moved or removed; SIGKILL comes before the
    `kill_at`-th.
    """
    seen: list[str] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        opened = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        ours = str(args[0]).startswith("runs") or "/" not in str(
            args[0]
        )  # while a folder is removed, names are relative
        if (event in WRITES or opened) and ours:
            seen.append(event)
            if len(seen) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def rows(path: Path) -> list[dict[str, Any]]:
    """The records of a file, without what depends on the clock."""
    return [
        {k: v for k, v in json.loads(line).items() if k != "time"}
        for line in path.read_text().splitlines()
    ]


def facts(run: Path) -> dict[str, Any]:
    """Everything that a run leaves, without what depends on the clock."""
    summary = json.loads((run / "summary.json").read_text())
    return {
        "metrics": rows(run / "metrics.jsonl"),
        "history": rows(run / "history.jsonl"),
        "evals": rows(run / "evals.jsonl"),
        "samples": {path.name: rows(path) for path in sorted((run / "samples").iterdir())},
        "summary": {
            key: value for key, value in summary.items() if key not in ("recipe", "seconds")
        },
        "weights": (run / "model" / "model.safetensors").read_bytes(),
    }


def assert_same(run: Path, whole: Path) -> None:
    """Part by part, so that a failure says what differs."""
    found, wanted = facts(run), facts(whole)
    for part, value in wanted.items():
        if part == "weights":
            assert found[part] == value, "the weights differ"
        else:
            assert found[part] == value, part
