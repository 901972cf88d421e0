"""The shipped recipes of published runs: the facts of their sources, what their headers promise,
and the twins that run on two processor cores.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.places import DATA, needs_data

import rlvr
from rlvr import registry, resources
from rlvr.build.problems import read_problems
from rlvr.cli import main as cli
from rlvr.config import loader, plugins, schema, staging
from rlvr.config.schema import Recipe, Spec
from rlvr.data.prompts import plain
from rlvr.types import Problem, Status, Verdict

FOLDER = resources.FOLDERS["recipe"]
TWINS = sorted(name for name in resources.list_shipped() if name.endswith("_small"))
FULL = sorted(name.removesuffix("_small") for name in TWINS)


def bound(kind: str, spec: Spec) -> tuple[str, dict[str, Any]]:
    """A plug-in by name with all of its parameters, the defaults too."""
    params = {
        key: value for key, value in spec.params.items() if key not in ("weight", "reduction")
    }
    return spec.name, registry.find(kind, spec.name, kind).check(params, kind)


def term(recipe: Recipe, name: str) -> dict[str, Any] | None:
    found = [bound("loss", spec)[1] for spec in recipe.loss.terms if spec.name == name]
    assert len(found) <= 1
    return found[0] if found else None


def kl_of(recipe: Recipe) -> tuple[Any, ...] | None:
    """Where the KL penalty stands, its estimate and coefficient."""
    in_loss, in_reward = term(recipe, "kl"), recipe.reward_kl
    assert not (in_loss and in_reward)
    if in_loss:
        return "loss", in_loss["estimator"], in_loss["coef"], in_loss["clamp"]
    return ("reward", in_reward.estimator, in_reward.coef, in_reward.clip) if in_reward else None


def facts(recipe: Recipe) -> dict[str, Any]:
    """What a table of published runs says of each."""
    ask, rate, critic = recipe.rollout, recipe.optimizer, recipe.critic
    clip, entropy = term(recipe, "clip"), term(recipe, "entropy")
    estimator, options = bound("advantage", recipe.advantage)
    return {
        "model": recipe.model.name.rpartition("/")[2],
        "estimator": estimator,
        "discounts": (options["gamma"], options.get("lam")) if "gamma" in options else None,
        "deviation": options.get("std"),
        "batch": (ask.problems, ask.samples),
        "updates": recipe.learn.count_minibatches(ask) * recipe.learn.epochs,
        "temperature": ask.temperature,
        "scored at": ask.score_temperature or ask.temperature,
        "cut": (ask.top_p, ask.top_k),
        "tokens": ask.max_tokens,
        "lr": rate.lr,
        "betas": rate.betas,
        "decay": rate.weight_decay,
        "norm": rate.clip,
        "schedule": (*bound("schedule", rate.schedule), rate.warmup),
        "kl": kl_of(recipe),
        "entropy": entropy and entropy["coef"],
        "clip": clip and (clip["low"], clip["high"] or clip["low"], clip["dual"]),
        "reduction": (recipe.loss.reduction.name, recipe.loss.reduction.params),
        "critic": critic and (critic.optimizer.lr, critic.clip, critic.reduction.name),
        "filters": [spec.name for spec in recipe.filter],
        "steps": recipe.run.steps,
    }


# The defaults of the three forks of verl.
FORK: dict[str, Any] = {
    "estimator": "grpo", "discounts": None, "deviation": True, "temperature": 1.0, "scored at": 1.0, "cut": (1.0, 0),
    "betas": (0.9, 0.999), "decay": 0.01, "norm": 1.0, "schedule": ("constant", {}, 0),
    "kl": ("loss", "k3", 0.001, 10.0), "entropy": 0.001, "clip": (0.2, 0.2, None), "critic": None, "filters": [],
}  # fmt: skip
LOGIC = FORK | {"model": "Qwen2.5-7B-Instruct-1M"}
ONE_SHOT = FORK | {
    "model": "Qwen2.5-Math-1.5B", "batch": (128, 8), "updates": 1, "temperature": 0.6, "scored at": 0.6, "tokens": 3072,
    "lr": 1e-6, "reduction": ("micro_token", {"tokens": 24000, "ranks": 8}), "steps": 2000,
}  # fmt: skip


def by_size(size: int, ranks: int, **more: int) -> tuple[str, dict[str, int]]:
    return "micro_token", {"size": size, "ranks": ranks, **more}


PUBLISHED: dict[str, dict[str, Any]] = {
    "simplerl_zero_ppo": {
        "model": "Qwen2.5-Math-7B", "estimator": "gae", "discounts": (1.0, 0.95), "deviation": None, "batch": (1024, 8),
        "updates": 64, "temperature": 0.6, "scored at": 1.0, "cut": (1.0, 0), "tokens": 3000, "lr": 5e-7,
        "betas": (0.9, 0.95), "decay": 0.0, "norm": 1.0, "schedule": ("cosine", {"final": 0.1}, 308),
        "kl": ("reward", "k1", 0.01, 10.0), "entropy": None, "clip": (0.2, 0.2, None), "reduction": ("sequence", {}),
        "critic": (9e-6, 0.2, "sequence"), "filters": [], "steps": 160,
    },
    "simplerl_zoo": FORK | {
        "model": "Qwen2.5-7B", "batch": (1024, 8), "updates": 4, "tokens": 8192, "lr": 5e-7,
        "kl": ("loss", "k3", 1e-4, 10.0), "reduction": by_size(2, 16), "steps": 100,
    },
    "logic_rl_grpo": LOGIC | {
        "batch": (64, 16), "updates": 2, "tokens": 2048, "lr": 3e-7, "reduction": by_size(64, 4), "steps": 5 * 14,
    },
    "logic_rl_reinforce_pp": LOGIC | {
        "estimator": "reinforce_pp", "discounts": (1.0, None), "deviation": None, "batch": (16, 8), "updates": 1,
        "tokens": 2048, "lr": 1e-6, "kl": ("reward", "k1", 0.001, None), "reduction": by_size(128, 4, divisor=4),
        "steps": 56,
    },
    "logic_rl_curriculum": LOGIC | {
        "estimator": "reinforce_pp", "discounts": (1.0, None), "deviation": None, "batch": (8, 8), "updates": 1,
        "tokens": 4096, "lr": 5e-7, "reduction": by_size(64, 8, divisor=4), "steps": 5 * 112,
    },
    "logic_rl_two_stage": LOGIC | {
        "batch": (8, 8), "updates": 1, "tokens": 4096, "lr": 3e-7, "reduction": by_size(128, 4, divisor=4),
        "steps": 1300,
    },
    "one_shot_pi1": ONE_SHOT,
    "one_shot_pi13": ONE_SHOT,
    "one_shot_dsr_sub": ONE_SHOT,
    "few_shot": ONE_SHOT,
    "one_shot_pi1_ppo": ONE_SHOT | {
        "estimator": "gae", "discounts": (1.0, 1.0), "deviation": None, "critic": (1e-5, 0.5, "micro_token"),
    },
    "one_shot_entropy_only": ONE_SHOT | {"clip": None, "kl": None, "decay": 0.0, "steps": 20},
    "dapo": {
        "model": "Qwen2.5-32B", "estimator": "grpo", "discounts": None, "deviation": True, "batch": (512, 16),
        "updates": 16, "temperature": 1.0, "scored at": 1.0, "cut": (1.0, 0), "tokens": 16384 + 4096, "lr": 1e-6,
        "betas": (0.9, 0.999), "decay": 0.1, "norm": 1.0, "schedule": ("constant", {}, 20 * 16), "kl": None,
        "entropy": None, "clip": (0.2, 0.28, None), "reduction": ("token", {}), "critic": None, "filters": [],
        "steps": 625,
    },
    "dr_grpo": {
        "model": "Qwen2.5-Math-7B", "estimator": "grpo", "discounts": None, "deviation": False, "batch": (128, 8),
        "updates": 8, "temperature": 1.0, "scored at": 1.0, "cut": (1.0, 0), "tokens": 3000, "lr": 1e-6,
        "betas": (0.9, 0.95), "decay": 0.0, "norm": 1.0, "schedule": ("constant", {}, 0), "kl": None, "entropy": None,
        "clip": (0.2, 0.2, None), "reduction": ("constant", {"length": 3000}), "critic": None, "filters": [],
        "steps": 1320,
    },
}  # fmt: skip


def test_every_full_recipe_has_a_twin_and_every_published_one_its_facts() -> None:
    assert set(FULL) == {*PUBLISHED, "recommended"}
    assert set(resources.list_shipped()) - {*FULL, *TWINS} == {
        n for n in resources.list_shipped() if n.startswith("demo")
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_holds_the_facts_of_its_source(name: str) -> None:
    assert facts(loader.load(name)) == PUBLISHED[name]


def test_estimators_are_those_of_the_forks_of_verl_and_of_openrlhf() -> None:
    for name in ("simplerl_zoo", "logic_rl_grpo", "logic_rl_two_stage", "one_shot_pi1", "dapo"):
        options = bound("advantage", loader.load(name).advantage)[1]
        assert (options["ddof"], options["eps"], options["scale"]) == (1, 1e-6, "group")
    assert bound("advantage", loader.load("simplerl_zero_ppo").advantage)[1]["ddof"] == 0
    assert bound("advantage", loader.load("one_shot_pi1_ppo").advantage)[1]["ddof"] == 1


def test_critics_learn_as_their_sources_do() -> None:
    v0, ppo = loader.load("simplerl_zero_ppo").critic, loader.load("one_shot_pi1_ppo").critic
    assert v0 and ppo
    assert (v0.optimizer.betas, v0.optimizer.weight_decay, v0.optimizer.warmup) == (
        (0.9, 0.95),
        0.0,
        308,
    )
    assert bound("schedule", v0.optimizer.schedule) == ("cosine", {"final": 0.1})
    assert (ppo.optimizer.betas, ppo.optimizer.weight_decay, ppo.optimizer.warmup) == (
        (0.9, 0.999),
        0.01,
        0,
    )
    assert ppo.reduction.params == {"tokens": 32768, "ranks": 8}
    assert (v0.warmup, v0.lam, ppo.warmup, ppo.lam) == (0, None, 0, None)


def test_the_warm_up_of_the_first_simplerl_is_3_percent_of_its_updates() -> None:
    recipe = loader.load("simplerl_zero_ppo")
    updates = recipe.run.steps * recipe.learn.count_minibatches(recipe.rollout)
    assert recipe.optimizer.warmup - 1 < 0.03 * updates <= recipe.optimizer.warmup


RIGHT = Verdict(Status.CORRECT, "1", formatted=True)
WRONG = Verdict(Status.WRONG, "1", formatted=True)
UNPARSED = Verdict(Status.UNPARSEABLE, None, formatted=True)
UNFORMED = Verdict(Status.CORRECT, "1", formatted=False)
REWARDS = {
    "simplerl_zero_ppo": (1.0, -0.5, -0.5, -1.0),
    "simplerl_zoo": (1.0, 0.0, 0.0, 1.0),
    "logic_rl_grpo": (3.0, -0.5, -1.0, -3.0),
    "logic_rl_reinforce_pp": (3.0, -0.5, -1.0, -3.0),
    "logic_rl_curriculum": (3.0, -0.5, -1.0, -3.0),
    "logic_rl_two_stage": (3.0, -0.5, -1.0, -3.0),
    "one_shot_pi1": (1.0, 0.0, 0.0, 1.0),
    "one_shot_pi13": (1.0, 0.0, 0.0, 1.0),
    "one_shot_dsr_sub": (1.0, 0.0, 0.0, 1.0),
    "one_shot_pi1_ppo": (1.0, 0.0, 0.0, 1.0),
    "one_shot_entropy_only": (1.0, 0.0, 0.0, 1.0),
    "few_shot": (1.0, 0.0, 0.0, 1.0),
    "dapo": (1.0, -1.0, -1.0, 1.0),
    "dr_grpo": (1.0, 0.0, 0.0, 1.0),
    "recommended": (1.0, 0.0, 0.0, 1.0),
}


@pytest.mark.parametrize("name", FULL)
def test_a_recipe_pays_what_its_source_pays(name: str) -> None:
    first, *others = loader.load(name).reward
    pay = registry.find("reward", first.name, "reward").bind(first.params, "reward")
    assert (
        tuple(pay(verdict).value for verdict in (RIGHT, WRONG, UNPARSED, UNFORMED)) == REWARDS[name]
    )
    assert [spec.name for spec in others] == (
        ["overlong"] if name in ("dapo", "recommended") else []
    )
    if name == "dapo":
        assert others[0].params == {"buffer": 4096, "factor": 1.0}


def test_dapo_refills_a_step_from_as_many_problems_as_the_script() -> None:
    recipe = loader.load("dapo")
    assert bound("gather", recipe.gather) == ("refill", {"max_attempts": 30})
    assert 30 * recipe.rollout.problems == 10 * 3 * 512
    assert [loader.load(name).gather.name for name in FULL if name != "dapo"] == ["once"] * (
        len(FULL) - 1
    )


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("one_shot_pi1", [124] * 128),
        ("one_shot_pi13", [682] * 128),
        ("few_shot", [124] * 64 + [682] * 64),
    ],
)
def test_the_problems_of_one_shot_are_rows_of_the_pool(name: str, rows: list[int]) -> None:
    source = loader.load(name).train[0]
    pool = [Problem(f"dsr_sub/{row}", "math", "q", "1") for row in range(1209)]
    chosen = registry.find("select", source.select.name, "select").bind(
        source.select.params, "select"
    )(pool)
    assert [problem.id for problem in chosen] == [f"dsr_sub/{row}" for row in rows]
    assert source.data.params["path"] == "data/train/one_shot_rlvr/dsr_sub.parquet"
    assert loader.load("one_shot_dsr_sub").train[0].select.name == "all"


def test_the_curriculum_has_a_stage_for_3_to_7_people_each_from_the_policy_before() -> None:
    recipe = loader.load("logic_rl_curriculum")
    people = [stage.train[0].data.params["path"] for stage in staging.split_stages(recipe)]
    assert people == [f"data/kk/instruct/{n}ppl/train.parquet" for n in range(3, 8)]
    assert [stage.reference for stage in recipe.stages] == ["kept", *["renewed"] * 4]
    assert [stage.steps for stage in recipe.stages] == [900 // 8] * 5


def test_the_two_stages_differ_in_problems_and_sampling() -> None:
    recipe = loader.load("logic_rl_two_stage")
    first, second = staging.split_stages(recipe)
    sampling = [(s.rollout.temperature, s.rollout.top_p, s.rollout.top_k) for s in (first, second)]
    assert sampling == [(1.0, 1.0, 0), (1.2, 0.65, 0)]
    assert [s.train[0].data.params["path"][17:21] for s in (first, second)] == ["3ppl", "5ppl"]
    assert [(s.steps, s.reference) for s in recipe.stages] == [(100, "kept"), (1200, "renewed")]
    assert {"5 people", "3 people"} == {held_out.name for held_out in recipe.eval.sets}


def test_recommended_is_the_consensus() -> None:
    found = facts(loader.load("recommended"))
    assert (found["deviation"], found["reduction"], found["clip"]) == (
        False,
        ("token", {}),
        (0.2, 0.28, None),
    )
    assert (found["kl"], found["entropy"], found["critic"], found["updates"]) == (
        None,
        None,
        None,
        1,
    )
    assert (found["temperature"], found["cut"], found["lr"], found["filters"]) == (
        1.0,
        (1.0, 0),
        1e-6,
        ["no_signal"],
    )
    assert 8 <= found["batch"][1] <= 16
    assert (
        plugins.collect_needs(loader.load("recommended")) == frozenset()
    )  # no second forward pass


@pytest.mark.parametrize("name", [*FULL, *TWINS])
def test_rlvr_show_prints_a_recipe_and_its_cost(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["show", name]) == 0
    text = capsys.readouterr().out
    assert loader.load(yaml.safe_load(text)) == loader.load(name)
    assert text.count("# cost of ") == max(1, len(loader.load(name).stages))


# --- What the headers say


def header(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    return "\n".join(
        line for line in lines[: next(i for i, s in enumerate(lines) if not s.startswith("#"))]
    )


def commands(name: str) -> list[list[str]]:
    """The commands that the header of a recipe shows."""
    lines, found = header(name).splitlines(), []
    while lines:
        line = lines.pop(0)
        if not line.startswith("#   rlvr "):
            continue
        text = line[4:]
        while text.endswith("\\") or text.count("'") % 2:
            text = text.removesuffix("\\").rstrip() + " " + lines.pop(0).lstrip("# ")
        found.append(shlex.split(text))
    return found


SHOWN = [(name, words) for name in FULL for words in commands(name)]


@pytest.mark.parametrize(
    "words", [words for _, words in SHOWN], ids=lambda words: " ".join(words)[5:100]
)
def test_every_command_of_a_header_is_understood_and_changes_the_recipe(words: list[str]) -> None:
    assert words[:2] == ["rlvr", "train"]
    changed = loader.load(words[2], words[3:])
    assert changed != loader.load(words[2])
    assert loader.load(yaml.safe_load(loader.dump(changed)), {"run.name": words[2]}) == changed


def test_headers_show_the_variants_of_the_papers() -> None:
    shown = {name: sum(where == name for where, _ in SHOWN) for name in FULL}
    assert (
        shown["simplerl_zoo"] >= 9
        and shown["one_shot_pi1"] >= 8
        and shown["one_shot_entropy_only"] == 3
    )
    models = {
        word.partition("=")[2]
        for _, words in SHOWN
        for word in words
        if word.startswith("model.name=")
    }
    assert {"Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-32B", "Qwen/Qwen2.5-Math-7B"} <= models
    large = next(
        words
        for where, words in SHOWN
        if where == "simplerl_zoo" and "model.name=Qwen/Qwen2.5-32B" in words
    )
    assert kl_of(loader.load(large[2], large[3:])) == ("loss", "k3", 1e-3, 10.0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_header_states_source_hardware_and_deviations(name: str) -> None:
    text = header(name)
    assert "\n# Source: " in text and "\n# Hardware: " in text
    assert "# Deviations: " in text or "# Deviations:\n" in text or "deviations included" in text


@pytest.mark.parametrize("name", [*FULL, *TWINS])
def test_a_recipe_file_keeps_to_the_line_length_and_begins_with_a_header(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("# ") and max(map(len, text.splitlines())) <= 120


# --- The files of the published repositories


@needs_data
@pytest.mark.parametrize("people", [3, 5])
def test_the_puzzles_of_logic_rl_are_asked_word_for_word_and_their_golds_read(people: int) -> None:
    import pyarrow.parquet as parquet

    path = DATA / "knights" / f"{people}ppl_test.parquet"
    source = loader.load("logic_rl_grpo", {"train.0.data.path": str(path)}).train[0]
    problems, rows = read_problems(source, "train.0"), parquet.read_table(path).to_pylist()
    texts = [plain(problem, None, **source.prompt.params) for problem in problems]  # type: ignore[arg-type]
    assert [text.text for text in texts] == [row["prompt"][0]["content"] for row in rows]
    assert {text.prefill for text in texts} == {"<think>"} and {
        problem.task for problem in problems
    } == {"knights"}
    assert [problem.answer for problem in problems] == [row["solution_text_format"] for row in rows]


@needs_data
@pytest.mark.parametrize("name", ["simplerl_zero_ppo", "simplerl_zoo"])
def test_the_held_out_files_of_simplerl_are_read(name: str) -> None:
    for row in loader.load(name).eval.sets:
        assert row.data
        here = row.data.model_copy(
            update={
                "params": {**row.data.params, "path": str(DATA / "math_eval" / f"{row.name}.jsonl")}
            }
        )
        problems = read_problems(row.model_copy(update={"data": here}), row.name)
        assert (
            len(problems)
            == {"math500": 500, "gsm8k": 1319, "aime24": 30, "amc23": 40, "olympiadbench": 675}[
                row.name
            ]
        )
        assert max(len(problem.answer) for problem in problems) < 300


@needs_data
def test_the_rows_of_one_shot_are_read_from_the_pool_as_from_their_own_files() -> None:
    pool = {"train.0.data.path": str(DATA / "one_shot" / "dsr_sub.parquet")}
    assert len(read_problems(loader.load("one_shot_dsr_sub", pool).train[0], "train.0")) == 1208
    for name, gold in (("pi1", "12.8"), ("pi13", r"\frac{4}{3}")):
        source = loader.load(f"one_shot_{name}", pool).train[0]
        chosen = registry.find("select", "ids", "select").bind(source.select.params, "select")(
            read_problems(source, "train.0")
        )
        own = {
            "train.0.data.path": str(DATA / "one_shot" / f"{name}_r128.parquet"),
            "train.0.select": "all",
        }
        rows = read_problems(loader.load(f"one_shot_{name}", own).train[0], "train.0")
        assert len(chosen) == len(rows) == 128
        assert {(p.question, p.answer) for p in (*chosen, *rows)} == {(rows[0].question, gold)}
        assert rows[0].question.endswith("output the final answer within \\boxed{}.")


# --- The twins


def algorithm(recipe: Recipe) -> dict[str, Any]:
    """What makes a recipe the algorithm that it is, whatever its size."""
    ask, critic = recipe.rollout, recipe.critic
    rewards = [bound("reward", spec) for spec in recipe.reward]
    return {
        "advantage": bound("advantage", recipe.advantage),
        "terms": [bound("loss", spec) for spec in recipe.loss.terms],
        "reduction": recipe.loss.reduction.name,
        "correction": recipe.loss.correction,
        "reward": [
            (name, {k: v for k, v in params.items() if k != "buffer"}) for name, params in rewards
        ],
        "reward_kl": recipe.reward_kl,
        "reward_scale": recipe.reward_scale,
        "sampling": (ask.temperature, ask.score_temperature, ask.top_p, ask.top_k),
        "filter": recipe.filter,
        "gather": recipe.gather.name,
        "several updates": recipe.learn.count_minibatches(ask) > 1,
        "epochs": recipe.learn.epochs,
        "optimizer": rule(recipe.optimizer),
        "critic": critic
        and (rule(critic.optimizer), critic.clip, critic.reduction.name, critic.lam),
        "references": list(dict.fromkeys(stage.reference for stage in recipe.stages)),
        "heats": {(s.rollout.temperature, s.rollout.top_p) for s in staging.split_stages(recipe)},
        "verify": recipe.verify,
    }


def rule(options: schema.OptimizerConfig) -> tuple[Any, ...]:
    return (
        options.betas,
        options.eps,
        options.weight_decay,
        options.schedule,
        options.clip,
        options.warmup > 0,
    )


@pytest.mark.parametrize("name", FULL)
def test_a_twin_extends_its_parent_and_keeps_the_algorithm(name: str) -> None:
    parent, twin = loader.load(name), loader.load(f"{name}_small")
    assert algorithm(twin) == algorithm(parent)
    assert yaml.safe_load((FOLDER / f"{name}_small.yaml").read_text())["extends"] == name
    assert bound("gather", twin.gather)[1].get("max_attempts", 1) <= 3


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_is_small_and_needs_nothing_but_the_package(name: str) -> None:
    recipe = loader.load(name)
    assert recipe.model.name == "smollm2-135m-instruct" and not recipe.model.gradient_checkpointing
    for stage in staging.split_stages(recipe):
        assert (
            stage.rollout.problems * stage.rollout.samples <= 64 and stage.rollout.max_tokens <= 152
        )
    assert recipe.run.steps <= 30
    sets = [row.data.name for row in (*recipe.train, *recipe.eval.sets) if row.data]
    assert sets and set(sets) <= {"arithmetic", "knights", "inline"}
    asked = [held_out.data.params for held_out in recipe.eval.sets if held_out.data]
    assert all(params["split"] == "test" and params["count"] <= 128 for params in asked)


def shortened(name: str, folder: Path, model: Path) -> dict[str, Any]:
    """Overrides that leave one step of every stage, with the tiny model."""
    recipe = loader.load(name)
    stages = {f"stages.{i}.steps": 1 for i in range(len(recipe.stages))} or {"run.steps": 1}
    cold = {"cold_start.steps": 1, "cold_start.problems": 2} if recipe.cold_start else {}
    count = {"train.0.data.count": 16} if recipe.train[0].data.name != "inline" else {}
    sizes = {
        "rollout.max_tokens": 4,
        "rollout.max_prompt_tokens": 2048,
        "eval.sets": [],
        "run.threads": 1,
    }
    model_keys = {"model.name": str(model), "model.compute": "float32", "run.folder": str(folder)}
    return {**stages, **cold, **count, **sizes, **model_keys}


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_takes_a_real_step(name: str, tmp_path: Path, tiny_model: Path) -> None:
    overrides = shortened(name, tmp_path, tiny_model)
    summary = rlvr.train(
        name, overrides=[], **{key.replace(".", "__"): value for key, value in overrides.items()}
    )
    recipe = loader.load(name, overrides)
    assert summary["steps"] == recipe.run.steps + bool(recipe.cold_start)
    metrics = [yaml.safe_load(line) for line in (tmp_path / name / "metrics.jsonl").open()]
    reinforced = [row for row in metrics if row["phase"] != "cold_start"]
    assert len(reinforced) == len(recipe.stages or (1,))
    assert all(row.get("skipped_updates", 0) == 0 for row in metrics)
    assert ("critic" in reinforced[0]) == (recipe.critic is not None)


def test_no_header_line_is_left_over_from_another_recipe() -> None:
    for name in FULL:
        assert all(words[2] == name for words in commands(name))
    for name in TWINS:
        assert re.match(rf"# {name.removesuffix('_small')} for two processor cores: ", header(name))
