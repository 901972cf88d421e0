"""The outer loop around the step: evaluate, log, save, resume; `train` is what a script, a notebook
or the shell calls.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rlvr import checkpoint, metrics, models, registry
from rlvr import recipe as recipes
from rlvr.audit import Refused, overlap
from rlvr.build import Built, as_problems, build
from rlvr.cold_start import cold_step
from rlvr.errors import Interrupted, UserError
from rlvr.evals import evaluate_one
from rlvr.folder import RunFolder, WatchedFolder, best_step, summarise
from rlvr.gather import Sources, SourceState
from rlvr.learner import Learner
from rlvr.policy import Policy
from rlvr.progress import Progress
from rlvr.recipe import Recipe
from rlvr.step import State, StepResult, train_step
from rlvr.trackers import Tracker
from rlvr.tree import difference
from rlvr.world import ALONE, World, placed


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of steps of one kind: the cold start, or a stage of reinforcement."""

    name: str
    start: int
    end: int
    sources: Sources
    learner: Learner
    advance: Callable[[State], StepResult]
    own_problems: bool = False  # drawn from their beginning
    renews: bool = False  # the reference is the policy as it enters
    cold: bool = False


@dataclass
class Session:
    """One process's part of a run, from its start or resume to its end."""

    recipe: Recipe
    built: Built
    folder: RunFolder
    saver: checkpoint.Saver
    progress: Progress
    trackers: Sequence[Tracker] = ()
    world: World = ALONE
    stopping: bool = field(default=False)

    @property
    def phases(self) -> list[Phase]:
        cold, found = self.built.cold, []
        if cold and self.recipe.cold_start:
            advance, end = partial(cold_step, cold), self.recipe.cold_start.steps
            found = [Phase("cold_start", 0, end, cold.sources, cold.learner, advance, cold=True)]
        for number, stage in enumerate(self.built.stages):
            run, start = stage.run, found[-1].end if found else 0
            follows = number == 0 and bool(cold) and self.recipe.model.reference is None
            renews = stage.renews or follows
            advance, end = partial(train_step, run), start + stage.steps
            found.append(
                Phase(
                    stage.name,
                    start,
                    end,
                    run.sources,
                    run.learner,
                    advance,
                    stage.own_problems,
                    renews,
                )
            )
        return found


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
    resolved = recipes.load(recipe, [*recipes.pairs(overrides), *recipes.pairs(named)])
    path = Path(resolved.run.folder) / str(resolved.run.name)
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite replaces it; give one of them")
    with ExitStack() as stack:
        world = stack.enter_context(placed())
        _check_models(path, resolved)
        world.told(
            lambda: _resumable(path, resolved) if resume else RunFolder.check(path, overwrite)
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
        folder.write("recipe.yaml", recipes.dump(resolved))
        saver = _saver(resolved, built, folder, world)
        stack.callback(saver.close)
        trackers = _trackers(resolved, path) if world.writes else ()
        session = Session(resolved, built, folder, saver, progress, trackers, world)
        stack.callback(lambda: [tracker.close() for tracker in session.trackers])
        stack.enter_context(_graceful(session))
        state = _restore(session) if resume else State(0, built.run.sources.start())
        return _finish(session, _loop(session, state))


def _folder(path: Path, resume: bool, overwrite: bool, world: World) -> RunFolder:
    if not world.writes:
        return WatchedFolder(path)
    return RunFolder(path) if resume else RunFolder.create(path, overwrite)


def _saver(recipe: Recipe, built: Built, folder: RunFolder, world: World) -> checkpoint.Saver:
    asked, on_gpu = recipe.checkpoint.background, built.run.learner.policy.device.type != "cpu"
    return checkpoint.Saver(
        folder.checkpoints, recipe.checkpoint.keep, world, on_gpu if asked is None else asked
    )


def _refusals(refused: Sequence[Refused]) -> list[str]:
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
    found = {benchmark.name: overlap(train, benchmark.problems) for benchmark in built.benchmarks}
    return [
        f"contamination: {one.line(name)}" for name, one in found.items() if one.exact or one.most
    ]


def _loop(session: Session, state: State) -> State:
    if state.step == 0:
        _evaluate(session, state)
    before = None
    for phase in session.phases:
        if state.step >= phase.start:
            state = _enter(session, phase, before, state)
        while state.step < phase.end:
            result = metrics.timed("step")(phase.advance)(state)
            state = result.state
            _log(session, phase, result)
            _evaluate_if_due(session, phase, state)
            _save_if_due(session, phase, state)
        before = phase
    return state


def _enter(session: Session, phase: Phase, before: Phase | None, state: State) -> State:
    """A phase begins where the one before it ended: counters are carried over, problems of its own
    start anew.
    """
    _renew(session, phase, state)
    if before is None or state.step != phase.start:
        return state
    if before.cold:
        before.learner.updates.optimizer.state.clear()
    else:
        phase.learner.carry(before.learner)
    return State(state.step, phase.sources.start()) if phase.own_problems else state


def _renew(session: Session, phase: Phase, state: State) -> None:
    """The reference becomes the policy as the phase began, which is kept in a file for a resume."""
    reference = session.built.reference
    if not phase.renews or not isinstance(reference, Policy):
        return
    kept = session.folder.checkpoints / f"reference-{phase.start:06d}"
    if session.world.told(lambda: state.step == phase.start and not kept.is_dir()):
        checkpoint.save_weights(kept, phase.learner.weights(), session.world)
    reference.load(checkpoint.load_weights(kept))


def _log(session: Session, phase: Phase, result: StepResult) -> None:
    measured = result.metrics.record()
    seconds = metrics.take()
    tokens = measured.get("response_tokens", 0.0)
    assert isinstance(tokens, float | int)
    speed = {"tokens_per_second": tokens / seconds["step"]} if tokens else {}
    spent = {**seconds, **speed, "peak_memory_gb": _peak_memory()}
    record = {"step": result.state.step, "phase": phase.name, **measured, "time": spent}
    session.folder.record_step(result, record)
    session.progress.step(record, _one_sample(result))
    for tracker in session.trackers:
        tracker.log(record, "step")


def _one_sample(result: StepResult) -> dict[str, Any] | None:
    """A sample to look at: each step shows another group."""
    groups = [group for group in result.groups if group.samples]
    if not groups:
        return None
    sample = groups[result.state.step % len(groups)].samples[0]
    problem, verdict = sample.rollout.prompt.problem, sample.verdict
    facts = {"status": verdict.status, "answer": verdict.answer, "reward": sample.reward.value}
    return {
        "question": problem.question,
        "gold": problem.answer,
        "text": sample.rollout.text,
        **facts,
    }


def _evaluate_if_due(session: Session, phase: Phase, state: State) -> None:
    every = session.recipe.eval.every
    if state.step == phase.end or (every and not phase.cold and state.step % every == 0):
        _evaluate(session, state)


def _evaluate(session: Session, state: State) -> None:
    for benchmark in session.built.benchmarks:
        session.progress.stage(f"evaluating {benchmark.name} ({len(benchmark.problems)} problems)")
        recipe, rollouts = session.recipe, session.built.run.rollouts
        second = recipe.eval.second_verifier
        evaluation = evaluate_one(
            benchmark, rollouts, state.step, recipe.run.seed, second, session.world
        )
        session.folder.record_eval(evaluation)
        session.progress.evaluated(evaluation.record)
        for tracker in session.trackers:
            tracker.log(evaluation.record, "eval")
    metrics.take()


def _save_if_due(session: Session, phase: Phase, state: State) -> None:
    every, stopping = session.recipe.checkpoint.every, session.world.any(session.stopping)
    last = state.step == session.phases[-1].end
    best = _best(session)
    session.saver.check()
    if stopping or last or (every and state.step % every == 0) or state.step == best:
        _save(session, phase, state, best)
    if stopping or last:
        session.saver.wait()
    if stopping:
        raise Interrupted(f"stopped after step {state.step} and saved; go on with")


def _save(session: Session, phase: Phase, state: State, best: int | None) -> None:
    session.progress.stage("saving a checkpoint")
    source = asdict(state.source) | {"problems": session.built.problems_key}
    position = {"step": state.step, "phase": phase.name, "source": source}
    session.saver(phase.learner.saved(), phase.learner.state(), position, best)
    metrics.take()


def _best(session: Session) -> int | None:
    """The step whose evaluation on checkpoint.best was the highest so far; None where none is asked
    for.
    """
    found = session.world.told(
        lambda: best_step(session.folder.path, session.recipe.checkpoint.best)
    )
    return found["step"] if found else None


def _restore(session: Session) -> State:
    found, damaged = session.world.told(lambda: checkpoint.latest(session.folder.checkpoints))
    for line in damaged:
        session.progress.note(line)
    if found is not None and found.position["source"]["problems"] != session.built.problems_key:
        raise UserError(
            f"{session.folder.path}: the problems of 'train' are not those that the run was started with, since a data"
            f" file or the history of a selection has changed; restore it, or choose a new run.name"
        )
    session.world.told(lambda: _forget_after(session.folder, found))
    if found is None:
        session.progress.note("there is no whole checkpoint, so the run starts from its beginning")
        return State(0, session.phases[0].sources.start())
    if found.position["step"] > session.phases[-1].end:
        raise UserError(
            f"run.steps: step {found.position['step']} is done already; ask for at least as many"
        )
    phase = next(p for p in session.phases if p.name == found.position["phase"])
    phase.learner.load_state(checkpoint.tensors(found.path, phase.learner.like), found.learner)
    session.built.run.rollouts.load(phase.learner.weights(), version=found.position["step"])
    session.progress.note(f"resumed after step {found.position['step']}")
    source = found.position["source"]
    last = {name: (accuracy, passed) for name, (accuracy, passed) in source["last"].items()}
    return State(
        found.position["step"], SourceState(source["drawn"], tuple(source["positions"]), last)
    )


def _check_models(path: Path, resolved: Recipe) -> None:
    """A model cannot come from the folder that this run writes, and with --overwrite would delete."""
    critic = resolved.critic and resolved.critic.model
    named = {
        "model.name": resolved.model.name,
        "model.reference": resolved.model.reference,
        "critic.model": critic,
    }
    for key, name in named.items():
        if name and path.resolve() in (Path(name).resolve(), *Path(name).resolve().parents):
            raise UserError(
                f"{key}: '{name}' is the folder of this very run ({path}); choose another run.name"
            )


def _forget_after(folder: RunFolder, found: checkpoint.Checkpoint | None) -> None:
    """Records, samples, checkpoints and references of steps that will be made again."""
    # a damaged one would push out good ones of earlier steps
    for path in checkpoint.saved(folder.checkpoints):
        if found is None or path > found.path:
            shutil.rmtree(path)
    for path in folder.checkpoints.glob("reference-*"):  # of a stage that is entered again
        if found is None or int(path.name.rpartition("-")[2]) > found.position["step"]:
            shutil.rmtree(path)
    folder.cut_back(found.position["step"] if found else None)


def _resumable(path: Path, resolved: Recipe) -> None:
    if not (path / "recipe.yaml").is_file():
        raise UserError(f"{path}: there is no run to resume; leave --resume out")
    before = recipes.load(path / "recipe.yaml").model_dump(mode="json")
    now = resolved.model_dump(mode="json")
    # where the parts of a model lie changes nothing
    for section in (before["model"], now["model"]):
        del section["shard"]
    free = {"run.name", "run.folder", "run.steps", "run.threads", "checkpoint", "trackers"}
    for stages in (before["stages"], now["stages"]):  # the last one may grow, as run.steps may
        stages[-1:] = [{**stage, "steps": None} for stage in stages[-1:]]
    changed = difference(before, now, free)
    if changed:
        raise UserError(
            f"{path}: the run was started with another '{changed}'; resume it with the same, or choose a new run.name"
        )


def _finish(session: Session, state: State) -> dict[str, Any]:
    """Write the model, the summary and the report."""
    from rlvr.report import write_report

    session.progress.stage("saving the model")
    policy, folder = session.built.run.learner.policy, session.folder
    models.export(policy, folder.path / "model")

    def write() -> dict[str, Any]:
        summary = summarise(folder.path, session.recipe, state.step)
        folder.write("summary.json", json.dumps(summary, indent=1, ensure_ascii=False))
        session.progress.summary(summary, write_report(folder.path))
        return summary

    return session.world.told(write)


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


def _peak_memory() -> float:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30
