"""What an independent reading of PPO, stages, adapters and their neighbours found broken, each as the smallest test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from rlvr import recipe as recipes
from rlvr.build import build
from rlvr.step import State, StepResult, train_step

PPO: dict[str, Any] = {
    "advantage": "gae",
    "critic": {"optimizer": {"lr": 1e-2}},
    "learn": {"epochs": 2, "minibatches": 2},
}
CUT: dict[str, Any] = {"filter": "overlong", "rollout": {"problems": 2, "samples": 4, "max_tokens": 2}}


def variety(response: str) -> float:
    return float(len(set(response)))


def stepped(folder: Path, steps: int, reward: Any = variety, **sections: Any) -> list[StepResult]:
    run = build(recipes.load(tiny.recipe(folder, **sections)), None, reward).run
    state, found = State(0, run.sources.start()), []
    for _ in range(steps):
        found.append(train_step(run, state))
        state = found[-1].state
    return found


# --- Steps in which little or nothing is trained


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"advantage": "opo", "loss": {"reduction": "sequence"}},
        {"loss": {"reduction": "sequence", "correction": {"name": "importance", "normalise": True}}},
        PPO,
    ],
    ids=["token", "opo", "importance", "ppo"],
)
def test_a_step_whose_responses_were_all_cut_off_changes_nothing_and_is_not_broken(
    tiny_model: Path, sections: dict[str, Any]
) -> None:
    record = stepped(tiny_model, 1, **CUT, **sections)[0].metrics.record()
    assert record["truncated"] == 1 and record["skipped_updates"] == 0 and record["loss"] == 0
