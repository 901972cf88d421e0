"""Data "file" and "hub": what is read, and the line that names the place of every fault."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from support.rows import NESTED, refuse_nested, refused, write

from rlvr.errors import UserError
from rlvr.registry import find
from rlvr.tasks.arithmetic import arithmetic
from rlvr.tasks.files import file, hub
from rlvr.tasks.formats import from_json, to_json
from rlvr.tasks.knights import knights

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "1 + 2?", "answer": 3}]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_plain_rows(tmp_path: Path, name: str) -> None:
    first, second = file(path=write(tmp_path / name, ROWS))
    assert (first.id, first.task, first.question, first.answer) == ("a/0", "math", "1 + 1?", "2")
    assert (second.id, second.answer) == ("a/1", "3")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_nested_columns_ids_and_meta(tmp_path: Path, name: str) -> None:
    rows = [
        {
            "uid": f"u{i}",
            "prompt": [{"role": "user", "content": f"{i} + 1?"}],
            "reward_model": {"ground_truth": str(i + 1)},
            "extra": {"level": i},
            "how": "count",
        }
        for i in range(3)
    ]
    columns = {
        "id": "uid",
        "question": "prompt.0.content",
        "answer": "reward_model.ground_truth",
        "level": "extra.level",
        "solution": "how",
    }
    problems = file(path=write(tmp_path / name, rows), columns=columns, task="other")
    assert [(p.id, p.question, p.answer, dict(p.meta), p.solution, p.task) for p in problems] == [
        (f"u{i}", f"{i} + 1?", str(i + 1), {"level": i}, "count", "other") for i in range(3)
    ]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_problems_written_by_rlvr_data_come_back_unchanged(tmp_path: Path, name: str) -> None:
    problems = [*arithmetic(count=20), *knights(people=(2, 3), count=6)]
    rows = [to_json(problem) for problem in problems]
    assert list(rows[0]) == ["id", "task", "question", "answer", "solution", "meta"]
    assert [from_json(row) for row in rows] == problems
    assert file(path=write(tmp_path / name, rows)) == problems


def test_columns_are_guessed_in_order(tmp_path: Path) -> None:
    rows = [{"solution": "long", "problem": "p?", "gt_answer": "7"}]
    assert file(path=write(tmp_path / "a.jsonl", rows))[0].answer == "7"
    rows = [{"input": "i", "prompt": "p?", "target": "8"}]
    assert file(path=write(tmp_path / "b.jsonl", rows))[0].question == "p?"


def test_the_answer_after_a_marker(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "6 * 7 = 42\n#### 42"}])
    assert file(path=path, answer_after="####")[0].answer == "42"
    with pytest.raises(UserError, match=r"a.jsonl, line 1: no answer after 'Answer:' in 'answer'"):
        file(path=path, answer_after="Answer:")


def test_broken_files_are_named_with_line_and_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = tmp_path / "half.jsonl"
    half.write_text('{"question": "q", "answer": "1"}\n\n{"question": "q2", "ans', encoding="utf-8")
    assert refused(half).startswith("half.jsonl, line 3: not valid JSON: Unterminated string")
    binary = tmp_path / "bin.jsonl"
    binary.write_bytes(b'{"question": "q", "answer": "1"}\n\xff\xfe\n')
    assert refused(binary) == "bin.jsonl, line 2: not UTF-8 text (byte 0)"
    listed = tmp_path / "a.json"
    listed.write_text('[\n{"question": "q"},\n{]\n', encoding="utf-8")
    assert "a.json: not valid JSON" in refused(listed) and "line 3" in refused(listed)
    listed.write_text('{"question": "q"}', encoding="utf-8")
    assert refused(listed) == "a.json: should be a list of problems, not dict"
    listed.write_text(f"{NESTED}]", encoding="utf-8")
    refuse_nested(monkeypatch)
    assert refused(listed) == "a.json: not valid JSON: nested too deeply"
    parquet = tmp_path / "a.parquet"
    parquet.write_bytes(b"PAR1 no")
    assert refused(parquet).startswith("a.parquet: not a readable Parquet file")


def test_missing_files_and_kinds(tmp_path: Path) -> None:
    assert "no.jsonl: no such file; set path" in refused(tmp_path / "no.jsonl")
    assert "should end in .json, .jsonl, .parquet" in refused(tmp_path / "a.csv")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n", encoding="utf-8")
    assert refused(empty) == "empty.jsonl: holds no problem"


DROP = "unanswered: drop leaves such rows out"


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_rows_without_an_answer_may_be_dropped_and_the_others_keep_their_ids(
    tmp_path: Path, empty: str | None
) -> None:
    path = write(tmp_path / "a.jsonl", [ROWS[0], {"question": "?", "answer": empty}, ROWS[1]])
    assert [problem.id for problem in file(path=path, unanswered="drop")] == ["a/0", "a/2"]
    path = write(tmp_path / "b.jsonl", [{"question": "?", "answer": empty}])
    with pytest.raises(UserError, match=r"b.jsonl: holds no problem"):
        file(path=path, unanswered="drop")


def test_a_row_without_a_question_is_not_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [ROWS[0], {"question": "", "answer": "1"}])
    with pytest.raises(UserError, match=r"has no question"):
        file(path=path, unanswered="drop")


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"question": "q"},
            {},
            "no answer column; name it in columns: {answer: …} (known: question)",
        ),
        (
            {"answer": "1"},
            {},
            "no question column; name it in columns: {question: …} (known: answer)",
        ),
        (
            {"question": "q", "answer": None},
            {},
            f"the problem has no answer ('answer' is empty); {DROP}",
        ),
        (
            {"question": "q", "answer": "  "},
            {},
            f"the problem has no answer ('answer' is empty); {DROP}",
        ),
        ({"question": "", "answer": "1"}, {}, "the problem has no question ('question' is empty)"),
        (
            {"question": ["q"], "answer": "1"},
            {},
            "'question' is not a text; reach into it with a column such as 'question.0'",
        ),
        (
            {"question": "q", "answer": "1"},
            {"columns": {"answer": "anser"}},
            "no column 'anser' (did you mean 'answer'?)",
        ),
        (
            {"question": "q", "a": {"b": "1"}},
            {"columns": {"answer": "a.x"}},
            "no column 'a.x' (known: b)",
        ),
        ([1], {}, "should be an object with named fields, not list"),
    ],
)
def test_faulty_rows_are_named_with_line_and_key(
    tmp_path: Path, row, options, message: str
) -> None:
    write(tmp_path / "a.jsonl", [ROWS[0], row])
    (tmp_path / "b.jsonl").write_text((tmp_path / "a.jsonl").read_text().split("\n", 1)[1])
    assert refused(tmp_path / "b.jsonl", **options) == f"b.jsonl, line 1: {message}"
    if not options:
        assert refused(tmp_path / "a.jsonl") == f"a.jsonl, line 2: {message}"


def test_an_id_may_occur_once(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"id": 7, **row} for row in ROWS])
    assert refused(tmp_path / "a.jsonl") == "a.jsonl, line 2: the id '7' occurs twice"


def test_parameters_of_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    assert len(find("data", "file", "data").bind({"path": path}, "data")()) == 2
    with pytest.raises(UserError, match=r"data.path: is required"):
        find("data", "file", "data").bind({}, "data")


def test_the_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"data set 'openai/gsm8k': needs the package datasets"):
        hub(dataset="openai/gsm8k", subset="main")


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `datasets` reads as it does one of the hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


def test_the_hub_is_read_like_a_file(data_set: Path) -> None:
    write(data_set / "test.jsonl", [{"question": "2+3?", "answer": "steps\n#### 5"}])
    problem = hub(dataset=str(data_set), split="test", answer_after="####")[0]
    assert (problem.id, problem.question, problem.answer) == (f"{data_set}/test/0", "2+3?", "5")


def test_a_set_that_is_not_there_is_one_line(data_set: Path) -> None:
    with pytest.raises(UserError, match=r"^data set '.*gone': cannot be loaded: [^\n]+$"):
        hub(dataset=str(data_set / "gone"))


# Rows as verl has them, of several sets in one file: what stands under a name differs in type.
MIXED_ROWS = [
    {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": "1+1?"}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 0, "split": "train"},
    },
    {
        "data_source": "lists",
        "prompt": [{"role": "user", "content": "1+2?"}],
        "reward_model": {"style": "rule", "ground_truth": 3},
        "extra_info": {"index": "x", "more": {"a": 1}},
    },
]


@pytest.mark.parametrize("way", ["hub", "hub of parquet", "parquet"])
def test_mixed_types_are_read_as_they_were_written(data_set: Path, way: str) -> None:
    from datasets import load_dataset

    path = write(data_set / "train.jsonl", MIXED_ROWS)
    if way != "hub":
        rows = load_dataset("json", data_files=path, split="train")
        rows.to_parquet(str(data_set / "train.parquet"))
        Path(path).unlink()
    problems = (
        file(path=str(data_set / "train.parquet"))
        if way == "parquet"
        else hub(dataset=str(data_set))
    )
    assert [(problem.question, problem.answer) for problem in problems] == [
        ("1+1?", "2"),
        ("1+2?", "3"),
    ]
    extras = [problem.meta["extra_info"] for problem in problems]
    assert extras == [row["extra_info"] for row in MIXED_ROWS]


@pytest.mark.parametrize("way", ["hub", "parquet"])
def test_golds_beside_a_number_keep_their_digits(data_set: Path, way: str) -> None:
    """`datasets` 5.2 itself reads them as 7, 0.1, 100000.0, None and [1, 2]."""
    from datasets import load_dataset

    golds: list[Any] = ["007", "0.10", "1e5", "null", "(1,2)", r"\frac{1}{2}", 12]
    path = write(data_set / "train.jsonl", [{"question": "?", "answer": gold} for gold in golds])
    if way == "parquet":
        rows = load_dataset("json", data_files=path, split="train")
        rows.to_parquet(str(data_set / "golds.parquet"))
        problems = file(path=str(data_set / "golds.parquet"))
    else:
        problems = hub(dataset=str(data_set))
    assert [problem.answer for problem in problems] == list(map(str, golds))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_gold_alone_in_a_list_is_the_gold(tmp_path: Path, name: str) -> None:
    rows = [{"question": "1 + 1?", "answer": ["2"]}]
    assert file(path=write(tmp_path / name, rows))[0].answer == "2"
    rows[0]["answer"].append("3")
    with pytest.raises(UserError, match=r"'answer' is not a text; reach into it with .*answer\.0"):
        file(path=write(tmp_path / name, rows))
