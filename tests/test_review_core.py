"""What an independent reading of PPO, stages, adapters and their neighbours found broken, each as
the smallest test.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import fake_run, tiny
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import rlvr
from rlvr.build import estimate
from rlvr.build.models import load_policy
from rlvr.build.run import build
from rlvr.config import loader
from rlvr.errors import RunError, UserError
from rlvr.models import export
from rlvr.models.packing import Tokens
from rlvr.models.policy import Policy
from rlvr.report.findings import find_alarms
from rlvr.report.run_page import write_report
from rlvr.step import State, StepResult, sample_groups, train_step
from rlvr.storage.jsonl import JsonLines
from rlvr.storage.run_data import read_run as load_run
from rlvr.types import Problem, Response, Status, Verdict

PPO: dict[str, Any] = {
    "advantage": "gae",
    "critic": {"optimizer": {"lr": 1e-2}},
    "learn": {"epochs": 2, "minibatches": 2},
}
CUT: dict[str, Any] = {
    "filter": "overlong",
    "rollout": {"problems": 2, "samples": 4, "max_tokens": 2},
}


def variety(response: str) -> float:
    return float(len(set(response)))


def stepped(folder: Path, steps: int, reward: Any = variety, **sections: Any) -> list[StepResult]:
    run = build(loader.load(tiny.recipe(folder, **sections)), None, reward).run
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
        {
            "loss": {
                "reduction": "sequence",
                "correction": {"name": "importance", "normalise": True},
            }
        },
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
    result = stepped(
        tiny_model,
        1,
        advantage="grpo_passk",
        rollout={"problems": 2, "samples": 1, "max_tokens": 4},
    )[0]
    assert set(result.advantages) == {0.0}


# --- ReMax


def test_remax_takes_a_step_whose_groups_were_all_filtered(tiny_model: Path) -> None:
    result = stepped(tiny_model, 1, lambda response: 1.0, advantage="remax", filter="no_signal")[0]
    assert result.metrics.record()["filtered"] == 1 and not any(result.advantages)
    assert set(result.advantages) == {None}


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


def test_a_greedy_answer_that_cannot_be_verified_costs_its_group_and_not_the_run(
    tiny_model: Path,
) -> None:
    source = {"data": {**tiny.SUMS, "count": 16}, "task": f"{__name__}:judge"}
    run = build(
        loader.load(tiny.recipe(tiny_model, advantage="remax", train=[source])), None, variety
    ).run
    ASKED.clear()
    assert [group.trained for group in train_step(run, State(0, run.sources.start())).groups] == [
        False,
        True,
    ]


# --- Stages


def split_stages(
    folder: Path, runs: Path, rows: list[dict[str, Any]], reward: Any = variety, **sections: Any
) -> list[Any]:
    """The records of a run of the stages."""
    made = tiny.recipe(folder, stages=rows, **sections)
    made["run"] |= {"folder": str(runs), "name": "staged"}  # type: ignore[operator]
    made["eval"] = {}
    rlvr.train(made, reward=reward)
    return [
        json.loads(line) for line in (runs / "staged" / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_stage_may_have_a_kl_coefficient_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"steps": 1}, {"steps": 1, "reward_kl.coef": 0.7}]
    found = split_stages(tiny_model, tmp_path, rows, reward_kl={"coef": 0.1})
    assert [record["kl_coef"] for record in found] == [0.1, 0.7]


def test_an_adaptive_coefficient_goes_on_into_a_stage_with_a_reward_scale(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A target far above the KL, so that the coefficient falls at every step."""
    rows = [{"steps": 2}, {"steps": 1, "reward_scale": "running"}]
    found = split_stages(
        tiny_model, tmp_path, rows, reward_kl={"coef": 0.1, "target": 50.0, "horizon": 10}
    )
    assert [record["kl_coef"] for record in found] == pytest.approx(
        [0.1 * 0.84**n for n in (1, 2, 3)]
    )


def visited(runs: Path) -> list[list[str]]:
    rows = [
        json.loads(line) for line in (runs / "staged" / "history.jsonl").read_text().splitlines()
    ]
    return [
        [row["id"] for row in rows if row["step"] == step]
        for step in sorted({row["step"] for row in rows})
    ]


