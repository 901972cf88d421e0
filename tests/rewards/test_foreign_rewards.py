"""Reward functions written for OpenRLHF and verl work as they are, in a recipe and in Python, and
fail in one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny
from support.rollouts import make_prompt, make_rollout
from support.rows import verl, write

import rlvr
from rlvr.errors import RunError, UserError
from rlvr.rewards.adapters import adapt_signature, checked_reward
from rlvr.rewards.rewarder import Rewarder
from rlvr.types import (
    Context,
    Problem,
    Reward,
    RewardedGroup,
    Status,
    Verdict,
    VerifiedGroup,
    VerifiedSample,
)

CONTEXT = Context(0, 1, 16)
META = {"data_source": "sums", "extra_info": {"index": 124, "split": "train"}, "level": 3}


def group(*texts: str, answer: str = "15", meta: dict[str, Any] | None = None) -> VerifiedGroup:
    """Samples of one problem whose prompt ends in an opened tag."""
    problem = Problem("p", "math", "7 + 8?", answer, META if meta is None else meta)
    prompt = make_prompt(problem, (5,), "user: 7 + 8? model: <think>", "<think>")
    rollouts = [make_rollout(prompt, i, text=text) for i, text in enumerate(texts)]
    return VerifiedGroup(
        problem, tuple(VerifiedSample(rollout, Verdict(Status.WRONG)) for rollout in rollouts)
    )


def rewards(function: Callable[..., Any], *texts: str, **options: Any) -> list[Reward]:
    return checked_reward("mine", function)(group(*texts, **options), CONTEXT)


def values(function: Callable[..., Any], *texts: str, **options: Any) -> list[float]:
    return [reward.value for reward in rewards(function, *texts, **options)]


def fault(function: Callable[..., Any], *texts: str, kind: type[Exception] = RunError) -> str:
    with pytest.raises(kind) as caught:
        rewards(function, *(texts or ("a", "b")))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- The article


def custom_reward_function(response, ground_truth):
    """Right or wrong, and a little for every step, at most five of them."""
    right = 1.0 if response.endswith(ground_truth) else -1.0
    return right + min(0.1 * response.count("Step"), 0.5)


def test_the_function_of_the_article_is_called_once_a_response() -> None:
    found = values(custom_reward_function, "Step 1 Step 2 so 15", "14", "Step " * 9 + "15")
    assert found == pytest.approx([1.2, -1.0, 1.5])


# --- OpenRLHF: lists of all samples


SEEN: list[Any] = []


def remember(queries, prompts, labels):
    SEEN.append((queries, prompts, labels))
    return [float(len(query) - len(prompt)) for query, prompt in zip(queries, prompts, strict=True)]


def test_a_function_of_queries_prompts_and_labels_sees_all_samples_of_a_problem_at_once() -> None:
    SEEN.clear()
    prompt = "user: 7 + 8? model: <think>"
    assert values(remember, "yes", "no") == [3.0, 2.0]
    (seen,) = SEEN
    assert seen == ([prompt + "yes", prompt + "no"], [prompt] * 2, ["15", "15"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: [value],
        torch.tensor,
        lambda value: {"rewards": torch.tensor([value]), "scores": [value]},
    ],
)
def test_a_function_of_one_sample_is_asked_once_for_each(wrap: Callable[[float], Any]) -> None:
    def score(queries, prompts, labels):
        return wrap(float(len(queries[0]) - len(prompts[0])))

    assert values(score, "yes", "no", "maybe") == [3.0, 2.0, 5.0]


def test_a_query_ends_in_the_token_that_ended_the_turn() -> None:
    asked = group("yes", "no")
    ended = replace(asked.members[0], rollout=replace(asked.members[0].rollout, end="<|im_end|>"))
    asked = replace(asked, members=(ended, asked.members[1]))
    SEEN.clear()
    checked_reward("mine", remember)(asked, CONTEXT)
    prompt = "user: 7 + 8? model: <think>"
    assert SEEN[0][0] == [f"{prompt}yes<|im_end|>", f"{prompt}no"]


def test_its_parameters_may_come_in_any_order_and_with_more_behind() -> None:
    assert values(lambda labels, queries: [len(labels), len(queries[0])], "ab", "c") == [2.0, 29.0]
    assert values(lambda queries, prompts, labels, **kwargs: [len(kwargs)] * 2, "a", "b") == [
        0.0,
        0.0,
    ]
    assert values(lambda queries, model="reward": [len(model)], "a") == [6.0]


@pytest.mark.parametrize(
    "given",
    [
        [0.5, -1],
        (0.5, -1),
        torch.tensor([0.5, -1.0]),
        torch.tensor([[0.5], [-1.0]]),
        torch.tensor([0.5, -1.0], dtype=torch.bfloat16, requires_grad=True),
        [torch.tensor(0.5), torch.tensor([-1.0])],
        np.array([0.5, -1.0]),
        [[0.5], [-1]],
        {"rewards": torch.tensor([0.5, -1.0])},
        {"rewards": [0.5, -1]},
    ],
    ids=str,
)
def test_numbers_may_come_in_any_container(given: Any) -> None:
    assert values(lambda queries: given, "a", "b") == [0.5, -1.0]


def test_scores_and_extra_logs_are_logged_and_do_not_count() -> None:
    def reward_func(queries, prompts, labels):
        return {
            "rewards": torch.tensor([0.5, -1.0]),
            "scores": torch.tensor([1.0, 0.0]),
            "extra_logs": {"length": torch.tensor([3, 4]), "rate": 0.25, "tail": [7]},
        }

    first, second = rewards(reward_func, "a", "b")
    assert (first.value, second.value) == (0.5, -1.0)
    assert first.parts == {"rewards": 0.5, "scores": 1.0, "length": 3.0, "rate": 0.25, "tail": 7.0}
    assert second.parts == {
        "rewards": -1.0,
        "scores": 0.0,
        "length": 4.0,
        "rate": 0.25,
        "tail": 7.0,
    }


def test_labels_and_ground_truth_are_what_the_row_holds() -> None:
    truth = {"solution_text_format": "(1) Zoey is a knight", "statements": "()"}
    meta = {"ground_truth": truth}
    assert values(
        lambda queries, labels: [label == truth for label in labels], "a", answer="text", meta=meta
    ) == [1.0]
    assert values(lambda ground_truth: ground_truth == truth, "a", answer="text", meta=meta) == [
        1.0
    ]
    assert values(
        lambda answer, gold: (answer, gold) == ("text", "text"), "a", answer="text", meta=meta
    ) == [1.0]


# --- verl: one response, with the data source


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert (data_source, ground_truth, extra_info) == (
        "sums",
        "15",
        {"index": 124, "split": "train", "num_turns": 2, "rollout_reward_scores": {}},
    )
    return float(solution_str == ground_truth)


def test_compute_score_gets_the_response_the_gold_the_data_source_and_extra_info() -> None:
    assert values(compute_score, "15", "<think>15") == [1.0, 0.0]


def test_a_problem_that_is_not_from_verl_has_its_task_as_data_source_and_its_meta_as_extra_info() -> (
    None
):
    def score(data_source, solution_str, ground_truth, extra_info):
        return {"score": data_source == "math" and extra_info["level"] == 3}

    assert values(score, "x", meta={"level": 3}) == [1.0]


def test_options_with_a_default_keep_it_and_keyword_options_are_keys_of_the_recipe() -> None:
    def score(
        solution_str, ground_truth, method="strict", format_score=0.25, *, scale=1.0, **kwargs
    ):
        return scale * format_score * (method == "strict") * (not kwargs)

    assert values(score, "x") == [0.25]


def test_a_mapping_of_compute_score_counts_its_score_and_logs_its_numbers() -> None:
    def score(solution_str, ground_truth):
        return {"score": np.float32(0.5), "correctness": True, "pred": "14", "acc": 1, "more": None}

    (reward,) = rewards(score, "x")
    assert reward == Reward(0.5, {"score": 0.5, "correctness": 1.0, "acc": 1.0})
    assert type(reward.value) is type(reward.parts["score"]) is float


def test_a_mapping_of_parts_is_still_added_up() -> None:
    assert values(lambda response: {"score": 0.5, "length": 1}, "x") == [1.5]


# --- Failures


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda queries: [1.0] * 3, "reward 'mine' returned 3 values for 2 responses"),
        (
            lambda queries: {"rewards": [1.0, 2.0], "scores": [1.0, 2.0, 3.0]},
            "reward 'mine' returned 3 values of 'scores' for 2 responses",
        ),
        (
            lambda queries: {"rewards": [1.0, 2.0], "extra_logs": {"n": torch.ones(4)}},
            "reward 'mine' returned 4 values of 'n' for 2 responses",
        ),
        (
            lambda queries: {"scores": [1.0, 2.0]},
            "reward 'mine' returned a mapping without 'rewards' (known: scores)",
        ),
        (
            lambda solution_str: {"acc": 1.0},
            "reward 'mine' returned a mapping without 'score' (known: acc)",
        ),
        (
            lambda queries: [1.0, math.nan],
            "reward 'mine' returned nan (problem 'p'); it must be a finite number",
        ),
        (
            lambda queries: torch.tensor([-math.inf, 0.0]),
            "reward 'mine' returned -inf (problem 'p'); it must be a finite number",
        ),
        (
            lambda solution_str: math.nan,
            "reward 'mine' returned nan (problem 'p'); it must be a finite number",
        ),
        (
            lambda queries: {"rewards": [0.0, 0.0], "scores": [0.0, math.nan]},
            "reward 'mine' returned nan as 'scores' (problem 'p'); it must be a finite number",
        ),
        (
            lambda solution_str: {"score": 0.0, "acc": math.inf},
            "reward 'mine' returned inf as 'acc' (problem 'p'); it must be a finite number",
        ),
    ],
)
def test_what_is_wrong_with_a_returned_value_is_said(
    function: Callable[..., Any], message: str
) -> None:
    assert fault(function) == message


@pytest.mark.parametrize(
    "function",
    [
        lambda queries: None,
        lambda queries: ["much", "little"],
        lambda queries: [None, 1.0],
        lambda queries: [[1.0, 2.0], [3.0, 4.0]],
        lambda queries: {"rewards": None},
        lambda solution_str: "much",
        lambda solution_str: {"score": None},
        lambda solution_str: 1 / 0,
        lambda queries, labels: labels[2],
    ],
)
def test_a_function_that_fails_is_named_with_its_problem(function: Callable[..., Any]) -> None:
    said = fault(function)
    assert said.startswith("reward 'mine' raised ") and said.endswith("(problem 'p')")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda querys: 0, ["'querys'", "did you mean 'queries'"]),
        (lambda queries, prompt: 0, ["'prompt'", "did you mean 'prompts'"]),
        (lambda queries, response: 0, ["'response'", "labels, prompts, queries"]),
        (lambda solution, ground_truth: 0, ["'solution'", "did you mean 'solution_str'"]),
        (lambda data_source, solution_str, ground_truth, tokenizer: 0, ["'tokenizer'", "known: "]),
        (lambda: 0, ["asks for nothing", "response"]),
        (lambda **kwargs: 0, ["asks for nothing", "response"]),
        (lambda *args: 0, ["asks for nothing", "response"]),
        (lambda tokenizer=None: 0, ["asks for nothing", "response"]),
        (min, ["'mine'", "parameters cannot be read"]),
    ],
)
def test_a_parameter_that_nobody_has_is_refused_before_anything_is_called(
    function: Callable[..., Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        adapt_signature(function, "mine")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ["reward 'mine'", *words])


def test_an_empty_group_is_not_asked() -> None:
    problem = Problem("p", "math", "q", "1")
    rewarder = Rewarder([("mine", 1.0, checked_reward("mine", lambda queries: queries[0]))])
    assert rewarder(VerifiedGroup(problem, ()), CONTEXT) == RewardedGroup(
        problem, (), trained=False
    )


def test_an_object_with_a_call_works_like_a_function() -> None:
    class Judge:
        def __call__(self, queries, labels):
            return [len(labels)] * len(queries)

    assert values(Judge(), "a", "b") == [2.0, 2.0]
    assert values(SimpleNamespace(score=compute_score).score, "15") == [1.0]


# --- Whole runs


FILE = '''
import torch


def custom_reward_function(response, ground_truth):
    return 1.0 + len(response) + (ground_truth == "4")


def reward_func(queries, prompts, labels):
    """As in the examples of OpenRLHF."""
    responses = [query.removesuffix("<end>") for query in queries]
    lengths = [len(response) - len(prompt) for response, prompt in zip(responses, prompts)]
    assert labels == ["4"] * len(queries), labels
    assert all(query.startswith(prompt) for query, prompt in zip(queries, prompts))
    reward = torch.tensor([2.0 + length for length in lengths])
    return {"rewards": reward, "scores": (reward > 2).float(), "extra_logs": {"dummy_scores": reward}}


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """As verl asks for it."""
    assert (data_source, ground_truth) == ("sums", "4")
    return {"score": 2.0 + len(solution_str), "index": extra_info["index"]}
'''
PARTS = {
    "custom_reward_function": {"custom_reward_function"},
    "reward_func": {"reward_func.rewards", "reward_func.scores", "reward_func.dummy_scores"},
    "compute_score": {"compute_score.score", "compute_score.index"},
}


def measured(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    samples = [
        json.loads(line) for line in (folder / "tiny" / "samples" / "train-000001.jsonl").open()
    ]
    return json.loads((folder / "tiny" / "metrics.jsonl").read_text().splitlines()[0]), samples


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("how", ["recipe", "python"])
def test_a_run_is_rewarded_by_each_of_them(
    how: str, name: str, tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "my_rewards.py").write_text(FILE)
    path = write(tmp_path / "train.parquet", [verl(f"2 + {i}?", "4", 31) for i in range(4)])
    tree = tiny.recipe(tiny_model, train=[{"data": {"name": "file", "path": path}}])
    given: dict[str, Any] = {"run__folder": tmp_path, "run__steps": 1, "eval": {"sets": []}}
    if how == "recipe":
        tree["reward"] = f"{tmp_path / 'my_rewards.py'}:{name}"
    else:
        space: dict[str, Any] = {}
        exec(FILE, space)
        given["reward"] = space[name]
    rlvr.train(tree, **given)
    metrics, samples = measured(tmp_path)
    assert set(metrics["reward_parts"]) == PARTS[name]
    assert [row["reward"] for row in samples] == [2.0 + len(row["text"]) for row in samples]
    if name == "compute_score":
        assert {row["parts"]["compute_score.index"] for row in samples} == {31.0}


def test_weights_and_keys_of_a_recipe_reach_a_function_of_queries(
    tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def mine(queries, *, bonus: float = 1.0):\n    return [bonus] * len(queries)\n"
    )
    reward = {"name": f"{tmp_path / 'mine.py'}:mine", "bonus": 3.0, "weight": 0.5}
    rlvr.train(tiny.recipe(tiny_model, reward=reward), run__folder=tmp_path, run__steps=1)
    assert measured(tmp_path)[0]["reward"] == 1.5


def test_an_unknown_parameter_is_refused_before_the_model_is_loaded(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvr.models.loading.load", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "mine.py").write_text(
        "def mine(queries, promptz):\n    return [0.0] * len(queries)\n"
    )
    tree = tiny.recipe(tiny_model, reward=f"{tmp_path / 'mine.py'}:mine")
    with pytest.raises(
        UserError, match=r"reward 'mine': it asks for 'promptz'.*did you mean 'prompts'"
    ):
        rlvr.train(tree, run__folder=tmp_path)
    assert not (tmp_path / "tiny").exists()
