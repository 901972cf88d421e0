"""Take a run up again from its last whole checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlvr.config import loader
from rlvr.config.merge import find_difference
from rlvr.config.schema import Recipe
from rlvr.data.sources import SourceState
from rlvr.errors import UserError
from rlvr.run import checkpoint
from rlvr.run.checkpoint import Checkpoint
from rlvr.run.folder import RunFolder
from rlvr.run.session import Session
from rlvr.step import State

# What may differ between two starts of a run.
CHANGEABLE = {"run.name", "run.folder", "run.steps", "run.threads", "checkpoint", "trackers"}


def restore(session: Session) -> State:
    """Return the state of the last whole checkpoint, with its weights loaded into the learner and
    the engine, and forget what the run did after it.
    """
    latest, damaged = session.world.broadcast(
        lambda: checkpoint.find_latest(session.folder.checkpoints)
    )
    for line in damaged:
        session.progress.note(line)
    if latest is not None:
        _check_problems(session, latest)
    session.world.broadcast(lambda: _forget_after(session, latest))
    if latest is None:
        session.progress.note("there is no whole checkpoint, so the run starts from its beginning")
        return State(0, session.phases[0].sources.start())
    return _load(session, latest)


def _check_problems(session: Session, latest: Checkpoint) -> None:
    if latest.position["source"]["problems"] != session.built.problems_key:
        raise UserError(
            f"{session.folder.path}: the problems of 'train' are not those that the run was started with, since a data"
            f" file or the history of a selection has changed; restore it, or choose a new run.name"
        )


def _load(session: Session, latest: Checkpoint) -> State:
    """Load the weights and the learner's state of a checkpoint; return where it stands."""
    step = latest.position["step"]
    if step > session.phases[-1].end:
        raise UserError(f"run.steps: step {step} is done already; ask for at least as many")
    phase = next(phase for phase in session.phases if phase.name == latest.position["phase"])
    tensors = checkpoint.tensors(latest.path, phase.learner.find_master)
    phase.learner.load_state(tensors, latest.learner)
    session.built.run.rollouts.load(phase.learner.weights(), version=step)
    session.progress.note(f"resumed after step {step}")
    return State(step, _read_source(latest))


def _read_source(latest: Checkpoint) -> SourceState:
    source = latest.position["source"]
    last_visits: dict[str, tuple[float, int]] = {}
    for name, (accuracy, passed_over) in source["last"].items():
        last_visits[name] = (accuracy, passed_over)
    return SourceState(
        drawn=source["drawn"],
        positions=tuple(source["positions"]),
        last=last_visits,
    )


def _forget_after(session: Session, latest: Checkpoint | None) -> None:
    """Delete records, samples, checkpoints and references of steps that will be made again."""
    checkpoints = session.folder.checkpoints
    # a damaged one would push out good ones of earlier steps
    for path in checkpoint.list_checkpoints(checkpoints):
        if latest is None or path > latest.path:
            shutil.rmtree(path)
    step = None
    if latest is not None:
        step = latest.position["step"]
    for path in checkpoints.glob("reference-*"):  # of a stage that is entered again
        if step is None or int(path.name.rpartition("-")[2]) > step:
            shutil.rmtree(path)
    session.writer.cut_back(step)


def check_models_lie_elsewhere(path: Path, resolved: Recipe) -> None:
    """Raise UserError where a model comes from the folder that this run writes.

    With --overwrite the run would delete it.
    """
    models = {
        "model.name": resolved.model.name,
        "model.reference": resolved.model.reference,
    }
    if resolved.critic is not None:
        models["critic.model"] = resolved.critic.model
    for key, name in models.items():
        if not name:
            continue
        model = Path(name).resolve()
        if path.resolve() in (model, *model.parents):
            raise UserError(
                f"{key}: '{name}' is the folder of this very run ({path}); choose another run.name"
            )


def check_resumable(folder: RunFolder, resolved: Recipe) -> None:
    """Raise UserError where there is no run, or one that was started with another recipe."""
    if not folder.recipe.is_file():
        raise UserError(f"{folder.path}: there is no run to resume; leave --resume out")
    before = _comparable(loader.load(folder.recipe))
    now = _comparable(resolved)
    changed = find_difference(before, now, CHANGEABLE)
    if changed:
        raise UserError(
            f"{folder.path}: the run was started with another '{changed}'; resume it with the same, or choose a new"
            f" run.name"
        )


def _comparable(recipe: Recipe) -> dict[str, object]:
    """Return the recipe without what a resume may change inside of its sections."""
    sections = recipe.model_dump(mode="json")
    del sections["model"]["shard"]  # where the parts of a model lie changes nothing
    if sections["stages"]:
        sections["stages"][-1]["steps"] = None  # the last one may grow, as run.steps may
    return sections
