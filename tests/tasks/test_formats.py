"""Files of OpenRLHF and verl users load as they are, and the prompts in them are asked as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import tiny
from support.places import DATA, needs_data
from support.rows import refused, verl, write

import rlvr
from rlvr.data import prompts
from rlvr.data.gate import check_golds
from rlvr.errors import UserError
from rlvr.registry import find
from rlvr.tasks.files import file, inline
from rlvr.tasks.formats import from_json, to_json
from rlvr.tasks.knights import check_knights
from rlvr.types import Problem, Rendered, Response, Status

SYSTEM = "<|im_start|>system\nReason step by step, the answer goes into \\boxed{}.<|im_end|>\n"


def templated(question: str) -> str:
    return f"{SYSTEM}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant"


# The columns of the article's file in their order; the four answers differ, so that the choice
# shows.
ARTICLE = [
    {
        "input": templated("How many primes are below 100?"),
        "answer": "There are 25 of them.",
        "gt_answer": "25 primes",
        "subject": "Number Theory",
        "level": 3,
        "question": "How many primes are below 100?",
        "ground_truth_answer": "25",
        "target": "twenty-five",
    },
    {
        "input": templated("What is $\\frac12+\\frac13$?"),
        "answer": "\\frac{5}{6}",
        "gt_answer": "\\frac{5}{6}",
        "subject": "Prealgebra",
        "level": 4,
        "question": "What is $\\frac12+\\frac13$?",
        "ground_truth_answer": "\\frac{5}{6}",
        "target": "\\frac{5}{6}",
    },
]


@pytest.mark.parametrize(
    "name", ["math_level3to5.json", "math_level3to5.jsonl", "math_level3to5.parquet"]
)
def test_the_file_of_the_article_loads_unchanged(tmp_path: Path, name: str) -> None:
    problems = file(path=write(tmp_path / name, ARTICLE))
    assert [p.id for p in problems] == ["math_level3to5/0", "math_level3to5/1"]
    assert [p.question for p in problems] == [row["question"] for row in ARTICLE]
    assert [p.answer for p in problems] == ["25", "\\frac{5}{6}"]
    assert {p.task for p in problems} == {"math"}
    assert [(p.meta["level"], p.meta["category"]) for p in problems] == [
        (3, "Number Theory"),
        (4, "Prealgebra"),
    ]
    assert [p.meta["input"] for p in problems] == [row["input"] for row in ARTICLE]


@pytest.mark.parametrize("column", ["ground_truth_answer", "ground_truth", "gt_answer"])
def test_a_column_that_says_ground_truth_goes_before_the_answer_wherever_it_stands(
    column: str,
) -> None:
    for row in ({"answer": "a text", column: "25"}, {column: "25", "answer": "a text"}):
        assert inline(rows=({"question": "q", **row},))[0].answer == "25"


def test_the_answer_of_a_row_without_a_ground_truth_goes_before_target_and_solution() -> None:
    row = {"solution": "long", "target": "t", "answer": "25", "question": "q"}
    assert inline(rows=(row,))[0].answer == "25"


def test_named_columns_win_over_known_ones(tmp_path: Path) -> None:
    columns = {"question": "input", "answer": "target", "level": "subject", "category": "level"}
    problem = file(path=write(tmp_path / "a.json", ARTICLE), columns=columns)[0]
    assert (problem.question, problem.answer) == (ARTICLE[0]["input"], "twenty-five")
    assert dict(problem.meta) == {"level": "Number Theory", "category": 3}


def test_a_file_of_verl_loads_unchanged(tmp_path: Path) -> None:
    rows = [verl(f"2 + {i}?", str(2 + i), 70 + i) for i in range(3)]
    problems = file(path=write(tmp_path / "train.parquet", rows))
    assert [(p.id, p.question, p.answer, p.task) for p in problems] == [
        (f"train/{i}", f"2 + {i}?", str(2 + i), "math") for i in range(3)
    ]
    assert problems[2].meta["data_source"] == problems[2].meta["category"] == "sums"
    assert problems[2].meta["extra_info"] == {"split": "train", "index": 72}


def test_subject_and_level_of_verl_rows_are_those_of_extra_info() -> None:
    row = verl("q", extra_info={"index": 1, "level": 5, "subject": "Geometry"})
    meta = inline(rows=(row,))[0].meta
    assert (meta["level"], meta["category"], meta["data_source"]) == (5, "Geometry", "sums")


def test_a_row_of_verl_that_also_has_the_bare_question_keeps_the_templated_prompt() -> None:
    row = verl(templated("2 + 2?")) | {"question": "2 + 2?", "answer": "the answer is 4"}
    problem = inline(rows=(row,))[0]
    assert (problem.question, problem.answer, problem.meta["prompt"]) == (
        "2 + 2?",
        "4",
        templated("2 + 2?"),
    )


def test_repeated_rows_are_problems_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "pi1_r128.parquet", [verl("the same", "12.8", 124)] * 128)
    problems = file(path=path)
    assert [p.id for p in problems] == [f"pi1_r128/{i}" for i in range(128)]
    assert {(p.question, p.answer, p.meta["extra_info"]["index"]) for p in problems} == {
        ("the same", "12.8", 124)
    }
    said = refused(Path(path), columns={"id": "extra_info.index"})
    assert said == (
        "pi1_r128.parquet, row 1: the id '124' occurs twice; leave 'id' out of columns, and the rows are numbered"
    )


def test_an_id_column_that_is_named_gives_the_ids(tmp_path: Path) -> None:
    rows = [verl("p", index=7), verl("q", index=3)]
    problems = file(path=write(tmp_path / "a.parquet", rows), columns={"id": "extra_info.index"})
    assert [p.id for p in problems] == ["7", "3"]
    assert [p.meta["data_source"] for p in problems] == ["sums", "sums"]


def test_earlier_messages_of_a_chat_are_asked_before_the_question() -> None:
    said = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "yes?"},
    ]
    problem = inline(rows=(verl("", prompt=[*said, {"role": "user", "content": "2 + 2?"}]),))[0]
    assert problem.question == "2 + 2?"
    assert prompts.chat(problem, Roles(), suffix=" !").text == (  # type: ignore[arg-type]
        "system:be brief|user:hello|assistant:yes?|user:2 + 2? !|assistant:"
    )
    assert prompts.chat(problem, Roles(), system="mine").text == (  # type: ignore[arg-type]
        "system:mine|user:hello|assistant:yes?|user:2 + 2?|assistant:"
    )


class Roles:
    """Stands for a tokenizer with a chat template that shows every message."""

    chat_template = "…"

    def apply_chat_template(self, messages: list[Mapping[str, str]], **options: object) -> str:
        return "".join(f"{m['role']}:{m['content']}|" for m in messages) + "assistant:"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (verl("q", gold=None), "no answer"),
        (verl("q", prompt=[]), "'prompt' is not a text"),
        (
            verl("q", prompt=[{"role": "assistant", "content": "x"}]),
            "the last message of 'prompt' is not the user's",
        ),
        (
            verl("q", prompt=[{"role": "user", "content": [{"type": "image"}]}]),
            "'prompt' is not a text",
        ),
        (verl("q", gold={"a": "1"}), "'reward_model.ground_truth.a'"),
        (
            {"prompt": [{"role": "user", "content": "q"}], "reward_model": {"style": "rule"}},
            "no answer column",
        ),
    ],
)
def test_faulty_rows_of_verl_are_named(tmp_path: Path, row: dict, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    said = refused(tmp_path / "a.jsonl")
    assert said.startswith("a.jsonl, line 1: ") and message in said


def test_the_puzzles_of_logic_rl_load_as_puzzles() -> None:
    gold = "(1) Zoey is a knight\n(2) Tom is a knave"
    truth = {"solution_text_format": gold, "statements": "(('lying', 1), ('lying', 0))"}
    row = verl(
        f"{templated('who?')}\n<think>",
        truth,
        quiz="who?",
        solution=[True, False],
        solution_text_format=gold,
    )
    problem = inline(rows=({**row, "data_source": "kk_logic"},))[0]
    assert (problem.task, problem.question, problem.answer) == ("knights", "who?", gold)
    assert problem.meta["ground_truth"] == truth
    text = "x</think><answer>Zoey is a knight, Tom is a knave</answer>"
    assert check_knights(problem, Response(text, prefill="<think>")).status is Status.CORRECT
    assert inline(rows=(row,), task="math")[0].task == "math"
    assert from_json(to_json(problem)) == problem


# --- The prompt "raw"


def render(problem: Problem, **options: Any) -> Rendered:
    return find("prompt", "raw", "prompt").bind(options, "prompt")(problem, None)


def test_raw_is_the_question_or_a_text_of_the_row(tmp_path: Path) -> None:
    problem = file(path=write(tmp_path / "a.json", ARTICLE))[0]
    assert render(problem) == Rendered(ARTICLE[0]["question"])
    assert render(problem, column="input") == Rendered(ARTICLE[0]["input"])
    named = file(path=write(tmp_path / "b.json", ARTICLE), columns={"asked": "input"})[0]
    assert render(named, column="asked") == Rendered(ARTICLE[0]["input"])


@pytest.mark.parametrize(
    ("text", "prefill"),
    [
        ("q\n<think>", "<think>"),
        ("q\n<think>\n", "<think>\n"),
        ("q <think> so", ""),
        ("q </think>", ""),
        ("q\n", ""),
    ],
)
def test_a_tag_that_the_prompt_opens_belongs_to_the_answer(text: str, prefill: str) -> None:
    assert render(Problem("p", "math", text, "1")) == Rendered(text, prefill)


@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_a_text_that_the_row_does_not_keep_is_refused(value: object) -> None:
    problem = Problem(
        "p/7", "math", "q", "1", {"input": "x"} | ({"inputt": value} if value else {})
    )
    with pytest.raises(UserError) as caught:
        render(problem, column="inputt")
    assert "'p/7'" in str(caught.value) and "'inputt'" in str(caught.value)
    assert "did you mean 'input'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_on_the_article_file_asks_the_input_as_it_is(
    tmp_path: Path, tiny_model: Path
) -> None:
    question = "What is 7 + 8?"
    row = {
        **ARTICLE[0],
        "question": question,
        "input": f"system {question} assistant",
        "ground_truth_answer": "15",
    }
    path = write(tmp_path / "article.json", [row, {**row, "ground_truth_answer": "16"}])
    source = {"data": {"name": "file", "path": path}, "prompt": {"name": "raw", "column": "input"}}
    (tmp_path / "seen.py").write_text(
        "def seen(rollout, ground_truth):\n"
        "    assert rollout.prompt.text == 'system What is 7 + 8? assistant', rollout.prompt.text\n"
        "    assert ground_truth in ('15', '16')\n"
        "    return 1.0\n"
    )
    tree = tiny.recipe(tiny_model, train=[source], reward=f"{tmp_path / 'seen.py'}:seen")
    summary = rlvr.train(tree, run__folder=tmp_path, run__steps=1, eval={"sets": []})
    assert summary["steps"] == 1


def test_a_row_of_verl_without_a_gold_is_left_out_by_name_and_no_other_is(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [verl("2 + 2?"), verl("unsolved", gold=""), verl("3 + 1?")]
    path = write(tmp_path / "pool.parquet", rows)
    assert [p.answer for p in file(path=path)] == ["4", "", "4"]
    assert [p.id for p in file(path=path, unanswered="drop")] == ["pool/0", "pool/2"]
    tree = tiny.recipe(tiny_model, train=[{"data": {"name": "file", "path": path}}])
    for gate in ("mark", "drop", "off"):
        tree["verify"] = {"gate": gate}
        rlvr.train(tree, run__folder=tmp_path / gate, run__steps=3, eval={"sets": []})
        assert "pool/1: its row has no gold" in capsys.readouterr().out
        seen = {
            json.loads(line)["id"] for line in (tmp_path / gate / "tiny" / "history.jsonl").open()
        }
        assert seen == {"pool/0", "pool/2"}
    with pytest.raises(UserError, match=r"eval\.sets\.0\.data: problem 'pool/1' has no answer"):
        rlvr.train(
            tree,
            run__folder=tmp_path / "e",
            eval={"sets": [{"name": "e", "data": {"name": "file", "path": path}}]},
        )
    with pytest.raises(UserError, match=r"has no answer"):
        rlvr.train(tree, run__folder=tmp_path / "p", problems=[("q", "")])
    tree["train"] = [
        {"data": {"name": "file", "path": write(tmp_path / "all.parquet", [verl("q", gold="")])}}
    ]
    with pytest.raises(UserError, match=r"train\.0: no problem is left, since no row has a gold"):
        rlvr.train(tree, run__folder=tmp_path / "all")


# --- The published files themselves


@needs_data
def test_the_one_shot_files_load_unchanged() -> None:
    pool = file(path=str(DATA / "one_shot" / "dsr_sub.parquet"))
    assert len(pool) == 1209
    assert [p.id for p in pool if not p.answer] == ["dsr_sub/265"]
    assert [p.meta["extra_info"]["index"] for p in pool] == list(range(1209))
    assert {p.task for p in pool} == {"math"} and {p.meta["data_source"] for p in pool} == {
        "deepscaler"
    }
    for name, index, gold in (
        ("pi1", 124, "12.8"), ("pi13", 682, r"\frac{4}{3}"), ("pi1209", 789, r"-\frac{2023}{2024}"),
    ):  # fmt: skip
        rows = file(path=str(DATA / "one_shot" / f"{name}_r128.parquet"))
        assert len({p.id for p in rows}) == len(rows) == 128
        assert {(p.question, p.answer) for p in rows} == {(pool[index].question, gold)}
        assert pool[index].id == f"dsr_sub/{index}" and pool[index].answer == gold
        assert rows[0].question.endswith("output the final answer within \\boxed{}.")


@needs_data
@pytest.mark.parametrize("name", ["3ppl_train", "5ppl_test"])
def test_the_puzzle_files_load_unchanged_and_their_golds_verify(name: str) -> None:
    problems = file(path=str(DATA / "knights" / f"{name}.parquet"))
    assert len(problems) == (900 if name.endswith("train") else 100)
    assert check_golds(problems, "mark")[1] == ()
    for problem in problems:
        assert problem.task == "knights"
        rendered = render(problem, column="prompt")
        assert problem.question in rendered.text and rendered.text.endswith(
            "<|im_start|>assistant\n<think>"
        )
        assert rendered.prefill == "<think>"
        response = Response(
            f"so</think><answer>{problem.answer}</answer>", prefill=rendered.prefill
        )
        verdict = check_knights(problem, response)
        assert verdict.correct and verdict.formatted
        flipped = (
            problem.answer.replace("knave", "KNAVE")
            .replace("knight", "knave")
            .replace("KNAVE", "knight")
        )
        assert (
            check_knights(problem, Response(f"so</think><answer>{flipped}</answer>")).status
            is Status.WRONG
        )


@needs_data
def test_math500_has_its_subjects_and_levels() -> None:
    problems = file(path=str(DATA / "math_eval" / "math500.jsonl"))
    assert len(problems) == 500
    assert {p.meta["level"] for p in problems} == {1, 2, 3, 4, 5}
    assert len({p.meta["category"] for p in problems}) == 7
    assert all(len(p.answer) < 60 for p in problems)


def test_a_parquet_file_with_a_column_of_empty_mappings_is_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "question": ["q"],
            "answer": ["1"],
            "reward_model": pa.array([None], pa.struct([("a", "int8")])),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert file(path=str(tmp_path / "a.parquet"))[0].answer == "1"


PARTS = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 2?"}]


@pytest.mark.parametrize("content", [PARTS, ["What is ", "2 + 2?"], [PARTS[0], "2 + 2?"]])
def test_the_parts_of_a_last_message_are_one_question(content: list[Any]) -> None:
    said = [{"role": "system", "content": PARTS}, {"role": "user", "content": content}]
    for prompt in (said, json.dumps(said)):
        (problem,) = inline(rows=(verl("", prompt=prompt),))
        assert problem.question == "What is 2 + 2?"
        assert len(problem.meta["before"]) == 1


@pytest.mark.parametrize(
    "content", [[], [{"type": "image"}], [*PARTS, {"type": "image_url", "image_url": "x"}], [1]]
)
def test_a_part_that_is_no_text_is_no_question(content: list[Any]) -> None:
    with pytest.raises(UserError):
        inline(rows=(verl("", prompt=[{"role": "user", "content": content}]),))