def test_a_stage_draws_from_the_beginning_where_its_problems_are_not_those_of_the_stage_before(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The third stage has the recipe's two sources again, the fourth those of the third."""
    one, other = (
        {"data": {**tiny.SUMS, "levels": [n], "count": 8}, "task": tiny.NUMBER} for n in (1, 2)
    )
    rows = [{"steps": 1}, {"steps": 1, "train": [other]}, {"steps": 1}, {"steps": 1}]
    split_stages(tiny_model, tmp_path, rows, train=[one, other])
    found = visited(tmp_path)
    assert found[2] == found[0] and not set(found[3]) & set(found[2])


def test_the_warm_up_of_the_critic_is_counted_in_steps_also_where_stages_make_other_numbers_of_updates(
    tiny_model: Path, tmp_path: Path
) -> None:
    rows = [{"steps": 1, "learn": {"epochs": 1, "minibatches": 1}}, {"steps": 4}]
    found = split_stages(tiny_model, tmp_path, rows, **{**PPO, "critic": {"warmup": 3}})
    assert ["loss" in record for record in found] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("critic.warmup", 2),
        ("critic.model", "other"),
        ("critic.optimizer", {"states": "8bit"}),
        ("optimizer.states", "8bit"),
        ("rollout.engine", {"name": "local", "max_sequences": 3}),
        ("learn.tokens_per_pass", 7),
    ],
)
def test_a_stage_is_refused_what_all_stages_share(tiny_model: Path, key: str, value: Any) -> None:
    shared = "critic.optimizer.states" if key == "critic.optimizer" else key
    with pytest.raises(UserError, match=rf"stages\.0\.{shared}: is the same for all stages"):
        loader.load(tiny.recipe(tiny_model, stages=[{"steps": 1, key: value}], **PPO))


def test_problems_rest_also_where_refilling_leaves_their_groups_out(tiny_model: Path) -> None:
    source = {"data": {**tiny.SUMS, "count": 4}, "task": tiny.NUMBER, "adaptive": {"cooldown": 2}}
    gather = {"name": "refill", "max_attempts": 2}
    result = stepped(tiny_model, 1, lambda response: 1.0, train=[source], gather=gather)[0]
    assert not result.groups and len(result.state.source.last) == 4


KL: dict[str, Any] = {"terms": ["clip", {"name": "kl", "coef": 0.01}]}


def test_the_reference_is_renewed_in_a_stage_that_does_not_measure_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    rows = [
        {"steps": 2},
        {"steps": 1, "reference": "renewed", "optimizer.lr": 0.0},
        {"steps": 1, "loss": KL},
    ]
    assert split_stages(tiny_model, tmp_path, rows, optimizer={"lr": 1e-2})[-1]["kl"] < 1e-9


def test_the_reference_follows_a_cold_start_where_the_first_stage_does_not_measure_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    cold = {"steps": 3, "problems": 4, "optimizer": {"lr": 1e-2}}
    rows = [{"steps": 1}, {"steps": 1, "loss": KL}]
    assert (
        split_stages(tiny_model, tmp_path, rows, optimizer={"lr": 0.0}, cold_start=cold)[-1]["kl"]
        < 1e-9
    )


def test_a_reference_that_cannot_be_renewed_is_refused(tiny_model: Path) -> None:
    """Adapters have no copy to renew, also where only that stage measures the KL; a named model
    stays what it is.
    """
    rows = [{"steps": 1}, {"steps": 1, "reference": "renewed", "loss": KL}]
    with pytest.raises(
        UserError, match=r"model\.lora: the reference is the model without adapters"
    ):
        loader.load(
            tiny.recipe(tiny_model, stages=rows, model={"name": str(tiny_model), "lora": {}})
        )
    named = {"name": str(tiny_model), "reference": str(tiny_model)}
    with pytest.raises(UserError, match=r"stages\.1\.reference: .*model\.reference"):
        loader.load(tiny.recipe(tiny_model, stages=rows, model=named))


def test_adapters_may_have_a_named_reference_after_a_cold_start(tiny_model: Path) -> None:
    model = {"name": str(tiny_model), "reference": str(tiny_model), "lora": {}}
    assert loader.load(
        tiny.recipe(tiny_model, cold_start={"steps": 1}, loss=KL, model=model)
    ).model.lora


# --- Weights and memory


def test_the_critic_checkpoints_its_layers_as_the_policy_does(tiny_model: Path) -> None:
    model = {"name": str(tiny_model), "compute": "float32", "gradient_checkpointing": True}
    learner = build(
        loader.load(tiny.recipe(tiny_model, model=model, **PPO)), None, variety
    ).run.learner
    assert learner.critic is not None
    for module in (learner.policy.module, learner.critic.model.module):
        assert all(
            layer.training for layer in module.modules() if hasattr(layer, "gradient_checkpointing")
        )


def test_a_bfloat16_model_counts_tokens_and_rewards_in_float32(tiny_model: Path) -> None:
    """In bfloat16 a response of 1000 tokens has 256 of them, and a reward of 1001 is 1000."""
    sections: dict[str, Any] = {
        **PPO,
        "loss": KL,
        "model": {"name": str(tiny_model), "dtype": "bfloat16"},
    }
    run = build(loader.load(tiny.recipe(tiny_model, **sections)), None, variety).run
    scored = run.learner.score(sample_groups(run, 0, 0, run.sources.start())[0])
    scored = run.learner.estimate_values(scored)
    wide = [
        scored.reward,
        scored.mask,
        scored.old_logprob,
        scored.ref_logprob,
        scored.value,
        scored.returns,
    ]
    assert {tensor.dtype for tensor in wide if tensor is not None} == {torch.float32}
    assert train_step(run, State(0, run.sources.start())).metrics.record()["skipped_updates"] == 0


