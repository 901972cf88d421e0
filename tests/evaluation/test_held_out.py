"""Evaluation from the outside: the published files, the templates, resuming, checkpoints, pages and
contamination.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import tiny
from support.places import DATA, needs_data

import rlvr
from rlvr import registry
from rlvr.build.problems import read_problems
from rlvr.cli import main as cli
from rlvr.data import prompts
from rlvr.data.contamination import find_overlap
from rlvr.data.gate import check_golds
from rlvr.engines.decoder import Decoder
from rlvr.errors import UserError
from rlvr.metrics import statistics
from rlvr.report.evaluation_page import compare_evaluations
from rlvr.run import eval_rows, evaluation_folder
from rlvr.storage.jsonl import JsonLines
from rlvr.storage.sample_record import SampleRecord
from rlvr.tasks.choice import choice
from rlvr.tasks.files import file
from rlvr.types import Problem, Response, Status

ROWS = {
    "math500": 500, "aime24": 30, "aime25": 30, "amc23": 40, "minerva_math": 272, "olympiadbench": 675, "gsm8k": 1319,
    "knights_3ppl": 100, "knights_4ppl": 100, "knights_5ppl": 100, "knights_6ppl": 100,
}  # fmt: skip
SUMS = {
    "name": "sums",
    "data": {**tiny.SUMS, "count": 6, "split": "test"},
    "task": tiny.NUMBER,
    "prompt": "plain",
}
ASKED: dict[str, Any] = {"samples": 4, "temperature": 1.0, "max_tokens": 4, "batch": 8}


def problems_of(name: str, folder: Path = DATA) -> list[Problem]:
    (row,) = eval_rows.read_rows([name])
    return list(read_problems(eval_rows.RowOptions(data=folder).apply(row), name))


def rows(path: Path) -> list[dict[str, Any]]:
    return JsonLines.read(path)


# --- The published files


@needs_data
@pytest.mark.parametrize("name", ROWS)
def test_a_published_set_has_its_rows_and_every_gold_passes_the_gate(name: str) -> None:
    problems = problems_of(name)
    assert len(problems) == ROWS[name]
    assert [row.gold for row in check_golds(problems, "mark")[1]] == GATED.get(name, [])


# Golds of the files that have no meaning to compare by, and are compared as text: Python, a
# sentence, and a slip.
GATED = {
    "minerva_math": ["np.arcsin(10/13)"],
    "olympiadbench": [
        "$f(x)=a x+b$, where $b$ is an arbitrary integer, and $a$ is an arbitrary positive integer with $\\mho(a)=0$",
        "$t(0,4]$",
    ],
}


def harness_gold(name: str, row: dict[str, Any]) -> str:
    """The gold as the file has it, taken without the code under test."""
    if name == "gsm8k":
        return row["answer"].split("####")[1].strip()
    if name == "olympiadbench":
        return row["final_answer"][0]
    if name == "minerva_math":
        start = row["solution"].index("\\boxed{") + len("\\boxed{")
        depth, end = 1, start
        while depth:
            depth += {"{": 1, "}": -1}.get(row["solution"][end], 0)
            end += 1
        return row["solution"][start : end - 1].strip()
    return str(row["answer"]).strip()


@needs_data
@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith("knights")])
def test_the_golds_are_those_of_the_file(name: str) -> None:
    lines = [
        json.loads(line)
        for line in (DATA / "math_eval" / f"{name}.jsonl").read_text("utf-8").splitlines()
    ]
    problems = problems_of(name)
    assert [p.answer for p in problems] == [harness_gold(name, line) for line in lines]
    assert [p.question for p in problems] == [
        line.get("question", line.get("problem")) for line in lines
    ]


@needs_data
def test_categories_and_levels_come_with_the_problems() -> None:
    assert {p.meta["level"] for p in problems_of("math500")} == {1, 2, 3, 4, 5}
    assert len({p.meta["category"] for p in problems_of("math500")}) == 7
    assert len({p.meta["category"] for p in problems_of("olympiadbench")}) == 4
    assert len({p.meta["category"] for p in problems_of("minerva_math")}) == 9


@needs_data
def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    text = (DATA / "math_eval" / "aime25.jsonl").read_text("utf-8")
    (tmp_path / "aime25.jsonl").write_text(text.replace('"70"', '"71"', 1), "utf-8")
    with pytest.raises(UserError, match=r"aime25\.jsonl: is not the published file"):
        problems_of("aime25", tmp_path)
    with pytest.raises(UserError, match=r"holds no aime24\.jsonl \(nor aime24/test\.jsonl\)"):
        problems_of("aime24", tmp_path)
    (tmp_path / "aime25").mkdir()
    (tmp_path / "aime25.jsonl").unlink()
    (tmp_path / "aime25" / "test.jsonl").write_text(text, "utf-8")
    assert len(problems_of("aime25", tmp_path)) == 30


def test_without_a_folder_the_hub_is_asked_and_the_message_names_both_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RLVR_DATA_DIR", raising=False)
    (row,) = eval_rows.read_rows(["math500"])
    with pytest.raises(
        UserError, match=r"HuggingFaceH4/MATH-500.*math500\.jsonl: --data DIR or RLVR_DATA_DIR"
    ):
        read_problems(row, "math500")


def test_every_benchmark_binds_with_its_own_keys() -> None:
    for name in registry.list_names("benchmark"):
        (row,) = eval_rows.read_rows([{"name": name, "samples": 3}])
        assert (row.name, row.samples) == (name, 3) and row.data is not None
        for kind in ("data", "task", "prompt"):
            if spec := getattr(row, kind):
                registry.find(kind, spec.name, name).check(spec.params, name)
    (aime,) = eval_rows.read_rows(["aime24"])
    assert (aime.samples, aime.temperature, aime.max_tokens) == (8, 0.6, 3072)


# --- Rows of one's own, and questions with options


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".json"])
def test_an_unseen_file_is_a_benchmark_by_its_name_or_by_one_row(
    suffix: str, tmp_path: Path
) -> None:
    given = [
        {"problem": f"{i} + 1?", "final_answer": [str(i + 1), "or so"], "subfield": "Sums"}
        for i in range(3)
    ]
    path = tmp_path / f"mine{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(given), path)
    else:
        path.write_text(
            json.dumps(given) if suffix == ".json" else "\n".join(map(json.dumps, given))
        )
    own = {
        "name": "own",
        "data": {"name": "file", "path": str(path), "columns": {"answer": "final_answer.0"}},
    }
    listed = tmp_path / "rows.yaml"
    listed.write_text(json.dumps([own, "arithmetic"]))
    first, second = eval_rows.read_rows([str(listed)])
    assert [p.answer for p in read_problems(first, "own")] == [
        "1",
        "2",
        "3",
    ] and second.name == "arithmetic"
    assert [row.name for row in eval_rows.read_rows([own])] == ["own"]
    plain = tmp_path / f"plain{suffix}"
    plain.write_bytes(path.read_bytes())
    (named,) = eval_rows.read_rows([str(plain)])
    with pytest.raises(UserError, match=r"reach into it with a column such as 'final_answer\.0'"):
        read_problems(named, "plain")


def test_a_yaml_file_of_rows_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- 3\n")
    for path in ("a.yaml", "b.yml"):
        with pytest.raises(UserError, match=path):
            eval_rows.read_rows([str(tmp_path / path)])


@pytest.mark.parametrize(
    ("options", "gold"),
    [({"text": ["red", "blue"], "label": ["1", "2"]}, "2"), (["red", "blue"], 1), (["red", "blue"], "blue"),
     (["red", "blue"], "B")],
)  # fmt: skip
def test_options_are_asked_with_letters_and_the_gold_is_a_letter(
    tmp_path: Path, options: Any, gold: Any
) -> None:
    path = tmp_path / "arc.jsonl"
    path.write_text(json.dumps({"question": "Which?", "choices": options, "answerKey": gold}))
    (problem,) = file(path=str(path), columns={"answer": "answerKey"}, choices="choices")
    assert (problem.task, problem.question, problem.answer) == (
        "choice",
        "Which?\nA. red\nB. blue",
        "B",
    )


def test_an_answer_that_is_no_option_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arc.jsonl"
    path.write_text(
        json.dumps({"question": "Which?", "choices": ["red", "blue"], "answerKey": "C"})
    )
    with pytest.raises(
        UserError, match=r"arc\.jsonl, line 1, 'choices': the answer 'C' is none of the options"
    ):
        file(path=str(path), columns={"answer": "answerKey"}, choices="choices")


@pytest.mark.parametrize(
    ("text", "status", "letter"),
    [
        (r"so \boxed{B}", "correct", "B"), (r"\boxed{\text{(B) blue}}", "correct", "B"), (r"\boxed{b}", "correct", "B"),
        (r"\boxed{\textbf{B.}}", "correct", "B"), ("<answer>(B)</answer>", "correct", "B"),
        ("The answer is (B).", "correct", "B"), ("**Answer:** B", "correct", "B"), (r"\boxed{A}", "wrong", "A"),
        (r"\boxed{Blue}", "no_answer", None), ("blue", "no_answer", None), (r"\boxed{}", "no_answer", None),
        ("Answer is unclear, but A bee", "no_answer", None), (r"\boxed{A} \boxed{B}", "wrong", "A"),
    ],
)  # fmt: skip
def test_letters_are_verified(text: str, status: str, letter: str | None) -> None:
    problem = Problem("p", "choice", "?", "B")
    verdict = choice(problem, Response(text))
    assert (verdict.status, verdict.answer) == (Status(status), letter)


# --- Templates


def rendered(name: str, **params: Any) -> str:
    words = tiny.tokenizer()
    return (
        registry.find("prompt", name, "prompt")
        .bind(params, "prompt")(Problem("p", "math", "1 {+} 1?", "2"), words)
        .text
    )


def test_the_templates_of_the_field_letter_by_letter() -> None:
    box = r"Please reason step by step, and put your final answer within \boxed{}."
    assert rendered("qwen25-math-cot") == (
        f"<|im_start|>system\n{box}<|im_end|>\n<|im_start|>user\n1 {{+}} 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered("qwen-boxed") == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n1 {{+}} 1?\n{box}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (
        rendered("abel")
        == rendered("simple")
        == "Question:\n1 {+} 1?\nAnswer:\nLet's think step by step.\n"
    )
    assert rendered("deepseek-r1").endswith(
        "<answer> answer here </answer>. User: 1 {+} 1?. Assistant:"
    )
    assert set(prompts.STOPS) <= set(registry.list_names("prompt"))


# What the chat template of Qwen2.5-Math does with messages that call no tools (its
# tokenizer_config.json).
QWEN_CHAT = r"""{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""


@pytest.mark.parametrize("name", ["math500", "gsm8k", "aime24"])
def test_the_prompt_of_the_maths_rows_is_that_of_qwen_on_a_qwen_model(name: str) -> None:
    (row,) = eval_rows.read_rows([name])
    words = tiny.tokenizer()
    words.chat_template = QWEN_CHAT
    found = registry.find("prompt", row.prompt.name, "prompt").bind(row.prompt.params, "prompt")
    assert found(Problem("p", "math", "1 {+} 1?", "2"), words).text == rendered("qwen25-math-cot")


def test_few_shot_shows_examples_of_the_recipe_or_the_first_of_a_file(tmp_path: Path) -> None:
    pairs = [{"question": f"{i}?", "answer": f"so {i}\n#### {i}"} for i in range(4)]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs)))
    wanted = (
        "".join(f"Question: {i}?\nAnswer: so {i}\n#### {i}\n\n" for i in range(2))
        + "Question: 1 {+} 1?\nAnswer:"
    )
    assert (
        rendered("few_shot", path=str(path), count=2)
        == wanted
        == rendered("few_shot", examples=pairs[:2])
    )
    for params in ({}, {"path": str(path), "count": 5}, {"examples": [{"question": "a"}]}):
        with pytest.raises(UserError, match="few_shot"):
            rendered("few_shot", **params)


