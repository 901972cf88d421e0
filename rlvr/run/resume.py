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
from rlvr.run.folder import RunFolder
from rlvr.run.session import Session
from rlvr.step import State


def restore(session: Session) -> State:
    found, damaged = session.world.broadcast(
        lambda: checkpoint.find_latest(session.folder.checkpoints)
    )
    for line in damaged:
        session.progress.note(line)
    if found is not None and found.position["source"]["problems"] != session.built.problems_key:
        raise UserError(
            f"{session.folder.path}: the problems of 'train' are not those that the run was started with, since a data"
            f" file or the history of a selection has changed; restore it, or choose a new run.name"
        )
    session.world.broadcast(lambda: _forget_after(session.folder, found))
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


def check_models_lie_elsewhere(path: Path, resolved: Recipe) -> None:
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
    for path in checkpoint.list_checkpoints(folder.checkpoints):
        if found is None or path > found.path:
            shutil.rmtree(path)
    for path in folder.checkpoints.glob("reference-*"):  # of a stage that is entered again
        if found is None or int(path.name.rpartition("-")[2]) > found.position["step"]:
            shutil.rmtree(path)
    folder.cut_back(found.position["step"] if found else None)


def check_resumable(path: Path, resolved: Recipe) -> None:
    if not (path / "recipe.yaml").is_file():
        raise UserError(f"{path}: there is no run to resume; leave --resume out")
    before = loader.load(path / "recipe.yaml").model_dump(mode="json")
    now = resolved.model_dump(mode="json")
    # where the parts of a model lie changes nothing
    for section in (before["model"], now["model"]):
        del section["shard"]
    free = {"run.name", "run.folder", "run.steps", "run.threads", "checkpoint", "trackers"}
    for stages in (before["stages"], now["stages"]):  # the last one may grow, as run.steps may
        stages[-1:] = [{**stage, "steps": None} for stage in stages[-1:]]
    changed = find_difference(before, now, free)
    if changed:
        raise UserError(
            f"{path}: the run was started with another '{changed}'; resume it with the same, or choose a new run.name"
        )
