"""Curricula: stages with keys of their own, problems that rest, orders that are given, recipes that
extend others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny

import rlvr
from rlvr.build.run import build
from rlvr.config import loader
from rlvr.data.sources import AdaptiveSampling, Sources
from rlvr.errors import UserError
from rlvr.rollouts.filters import overlong
from rlvr.step import State, train_step
from rlvr.types import Finish, Problem, Reward, RewardedGroup, Sample, Status, Verdict

PROBLEMS = [Problem(f"p{i}", "math", str(i), str(i)) for i in range(6)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def variety(response: str) -> float:
    return float(len(set(response)))


# --- Stages


def stages(folder: Path, **more: Any) -> dict[str, Any]:
    """Sums of one digit, then of two with other lengths, batch, rate and estimator."""
    harder = [{"data": {**tiny.SUMS, "levels": [2], "count": 16}, "task": tiny.NUMBER}]
    rows = [
        {"name": "easy", "steps": 2},
        {
            "name": "hard",
            "steps": 3,
            "train": harder,
            "rollout": {"max_tokens": 4, "samples": 2},
            "rollout.problems": 4,
            "optimizer.lr": 5e-4,
            "advantage": "rloo",
        },
    ]
    return tiny.recipe(folder, stages=rows, **more)


def test_a_stage_changes_rollouts_problems_and_optimiser_and_carries_on(
    tiny_model: Path, tmp_path: Path
) -> None:
    made = stages(tiny_model)
    made["run"] |= {"folder": str(tmp_path), "name": "staged"}  # type: ignore[operator]
    summary = rlvr.train(made, reward=variety)
    assert summary["steps"] == 5
    run = tmp_path / "staged"
    metrics = lines(run / "metrics.jsonl")
    assert [m["phase"] for m in metrics] == ["easy", "easy", "hard", "hard", "hard"]
    assert [m["step"] for m in metrics] == [1, 2, 3, 4, 5]
    assert [m["groups"] for m in metrics] == [2, 2, 4, 4, 4] and {
        m["samples"] for m in metrics
    } == {8}
    assert [m["lr"] for m in metrics] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 5e-4])
    samples = [
        row
        for path in sorted((run / "samples").iterdir())
        if "train" in path.name
        for row in lines(path)
    ]
    lengths = {step: max(r["tokens"] for r in samples if r["step"] == step) for step in (2, 3)}
    assert lengths[2] == 6 and lengths[3] == 4
    levels = {step: {len(r["gold"]) for r in samples if r["step"] == step} for step in (1, 5)}
    assert max(levels[1]) < max(levels[5]) or levels[1] != levels[5]
    assert {e["step"] for e in lines(run / "evals.jsonl")} == {0, 2, 5}


def test_the_optimiser_goes_on_from_one_stage_to_the_next(tiny_model: Path) -> None:
    """Two stages that change nothing give the weights of one."""
    same = [{"name": "a", "steps": 2}, {"name": "b", "steps": 3}]
    found = []
    for rows in (same, []):
        built = build(
            loader.load(
                tiny.recipe(tiny_model, stages=rows, reward_kl={"coef": 0.1, "target": 0.1})
            ),
            None,
            variety,
        )
        state = State(0, built.run.sources.start())
        for stage, before in zip(built.stages, (None, *built.stages), strict=False):
            if before is not None:
                stage.run.learner.carry(before.run.learner)
            for _ in range(stage.steps if rows else 5):
                state = train_step(stage.run, state).state
        learner = built.stages[-1].run.learner
        assert learner.updates.count == 5
        found.append([p.detach().clone() for p in learner.policy.master])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))


@pytest.mark.parametrize("reference", ["kept", "renewed"])
def test_a_stage_may_measure_the_kl_from_where_it_begins(
    tiny_model: Path, tmp_path: Path, reference: str
) -> None:
    rows = [{"name": "a", "steps": 3}, {"name": "b", "steps": 1, "reference": reference}]
    made = tiny.recipe(
        tiny_model, stages=rows, loss={"terms": ["clip", {"name": "kl", "coef": 0.01}]}
    )
    made["run"] |= {"folder": str(tmp_path), "name": "r"}  # type: ignore[operator]
    rlvr.train(made, reward=variety, overrides=["optimizer.lr=1e-2"])
    kl = [m["kl"] for m in lines(tmp_path / "r" / "metrics.jsonl")]
    assert kl[2] > 1e-5 and (kl[3] < 1e-9) == (reference == "renewed")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"model.name": "x", "steps": 1}, "stages.0.model.name: stages cannot change it"),
        ({"steps": 1, "rollout": {"sample": 3}}, "stages.0: rollout.sample: unknown key"),
        ({"steps": 1, "rolout.samples": 3}, "did you mean 'rollout'"),
        ({"name": "a"}, "stages.0.steps: is required"),
        ({"steps": 1, "advantage": "gae"}, "needs a critic"),
        (
            {"steps": 1, "advantage": "gae", "critic": {}},
            "a critic in all of its stages or in none",
        ),
        ({"steps": 1, "name": "cold_start"}, "stages.0.name: 'cold_start' names the steps"),
    ],
)
def test_a_wrong_stage_is_refused_before_anything_is_loaded(
    tiny_model: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        loader.load(tiny.recipe(tiny_model, stages=[row]))


def test_a_named_reference_is_not_renewed(tiny_model: Path) -> None:
    model = {"name": str(tiny_model), "reference": str(tiny_model)}
    with pytest.raises(UserError, match=r"stages\.1\.reference: model\.reference names"):
        loader.load(
            tiny.recipe(
                tiny_model, model=model, stages=[{"steps": 1}, {"steps": 1, "reference": "renewed"}]
            )
        )


def test_the_length_of_a_staged_run_is_that_of_its_stages(tiny_model: Path) -> None:
    made = stages(tiny_model)
    assert loader.load(made).run.steps == 5
    with pytest.raises(UserError, match=r"run.steps.*stages.0.steps"):
        loader.load(made, ["run.steps=3"])
    assert loader.load(made, ["stages.1.steps=1"]).run.steps == 3


# --- Orders and rests


def drawn(sources: Sources, counts: list[int]) -> list[list[str]]:
    state, found = sources.start(), []
    for count in counts:
        draws, state = sources.draw(state, count)
        found.append([draw.problem.id for draw in draws])
    return found


def test_a_given_order_is_that_of_the_file() -> None:
    sources = Sources((tuple(PROBLEMS),), (1.0,), 0, given=(True,))
    assert drawn(sources, [4, 4]) == [["p0", "p1", "p2", "p3"], ["p4", "p5", "p0", "p1"]]


def group(problem: Problem, correct: int, of: int = 4) -> RewardedGroup:
    verdicts = [Verdict(Status.CORRECT if i < correct else Status.WRONG) for i in range(of)]
    return RewardedGroup(problem, tuple(Sample(None, v, Reward(0.0, {})) for v in verdicts))  # type: ignore[arg-type]


def test_problems_that_are_always_or_never_solved_rest() -> None:
    """p0 solved always, p1 never, the others sometimes: both are passed over twice, then come back."""
    sources = Sources((tuple(PROBLEMS[:4]),), (1.0,), 0, (True,), (AdaptiveSampling(cooldown=2),))
    state = sources.start()
    draws, state = sources.draw(state, 4)
    state = sources.note_accuracy(
        state, [group(p, n) for p, n in zip(PROBLEMS, (4, 0, 2, 3), strict=False)]
    )
    rounds = []
    for _ in range(3):
        draws, state = sources.draw(state, 2)
        rounds.append([d.problem.id for d in draws])
    assert rounds[:2] == [["p2", "p3"], ["p2", "p3"]]
    assert rounds[2] == ["p0", "p1"]


def test_a_source_where_all_problems_rest_still_gives_problems() -> None:
    sources = Sources((tuple(PROBLEMS[:2]),), (1.0,), 0, (True,), (AdaptiveSampling(cooldown=3),))
    draws, state = sources.draw(sources.start(), 2)
    state = sources.note_accuracy(state, [group(d.problem, 4) for d in draws])
    draws, _ = sources.draw(state, 2)
    assert [d.problem.id for d in draws] == ["p0", "p1"]


def test_what_rests_survives_a_resume(tiny_model: Path, tmp_path: Path) -> None:
    """A run of four steps, and one stopped after two and resumed, draw the same problems."""
    source = {
        "data": {**tiny.SUMS, "count": 4},
        "task": tiny.NUMBER,
        "adaptive": {"low": 0.3, "high": 0.6, "cooldown": 2},
    }
    found = []
    for name, parts in (("whole", [4]), ("halves", [2, 4])):
        made = tiny.recipe(tiny_model, train=[source], checkpoint={"every": 1})
        made["run"] |= {"folder": str(tmp_path), "name": name}  # type: ignore[operator]
        for i, steps in enumerate(parts):
            rlvr.train(made, reward=variety, resume=i > 0, overrides=[f"run.steps={steps}"])
        found.append([(r["step"], r["id"]) for r in lines(tmp_path / name / "history.jsonl")])
    assert found[0] == found[1] and len({i for _, i in found[0]}) == 4


# --- Overlong answers


def test_a_response_cut_at_the_limit_carries_no_loss_and_counts_in_its_group(
    tiny_model: Path,
) -> None:
    recipe = loader.load(
        tiny.recipe(
            tiny_model, filter="overlong", rollout={"problems": 4, "samples": 8, "max_tokens": 30}
        )
    )
    run = build(recipe, None, variety).run
    gathered = run.gather(lambda n, s: (attempted(run), s), run.sources.start(), 4)
    cut = run.keep(gathered.groups)
    kinds = [s.rollout.finish for g in cut for s in g.samples]
    assert {Finish.LENGTH, Finish.STOP} <= set(kinds)
    scored = run.learner.score(cut)
    kept = torch.zeros(len(kinds)).index_add(0, scored.sample, scored.mask) > 0
    assert kept.tolist() == [kind is Finish.STOP for kind in kinds]
    whole = run.learner.score(gathered.groups)
    assert torch.equal(scored.reward, whole.reward) and len(scored.mask) == len(whole.mask)
    tokens = sum(
        len(s.rollout.token_ids) for g in cut for s in g.samples if s.rollout.finish is Finish.STOP
    )
    advantage = run.advantage(scored, run.world)
    assert scored.total_tokens == tokens
    assert float((advantage * (1 - scored.mask)).abs().sum()) == 0
    assert overlong(cut) == cut


def attempted(run: Any) -> Any:
    from rlvr.step import sample_groups

    return sample_groups(run, 0, 0, run.sources.start())[0]


def test_token_rewards_of_a_sample_without_trained_tokens_go_nowhere() -> None:
    from rlvr.models.packing import Tokens
    from rlvr.training.scored import Scored

    scored = Scored(
        sequences=(Tokens((0,), (0, 0)), Tokens((0,), (0, 0))),
        total_samples=2,
        total_tokens=2,
        reward=torch.tensor([1.0, 2.0]),
        group=torch.tensor([0, 0]),
        sample=torch.tensor([0, 0, 1, 1]),
        mask=torch.tensor([1.0, 1, 0, 0]),
        rollout_logprob=torch.zeros(4),
    )
    assert scored.token_reward.tolist() == [0, 1, 0, 0]


# --- ReMax


def test_the_greedy_answer_is_a_baseline_and_is_not_trained_on(tiny_model: Path) -> None:
    run = build(loader.load(tiny.recipe(tiny_model, advantage="remax")), None, variety).run
    result = train_step(run, State(0, run.sources.start()))
    assert {len(g.samples) for g in result.groups} == {4}
    from rlvr.types import Sampling

    for found in result.groups:
        fresh = build(loader.load(tiny.recipe(tiny_model)), None, variety).run
        greedy = fresh.rollouts(
            [found.samples[0].rollout.prompt], Sampling(1, 6, temperature=0.0), 0
        )
        assert found.baseline == variety(greedy[0].text)
    advantages = iter(result.advantages)
    for found in result.groups:
        for sample in found.samples:
            expected = sample.reward.value - (found.baseline or 0.0)
            assert next(advantages) == pytest.approx(expected)
    assert next(advantages, None) is None


def test_the_reward_rises_with_remax(tiny_model: Path) -> None:
    from support.learning import gain, rewards

    assert gain(rewards(tiny_model, 25, advantage="remax")) > 0.3


# --- Recipes over recipes


def test_a_recipe_extends_another_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "model: {name: a, dtype: float64}\ntrain: {data: arithmetic}\nrollout: {samples: 3, problems: 5}\n"
        "reward_kl: {coef: 0.1}\nadvantage: {name: grpo, std: false}\n"
    )
    (tmp_path / "over.yaml").write_text(
        "extends: base.yaml\nmodel: b\nrollout: {samples: 4}\nreward_kl: null\nadvantage: rloo\n"
    )
    found = loader.load(tmp_path / "over.yaml")
    assert (found.model.name, found.model.dtype) == ("b", "float64")
    assert (found.rollout.samples, found.rollout.problems) == (4, 5)
    assert (
        found.reward_kl is None and found.advantage.name == "rloo" and found.advantage.params == {}
    )
    assert found.run.name == "over"


def test_a_recipe_that_extends_itself_or_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(UserError, match="extends itself"):
        loader.load(tmp_path / "a.yaml")
    with pytest.raises(UserError, match=r"unknown recipe 'demoo'.*did you mean 'demo'"):
        loader.load({"extends": "demoo"})
    with pytest.raises(UserError, match="should be the name or file"):
        loader.load({"extends": 3})


# --- Mini-batches in prompts or samples


@pytest.mark.parametrize(
    ("learn", "parts"),
    [
        ({"minibatch_prompts": 2}, 2),
        ({"minibatch_samples": 4}, 4),
        ({"minibatches": 8}, 8),
        ({}, 1),
    ],
)
def test_a_mini_batch_is_said_in_prompts_or_in_samples(
    tiny_model: Path, learn: dict[str, int], parts: int
) -> None:
    made = tiny.recipe(
        tiny_model, rollout={"problems": 4, "samples": 4, "max_tokens": 6}, learn=learn
    )
    run = build(loader.load(made), None, variety).run
    seen: list[Any] = []
    update = run.learner.update
    run.learner.update = lambda part: seen.append(part) or update(part)  # type: ignore[method-assign]
    train_step(run, State(0, run.sources.start()))
    assert len(seen) == parts
    if "minibatch_prompts" in learn:
        assert all(len(set(part.group.tolist())) == 2 and len(part.group) == 8 for part in seen)


@pytest.mark.parametrize(
    ("learn", "message"),
    [
        ({"minibatch_prompts": 3}, "learn.minibatch_prompts: 3 does not divide the 2 problems"),
        ({"minibatch_samples": 3}, "learn.minibatch_samples: 3 does not divide the 8 samples"),
        ({"minibatches": 2, "minibatch_samples": 4}, "keep one of them"),
    ],
)
def test_mini_batches_that_do_not_come_out_even_are_refused(
    tiny_model: Path, learn: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        loader.load(tiny.recipe(tiny_model, learn=learn))
