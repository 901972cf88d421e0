"""Data "file" and "hub": what is read, and the line that names the place of every fault."""

from __future__ import annotations

import importlib.util
from pathlib import Path

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


@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is not None, reason="the package datasets is installed"
)
def test_the_hub_needs_its_package() -> None:
    with pytest.raises(UserError, match=r"data set 'openai/gsm8k': needs the package datasets"):
        hub(dataset="openai/gsm8k", subset="main")


class _Fake:
    """Stands for the package datasets."""

    @staticmethod
    def load_dataset(name: str, subset: str | None, split: str) -> list:
        if name == "gone":
            raise ConnectionError("Couldn't reach 'gone' on the Hub\nand more")
        return [{"question": f"{subset} {split}", "answer": "steps\n#### 5"}]


def test_the_hub_is_read_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", _Fake)
    problem = hub(dataset="openai/gsm8k", subset="main", split="test", answer_after="####")[0]
    assert (problem.id, problem.question, problem.answer) == (
        "openai/gsm8k/test/0",
        "main test",
        "5",
    )
    with pytest.raises(
        UserError, match=r"^data set 'gone': cannot be loaded: Couldn't reach 'gone' on the Hub$"
    ):
        hub(dataset="gone")
