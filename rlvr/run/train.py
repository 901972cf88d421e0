"""The outer loop around the step: evaluate, log, save, resume; `train` is what a script, a notebook
or the shell calls.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rlvr import registry
from rlvr.build.problems import as_problems
from rlvr.build.run import Built, build
from rlvr.config import loader, merge
from rlvr.config.schema import Recipe
from rlvr.data.contamination import find_overlap
from rlvr.data.gate import RejectedGold
from rlvr.distributed.world import World, init_world
from rlvr.errors import UserError
from rlvr.models import export
from rlvr.run import checkpoint
from rlvr.run.folder import RunFolder, WatchedFolder
from rlvr.run.loop import run_phases
from rlvr.run.progress import Progress
from rlvr.run.resume import check_models_lie_elsewhere, check_resumable, restore
from rlvr.run.session import Session
from rlvr.run.summary import summarise
from rlvr.run.trackers import Tracker
from rlvr.step import State


def train(
    recipe: str | Path | Mapping[str, Any],
    *,
    problems: Sequence[Any] | None = None,
    reward: Callable[..., Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Train by a recipe (file, shipped name or mapping) and return the run's summary.

    `problems` (Problem, (question, answer) or mapping) take the place of the first source, `reward`
    (see verify.lift) that of the recipe's reward; further keywords are overrides, with `__` for the
    dot: `rollout__samples=4`. Raises UserError for bad input, before anything is loaded or
    replaced, and RunError for a failure on the way.
    """
    named = {key.replace("__", "."): value for key, value in more.items()}
    resolved = loader.load(recipe, [*merge.parse_overrides(overrides), *merge.parse_overrides(named)])
    path = Path(resolved.run.folder) / str(resolved.run.name)
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite replaces it; give one of them")
    with ExitStack() as stack:
        world = stack.enter_context(init_world())
        check_models_lie_elsewhere(path, resolved)
        world.broadcast(
            lambda: check_resumable(path, resolved) if resume else RunFolder.check(path, overwrite)
        )
        total = resolved.run.steps + (resolved.cold_start.steps if resolved.cold_start else 0)
        progress = stack.enter_context(Progress(str(resolved.run.name), total, shown=world.writes))
        progress.stage(f"loading {resolved.model.name}")
        built = build(
            resolved, as_problems(problems) if problems is not None else None, reward, world
        )
        for line in [*_refusals(built.refused), *_overlaps(built)]:
            progress.note(line)
        folder = _folder(path, resume, overwrite, world)
        stack.callback(folder.close)
        folder.write("recipe.yaml", loader.dump(resolved))
        saver = _saver(resolved, built, folder, world)
        stack.callback(saver.close)
        trackers = _trackers(resolved, path) if world.writes else ()
        session = Session(resolved, built, folder, saver, progress, trackers, world)
        stack.callback(lambda: [tracker.close() for tracker in session.trackers])
        stack.enter_context(_graceful(session))
        state = restore(session) if resume else State(0, built.run.sources.start())
        return _finish(session, run_phases(session, state))


def _folder(path: Path, resume: bool, overwrite: bool, world: World) -> RunFolder:
    if not world.writes:
        return WatchedFolder(path)
    return RunFolder(path) if resume else RunFolder.create(path, overwrite)


def _saver(recipe: Recipe, built: Built, folder: RunFolder, world: World) -> checkpoint.Saver:
    asked, on_gpu = recipe.checkpoint.background, built.run.learner.policy.device.type != "cpu"
    return checkpoint.Saver(
        folder.checkpoints, recipe.checkpoint.keep, world, on_gpu if asked is None else asked
    )


def _refusals(refused: Sequence[RejectedGold]) -> list[str]:
    """Which golds did not pass the gate, the first few by name."""
    if not refused:
        return []
    named = [f"  {row.id}: {row.reason}: {row.gold[:60]!r}" for row in refused[:5]]
    return [
        f"the golds of {len(refused)} training problems cannot be compared by meaning (verify.gate):",
        *named,
    ]


def _overlaps(built: Built) -> list[str]:
    """Which held-out problems stand among the training problems of any stage; silent where none
    nearly does.
    """
    train = [
        p for stage in built.stages for problems in stage.run.sources.problems for p in problems
    ]
    found = {
        benchmark.name: find_overlap(train, benchmark.problems) for benchmark in built.benchmarks
    }
    return [
        f"contamination: {one.describe(name)}" for name, one in found.items() if one.exact or one.most
    ]


def _finish(session: Session, state: State) -> dict[str, Any]:
    """Write the model, the summary and the report."""
    from rlvr.report.run_page import write_report

    session.progress.stage("saving the model")
    policy, folder = session.built.run.learner.policy, session.folder
    export.export(policy, folder.path / "model")

    def write() -> dict[str, Any]:
        summary = summarise(folder.path, session.recipe, state.step)
        folder.write("summary.json", json.dumps(summary, indent=1, ensure_ascii=False))
        session.progress.summary(summary, write_report(folder.path))
        return summary

    return session.world.broadcast(write)


def _trackers(recipe: Recipe, folder: Path) -> list[Tracker]:
    config = recipe.model_dump(mode="json")
    bound = [
        registry.find("tracker", spec.name, "trackers").bind(spec.params, "trackers")
        for spec in recipe.trackers
    ]
    return [make(str(recipe.run.name), config, folder) for make in bound]


@contextmanager
def _graceful(session: Session) -> Iterator[None]:
    """Ctrl-C lets the step end, saves and says how to go on; a second one stops at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if session.stopping:
            raise KeyboardInterrupt
        session.stopping = True
        session.progress.note(
            "stopping after this step, then saving; Ctrl-C again stops at once and loses the step"
        )

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread, which alone may set handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
