"""Optimiser states in eight bits learn, are saved and are taken up again."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny

import rlvr

pytest.importorskip(
    "torchao",
    reason="the extra low_memory (torchao) is not installed; its step compiles for a minute",
)


@pytest.mark.slow
def test_eight_bit_states_are_saved_and_resumed(tiny_model: Path, tmp_path: Path) -> None:
    made = tiny.recipe(
        tiny_model, checkpoint={"every": 1}, optimizer={"lr": 1e-2, "states": "8bit"}
    )
    made["run"] |= {"folder": str(tmp_path), "name": "r"}  # type: ignore[operator]
    reward = lambda response: float(len(set(response)))  # noqa: E731
    rlvr.train(made, reward=reward, overrides=["run.steps=2"])
    assert rlvr.train(made, reward=reward, resume=True, overrides=["run.steps=3"])["steps"] == 3