# --- Running


class Killed(BaseException):
    pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The keys of all samples that the engine was asked for."""
    keys: list[int] = []
    generate = Decoder.generate

    def counted(self: Decoder, requests: Any, sampling: Any) -> Any:
        if keys and keys[-1] == -1:
            raise Killed
        keys.extend(key for request in requests for key in request.keys)
        return generate(self, requests, sampling)

    monkeypatch.setattr(Decoder, "generate", counted)
    monkeypatch.setattr("rlvr.evaluation.ask.second_opinions", lambda pairs: [True] * len(pairs))
    return keys


def untimed(results: Any) -> Any:
    return [{**record, "time": None} for record in results]


def test_a_killed_evaluation_goes_on_and_generates_nothing_twice(
    tiny_model: Path, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rlvr.evaluate(str(tiny_model), [SUMS], **ASKED, seed=[0, 1], out=tmp_path / "whole")
    everything = list(asked)
    assert len(everything) == len(set(everything)) == 48
    asked.clear()
    keep = evaluation_folder.EvaluationFolder.add

    def torn(self: evaluation_folder.EvaluationFolder, row: SampleRecord) -> None:
        keep(self, row)
        if len(self.done) == 14:  # in the middle of the second part, within a problem
            raise Killed

    monkeypatch.setattr(evaluation_folder.EvaluationFolder, "add", torn)
    with pytest.raises(Killed):
        rlvr.evaluate(str(tiny_model), [SUMS], **ASKED, seed=[0, 1], out=tmp_path / "killed")
    monkeypatch.setattr(evaluation_folder.EvaluationFolder, "add", keep)
    with (tmp_path / "killed" / "samples.jsonl").open("a") as samples:
        samples.write('{"benchmark": "sums", "id": ')  # the line that was being written
    first = list(asked)
    asked.clear()
    again = rlvr.evaluate(str(tiny_model), [SUMS], **ASKED, seed=[0, 1], out=tmp_path / "killed")
    written = first[:14]
    assert sorted(written + asked) == sorted(everything) and not set(written) & set(asked)
    assert untimed(again) == untimed(whole)
    assert untimed(json.loads((tmp_path / "killed" / "results.json").read_text())) == untimed(again)
    texts = [
        {(r["seed"], r["id"], r["index"]): r["text"] for r in rows(tmp_path / d / "samples.jsonl")}
        for d in ("whole", "killed")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 48
    asked.clear()
    assert untimed(
        rlvr.evaluate(str(tiny_model), [SUMS], **ASKED, seed=[0, 1], out=tmp_path / "whole")
    ) == untimed(whole)
    assert asked == []


def test_other_settings_in_the_same_folder_are_refused(
    tiny_model: Path, tmp_path: Path, asked: list[int]
) -> None:
    out = tmp_path / "out"
    rlvr.evaluate(str(tiny_model), [SUMS], **ASKED, out=out)
    other = tiny.save(tmp_path / "other", seed=1)
    for model, more in (
        (tiny_model, {"temperature": 0.5}), (tiny_model, {"seed": 1}), (tiny_model, {"limit": 2}),
        (tiny_model, {"prompt": "raw"}), (tiny_model, {"stop": ["\n"]}), (other, {}),
    ):  # fmt: skip
        with pytest.raises(
            UserError, match=r"an evaluation with another '.*'.*--out, or --overwrite"
        ):
            rlvr.evaluate(str(model), [SUMS], **{**ASKED, **more}, out=out)
    found = rlvr.evaluate(str(other), [SUMS], **ASKED, out=out, overwrite=True)
    assert untimed(json.loads((out / "results.json").read_text())) == untimed(found)
    (out / "settings.json").unlink()
    with pytest.raises(UserError, match="holds samples but no settings"):
        rlvr.evaluate(str(other), [SUMS], **ASKED, out=out)


def test_seeds_are_pooled_and_shown_apart_and_the_prompt_is_printed(
    tiny_model: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    (both,) = rlvr.evaluate(str(tiny_model), [SUMS], **ASKED, seed=[3, 4])
    alone = [
        rlvr.evaluate(str(tiny_model), [SUMS], **ASKED, seed=s)[0]["metrics"]["pass@1"]
        for s in (3, 4)
    ]
    assert both["seeds"]["pass@1"] == {"3": alone[0], "4": alone[1]}
    assert both["metrics"]["pass@1"] == pytest.approx(sum(alone) / 2) == both["metrics"]["avg@8"]
    assert both["counts"]["samples"] == 48 == both["counts"]["second_verifier"]
    assert both["counts"]["only_second_accepts"] == 48 - both["counts"]["correct"]
    said = capsys.readouterr().out
    first = read_problems(eval_rows.read_rows([SUMS])[0], "sums")[0].question
    assert f"the first prompt:\n{first}\n\n(end of the prompt)" in said
    assert "sums: 6 problems, 4 samples at temperature 1, at most 4 tokens" in said
    assert "one problem of 6 is 16.7 points" in said


def test_what_is_given_goes_before_the_row_and_the_row_before_the_defaults(
    tiny_model: Path, asked: list[int]
) -> None:
    row = {**SUMS, "samples": 2, "temperature": 1.0, "max_tokens": 3, "limit": 4}
    (own,) = rlvr.evaluate(str(tiny_model), [row])
    (given,) = rlvr.evaluate(str(tiny_model), [row], samples=3, limit=2)
    assert (own["counts"]["problems"], own["counts"]["samples"]) == (4, 8)
    assert (given["counts"]["problems"], given["counts"]["samples"]) == (2, 6)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--seed", "a"], "--seed"), (["--seed", "1,1"], "seed"), (["--batch", "0"], "batch"),
        (["--benchmarks", "{name: sums, data: {name: file, path: no.jsonl}}"], "no.jsonl"),
        (["--benchmarks", "{name: [}"], "--benchmarks: not valid YAML"), (["--top-p", "2"], "top_p"),
        (["--benchmarks", "{name: arithmetic, sampels: 2}"], "did you mean 'samples'"),
        (["--checkpoints", "all"], "no run folder"), (["--limit", "0"], "limit"),
        (["--prompt", "{name: few_shot, path: no.jsonl}"], "no.jsonl"),
    ],
)  # fmt: skip
def test_bad_options_cost_one_line(
    words: list[str],
    named: str,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    basic = [] if "--benchmarks" in words else ["--benchmarks", "arithmetic"]
    assert cli.main(["eval", str(tiny_model), *basic, *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and named in said, said
    assert not (tmp_path / "out").exists()


# --- Checkpoints and pages


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps that evaluates each and keeps the last and the best checkpoint."""
    sections = tiny.recipe(tiny_model)
    sections["run"] = {
        **sections["run"],
        "folder": str(tmp_path_factory.mktemp("runs")),
        "steps": 4,
    }  # type: ignore[dict-item]
    sections["eval"] = {**sections["eval"], "every": 1, "temperature": 1.0, "samples": 4}  # type: ignore[dict-item]
    sections["optimizer"] = {"lr": 0.05}
    summary = rlvr.train({**sections, "checkpoint": {"best": "heldout"}})
    assert summary["best"]["benchmark"] == "heldout"
    return Path(sections["run"]["folder"]) / "tiny"  # type: ignore[index]


