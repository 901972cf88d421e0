"""One process's part of a run: its phases and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from rlvr.build.run import Built
from rlvr.cold_start import cold_step
from rlvr.config.schema import Recipe
from rlvr.data.sources import Sources
from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.run import checkpoint
from rlvr.run.folder import RunFolder
from rlvr.run.progress import Progress
from rlvr.run.trackers import Tracker
from rlvr.run.writer import RunWriter
from rlvr.step import State, StepResult, train_step
from rlvr.storage.step_record import COLD_START
from rlvr.training.learner import Learner


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
    writer: RunWriter
    saver: checkpoint.Saver
    progress: Progress
    trackers: Sequence[Tracker] = ()
    world: World = SINGLE_PROCESS
    stopping: bool = False  # the user has asked for it

    @cached_property
    def phases(self) -> list[Phase]:
        """The cold start where there is one, then the stages."""
        return plan_phases(self.recipe, self.built)


def plan_phases(recipe: Recipe, built: Built) -> list[Phase]:
    """Return the phases of a run in order, each beginning where the one before it ends."""
    phases: list[Phase] = []
    start = 0
    if built.cold and recipe.cold_start:
        start = recipe.cold_start.steps
        phases.append(
            Phase(
                name=COLD_START,
                start=0,
                end=start,
                sources=built.cold.sources,
                learner=built.cold.learner,
                advance=partial(cold_step, built.cold),
                cold=True,
            )
        )
    # the first stage is measured against what the cold start made, unless a reference is named
    renews_after_cold_start = built.cold is not None and recipe.model.reference is None
    for number, stage in enumerate(built.stages):
        end = start + stage.steps
        phases.append(
            Phase(
                name=stage.name,
                start=start,
                end=end,
                sources=stage.run.sources,
                learner=stage.run.learner,
                advance=partial(train_step, stage.run),
                own_problems=stage.own_problems,
                renews=stage.renews or (number == 0 and renews_after_cold_start),
            )
        )
        start = end
    return phases
