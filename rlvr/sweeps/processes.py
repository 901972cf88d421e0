"""The processes that train the runs of a sweep."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console

from rlvr.config import loader
from rlvr.distributed.lifetime import environment_of_child
from rlvr.errors import RunError
from rlvr.report.rendering import write_page
from rlvr.storage.lock import LOCK_FILE
from rlvr.sweeps.planning import Plan, Unit

PAUSE = 0.05  # seconds between two looks at the processes

# What is deleted of a finished run, by the sweep's `keep`.
DELETED = {"all": (), "model": ("checkpoints",), "results": ("checkpoints", "model")}


@dataclass
class SweepProcesses:
    """The processes that train the runs of a sweep, at most `parallel` at a time."""

    plan: Plan
    parallel: int
    lock: int
    out: Console = field(default_factory=partial(Console, highlight=False))
    working: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)
    interrupts_sent: Counter[Path] = field(default_factory=Counter)
    interrupts: int = 0  # how often the user asked to stop

    def work(self) -> None:
        """Train what is not finished; a run that fails, or waits for one that did, is left out."""
        left = self._list_unfinished()
        while self.working or (left and not self.interrupts):
            if not self.interrupts:
                for unit in self._choose_ready(left):
                    left.remove(unit)
                    self._start(unit)
            self._look_after()
            time.sleep(PAUSE)

    def _list_unfinished(self) -> list[Unit]:
        unfinished: list[Unit] = []
        for unit in self.plan.units:
            if unit.finished:
                _trim(unit, self.plan.sweep.keep)
            else:
                unfinished.append(unit)
        count = len(self.plan.units)
        finished = count - len(unfinished)
        self._say(f"{self.plan.name}: {count} runs, {finished} of them finished")
        return unfinished

    def _choose_ready(self, left: list[Unit]) -> list[Unit]:
        """Return the next runs that wait for no other, as many as may start now."""
        busy = set(self.working)
        for unit in left:
            busy.add(unit.path)
        ready = [unit for unit in left if not busy.intersection(unit.waits)]
        return ready[: self.parallel - len(self.working)]

    def _look_after(self) -> None:
        """Note which processes have ended, and hand Ctrl-C on to the others."""
        for unit in self.plan.units:
            process = self.working.get(unit.path)
            if process is None:
                continue
            if process.poll() is not None:
                del self.working[unit.path]
                self._end(unit, process)
            elif self.interrupts_sent[unit.path] < self.interrupts:
                process.send_signal(signal.SIGINT)
                self.interrupts_sent[unit.path] += 1

    def _start(self, unit: Unit) -> None:
        missing = [path.name for path in unit.waits if not (path / "summary.json").is_file()]
        if missing:
            line = f"rlvr: not started, since it needs {', '.join(missing)}\n"
            unit.log.write_text(line, encoding="utf-8")
            self._say(f"{unit.path.name}: {find_reason(unit)}")
            return
        clear_remains(unit)
        argv = [sys.executable, "-m", "rlvr", "train", str(self._write_recipe(unit))]
        verb = "starts"
        if (unit.path / "recipe.yaml").is_file():
            argv.append("--resume")
            verb = "goes on"
        line = f"{self._number(unit)} {unit.path.name}: {verb}"
        if self.parallel > 1:
            line += f", as {unit.log} shows"
        self._say(line, "bold")
        with unit.log.open("wb") as log:
            self.working[unit.path] = subprocess.Popen(  # noqa: S603 - this very program
                argv,
                stdin=subprocess.PIPE,  # its end is that of this process
                stdout=None if self.parallel == 1 else log,
                stderr=log,
                env=environment_of_child(),
                pass_fds=[self.lock],
                process_group=0,  # Ctrl-C reaches a run once, from here
            )

    def _write_recipe(self, unit: Unit) -> Path:
        """Write the recipe of a run with its share of the cores; return the file."""
        run = unit.recipe.run
        if not run.threads:
            cores = len(os.sched_getaffinity(0))
            run = run.model_copy(update={"threads": max(1, cores // self.parallel)})
        recipe = unit.recipe.model_copy(update={"run": run})
        file = self.plan.folder / "recipes" / f"{unit.path.name}.yaml"
        write_page(file, loader.dump(recipe))
        return file

    def _end(self, unit: Unit, process: subprocess.Popen[bytes]) -> None:
        """Say how a run ended, and delete what is not to stay of it."""
        assert process.stdin is not None
        process.stdin.close()
        if unit.finished and process.returncode == 0:
            _trim(unit, self.plan.sweep.keep)
            self._say(f"{self._number(unit)} {unit.path.name}: finished")
            return
        if self.interrupts:  # what it said is how to go on with the run alone
            unit.log.write_bytes(b"")
            return
        if process.returncode < 0:
            killer = signal.Signals(-process.returncode).name
            with unit.log.open("a", encoding="utf-8") as log:
                log.write(f"\nrlvr: killed by {killer}\n")
        self._say(f"{self._number(unit)} {unit.path.name}: failed: {find_reason(unit)}", "red")

    def _number(self, unit: Unit) -> str:
        return f"[{self.plan.units.index(unit) + 1}/{len(self.plan.units)}]"

    def _say(self, text: str, style: str = "") -> None:
        self.out.print(text, style=style, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def stop_gracefully(self) -> Iterator[None]:
        """Let Ctrl-C end the steps and save them; a second one stops the runs at once."""

        def request_stop(number: int, frame: FrameType | None) -> None:
            self.interrupts += 1
            self._say(
                "stopping after the steps at work, then saving; Ctrl-C again stops at once and loses them"
            )

        try:
            previous = signal.signal(signal.SIGINT, request_stop)
        except ValueError:  # not the main thread, which alone may set handlers
            previous = None
        try:
            yield
        finally:
            for process in self.working.values():  # only where this process itself fails
                process.kill()
            if previous is not None:
                signal.signal(signal.SIGINT, previous)


def clear_remains(unit: Unit) -> None:
    """Delete what a run leaves that was killed before its first record.

    Raises RunError where the folder holds something else.
    """
    if not unit.path.exists() or (unit.path / "recipe.yaml").is_file():
        return
    for path in unit.path.rglob("*"):
        begun = path.name == LOCK_FILE or path.name.endswith(".unfinished")
        if path.is_file() and not begun:
            raise RunError(
                f"{unit.path}: holds {path.name} but no recipe.yaml, so it is no run; move it away"
            )
    shutil.rmtree(unit.path)


def _trim(unit: Unit, keep: str) -> None:
    """Delete what is not to stay of a finished run."""
    for name in DELETED[keep]:
        shutil.rmtree(unit.path / name, ignore_errors=True)


def find_reasons(plan: Plan) -> dict[Path, str]:
    """Return why the runs that are not finished are not, by their folders."""
    reasons: dict[Path, str] = {}
    for unit in plan.units:
        if not unit.finished:
            reasons[unit.path] = find_reason(unit)
    return reasons


def find_reason(unit: Unit) -> str:
    """Return why a run is not finished, from what its process wrote last."""
    lines: list[str] = []
    if unit.log.is_file():
        lines = unit.log.read_text("utf-8", "replace").splitlines()
    messages = [line.removeprefix("rlvr: ") for line in lines if line.startswith("rlvr: ")]
    if messages:
        return messages[-1]
    if any(line.startswith("Traceback") for line in lines):
        return next(line for line in reversed(lines) if line.strip())
    if unit.path.exists():
        return "unfinished"
    return "not run yet"