def test_the_best_checkpoint_is_kept_and_named(run: Path) -> None:
    records = {e["step"]: e["metrics"]["pass@1"] for e in rows(run / "evals.jsonl")}
    best = json.loads((run / "summary.json").read_text())["best"]
    assert best["pass@1"] == max(records.values())
    assert best["step"] == min(step for step, share in records.items() if share == best["pass@1"])
    kept = {path.name for path in (run / "checkpoints").glob("step-*")}
    assert kept == {"step-000004"} | ({f"step-{best['step']:06d}"} if best["step"] else set())
    assert best["checkpoint"] == (f"checkpoints/step-{best['step']:06d}" if best["step"] else None)


def test_the_last_and_the_best_checkpoint_are_kept_and_no_other(tmp_path: Path) -> None:
    import torch

    from rlvr.run import checkpoint

    for step, best in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 3)):
        checkpoint.save(tmp_path, [("w", torch.zeros(1))], {}, {"step": step}, 1, best=best)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == [
        "step-000003",
        "step-000005",
    ]


def test_a_best_that_is_no_held_out_set_is_refused(tiny_model: Path) -> None:
    with pytest.raises(
        UserError, match=r"checkpoint\.best: no set of eval\.sets.*did you mean 'heldout'"
    ):
        rlvr.train(tiny.recipe(tiny_model, checkpoint={"best": "heldot"}))


