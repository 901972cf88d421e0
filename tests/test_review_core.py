"""What an independent reading of PPO, stages, adapters and their neighbours found broken, each as the smallest test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

import rlvr
from rlvr import recipe as recipes
from rlvr.build import build
from rlvr.step import State, StepResult, train_step
from rlvr.types import Problem, Response, Status, Verdict

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


def test_a_group_of_one_has_no_second_best(tiny_model: Path) -> None:
    result = stepped(tiny_model, 1, advantage="grpo_passk", rollout={"problems": 2, "samples": 1, "max_tokens": 4})[0]
    assert set(result.advantages) == {0.0}


# --- ReMax


def test_remax_takes_a_step_whose_groups_were_all_filtered(tiny_model: Path) -> None:
    result = stepped(tiny_model, 1, lambda response: 1.0, advantage="remax", filter="no_signal")[0]
    assert result.metrics.record()["filtered"] == 1 and not result.advantages


def test_the_greedy_baseline_is_scaled_as_the_rewards_are(tiny_model: Path) -> None:
    plain = stepped(tiny_model, 1, advantage="remax")[0].advantages
    scaled = stepped(tiny_model, 1, advantage="remax", reward_scale="running")[0].advantages
    ratio = {round(b / a, 4) for a, b in zip(plain, scaled, strict=True) if a}
    assert len(ratio) == 1 and all(b == 0 for a, b in zip(plain, scaled, strict=True) if not a)


ASKED: list[str] = []


def judge(problem: Problem, response: Response) -> Verdict:
    """Fails on the ninth answer: the first greedy one, after two problems with four samples each."""
    ASKED.append(response.text)
    assert len(ASKED) != 9
    return Verdict(Status.WRONG, "1")


def test_a_greedy_answer_that_cannot_be_verified_costs_its_group_and_not_the_run(tiny_model: Path) -> None:
    source = {"data": {**tiny.SUMS, "count": 16}, "task": f"{__name__}:judge"}
    run = build(recipes.load(tiny.recipe(tiny_model, advantage="remax", train=[source])), None, variety).run
    ASKED.clear()
    assert [group.trained for group in train_step(run, State(0, run.sources.start())).groups] == [False, True]


# --- Stages


def staged(folder: Path, runs: Path, rows: list[dict[str, Any]], reward: Any = variety, **sections: Any) -> list[Any]:
    """The records of a run of the stages."""
    made = tiny.recipe(folder, stages=rows, **sections)
    made["run"] |= {"folder": str(runs), "name": "staged"}  # type: ignore[operator]
    made["eval"] = {}
    rlvr.train(made, reward=reward)
    return [json.loads(line) for line in (runs / "staged" / "metrics.jsonl").read_text().splitlines()]


def test_a_stage_may_have_a_kl_coefficient_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"steps": 1}, {"steps": 1, "reward_kl.coef": 0.7}]
    found = staged(tiny_model, tmp_path, rows, reward_kl={"coef": 0.1})
    assert [record["kl_coef"] for record in found] == [0.1, 0.7]


def test_an_adaptive_coefficient_goes_on_into_a_stage_with_a_reward_scale(tiny_model: Path, tmp_path: Path) -> None:
    """A target far above the KL, so that the coefficient falls at every step."""
    rows = [{"steps": 2}, {"steps": 1, "reward_scale": "running"}]
    found = staged(tiny_model, tmp_path, rows, reward_kl={"coef": 0.1, "target": 50.0, "horizon": 10})
    assert [record["kl_coef"] for record in found] == pytest.approx([0.1 * 0.84**n for n in (1, 2, 3)])
