"""The public contract from Python and from the command line: what comes back, and what lies in the
run folder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support import tiny

import rlvr
from rlvr.cli import main as cli
from rlvr.config import loader
from rlvr.engines.local import local
from rlvr.tasks.arithmetic import arithmetic
from rlvr.tasks.files import file
from rlvr.tasks.knights import knights

ROOT = Path(__file__).parents[1]
QUESTIONS = [(f"What is {a} + {b}?", str(a + b)) for a in range(1, 4) for b in range(1, 4)]
LOADED: list[tuple[int, dict[str, torch.Tensor]]] = []


def recording(module: Any, tokenizer: Any, compute: torch.dtype) -> Any:
    """The local engine, which keeps a copy of all weights that it was given: the last are the final
    policy's.
    """
    engine = local(module, tokenizer, compute)
    load = engine.load

    def keep(weights: Any, version: int) -> None:
        given = [(name, tensor.clone()) for name, tensor in weights]
        LOADED.append((version, dict(given)))
        load(given, version)

    engine.load = keep
    return engine


def share_of_digits(response: str, ground_truth: str) -> float:
    return sum(c.isdigit() for c in response) / (1 + len(response))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_share(value: Any) -> bool:
    return isinstance(value, float | int) and 0 <= value <= 1


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> tuple[Path, dict[str, Any]]:
    """One run from Python, on problems and by a reward that a script brought, and its summary."""
    folder = tmp_path_factory.mktemp("api")
    tree = tiny.recipe(
        tiny_model,
        rollout={"problems": 3, "samples": 2, "max_tokens": 6, "engine": "test_api:recording"},
    )
    LOADED.clear()
    summary = rlvr.train(
        tree,
        problems=QUESTIONS,
        reward=share_of_digits,
        run__folder=str(folder),
        run__name="mine",
        rollout__samples=4,
        optimizer__lr=1e-2,
    )
    return folder / "mine", summary


def test_train_returns_the_summary_of_the_contract(
    trained: tuple[Path, dict[str, Any]], tiny_model: Path
) -> None:
    run, summary = trained
    assert summary == json.loads((run / "summary.json").read_text())
    assert {"recipe", "model", "steps", "seconds", "response_tokens", "evals"} <= set(summary)
    assert summary["recipe"] == "mine"
    assert summary["model"] == str(tiny_model)
    assert summary["steps"] == 3
    assert summary["seconds"] > 0
    assert next(iter(summary["evals"])) == "heldout"
    for result in summary["evals"].values():
        for when in ("before", "after"):
            assert {"pass@1", "ci95", "n"} <= set(result[when])
            low, high = result[when]["ci95"]
            assert is_share(result[when]["pass@1"])
            assert 0 <= low <= result[when]["pass@1"] <= high <= 1
            assert result[when]["n"] == 8


def test_the_run_folder_holds_all_that_the_contract_names(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    run, _ = trained
    for name in (
        "recipe.yaml",
        "metrics.jsonl",
        "history.jsonl",
        "evals.jsonl",
        "summary.json",
        "report.html",
    ):
        assert (run / name).stat().st_size > 0, name
    for name in ("samples", "checkpoints", "model"):
        assert (run / name).is_dir(), name
    # torch names its so
    hidden = [path for path in run.rglob(".*") if path.is_file() and path.name != ".metadata"]
    assert not hidden, "nothing half-written is left"


def test_metrics_hold_one_object_a_step_with_the_clock_under_time(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    run, summary = trained
    metrics = lines(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert sum(row["response_tokens"] for row in metrics) == summary["response_tokens"] > 0
    for row in metrics:
        assert row["samples"] == 12
        assert row["time"]["step"] > 0
        assert {"generate", "verify", "update"} <= set(row["time"])
        assert not [key for key in row if re.search("seconds|per_second|memory|duration", key)]
        assert set(row["reward_parts"]) == {"share_of_digits"}
    assert sum(row["grad_norm"] for row in metrics) > 0


def test_samples_hold_every_rollout_with_what_the_contract_names(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    run, _ = trained
    for step in (1, 2, 3):
        samples = lines(run / "samples" / f"train-{step:06d}.jsonl")
        assert len(samples) == 3 * 4
        for row in samples:
            assert {"id", "text", "tokens", "status", "parts", "advantage", "version"} <= set(row)
            assert row["version"] == step - 1
            assert row["reward"] == pytest.approx(share_of_digits(row["text"], row["gold"]))
            assert 1 <= row["tokens"] <= 6
        assert {(row["question"], row["gold"]) for row in samples} <= set(QUESTIONS)
    assert len(lines(run / "samples" / "eval-heldout-000000.jsonl")) == 8


def test_history_has_one_line_for_each_visit_of_a_group(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    run, _ = trained
    history = lines(run / "history.jsonl")
    assert [row["step"] for row in history] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len({row["id"] for row in history}) == len(QUESTIONS), (
        "nine visits of nine problems are one epoch"
    )
    samples = [
        row for step in (1, 2, 3) for row in lines(run / "samples" / f"train-{step:06d}.jsonl")
    ]
    for number, row in enumerate(history):
        group = samples[4 * number : 4 * number + 4]
        assert {member["id"] for member in group} == {row["id"]}
        assert row["n"] == 4
        assert row["accuracy"] == sum(member["status"] == "correct" for member in group) / 4


def test_evals_have_metrics_counts_and_intervals(trained: tuple[Path, dict[str, Any]]) -> None:
    run, _ = trained
    evals = lines(run / "evals.jsonl")
    assert [(row["step"], row["benchmark"]) for row in evals] == [(0, "heldout"), (3, "heldout")]
    for row in evals:
        assert is_share(row["metrics"]["pass@1"])
        assert row["counts"]["problems"] == row["counts"]["samples"] == 8
        assert len(row["ci95"]["pass@1"]) == 2
        assert row["time"]["seconds"] > 0


def test_the_final_model_loads_with_transformers_and_is_the_final_policy(
    trained: tuple[Path, dict[str, Any]], tiny_model: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, _ = trained
    assert [version for version, _ in LOADED] == [0, 1, 2, 3]
    final = LOADED[-1][1]
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    found = dict(model.named_parameters())
    assert set(found) == set(final)
    for name, weight in final.items():
        assert torch.equal(found[name], weight), name
    assert not torch.equal(final["model.norm.weight"], LOADED[0][1]["model.norm.weight"])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, (
        "tied as in the model it was"
    )
    words = AutoTokenizer.from_pretrained(run / "model")
    ids = words("What is 1 + 2?\n", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(ids).logits).all()
    assert words.chat_template == tiny.TEMPLATE
    before = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert (run / "model" / "model.safetensors").stat().st_size == (
        tiny_model / "model.safetensors"
    ).stat().st_size
    assert model.config.to_diff_dict() == before.config.to_diff_dict()


def test_the_saved_model_scores_what_the_last_evaluation_scored(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, _ = trained
    resolved = loader.load(run / "recipe.yaml")
    rows = [row.model_dump(mode="json") for row in resolved.eval.sets]
    found = rlvr.evaluate(str(run / "model"), rows, max_tokens=4, out=tmp_path / "out")
    wanted = lines(run / "samples" / "eval-heldout-000003.jsonl")
    assert [row["text"] for row in lines(tmp_path / "out" / "samples.jsonl")] == [
        row["text"] for row in wanted
    ]
    assert found[0]["metrics"] == lines(run / "evals.jsonl")[-1]["metrics"]


def test_recipe_yaml_is_the_resolved_recipe_with_the_overrides(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    run, _ = trained
    resolved = loader.load(run / "recipe.yaml")
    assert resolved.rollout.samples == 4
    assert resolved.optimizer.lr == 1e-2
    assert resolved.run.name == "mine"


def test_the_report_is_one_file_that_needs_no_network(trained: tuple[Path, dict[str, Any]]) -> None:
    page = (trained[0] / "report.html").read_text()
    assert "heldout" in page
    assert not re.search(r"""(src|href)=["']?https?://|@import|url\(["']?https?:""", page)


def test_problems_may_be_given_in_three_forms(tmp_path: Path, tiny_model: Path) -> None:
    given = [
        ("What is 1 + 1?", "2"),
        {"id": "mine/7", "question": "What is 2 + 2?", "answer": 4},
        rlvr_problem("mine/8", "What is 3 + 3?", "6"),
    ]
    tree = tiny.recipe(tiny_model, rollout={"problems": 3, "samples": 2, "max_tokens": 3})
    rlvr.train(tree, problems=given, run__folder=str(tmp_path), run__steps=1)
    assert {row["id"] for row in lines(tmp_path / "tiny" / "history.jsonl")} == {
        "given/0",
        "mine/7",
        "mine/8",
    }


def rlvr_problem(name: str, question: str, answer: str) -> Any:
    from rlvr.types import Problem

    return Problem(name, "math", question, answer)


@pytest.mark.parametrize(
    ("keyword", "value", "read"),
    [
        ("optimizer__clip", None, lambda r: r.optimizer.clip is None),
        ("optimizer__lr", 3e-5, lambda r: r.optimizer.lr == 3e-5),
        ("rollout__stop", ("\n", "#"), lambda r: r.rollout.stop == ("\n", "#")),
        ("model__gradient_checkpointing", True, lambda r: r.model.gradient_checkpointing is True),
        ("run__folder", Path("my runs # 1"), lambda r: r.run.folder == "my runs # 1"),
        ("run__name", "1", lambda r: r.run.name == "1"),
        (
            "advantage",
            {"name": "grpo", "std": False},
            lambda r: r.advantage.params == {"std": False},
        ),
        (
            "train__0__prompt",
            {"name": "chat", "suffix": " # x: y"},
            lambda r: r.train[0].prompt.params["suffix"] == " # x: y",
        ),
    ],
)
def test_keywords_of_train_reach_the_recipe_as_the_values_they_are(
    keyword: str,
    value: Any,
    read: Any,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = tiny.recipe(tiny_model)
    tree["run"] = {"name": "tiny", "steps": 1, "threads": 1}
    rlvr.train(tree, **{keyword: value})
    (path,) = tmp_path.rglob("recipe.yaml")
    assert read(loader.load(path))


def test_a_path_in_a_recipe_mapping_is_taken_or_refused_in_one_line(
    tiny_model: Path, tmp_path: Path
) -> None:
    tree = tiny.recipe(tiny_model)
    tree["run"] = {"name": "tiny", "steps": 1, "threads": 1, "folder": tmp_path}
    try:
        rlvr.train(tree)
    except rlvr.UserError as error:
        assert "\n" not in str(error)
        assert "run.folder" in str(error)
    else:
        assert (tmp_path / "tiny" / "summary.json").exists()


def test_a_misspelt_keyword_of_train_is_refused(tiny_model: Path) -> None:
    with pytest.raises(rlvr.UserError, match=r"rollout\.sampels.*did you mean 'samples'"):
        rlvr.train(tiny.recipe(tiny_model), rollout__sampels=4)


def test_evaluate_returns_records_and_writes_them_with_the_samples(
    tiny_model: Path, tmp_path: Path
) -> None:
    row = tiny.recipe(tiny_model)["eval"]["sets"][0]
    out = tmp_path / "deep" / "out"
    results = rlvr.evaluate(
        str(tiny_model),
        [row, {**row, "name": "again"}],
        samples=3,
        temperature=1.0,
        max_tokens=4,
        out=out,
    )
    assert json.loads((out / "results.json").read_text()) == results
    assert [result["benchmark"] for result in results] == ["heldout", "again"]
    assert results[0]["counts"]["problems"] == 8
    assert results[0]["counts"]["samples"] == 24
    assert {"step", "benchmark", "metrics", "counts", "ci95", "time"} <= set(results[0])
    samples = lines(out / "samples.jsonl")
    assert len(samples) == 48
    assert [row["benchmark"] for row in samples] == ["heldout"] * 24 + ["again"] * 24
    assert {"id", "text", "tokens", "status", "answer"} <= set(samples[0])
    assert len({row["text"] for row in samples}) > 8


def test_greedy_evaluation_is_the_same_every_time_and_depends_on_no_seed(tiny_model: Path) -> None:
    row = tiny.recipe(tiny_model)["eval"]["sets"][0]
    once, again = (
        rlvr.evaluate(str(tiny_model), [row], max_tokens=4, seed=seed)[0] for seed in (0, 1)
    )
    assert {**once, "time": None} == {**again, "time": None}


def test_the_command_eval_writes_results_and_samples(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [
        "eval",
        str(tiny_model),
        "--benchmarks",
        "arithmetic",
        "--prompt",
        "plain",
        "--samples",
        "2",
    ]
    assert cli.main([*words, "--temperature", "0.5", "--max-tokens", "2", "--out", str(out)]) == 0
    (result,) = json.loads((out / "results.json").read_text())
    assert result["benchmark"] == "arithmetic"
    assert result["counts"]["problems"] == 256
    assert result["counts"]["samples"] == 512 == len(lines(out / "samples.jsonl"))
    assert "arithmetic" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--benchmarks", "arithmetic,knihgts"], "did you mean 'knights'"),
        (["--benchmarks", "arithmetic", "--prompt", "palin"], "did you mean 'plain'"),
        (["--benchmarks", "arithmetic", "--samples", "0"], "samples"),
        (["--benchmarks", "arithmetic", "--temperature", "-1"], "temperature"),
        (["--benchmarks", ","], "benchmarks"),
    ],
)
def test_the_command_eval_refuses_bad_input_in_one_line(
    words: list[str],
    named: str,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["eval", str(tiny_model), *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert named in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["arithmetic", "--count", "5", "--seed", "0"], arithmetic(count=5, seed=0)),
        (
            ["arithmetic", "--count=3", "--kinds", "[add, word]", "--split", "test"],
            arithmetic(count=3, kinds=("add", "word"), split="test"),
        ),
        (
            ["knights", "--people", "3", "--count", "3", "--seed", "0"],
            knights(people=3, count=3, seed=0),
        ),
    ],
)
def test_the_command_data_prints_lines_that_load_back(
    words: list[str], wanted: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", *words]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    path = tmp_path / "problems.jsonl"
    path.write_text(said.out)
    assert len(lines(path)) == len(wanted)
    again = file(path=str(path))
    assert [(p.id, p.task, p.question, p.answer, p.solution) for p in again] == [
        (p.id, p.task, p.question, p.answer, p.solution) for p in wanted
    ]
    assert [json.dumps(dict(p.meta)) for p in again] == [json.dumps(dict(p.meta)) for p in wanted]


def test_printed_knights_train_and_are_verified_as_the_generated_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlvr.tasks.knights import check_knights
    from rlvr.types import Response

    assert cli.main(["data", "knights", "--people", "2", "--count", "4"]) == 0
    (tmp_path / "k.jsonl").write_text(capsys.readouterr().out)
    for problem in file(path=str(tmp_path / "k.jsonl")):
        assert problem.task == "knights"
        assert problem.solution is not None
        assert check_knights(problem, Response(problem.solution)).correct


def test_the_command_show_prints_a_recipe_that_loads_back_and_its_cost_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLVR_HOME", str(tmp_path))
    assert cli.main(["show", "demo", "run.steps=3", "rollout.samples=5"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert not list(tmp_path.iterdir())
    (tmp_path / "shown.yaml").write_text(said.out)
    assert loader.load(tmp_path / "shown.yaml") == loader.load(
        "demo", ["run.steps=3", "rollout.samples=5"]
    )
    assert yaml.safe_load(said.out)["rollout"]["samples"] == 5
    cost = [line for line in said.out.splitlines() if line.startswith("#")]
    assert any("3 steps" in line and "120 rollouts" in line for line in cost)
    assert any("memory" in line and "GiB" in line for line in cost)


def test_the_command_report_builds_one_report_and_compares_two(
    trained: tuple[Path, dict[str, Any]],
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, _ = trained
    other = rlvr.train(
        tiny.recipe(tiny_model), run__folder=str(tmp_path), run__name="other", run__steps=1
    )
    assert other["recipe"] == "other"
    (tmp_path / "other" / "report.html").unlink()
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path / "other")]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert Path(said.out.strip()) == tmp_path / "other" / "report.html"
    assert "heldout" in (tmp_path / "other" / "report.html").read_text()
    assert (
        cli.main(
            ["report", str(run), str(tmp_path / "other"), "--out", str(tmp_path / "both.html")]
        )
        == 0
    )
    page = (tmp_path / "both.html").read_text()
    assert "mine" in page
    assert "other" in page


def test_overrides_may_stand_behind_options(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = tiny.recipe(tiny_model)
    tree["run"] = {"steps": 4, "threads": 1}
    Path("mine.yaml").write_text(yaml.safe_dump(tree))
    assert cli.main(["train", "mine.yaml", "--overwrite", "run.steps=2"]) == 0
    assert [row["step"] for row in lines(tmp_path / "runs" / "mine" / "metrics.jsonl")] == [1, 2]
    assert cli.main(["train", "mine.yaml", "run.steps=1", "--overwrite", "rollout.samples=2"]) == 0
    (row,) = lines(tmp_path / "runs" / "mine" / "metrics.jsonl")
    assert row["samples"] == 4


def test_the_package_is_a_command_of_python(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "rlvr", "data", "arithmetic", "--count", "2"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [
        p.id for p in arithmetic(count=2)
    ]


PUBLIC = [
    "Context",
    "Problem",
    "Response",
    "Reward",
    "Rollout",
    "RunError",
    "Status",
    "UserError",
    "Verdict",
    "VerifiedGroup",
    "__version__",
    "evaluate",
    "load_recipe",
    "register",
    "sweep",
    "train",
]


def test_the_public_names_are_these_and_each_is_there() -> None:
    assert rlvr.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(rlvr, name) is not None, name
        assert name in dir(rlvr)
    modules = {path.stem for path in (ROOT / "rlvr").iterdir()}
    assert modules.isdisjoint(PUBLIC), "a module would stand in the place of a function"


def test_a_recipe_loads_from_python_with_overrides() -> None:
    by_text = rlvr.load_recipe("demo", ["rollout.samples=5"])
    assert by_text == rlvr.load_recipe("demo", {"rollout.samples": 5})
    assert by_text.rollout.samples == 5


COMMANDS = ["train", "show", "eval", "data", "grade", "audit", "report", "select", "sweep"]


def test_the_command_line_lists_its_commands_each_with_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.parse(["--help"])
    assert stop.value.code == 0
    listed = re.findall(r"^    (\w+) +(\S.*)$", capsys.readouterr().out, re.M)
    assert [name for name, _ in listed] == COMMANDS
    assert all(text for _, text in listed)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "data"])
def test_a_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All but `data`, where what stands behind the task belongs to the plug-in."""
    with pytest.raises(SystemExit) as stop:
        cli.parse([command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: rlvr {command}")


def test_importing_the_package_is_cheap_and_names_its_public_functions(tmp_path: Path) -> None:
    code = "import sys, rlvr; print('torch' in sys.modules, sorted(rlvr.__all__))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("False ")
    assert {"train", "evaluate", "register"} <= set(rlvr.__all__)
    assert callable(rlvr.train)
    assert callable(rlvr.evaluate)