def test_the_checkpoints_of_a_run_are_evaluated_as_the_run_did(
    run: Path, tmp_path: Path, asked: list[int]
) -> None:
    sets = [
        {**tiny.recipe(run)["eval"]["sets"][0], "samples": 4, "temperature": 1.0, "max_tokens": 4}
    ]  # type: ignore[index]
    found = rlvr.evaluate(str(run), sets, checkpoints="all", batch=32, out=tmp_path / "all")
    inside = {e["step"]: e["metrics"] for e in rows(run / "evals.jsonl")}
    assert [record["step"] for record in found] == sorted(
        {0, 4} | {record["step"] for record in found}
    )
    assert [record["metrics"] for record in found] == [inside[record["step"]] for record in found]
    page = (tmp_path / "all" / "report.html").read_text()
    assert "<svg" in page and "heldout" in page
    with pytest.raises(UserError, match=r"no checkpoint of step 77 \(known: 0, "):
        rlvr.evaluate(str(run), sets, checkpoints=[77])


def test_two_evaluations_stand_side_by_side_problem_by_problem(
    tiny_model: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny.save(tmp_path / "other", seed=1)
    for model, name in ((tiny_model, "a"), (other, "b")):
        rlvr.evaluate(
            str(model), [{**SUMS, "task": "test_held_out:lucky"}], **ASKED, out=tmp_path / name
        )
    out = tmp_path / "compare.html"
    assert cli.main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    (pair,) = compare_evaluations(tmp_path / "a", tmp_path / "b")
    shares = [
        {
            p: sum(
                r["status"] == "correct"
                for r in rows(tmp_path / d / "samples.jsonl")
                if r["id"] == p
            )
            / 4
            for p in ids
        }
        for d, ids in ((d, [p for p, _, _ in pair.problems]) for d in ("a", "b"))
    ]
    assert [both for _, both, _ in pair.problems] == list(
        zip(shares[0].values(), shares[1].values(), strict=True)
    )
    assert sum(len(found) for _, found in pair.list_kinds()) == 6
    page = out.read_text()
    assert all(p in page for p in shares[0]) and "One problem of 6" in page
    (tmp_path / "b" / "results.json").write_text("[]")
    assert cli.main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "no benchmark with the same problems" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "a"), str(tiny_model)]) == 2