# --- Adapters


def adapted(folder: Path, **options: Any) -> Policy:
    """The policy with adapters that are not zero."""
    model = {"name": str(folder), "compute": "float32", "lora": {"rank": 4, **options}}
    policy = load_policy(loader.load(tiny.recipe(folder, model=model))).policy
    draw = torch.Generator().manual_seed(0)
    for master in policy.master:
        master.data = torch.randn(master.shape, generator=draw) * 0.5
    return policy


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("lm_head", "shares its weights"),
        ("embed_tokens", "is an embedding"),
        (["q_proj", "lm_head"], "shares"),
        ("[", ""),
    ],
    ids=str,
)
def test_adapters_that_would_not_reach_the_engine_are_refused(
    tiny_model: Path, target: Any, message: str
) -> None:
    pytest.importorskip("peft")
    targets = target if target == "[" or isinstance(target, list) else [target]
    with pytest.raises(UserError, match=rf"model\.lora\.targets: .*{message}"):
        adapted(tiny_model, targets=targets)


@pytest.mark.parametrize("targets", ["all-linear", ["attn.c_proj"]], ids=str)
def test_adapters_on_transposed_layers_are_merged_as_they_train(
    tmp_path: Path, targets: Any
) -> None:
    """Those of GPT-2, of which one is square, so that its shape hides a wrong side."""
    pytest.importorskip("peft")
    config = GPT2Config(
        vocab_size=len(tiny.tokenizer()),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=1,
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tiny.tokenizer().save_pretrained(tmp_path / "gpt2")
    policy = adapted(tmp_path / "gpt2", targets=targets)
    export.export(policy, tmp_path / "exported")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    sequences = [Tokens((5, 6, 7, 8), (9, 10, 11)), Tokens((5, 6), (12, 13))]
    found = Policy(exported, torch.float32, 64, tiny.tokenizer()).logprobs(sequences, 1.0)
    assert torch.allclose(found, policy.logprobs(sequences, 1.0), atol=1e-4)


def test_an_exported_model_keeps_its_ends_of_text(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = shutil.copytree(tiny_model, tmp_path / "several")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    export.export(adapted(folder), tmp_path / "exported")
    kept = json.loads((tmp_path / "exported" / "generation_config.json").read_text())
    assert kept["eos_token_id"] == [1, 2]


# --- What is said of a mistake


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"reward_kl": {"coeff": 0.1}}, r"reward_kl\.coeff: unknown key \(did you mean 'coef'\?\)"),
        (
            {"model": {"lora": True}},
            r"model\.lora: should be a mapping of keys \(rank, alpha, targets\), not True",
        ),
        (
            {"critic": True, "advantage": "gae"},
            r"critic: should be a mapping of keys \(model, .*\), not True",
        ),
        ({"stages": {"steps": 3}}, r"stages: should be a list, not"),
        ({"stages": [{"steps": 1, "train": []}]}, r"stages\.0: train: should not be empty"),
        (
            {"stages": [{"steps": 1, "train.5.data": "x"}]},
            r"stages\.0: train\.5\.data: '5' should be the number",
        ),
        (
            {"stages": [{"steps": 1, "referense": "renewed"}]},
            r"referense: .*did you mean 'reference'",
        ),
    ],
)
def test_a_mistake_is_told_by_its_own_key(
    tiny_model: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        loader.load(tiny.recipe(tiny_model, **sections))


def test_a_misspelt_key_is_found_also_where_another_is_missing(tmp_path: Path) -> None:
    (tmp_path / "lost.yaml").write_text("extend: demo\nrollout: {samples: 3}\n")
    with pytest.raises(UserError, match="extend: unknown key"):
        loader.load(tmp_path / "lost.yaml")


def test_recipes_that_extend_each_other_by_a_roundabout_way_are_refused(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: ../{tmp_path.name}/{base}.yaml\n")
    with pytest.raises(UserError, match="extends itself"):
        loader.load(tmp_path / "a.yaml")


def test_a_critic_without_a_finite_gradient_names_a_key_that_exists(tiny_model: Path) -> None:
    learner = build(loader.load(tiny.recipe(tiny_model, **PPO)), None, variety).run.learner
    assert learner.critic is not None
    updates = learner.critic.updates
    with pytest.raises(RunError, match=r"lower critic\.optimizer\.lr"):
        for _ in range(3):
            updates.model.master[0].grad = torch.full_like(updates.model.master[0], torch.inf)
            updates.step("critic/")


# --- Second models


@pytest.mark.parametrize(
    ("where", "sections"),
    [
        ("critic.model", {**PPO, "critic": {"model": "/nowhere"}}),
        ("model.reference", {"model": {"reference": "/nowhere"}, "loss": KL}),
    ],
)
def test_a_second_model_that_is_not_there_is_refused_by_its_key_before_problems_are_read(
    tiny_model: Path, where: str, sections: dict[str, Any]
) -> None:
    sections = sections | {"model": {"name": str(tiny_model), **sections.get("model", {})}}
    made = tiny.recipe(
        tiny_model, **sections, train=[{"data": {"name": "file", "path": "/nowhere.jsonl"}}]
    )
    with pytest.raises(UserError, match=rf"^{where}: no folder"):
        build(loader.load(made), None, variety)


def test_a_second_model_with_other_tokens_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    other = tiny.save(tmp_path / "other")
    words = json.loads((other / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    (other / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match=r"critic\.model: .* has other tokens than the policy"):
        build(
            loader.load(tiny.recipe(tiny_model, **{**PPO, "critic": {"model": str(other)}})),
            None,
            variety,
        )


def test_show_knows_the_size_of_a_runs_model_of_a_named_reference_and_of_the_critics_states(
    tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "run" / "model")
    model = {"name": str(tmp_path / "run"), "lora": {}, "reference": str(tiny_model)}
    assert (
        "reference"
        in estimate.estimate(loader.load(tiny.recipe(tiny_model, model=model, loss=KL)))[-1]
    )
    sizes = []
    for states in ("full", "8bit"):
        critic = {"model": None, "optimizer": {"states": states}}
        model = {"name": "smollm2-135m-instruct"}
        line = estimate.estimate(
            loader.load(tiny.recipe(tiny_model, model=model, **{**PPO, "critic": critic}))
        )[-1]
        sizes.append(float(line.partition("critic ")[2].partition(",")[0]))
    assert sizes[1] < sizes[0]


# --- Resume


def test_a_run_that_starts_again_keeps_no_reference_of_its_first_start(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Its checkpoints are lost, and the old reference is another model's."""
    rows = [{"steps": 1, "reference": "renewed"}]
    made = tiny.recipe(tiny_model, stages=rows, loss=KL, checkpoint={"every": 0}, eval={})
    made["run"] |= {"folder": str(tmp_path), "name": "again"}  # type: ignore[operator]
    rlvr.train(made, reward=variety)
    kept = tmp_path / "again" / "checkpoints"
    shutil.rmtree(kept / "step-000001")
    other = tiny.save(tmp_path / "other", seed=5)
    shutil.copy(other / "model.safetensors", kept / "reference-000000" / "weights.safetensors")
    rlvr.train(made, reward=variety, resume=True)
    record = json.loads((tmp_path / "again" / "metrics.jsonl").read_text())
    assert record["kl"] < 1e-9


# --- The report


def spoilt(folder: Path, change: Any) -> Path:
    path = fake_run.healthy(folder) / "metrics.jsonl"
    JsonLines.write(path, [{**record, **change(record)} for record in JsonLines.read(path)])
    return folder


def test_a_harder_stage_with_a_shorter_limit_raises_no_alarm(tmp_path: Path) -> None:
    def harder(record: dict[str, Any]) -> dict[str, Any]:
        first = record["step"] <= 15
        share = {"truncated": 0.02 if first else 0.4, "accuracy": 0.9 if first else 0.5}
        return {**share, "phase": "easy" if first else "hard"}

    run = spoilt(tmp_path / "run", harder)
    assert find_alarms(load_run(run)) == []
    assert "<dt>stages</dt><dd>easy 15, hard 15</dd>" in write_report(run).read_text()


def test_skipped_updates_of_the_critic_are_warned_of(tmp_path: Path) -> None:
    run = spoilt(
        tmp_path / "run", lambda record: {"critic": {"skipped_updates": int(record["step"] == 4)}}
    )
    assert find_alarms(load_run(run)) == [
        (
            "Updates were skipped",
            "1 times the loss or its gradient was not finite, 1 of them in the critic.",
        )
    ]


def test_the_last_stage_of_a_finished_run_may_grow(tiny_model: Path, tmp_path: Path) -> None:
    made = tiny.recipe(
        tiny_model, stages=[{"steps": 1}, {"steps": 1, "rollout.samples": 2}], eval={}
    )
    made["run"] |= {"folder": str(tmp_path), "name": "grown"}  # type: ignore[operator]
    rlvr.train(made, reward=variety)
    assert (
        rlvr.train(made, reward=variety, resume=True, overrides=["stages.1.steps=2"])["steps"] == 3
    )
    with pytest.raises(UserError, match="another 'stages'"):
        rlvr.train(made, reward=variety, resume=True, overrides=["stages.0.steps=2"])
