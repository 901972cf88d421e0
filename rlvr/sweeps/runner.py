"""Train the runs of a sweep, each in a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console

from rlvr import registry
from rlvr.config import loader, merge, plugins, schema, staging
from rlvr.config.schema import Recipe
from rlvr.distributed.lifetime import environment_of_child
from rlvr.errors import Interrupted, RunError, UserError
from rlvr.report.rendering import write_page
from rlvr.sweeps.planning import FREE, LOCK, PLAN, Plan, Unit, read
from rlvr.sweeps.table import publish

PATIENCE = 5.0  # seconds that the processes of a killed sweep may take to end


def sweep(
    file: str | Path | Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    parallel: int = 1,
    table: bool = False,
) -> dict[str, Any]:
    """Train every arm of a sweep (file, shipped name or mapping) with every seed and return what
    `sweep.json` holds.

    With `table` nothing is trained. Raises UserError for bad input, before anything starts,
    RunError at the end where a run failed (the others are trained and in the table), Interrupted
    after Ctrl-C.
    """
    if resume and overwrite:
        raise UserError(
            "--resume goes on with a sweep and --overwrite replaces it; give one of them"
        )
    if parallel < 1:
        raise UserError(f"--parallel: should be at least 1, not {parallel}")
    plan = read(file)
    _check_folder(plan, resume or table, overwrite)
    if table:
        return publish(plan, reasons(plan))
    check_inputs(plan)
    with _locked(plan.folder) as lock:
        _prepare(plan, overwrite)
        crew = SweepProcesses(plan, parallel, lock)
        with crew.graceful():
            crew.work()
    result = publish(plan, reasons(plan))
    left = [unit.path.name for unit in plan.units if not unit.finished]
    if crew.asked and left:
        raise Interrupted(f"stopped with {len(left)} of {len(plan.units)} runs to do; go on with")
    if left:
        named = ", ".join(left)
        raise RunError(
            f"{len(left)} of {len(plan.units)} runs failed: {named}; the others are in the table"
        )
    return result


def check_inputs(plan: Plan) -> None:
    """Read every problem and find every model that is there already, once; raises UserError. What
    comes from a run of the sweep itself is checked when that run is done.
    """
    from rlvr.build.problems import read_problems
    from rlvr.models.loading import locate

    known: dict[str, Any] = {}
    for unit in plan.units:
        try:
            for part in staging.split_stages(unit.recipe):
                _check_sources(part, known, read_problems, set(unit.waits))
            for key, name in plugins.list_models(unit.recipe).items():
                if name not in known and not unit.waits:
                    known[name] = locate(name, key)
        except UserError as error:
            raise UserError(f"{plan.name}: arms.{unit.arm}: {error}") from None


def _check_sources(
    part: Recipe, known: dict[str, Any], read_problems: Any, waits: set[Path]
) -> None:
    for name, rows in (("train", part.train), ("eval.sets", part.eval.sets)):
        for i, row in enumerate(rows):
            key = f"{name} {row.data} {row.task}"
            if key not in known:
                known[key] = read_problems(row, f"{name}.{i}")
            if isinstance(row, schema.SourceConfig) and not waits:
                registry.find("select", row.select.name, "select").bind(
                    row.select.params, "select"
                )(known[key])


def _check_folder(plan: Plan, goes_on: bool, overwrite: bool) -> None:
    """A folder that is free, or a sweep that may go on; raises UserError, also where an arm was
    changed meanwhile.
    """
    above = next(path for path in (plan.folder, *plan.folder.parents) if path.exists())
    if not above.is_dir():
        raise UserError(
            f"{plan.folder}: '{above}' is a file; give the sweep another name or folder"
        )
    there = plan.folder.is_dir() and any(path.name != LOCK for path in plan.folder.iterdir())
    if not there:
        return
    if not (plan.folder / PLAN).is_file():
        raise UserError(
            f"{plan.folder}: is not empty and not the folder of a sweep; give the sweep another name"
        )
    if not goes_on and not overwrite:
        raise UserError(
            f"{plan.folder}: a sweep lies here already; add --resume to go on or --overwrite to replace it"
        )
    for unit in plan.units if goes_on else ():
        if (unit.path / "recipe.yaml").is_file():
            before = loader.load(unit.path / "recipe.yaml").model_dump(mode="json")
            key = merge.find_difference(before, unit.recipe.model_dump(mode="json"), FREE)
            if key:
                raise UserError(
                    f"{plan.name}: arms.{unit.arm}: {unit.path} was trained with another '{key}'; undo the change, give"
                    f" the arm another name, or train the whole sweep again with --overwrite"
                )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the folder for this process and the runs that it starts; yields the descriptor that they
    inherit.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror}") from None
    with lock:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    lock.seek(0)
                    raise UserError(
                        f"{folder}: a sweep is at work here (process {lock.read().strip() or '?'}); wait, or stop it"
                    ) from None
                time.sleep(0.1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def _prepare(plan: Plan, overwrite: bool) -> None:
    for path in [path for path in plan.folder.iterdir() if path.name != LOCK] if overwrite else []:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_page(
        plan.folder / PLAN, yaml.safe_dump(plan.sweep.model_dump(mode="json"), sort_keys=False)
    )
    for name in ("logs", "recipes"):
        (plan.folder / name).mkdir(exist_ok=True)


@dataclass
class SweepProcesses:
    """The processes that train the runs of a sweep, at most `parallel` at a time."""

    plan: Plan
    parallel: int
    lock: int
    out: Console = field(default_factory=partial(Console, highlight=False))
    working: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)
    told: dict[Path, int] = field(default_factory=dict)  # how often a run was asked to stop
    asked: int = 0  # how often the user did

    def work(self) -> None:
        """Train what is not finished; a run that fails, or waits for one that did, is left out."""
        left = [unit for unit in self.plan.units if not unit.finished]
        for unit in self.plan.units:
            if unit.finished:
                _trim(unit, self.plan.sweep.keep)
        self._say(
            f"{self.plan.name}: {len(self.plan.units)} runs, {len(self.plan.units) - len(left)} of them finished"
        )
        while self.working or (left and not self.asked):
            busy = {*self.working, *(unit.path for unit in left)}
            ready = [unit for unit in left if not busy.intersection(unit.waits)]
            for unit in ready[: self.parallel - len(self.working)] if not self.asked else []:
                left.remove(unit)
                self._start(unit)
            for unit in [unit for unit in self.plan.units if unit.path in self.working]:
                process = self.working[unit.path]
                if process.poll() is not None:
                    self._ended(unit, self.working.pop(unit.path))
                elif self.told.get(unit.path, 0) < self.asked:
                    process.send_signal(signal.SIGINT)
                    self.told[unit.path] = self.told.get(unit.path, 0) + 1
            time.sleep(0.05)

    def _start(self, unit: Unit) -> None:
        missing = [path.name for path in unit.waits if not (path / "summary.json").is_file()]
        if missing:
            unit.log.write_text(
                f"rlvr: not started, since it needs {', '.join(missing)}\n", encoding="utf-8"
            )
            return self._say(f"{unit.path.name}: {reason(unit)}")
        _clear(unit)
        threads = max(1, len(os.sched_getaffinity(0)) // self.parallel)
        run = unit.recipe.run.model_copy(update={"threads": unit.recipe.run.threads or threads})
        file = self.plan.folder / "recipes" / f"{unit.path.name}.yaml"
        write_page(file, loader.dump(unit.recipe.model_copy(update={"run": run})))
        words = [sys.executable, "-m", "rlvr", "train", str(file)]
        words += ["--resume"] if (unit.path / "recipe.yaml").is_file() else []
        place = f"{self._number(unit)} {unit.path.name}: {'goes on' if words[-1] == '--resume' else 'starts'}"
        self._say(place if self.parallel == 1 else f"{place}, as {unit.log} shows", "bold")
        with unit.log.open("wb") as log:
            self.working[unit.path] = subprocess.Popen(  # noqa: S603 - this very program
                words,
                stdin=subprocess.PIPE,  # its end is that of this process
                stdout=None if self.parallel == 1 else log,
                stderr=log,
                env=environment_of_child(),
                pass_fds=[self.lock],
                process_group=0,  # Ctrl-C reaches a run once, from here
            )

    def _ended(self, unit: Unit, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        if unit.finished and process.returncode == 0:
            _trim(unit, self.plan.sweep.keep)
            return self._say(f"{self._number(unit)} {unit.path.name}: finished")
        if self.asked:  # what it said is how to go on with the run alone
            unit.log.write_bytes(b"")
            return
        if process.returncode < 0:
            with unit.log.open("a", encoding="utf-8") as log:
                log.write(f"\nrlvr: killed by {signal.Signals(-process.returncode).name}\n")
        self._say(f"{self._number(unit)} {unit.path.name}: failed: {reason(unit)}", "red")

    def _number(self, unit: Unit) -> str:
        return f"[{self.plan.units.index(unit) + 1}/{len(self.plan.units)}]"

    def _say(self, text: str, style: str = "") -> None:
        self.out.print(text, style=style, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def graceful(self) -> Iterator[None]:
        """Ctrl-C lets the steps end and saves them; a second one stops the runs at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.asked += 1
            self._say(
                "stopping after the steps at work, then saving; Ctrl-C again stops at once and loses them"
            )

        try:
            before = signal.signal(signal.SIGINT, ask)
        except ValueError:  # not the main thread, which alone may set handlers
            before = None
        try:
            yield
        finally:
            for process in self.working.values():  # only where this process itself fails
                process.kill()
            if before is not None:
                signal.signal(signal.SIGINT, before)


