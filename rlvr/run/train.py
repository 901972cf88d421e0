"""Train by a recipe: what a script, a notebook or the shell calls."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rlvr import registry
from rlvr.build.given_problems import parse_problems
from rlvr.build.run import Built, build
from rlvr.config import loader, merge
from rlvr.config.schema import Recipe
from rlvr.data.contamination import find_overlap
from rlvr.data.gate import RejectedGold
from rlvr.distributed.world import World, init_world
from rlvr.errors import UserError
from rlvr.models import export
from rlvr.run.checkpoint import Saver
from rlvr.run.folder import RunFolder
from rlvr.run.identity import PROBLEMS_FILE, digest_sources, dump_digests
from rlvr.run.loop import run_phases
from rlvr.run.progress import Progress
from rlvr.run.resume import check_models_lie_elsewhere, check_resumable, restore
from rlvr.run.session import Session
from rlvr.run.summary import summarise
from rlvr.run.trackers import Tracker
from rlvr.run.writer import DiskRunWriter, NullRunWriter, RunWriter
from rlvr.step import State
from rlvr.storage.lock import lock_folder
from rlvr.types import Draw, Problem

SHOWN_GOLDS = 5  # of the golds that did not pass the gate, so many are named


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
    resolved = loader.load(
        recipe, [*merge.parse_overrides(overrides), *merge.parse_overrides(named)]
    )
    folder = RunFolder(Path(resolved.run.folder) / str(resolved.run.name))
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite replaces it; give one of them")
    with ExitStack() as stack:
        world = stack.enter_context(init_world())
        _check_folder(folder, resolved, resume, overwrite, world)
        world.broadcast(lambda: stack.enter_context(lock_folder(folder.path, "a run")))
        progress = stack.enter_context(_open_progress(resolved, world))
        built = _build(resolved, problems, reward, progress, world)
        writer = _open_writer(folder, resume, overwrite, world)
        stack.callback(writer.close)
        writer.write(folder.recipe.name, loader.dump(resolved))
        saver = _make_saver(resolved, built, folder, world)
        stack.callback(saver.close)
        session = Session(
            recipe=resolved,
            built=built,
            folder=folder,
            writer=writer,
            saver=saver,
            progress=progress,
            trackers=_open_trackers(resolved, folder, world),
            world=world,
        )
        stack.callback(_close_trackers, session.trackers)
        stack.enter_context(_stop_gracefully(session))
        state = _begin(session, resume)
        return _finish(session, run_phases(session, state))


def _check_folder(
    folder: RunFolder,
    recipe: Recipe,
    resume: bool,
    overwrite: bool,
    world: World,
) -> None:
    """Raise UserError where the run cannot be resumed from this folder, or started in it."""
    check_models_lie_elsewhere(folder.path, recipe)
    if resume:
        world.broadcast(lambda: check_resumable(folder, recipe))
    else:
        world.broadcast(lambda: folder.check_free(overwrite))


def _open_progress(recipe: Recipe, world: World) -> Progress:
    total = recipe.run.steps
    if recipe.cold_start:
        total += recipe.cold_start.steps
    return Progress(str(recipe.run.name), total, shown=world.writes)


def _build(
    recipe: Recipe,
    problems: Sequence[Any] | None,
    reward: Callable[..., Any] | None,
    progress: Progress,
    world: World,
) -> Built:
    """Make the parts of the run and say what is doubtful about its problems."""
    progress.stage(f"loading {recipe.model.name}")
    given: list[Problem] | None = None
    if problems is not None:
        given = parse_problems(problems)
    built = build(recipe, given, reward, world)
    for line in _describe_rejected(built.refused):
        progress.note(line)
    for line in _describe_overlaps(built):
        progress.note(line)
    for line in _describe_prompts(built):
        progress.note(line)
    return built


def _describe_prompts(built: Built) -> Iterator[str]:
    """Yield how the prompts of each source are put to the model, which is the same for all stages but seldom."""
    lines: dict[str, None] = {}  # a set in order
    for stage in built.stages:
        for source, problems in enumerate(stage.run.sources.problems):
            lines[stage.run.render.describe(Draw(problems[0], source))] = None
    yield from lines


def _describe_rejected(rejected: Sequence[RejectedGold]) -> Iterator[str]:
    """Yield which golds did not pass the gate, the first few by name."""
    if not rejected:
        return
    yield (
        f"the golds of {len(rejected)} training problems cannot be compared by meaning (verify.gate):"
    )
    for row in rejected[:SHOWN_GOLDS]:
        yield f"  {row.id}: {row.reason}: {row.gold[:60]!r}"


def _describe_overlaps(built: Built) -> Iterator[str]:
    """Yield which held-out problems stand among the training problems of any stage.

    Silent where none nearly does.
    """
    training_problems: list[Problem] = []
    for stage in built.stages:
        for problems in stage.run.sources.problems:
            training_problems += problems
    for benchmark in built.benchmarks:
        overlap = find_overlap(training_problems, benchmark.problems)
        if overlap.exact or overlap.most:
            yield f"contamination: {overlap.describe(benchmark.name)}"


def _open_writer(folder: RunFolder, resume: bool, overwrite: bool, world: World) -> RunWriter:
    if not world.writes:
        return NullRunWriter()
    if not resume:
        folder.clear(overwrite)
    return DiskRunWriter(folder)


def _make_saver(recipe: Recipe, built: Built, folder: RunFolder, world: World) -> Saver:
    background = recipe.checkpoint.background
    if background is None:  # on a CPU the thread would take time from the steps
        background = built.run.learner.policy.device.type != "cpu"
    return Saver(folder.checkpoints, recipe.checkpoint.keep, world, background)


def _open_trackers(recipe: Recipe, folder: RunFolder, world: World) -> list[Tracker]:
    """Return the trackers that the recipe names, on rank 0 alone."""
    if not world.writes:
        return []
    bound = []
    for spec in recipe.trackers:
        plugin = registry.find("tracker", spec.name, "trackers")
        bound.append(plugin.bind(spec.params, "trackers"))
    config = recipe.model_dump(mode="json")
    return [make(str(recipe.run.name), config, folder.path) for make in bound]


def _close_trackers(trackers: Sequence[Tracker]) -> None:
    for tracker in trackers:
        tracker.close()


def _begin(session: Session, resume: bool) -> State:
    if resume:
        state = restore(session)
        _keep_identity(session, anew=state.step == 0)
        return state
    _keep_identity(session, anew=True)
    return State(0, session.built.run.sources.start())


def _keep_identity(session: Session, *, anew: bool) -> None:
    """Write down what the problems are, where that is not known yet."""
    if session.world.writes and (anew or not (session.folder.path / PROBLEMS_FILE).is_file()):
        digests = digest_sources(session.recipe, session.built)
        session.writer.write(PROBLEMS_FILE, dump_digests(digests))


def _finish(session: Session, state: State) -> dict[str, Any]:
    """Write the model, the summary and the report; return the summary."""
    session.progress.stage("saving the model")
    export.export(session.built.run.learner.policy, session.folder.path / "model")
    return session.world.broadcast(lambda: _write_summary(session, state))


def _write_summary(session: Session, state: State) -> dict[str, Any]:
    from rlvr.report.run_page import write_report

    summary = summarise(session.folder, session.recipe, state.step)
    row = summary.dump_row()
    session.writer.write("summary.json", json.dumps(row, indent=1, ensure_ascii=False))
    session.progress.summary(summary, write_report(session.folder.path))
    return row


@contextmanager
def _stop_gracefully(session: Session) -> Iterator[None]:
    """Let Ctrl-C end the step, save and say how to go on; a second one stops at once."""

    def request_stop(number: int, frame: FrameType | None) -> None:
        if session.stopping:
            raise KeyboardInterrupt
        session.stopping = True
        session.progress.note(
            "stopping after this step, then saving; Ctrl-C again stops at once and loses the step"
        )

    try:
        previous = signal.signal(signal.SIGINT, request_stop)
    except ValueError:  # not the main thread, which alone may set handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
