"""A run on the tiny model, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvr.build.run import Built, build
from rlvr.config import loader
from rlvr.step import Run, State, StepResult, train_step
from rlvr.types import Problem
from support import tiny


def variety(response: str) -> float:
    """A reward with signal in every group: how many different characters a response has."""
    return float(len(set(response)))


def made(
    folder: Path, reward: Any = variety, problems: list[Problem] | None = None, **sections: object
) -> Built:
    return build(loader.load(tiny.recipe(folder, **sections)), problems, reward)


def start(run: Run) -> State:
    return State(0, run.sources.start())


def stepped(run: Run, steps: int = 1) -> list[StepResult]:
    state, results = start(run), []
    for _ in range(steps):
        results.append(train_step(run, state))
        state = results[-1].state
    return results