def _clear(unit: Unit) -> None:
    """Take away what a run leaves that was killed before its first record."""
    if not unit.path.exists() or (unit.path / "recipe.yaml").is_file():
        return
    strange = [
        path
        for path in unit.path.rglob("*")
        if path.is_file() and not path.name.endswith(".unfinished")
    ]
    if strange:
        raise RunError(
            f"{unit.path}: holds {strange[0].name} but no recipe.yaml, so it is no run; move it away"
        )
    shutil.rmtree(unit.path)


def _trim(unit: Unit, keep: str) -> None:
    """Delete what is not to stay of a finished run."""
    for name in {"all": (), "model": ("checkpoints",), "results": ("checkpoints", "model")}[keep]:
        shutil.rmtree(unit.path / name, ignore_errors=True)


def reasons(plan: Plan) -> dict[Path, str]:
    """Why the runs that are not finished are not, by their folders."""
    return {unit.path: reason(unit) for unit in plan.units if not unit.finished}


def reason(unit: Unit) -> str:
    """Why a run is not finished, from what its process said."""
    lines = unit.log.read_text("utf-8", "replace").splitlines() if unit.log.is_file() else []
    said = [line.removeprefix("rlvr: ") for line in lines if line.startswith("rlvr: ")]
    if not said and any(line.startswith("Traceback") for line in lines):
        said = [line for line in lines if line.strip()]
    return said[-1] if said else "unfinished" if unit.path.exists() else "not run yet"
