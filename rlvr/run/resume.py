"""Take a run up again from its last whole checkpoint."""

from __future__ import annotations

import re
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
from rlvr.run.identity import check_unchanged
from rlvr.run.session import Phase, Session
from rlvr.step import State
from rlvr.storage import fields
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.fields import WrongShape
from rlvr.storage.records import read_records
from rlvr.storage.sample_record import SampleRecord
from rlvr.storage.step_record import StepRecord

REFERENCE = re.compile("reference-[0-9]{6,}")  # weights that a stage is measured against
# What may differ between two starts of a run.
CHANGEABLE = {
    "run.name",
    "run.folder",
    "run.steps",
    "run.threads",
    "reward_timeout",
    "verify.time_limit",
    "checkpoint",
    "trackers",
}


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
        check_position(latest)
        session.world.broadcast(
            lambda: check_unchanged(session.folder.path, session.recipe, session.built)
        )
        _check_problems(session, latest)
    session.world.broadcast(lambda: _forget_after(session, latest))
    if latest is None:
        session.progress.note("there is no whole checkpoint, so the run starts from its beginning")
        return State(0, session.phases[0].sources.start())
    return _load(session, latest)


def check_position(latest: Checkpoint) -> None:
    """Raise UserError where `position.json` does not say where the run stood."""
    try:
        fields.read_text(latest.position, "phase")
        source = fields.read_mapping(latest.position, "source")
        fields.read_int(source, "drawn")
        fields.read_int(source, "problems")
        fields.read_list(source, "positions")
        for name, visit in fields.read_mapping(source, "last").items():
            if not isinstance(visit, list) or len(visit) != 2:
                raise WrongShape(f"source.last.{name:.40} should be two numbers")
    except WrongShape as error:
        raise UserError(
            f"{latest.path / 'position.json'}: {error}; remove this checkpoint, and an earlier one is taken"
        ) from None


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
    phase = _find_phase(session, latest)
    try:
        tensors = checkpoint.tensors(latest.path, phase.learner.find_master)
        phase.learner.load_state(tensors, latest.learner)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _refuse_state(latest, error) from error
    session.built.run.rollouts.load(phase.learner.weights(), version=step)
    session.progress.note(f"resumed after step {step}")
    return State(step, _read_source(latest))


def _find_phase(session: Session, latest: Checkpoint) -> Phase:
    """Return the phase in which a checkpoint was saved; raises UserError where there is none."""
    name = latest.position["phase"]
    for phase in session.phases:
        if phase.name == name:
            return phase
    known = ", ".join(phase.name for phase in session.phases)
    raise UserError(
        f"{latest.path}: was saved in a stage '{name}', and the recipe has {known}; remove it"
    )


def _refuse_state(latest: Checkpoint, error: Exception) -> UserError:
    """Say that a checkpoint is of another model, critic or optimiser."""
    lines = str(error).splitlines() or [""]
    return UserError(
        f"{latest.path}: does not fit the models and optimisers of this recipe"
        f" ({type(error).__name__}: {lines[0]:.80}); remove it, or choose a new run.name"
    )


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
        if latest is None or checkpoint.step_of(path) > checkpoint.step_of(latest.path):
            shutil.rmtree(path)
    step = None
    if latest is not None:
        step = latest.position["step"]
    for path in checkpoints.glob("reference-*"):  # of a stage that is entered again
        if not REFERENCE.fullmatch(path.name):
            continue
        if step is None or checkpoint.step_of(path) > step:
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
    before = loader.load(folder.recipe)
    changed = find_difference(_comparable(before), _comparable(resolved), CHANGEABLE)
    if changed:
        raise UserError(
            f"{folder.path}: the run was started with another '{changed}'; resume it with the same, or choose a new"
            f" run.name"
        )
    _check_checkpoints(folder, before.checkpoint.every)
    _check_first_samples(folder)


def _check_checkpoints(folder: RunFolder, every: int) -> None:
    """Raise UserError where they are gone, so that a resume would begin anew and delete all records."""
    steps = [0]
    if folder.metrics.is_file():
        steps += [record.step for record in read_records(folder.metrics, StepRecord)]
    # one that is saved in the background is there before the next but one
    was_saved = every > 0 and max(steps) > 2 * every
    is_gone = not folder.checkpoints.is_dir() or was_saved
    if max(steps) and is_gone and not checkpoint.list_checkpoints(folder.checkpoints):
        raise UserError(
            f"{folder.checkpoints}: the checkpoints are gone, and to begin anew would delete the records of"
            f" {max(steps)} steps; restore them, or begin anew with --overwrite"
        )


def _check_first_samples(folder: RunFolder) -> None:
    """Raise UserError where samples are gone that the summary compares with."""
    if not folder.evals.is_file():
        return
    for record in read_records(folder.evals, EvalRecord):
        if record.step == 0:
            path = folder.locate_eval_samples(record.benchmark, record.step)
            _check_samples(path, record.counts.samples)


def _check_samples(path: Path, count: int) -> None:
    """Raise UserError where a file of samples has not as many as its evaluation counted."""
    cure = "the summary compares with it; restore it, or begin anew with --overwrite"
    if not path.is_file():
        raise UserError(f"{path}: is gone, and {cure}")
    found = len(read_records(path, SampleRecord))
    if found != count:
        raise UserError(f"{path}: has {found} samples where {count} were counted, and {cure}")


def _comparable(recipe: Recipe) -> dict[str, object]:
    """Return the recipe without what a resume may change inside of its sections."""
    sections = recipe.model_dump(mode="json")
    del sections["model"]["shard"]  # where the parts of a model lie changes nothing
    if sections["stages"]:
        sections["stages"][-1]["steps"] = None  # the last one may grow, as run.steps may
    return sections