def lucky(problem: Problem, response: Response) -> Any:
    """Right where the text has a capital letter."""
    from rlvr.types import Verdict

    right = any(letter.isupper() for letter in response.text)
    return Verdict(Status.CORRECT if right else Status.WRONG, response.text)


# --- How sure


def test_the_sign_flip_test_is_that_of_all_assignments_of_signs() -> None:
    from itertools import product

    for differences in ([1, 2, -1, 3], [0, 0], [2, 2, 2, -4, 1], [5], []):
        sums = [
            abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in product((1, -1), repeat=len(differences))
        ]
        wanted = sum(total >= abs(sum(differences)) for total in sums) / len(sums)
        assert statistics.compute_sign_flip(differences) == pytest.approx(wanted)


def test_the_sampling_interval_is_narrower_than_that_over_problems_where_problems_differ() -> None:
    groups = [[True] * 8] * 5 + [[False] * 8] * 5 + [[True, False] * 4] * 2
    low, high = statistics.estimate_sampling_interval(groups) or (0.0, 0.0)
    deviation = (2 * 0.25 / 7) ** 0.5 / 12
    assert (low, high) == pytest.approx((0.5 - 1.96 * deviation, 0.5 + 1.96 * deviation), abs=1e-4)
    assert statistics.estimate_sampling_interval([[True], [False]]) is None


