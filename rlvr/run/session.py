"""One process's part of a run: its phases and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from rlvr.build.run import Built
from rlvr.cold_start import cold_step
from rlvr.config.schema import Recipe
from rlvr.data.sources import Sources
from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.run import checkpoint
from rlvr.run.folder import RunFolder
from rlvr.run.progress import Progress
from rlvr.run.trackers import Tracker
from rlvr.step import State, StepResult, train_step
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
    saver: checkpoint.Saver
    progress: Progress
    trackers: Sequence[Tracker] = ()
    world: World = SINGLE_PROCESS
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
