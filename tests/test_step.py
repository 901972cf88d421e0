"""The training step on the tiny model: what travels through it, and that new weights reach the
engine.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from support.steps import made, stepped, variety
from torch import Tensor

from rlvr import step, types
from rlvr.distributed import world
from rlvr.metrics import mergeable
from rlvr.models import packing
from rlvr.rollouts import gather
from rlvr.step import Run, StepResult, sample_groups, train_step
from rlvr.training import batch
from rlvr.training import scored as scored_file
from rlvr.training.batch import Batch
from rlvr.training.scored import Scored, tokens_of
from rlvr.types import Problem, Response, Sample, flatten

# Anything that chooses a way: an `if` of any form, a loop with an end of its own, `and`/`or`, a
# handler.
BRANCHES = (ast.If, ast.IfExp, ast.Match, ast.While, ast.Try, ast.BoolOp, ast.Assert)
ONE_PROBLEM = [Problem("only", "math", "What is 7 + 8?", "15")]


def samples_of(result: StepResult) -> list[Sample]:
    return flatten(result.groups)


def watch(monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> list[Any]:
    """The first argument of every call of a function, which goes on working."""
    seen, original = [], getattr(where, name)

    def call(first: Any, *rest: Any) -> Any:
        seen.append(first)
        return original(first, *rest)

    monkeypatch.setattr(where, name, call)
    return seen


def same_weights(run: Run) -> bool:
    engine = run.rollouts.engine.reader.parameters
    return all(
        torch.equal(engine[name], weight.to(engine[name].dtype))
        for name, weight in run.learner.weights()
    )


def test_the_step_has_no_branch() -> None:
    for function in (train_step, sample_groups):
        tree = ast.parse(inspect.getsource(function))
        assert not [node for node in ast.walk(tree) if isinstance(node, BRANCHES)]
        assert not [
            node.ifs for node in ast.walk(tree) if isinstance(node, ast.comprehension) and node.ifs
        ]


def test_the_step_is_one_screen() -> None:
    tree = ast.parse(Path(step.__file__).read_text("utf-8"))
    statements = [
        node for node in ast.walk(tree) if isinstance(node, ast.stmt) and not is_docstring(node)
    ]
    code = {line for node in statements for line in own_lines(node)}
    assert len(code) <= 80
    assert (
        sum(
            len(inspect.getsource(function).splitlines())
            for function in (train_step, sample_groups)
        )
        <= 40
    )


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def own_lines(node: ast.stmt) -> range:
    """The lines of a statement, of a class or function its head only."""
    body = getattr(node, "body", None)
    return range(node.lineno, body[0].lineno if body else (node.end_lineno or node.lineno) + 1)


def test_only_responses_are_trained_on(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tiny_model).run
    batches = watch(monkeypatch, run.learner, "update")
    samples = samples_of(stepped(run)[0])
    assert [s.response for s in batches[0].sequences] == [s.rollout.token_ids for s in samples]
    assert [s.prompt for s in batches[0].sequences] == [s.rollout.prompt.token_ids for s in samples]
    assert len(batches[0].advantage) == sum(len(s.rollout.token_ids) for s in samples)


@pytest.mark.parametrize("shared", [*packing.Sharing, None])
@pytest.mark.parametrize("budget", [1, 64, 100_000])
def test_every_response_token_is_predicted_once_and_from_the_token_before_it(
    tiny_model: Path, shared: packing.Sharing | None, budget: int
) -> None:
    run = made(tiny_model, rollout={"problems": 4, "samples": 3, "max_tokens": 9}).run
    sequences = tokens_of(samples_of(stepped(run)[0]))
    predicted: dict[int, list[tuple[int, int]]] = {}
    for part in packing.split_into_passes(sequences, budget, shared):
        assert part.input_ids.numel() <= budget or len(part.input_ids) == 1
        before = part.input_ids[part.row, part.column][part.source].tolist()
        pairs = zip(before, part.target[part.source].tolist(), strict=True)
        for number in part.samples:
            assert number not in predicted
            predicted[number] = [next(pairs) for _ in sequences[number].response]
        assert next(pairs, None) is None
    for number, tokens in enumerate(sequences):
        before = (tokens.prompt[-1], *tokens.response[:-1])
        assert predicted[number] == list(zip(before, tokens.response, strict=True))


def test_a_group_holds_the_samples_of_one_problem(tiny_model: Path) -> None:
    run = made(tiny_model, rollout={"problems": 5, "samples": 3, "max_tokens": 6}).run
    result = stepped(run)[0]
    assert len(result.groups) == 5
    for group in result.groups:
        assert len(group.samples) == 3
        assert all(s.rollout.prompt.problem == group.problem for s in group.samples)
        assert all(group.problem.question in s.rollout.prompt.text for s in group.samples)


def test_each_source_is_asked_and_judged_in_its_own_way(tiny_model: Path) -> None:
    rows = [dict(tiny.recipe(tiny_model)["train"][0]) for _ in range(2)]  # type: ignore[index]
    rows[1] |= {
        "prompt": {"name": "plain", "template": "Q: {question}"},
        "task": {"name": "math", "extract": ["box"]},
    }
    run = made(tiny_model, train=rows, rollout={"problems": 16, "samples": 2, "max_tokens": 12}).run
    rollouts = [(s.rollout, s.verdict) for s in samples_of(stepped(run)[0])]
    assert {rollout.prompt.draw.source for rollout, _ in rollouts} == {0, 1}
    for rollout, verdict in rollouts:
        second = rollout.prompt.draw.source == 1
        assert rollout.prompt.text.startswith("Q: ") == second
        assert verdict.answer is None or not second  # no random text has a box, some has a number
    assert any(verdict.answer for _, verdict in rollouts)


def test_rewards_verdicts_and_texts_belong_to_their_sample(tiny_model: Path) -> None:
    run = made(tiny_model, rollout={"problems": 4, "samples": 4, "max_tokens": 8}).run
    decode = run.render.tokenizer.decode
    for sample in samples_of(stepped(run)[0]):
        rollout = sample.rollout
        assert rollout.text == decode(rollout.token_ids, skip_special_tokens=True)
        assert sample.reward.value == variety(rollout.text)
        judged = run.verifier.judges[0](
            rollout.prompt.problem, Response(rollout.text, rollout.finish == "length")
        )
        assert replace(sample.verdict, ms=0.0) == replace(judged, ms=0.0)


def test_advantages_follow_the_groups(tiny_model: Path) -> None:
    run = made(tiny_model, advantage={"name": "grpo", "std": False}).run
    result = stepped(run)[0]
    expected = []
    for group in result.groups:
        mean = sum(s.reward.value for s in group.samples) / len(group.samples)
        expected += [s.reward.value - mean for s in group.samples]
    assert result.advantages == pytest.approx(expected, abs=1e-5)


def test_the_types_of_the_stages_are_frozen() -> None:
    modules = (types, scored_file, batch, step, gather, mergeable, world)
    found = [
        c
        for m in modules
        for c in vars(m).values()
        if dataclasses.is_dataclass(c) and c.__module__ == m.__name__
    ]
    assert len(found) > 20
    assert [c.__name__ for c in found if not c.__dataclass_params__.frozen] == []


def test_no_stage_writes_into_the_tensors_of_another(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = {
        "terms": ["clip", {"name": "kl", "coef": 0.1}, {"name": "entropy", "coef": 0.01}],
        "reduction": "sequence",
    }
    run = made(
        tiny_model, loss=loss, learn={"epochs": 2, "minibatches": 2, "tokens_per_pass": 64}
    ).run
    kept: list[tuple[Tensor, int, Tensor]] = []

    def remember(stage: Any) -> Any:
        values = [getattr(stage, field.name) for field in dataclasses.fields(stage)]
        for value in values:
            if isinstance(value, Scored):
                remember(value)
            if isinstance(value, Tensor):
                kept.append((value, value._version, value.clone()))
        return stage

    score, update = run.learner.score, run.learner.update
    monkeypatch.setattr(run.learner, "score", lambda groups: remember(score(groups)))
    monkeypatch.setattr(run.learner, "update", lambda minibatch: update(remember(minibatch)))
    monkeypatch.setattr(step, "Batch", lambda *stages: remember(Batch(*stages)))
    stepped(run)
    # of Scored, and of Batch and the Batch of each update with the Scored that each of them holds
    assert len(kept) == 7 + 8 + 4 * 8
    for tensor, version, value in kept:
        assert tensor._version == version
        assert torch.equal(tensor, value)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_new_weights_reach_the_engine(tiny_model: Path, compute: str) -> None:
    run = made(tiny_model, model={"name": str(tiny_model), "compute": compute}).run
    engine = run.rollouts.engine
    assert set(engine.reader.parameters) == {name for name, _ in run.learner.weights()}
    assert engine.version == 0 and same_weights(run)
    before = {name: weight.clone() for name, weight in engine.reader.parameters.items()}
    for number, result in enumerate(stepped(run, 3)):
        assert result.state.step == number + 1
        assert {s.rollout.version for s in samples_of(result)} == {number}
    assert engine.version == 3 and same_weights(run)
    assert {weight.dtype for weight in engine.reader.parameters.values()} == {
        getattr(torch, compute)
    }
    assert all(
        not torch.equal(before[name], weight)
        for name, weight in engine.reader.parameters.items()
        if weight.dim() > 1
    )


def test_the_mismatch_shows_weights_that_did_not_arrive(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_mismatch() -> float:
        return float(stepped(run, 4)[-1].metrics.record()["mismatch"])  # type: ignore[arg-type]

    run = made(tiny_model, optimizer={"lr": 1e-2}).run
    arrived = last_mismatch()
    run = made(tiny_model, optimizer={"lr": 1e-2}).run
    monkeypatch.setattr(run.rollouts.engine, "load", lambda weights, version: None)
    lost = last_mismatch()
    assert not same_weights(run)
    assert arrived < 1e-5 and lost > 0.02


def test_rollouts_carry_masks_log_probabilities_and_their_number(tiny_model: Path) -> None:
    run = made(tiny_model, rollout={"problems": 3, "samples": 4, "max_tokens": 7}).run
    for group in stepped(run)[0].groups:
        assert [s.rollout.index for s in group.samples] == [0, 1, 2, 3]
        for sample in group.samples:
            rollout = sample.rollout
            assert (
                rollout.mask == (1,) * len(rollout.token_ids) and 1 <= len(rollout.token_ids) <= 7
            )
            assert len(rollout.logprobs) == len(rollout.token_ids) and max(rollout.logprobs) <= 0
            assert rollout.prompt.draw.source == 0


def test_copies_of_one_problem_are_groups_of_their_own(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(
        tiny_model, problems=ONE_PROBLEM, rollout={"problems": 128, "samples": 2, "max_tokens": 6}
    ).run
    asked = watch(monkeypatch, run.rollouts.engine, "generate")
    scored = watch(monkeypatch, run.learner, "score")
    result = stepped(run)[0]
    assert len(scored[0]) == len(result.groups) == 128
    assert [g.samples[0].rollout.prompt.draw.copy for g in result.groups] == list(range(128))
    assert [s.rollout.index for s in samples_of(result)] == list(range(256))
    assert len({key for request in asked[0] for key in request.keys}) == 256
    # a few end with their first token
    assert len({s.rollout.token_ids for s in samples_of(result)}) > 230
    assert result.metrics.record()["groups"] == 128


def test_copies_are_compared_within_their_own_group_only(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(
        tiny_model, problems=ONE_PROBLEM, rollout={"problems": 8, "samples": 2, "max_tokens": 6}
    ).run
    packed = watch(monkeypatch, run.learner, "score")
    groups = stepped(run)[0].groups
    scored = run.learner.score(packed[0])
    assert scored.group.tolist() == [i for i in range(8) for _ in range(2)]
    assert scored.reward.tolist() == [s.reward.value for g in groups for s in g.samples]


def test_no_two_samples_of_a_step_share_a_key(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(
        tiny_model, rollout={"problems": 24, "samples": 3, "max_tokens": 2}
    ).run  # of 16 problems, so with copies
    asked = watch(monkeypatch, run.rollouts.engine, "generate")
    stepped(run, 2)
    assert len({key for call in asked for request in call for key in request.keys}) == 2 * 24 * 3


def test_an_attempt_is_a_function_of_step_and_number(tiny_model: Path) -> None:
    run = made(tiny_model, problems=ONE_PROBLEM).run

    def tokens(at: int, number: int) -> list[tuple[int, ...]]:
        return [
            s.rollout.token_ids
            for s in flatten(sample_groups(run, at, number, run.sources.start())[0])
        ]

    assert tokens(0, 0) == tokens(0, 0)
    assert tokens(0, 0) != tokens(0, 1) and tokens(0, 0) != tokens(1, 0)


def test_two_runs_of_one_recipe_are_equal_to_the_bit(tiny_model: Path) -> None:
    first, second = made(tiny_model).run, made(tiny_model).run
    for one, other in zip(stepped(first, 3), stepped(second, 3), strict=True):
        assert one.metrics.record() == other.metrics.record()
        assert one.advantages == other.advantages
    weights = zip(first.learner.weights(), second.learner.weights(), strict=True)
    assert all(torch.equal(one, other) for (_, one), (_, other) in weights)


@pytest.mark.parametrize("gatherer", ["once", "refill"])
def test_a_step_without_signal_moves_nothing(tiny_model: Path, gatherer: str) -> None:
    run = made(tiny_model, reward=lambda response: 1.0, filter=["no_signal"], gather=gatherer).run
    before = {name: weight.clone() for name, weight in run.learner.weights()}
    record = stepped(run)[0].metrics.record()
    assert all(torch.equal(before[name], weight) for name, weight in run.learner.weights())
    assert (
        record["skipped_updates"] == 0 and record["attempts"] == {"once": 1, "refill": 4}[gatherer]
    )


def test_a_step_whose_verdicts_are_all_masked_moves_nothing(tiny_model: Path) -> None:
    run = made(tiny_model).run

    def broken(problem: Problem, response: Response) -> Any:
        raise ValueError("no verdict")

    run = replace(run, verifier=replace(run.verifier, judges=[broken], stop_above=1.0))
    before = {name: weight.clone() for name, weight in run.learner.weights()}
    result = stepped(run)[0]
    assert not any(group.samples for group in result.groups) and result.state.source.drawn == 2
    assert [len(group.failed) for group in result.groups] == [run.sampling.samples] * 2
    assert all(torch.equal(before[name], weight) for name, weight in run.learner.weights())


def test_filtered_groups_stay_in_the_denominators(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = set("0123456789")
    sections = {"filter": ["no_signal"], "rollout": {"problems": 12, "samples": 2, "max_tokens": 4}}
    run = made(
        tiny_model, reward=lambda response: float(bool(digits & set(response))), **sections
    ).run
    packed: list[Batch] = watch(monkeypatch, run.learner, "update")
    result = stepped(run)[0]
    left_out = [g for g in result.groups if not g.trained]
    assert 0 < len(left_out) < 12
    assert packed[0].total_samples == 24
    assert packed[0].total_tokens == sum(len(s.rollout.token_ids) for s in samples_of(result))
    assert len(packed[0].sequences) == 24 - 2 * len(left_out)
    assert result.metrics.record()["filtered"] == len(left_out) / 12
