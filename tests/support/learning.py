"""Short runs that have to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvr.build.run import build
from rlvr.config import loader
from rlvr.step import State, train_step
from support import tiny

DIGITS = set("0123456789")


def digits(response: str) -> float:
    """The share of digits in a response: 0.12 by chance, 1 at best."""
    return sum(letter in DIGITS for letter in response) / max(len(response), 1)


def rewards(folder: Path, steps: int, reward: Any = digits, **sections: object) -> list[float]:
    """The mean reward of each step."""
    defaults = {
        "rollout": {"problems": 4, "samples": 8, "max_tokens": 6},
        "optimizer": {"lr": 1e-2},
    }
    run = build(loader.load(tiny.recipe(folder, **{**defaults, **sections})), None, reward).run
    state, found = State(0, run.sources.start()), []
    for _ in range(steps):
        result = train_step(run, state)
        state = result.state
        found.append(float(result.metrics.record()["reward"]))  # type: ignore[arg-type]
    return found


def gain(found: list[float]) -> float:
    return sum(found[-5:]) / 5 - sum(found[:2]) / 2