def test_a_detectable_difference_is_found_four_times_in_five() -> None:
    """Two models of 30 problems each, drawn again and again, tested as the figure says."""
    import numpy as np

    draw = np.random.default_rng(0)
    base, n, times = 0.4, 400, 4000
    least = statistics.estimate_detectable([1.0] * int(base * n) + [0.0] * int((1 - base) * n))
    a, b = draw.random((times, n)) < base, draw.random((times, n)) < base + least
    error = np.sqrt(a.var(1) / n + b.var(1) / n)
    power = (np.abs(b.mean(1) - a.mean(1)) > statistics.Z95 * error).mean()
    assert power == pytest.approx(0.8, abs=0.03)
    # five problems of thirty against none are not significant
    assert statistics.estimate_detectable([0.0] * 30) > 5 / 30


# --- Contamination


def test_overlap_finds_copies_near_copies_and_shared_words_but_not_the_phrases_of_a_kind() -> None:
    story = "A train leaves the old town at noon and travels 60 miles an hour to the west for 3 hours. How far?"
    held = [
        Problem("copy", "math", story, "180"),
        Problem("near", "math", story.replace("A train", "One bus").replace("How", "Say how"), "210"),
        Problem("some", "math", "Bob says: the old town at noon and travels 60 miles an hour to the west is what his"
                " aunt read aloud on the day before the long and cold winter came to all of them again. Who?", "1"),
        Problem("free", "math", "How many primes are there below one hundred that end in seven or in three?", "13"),
        Problem("sum", "math", "What is 7 * 8?", "56"),
    ]  # fmt: skip
    train = [Problem(f"t{i}", "math", f"  {story.upper()} ", "180") for i in range(128)]
    train += [Problem("u", "math", "What is 7 + 8?", "15")]
    found = find_overlap(train, held)
    assert set(found.exact) == {"copy"} and found.exact["copy"].startswith("t")
    assert set(found.some) == {"some"} and set(found.most) == {"near"}
    assert found.train == 2
    phrase = "A very special island is inhabited only by knights and knaves and you meet people there. Number"
    kinds = [Problem(f"k{i}", "math", f"{phrase} {i}?", "1") for i in range(30)]
    apart = find_overlap(kinds[:15], kinds[15:])
    assert not apart.exact and not apart.most and not apart.some


def test_contamination_is_reported_before_training_and_by_audit(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = tiny.recipe(tmp_path / "x", model={"name": str(tiny_model)})
    same = {"name": "heldout", "data": sections["train"][0]["data"], "task": tiny.NUMBER}  # type: ignore[index]
    rlvr.train(
        {**sections, "eval": {"sets": [same], "max_tokens": 2, "second_verifier": False}},
        run__steps=1,
    )
    assert (
        "contamination: heldout: of 16 held-out problems 16 stand word for word"
        in capsys.readouterr().out
    )
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"question": "What is 7 + 8?", "answer": "15"}))
    row = f"{{name: mine, data: {{name: file, path: {path}}}}}"
    assert cli.main(["audit", str(path), "--benchmarks", row]) == 0
    assert (
        "mine: of 1 held-out problems 1 stand word for word among 1 to train on"
        in capsys.readouterr().out
    )
