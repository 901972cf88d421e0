"""Train every arm of a sweep with every seed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlvr.config import loader, merge
from rlvr.errors import Interrupted, RunError, UserError
from rlvr.report.rendering import write_page
from rlvr.storage.lock import LOCK_FILE, lock_folder
from rlvr.sweeps.inputs import check_inputs
from rlvr.sweeps.planning import CHANGEABLE, PLAN_FILE, Plan, Unit, read_plan
from rlvr.sweeps.processes import SweepProcesses, find_reasons
from rlvr.sweeps.table import publish


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
    plan = read_plan(file)
    _check_folder(plan, goes_on=resume or table, overwrite=overwrite)
    if table:
        return publish(plan, find_reasons(plan))
    check_inputs(plan)
    with lock_folder(plan.folder, "a sweep", stays=True) as lock:
        _prepare_folder(plan, overwrite)
        processes = SweepProcesses(plan, parallel, lock)
        with processes.stop_gracefully():
            processes.work()
    result = publish(plan, find_reasons(plan))
    _check_finished(plan, interrupted=processes.interrupts > 0)
    return result


def _check_folder(plan: Plan, *, goes_on: bool, overwrite: bool) -> None:
    """Raise UserError where the folder is not free and holds no sweep that may go on."""
    folder = plan.folder
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{folder}: '{existing}' is a file; give the sweep another name or folder")
    if _is_empty(folder):
        return
    if not (folder / PLAN_FILE).is_file():
        raise UserError(
            f"{folder}: is not empty and not the folder of a sweep; give the sweep another name"
        )
    if not goes_on and not overwrite:
        raise UserError(
            f"{folder}: a sweep lies here already; add --resume to go on or --overwrite to replace it"
        )
    if goes_on:
        for unit in plan.units:
            _check_unchanged(plan, unit)


def _is_empty(folder: Path) -> bool:
    """Return whether there is no folder, or one with nothing but the lock."""
    if not folder.is_dir():
        return True
    return all(path.name == LOCK_FILE for path in folder.iterdir())


def _check_unchanged(plan: Plan, unit: Unit) -> None:
    """Raise UserError where the arm of a run was changed after it started."""
    file = unit.path / "recipe.yaml"
    if not file.is_file():
        return
    before = loader.load(file).model_dump(mode="json")
    now = unit.recipe.model_dump(mode="json")
    key = merge.find_difference(before, now, CHANGEABLE)
    if key:
        raise UserError(
            f"{plan.name}: arms.{unit.arm}: {unit.path} was trained with another '{key}'; undo the change, give"
            f" the arm another name, or train the whole sweep again with --overwrite"
        )


def _prepare_folder(plan: Plan, overwrite: bool) -> None:
    """Delete what is replaced, and write the plan."""
    if overwrite:
        _empty_folder(plan.folder)
    content = yaml.safe_dump(plan.sweep.model_dump(mode="json"), sort_keys=False)
    write_page(plan.folder / PLAN_FILE, content)
    for name in ("logs", "recipes"):
        (plan.folder / name).mkdir(exist_ok=True)


def _empty_folder(folder: Path) -> None:
    """Delete all but the lock, which this process holds."""
    for path in list(folder.iterdir()):
        if path.name == LOCK_FILE:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_finished(plan: Plan, *, interrupted: bool) -> None:
    """Raise Interrupted or RunError where runs are left to do."""
    left = [unit.path.name for unit in plan.units if not unit.finished]
    if not left:
        return
    if interrupted:
        raise Interrupted(f"stopped with {len(left)} of {len(plan.units)} runs to do; go on with")
    named = ", ".join(left)
    raise RunError(
        f"{len(left)} of {len(plan.units)} runs failed: {named}; the others are in the table"
    )
