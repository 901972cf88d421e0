"""Data "file": missing and foreign values of a row, files of other names, kinds and line ends."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.rows import refused, write

from rlvr.build.given_problems import parse_problems
from rlvr.errors import UserError
from rlvr.tasks.files import file, inline
from rlvr.types import Problem

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "1 + 2?", "answer": 3}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
NAN = float("nan")


def read_text(path: Path, content: str | bytes, **options: Any) -> list[Problem]:
    path.write_bytes(
        content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    )
    return file(path=str(path), **options)


def answers(problems: list[Problem]) -> list[str]:
    return [problem.answer for problem in problems]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_nan_is_no_answer(tmp_path: Path, name: str) -> None:
    rows = [{"question": f"{i}?", "answer": answer} for i, answer in enumerate([4.0, NAN, 8.0])]
    path = write(tmp_path / name, rows)
    assert "the problem has no answer ('answer' is empty)" in refused(tmp_path / name)
    assert [problem.id for problem in file(path=path, unanswered="drop")] == ["a/0", "a/2"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("field", ["question", "answer"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("NaN", "has no"),
        ("null", "has no"),
        ("Infinity", "which is no number; write it in quotes"),
        ("-Infinity", "which is no number"),
        ("1e400", "is inf, which is no number"),
        ("true", "is True, neither a text nor a number; write it in quotes"),
        ("false", "is False, neither"),
        ('"\\ud800"', "half of a letter"),
        ("1" * 5000, "too many digits"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(
    tmp_path: Path, name: str, field: str, value: str, reason: str
) -> None:
    row = {"question": '"q"', "answer": '"1"', field: value}
    line = "{" + ", ".join(f'"{key}": {text}' for key, text in row.items()) + "}"
    (tmp_path / name).write_text(line if name == "a.jsonl" else f"[{line}]")
    message = refused(tmp_path / name)
    assert reason in message and message.startswith(name)


def test_words_that_look_like_missing_values_stay(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": answer} for answer in ("true", "inf", "0", 0, 0.5)]
    assert answers(file(path=write(tmp_path / "a.jsonl", rows))) == ["true", "inf", "0", "0", "0.5"]


def test_bytes_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": [b"1 + 5?"], "answer": [b"6"]}), path)
    (problem,) = file(path=str(path))
    assert (problem.question, problem.answer) == ("1 + 5?", "6")
    pq.write_table(pa.table({"question": [b"\xff"], "answer": [b"6"]}), path)
    assert refused(path) == "a.parquet, row 0: 'question' holds bytes that are no UTF-8 text"


@pytest.mark.parametrize("empty", [None, "", NAN])
def test_rows_without_an_id_are_numbered(tmp_path: Path, empty: Any) -> None:
    rows = [{"id": empty, **row} for row in ROWS] + [{"id": 7, "question": "q", "answer": "1"}]
    path = write(tmp_path / "a.jsonl", rows)
    assert [problem.id for problem in file(path=path)] == ["a/0", "a/1", "7"]
    named = file(path=path, columns={"id": "id"})
    assert [problem.id for problem in named] == ["a/0", "a/1", "7"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("begin", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "A.JSONL"])
def test_json_lines_under_other_names_with_marks_and_line_ends(
    tmp_path: Path, name: str, begin: str, end: str
) -> None:
    problems = read_text(tmp_path / name, begin + LINES.replace("\n", end))
    assert answers(problems) == ["2", "3"]


def test_a_list_with_a_mark_and_windows_line_ends(tmp_path: Path) -> None:
    text = "\ufeff" + json.dumps(ROWS, indent=1).replace("\n", "\r\n")
    assert answers(read_text(tmp_path / "a.json", text)) == ["2", "3"]


def test_a_broken_line_of_json_lines_called_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(LINES + '{"question": ')
    assert refused(tmp_path / "a.json").startswith("a.json, line 3: not valid JSON")


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("a.txt", LINES, "it looks as if it should be called a.txt.jsonl"),
        ("rows", "[]", "it looks as if it should be called rows.json"),
        ("a.csv", "question,answer", "to_parquet"),
        ("a.jsonl.zip", "", "unpack it first"),
    ],
)
def test_a_file_of_another_name_is_told_what_to_be_called(
    tmp_path: Path, name: str, content: str, hint: str
) -> None:
    (tmp_path / name).write_text(content)
    message = refused(tmp_path / name)
    assert "should end in .json, .jsonl, .parquet" in message and hint in message


def compress_zstd(content: bytes) -> bytes:
    buffer = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
    return buffer.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", compress_zstd),
    ],
)
def test_compressed_files(tmp_path: Path, ending: str, compress: Any) -> None:
    plain = Path(write(tmp_path / "p.parquet", ROWS[:1])).read_bytes()
    contents = {"a.jsonl": LINES.encode(), "a.json": json.dumps(ROWS).encode(), "a.parquet": plain}
    for name, content in contents.items():
        problems = read_text(tmp_path / (name + ending), compress(content))
        assert (problems[0].id, problems[0].answer) == ("a/0", "2")
    for broken in (compress(LINES.encode())[:-9], b"no such thing"):
        (tmp_path / f"b.jsonl{ending}").write_bytes(broken)
        assert "cannot be read" in refused(tmp_path / f"b.jsonl{ending}")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("['4']", "4"),
        ('["4"]', "4"),
        ('[ "x + 1" ]', "x + 1"),
        (r'["\\frac{1}{2}"]', r"\frac{1}{2}"),
        (r'["\frac{1}{2}"]', r"\frac{1}{2}"),
        (r"['\\sqrt{2}']", r"\sqrt{2}"),
        (r'["\sqrt{2}"]', r"\sqrt{2}"),
        # These are answers of mathematics themselves.
        ("[1, 2]", "[1, 2]"),
        ("[4]", "[4]"),
        ("[x]", "[x]"),
        ("['4", "['4"),
    ],
)
def test_a_gold_that_is_a_list_written_as_text(tmp_path: Path, gold: str, answer: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": gold}])
    assert answers(file(path=path)) == [answer]


@pytest.mark.parametrize("gold", ["['4', '5']", '["4", "5"]'])
def test_a_gold_of_several_answers_is_refused(tmp_path: Path, gold: str) -> None:
    write(tmp_path / "a.jsonl", [{"question": "q", "answer": gold}])
    assert refused(tmp_path / "a.jsonl").endswith(
        "'answer' is a list of 2 answers written as text; a row has one"
    )


def test_a_prompt_that_is_the_json_text_of_messages(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    rows = [
        {"prompt": json.dumps(turns), "answer": "2"},
        {"prompt": "[1, 2] + [3]?", "answer": "2"},
        {"prompt": '["a", {"role": "user"}]', "answer": "2"},
    ]
    first, *others = file(path=write(tmp_path / "a.jsonl", rows))
    assert (first.question, first.meta["before"]) == ("1 + 1?", turns[:1])
    assert first.meta["prompt"] == "1 + 1?"
    assert [problem.question for problem in others] == [row["prompt"] for row in rows[1:]]


def test_a_column_of_nanoseconds_that_nobody_uses(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    times = pa.array([1_700_000_000_000_000_001], pa.timestamp("ns"))
    pq.write_table(pa.table({"question": ["q"], "answer": ["1"], "when": times}), path)
    assert answers(file(path=str(path))) == ["1"]


def test_a_text_column_that_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    text = pa.array([b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"question": ["q"], "answer": ["1"], "note": text}), path)
    assert refused(path).startswith("a.parquet: a value cannot be read")


def test_a_time_zone_that_nobody_knows_is_one_line(tmp_path: Path) -> None:
    times = pa.array([1], pa.timestamp("us", tz="Mars/Base"))
    pq.write_table(
        pa.table({"question": ["q"], "answer": ["1"], "when": times}), tmp_path / "a.parquet"
    )
    with pytest.raises(UserError, match=r"^a\.parquet: a value cannot be read: 'Mars/Base'$"):
        file(path=str(tmp_path / "a.parquet"))


def test_values_of_mixed_types_in_lists_of_one_length(tmp_path: Path) -> None:
    texts = pa.array(['{"gold": "4"}', '{"gold": 5}'])
    values = pa.ExtensionArray.from_storage(pa.json_(), texts)
    lists = pa.FixedSizeListArray.from_arrays(values, 1)
    pq.write_table(pa.table({"question": ["q", "r"], "checks": lists}), tmp_path / "a.parquet")
    problems = file(path=str(tmp_path / "a.parquet"), columns={"answer": "checks.0.gold"})
    assert [problem.answer for problem in problems] == ["4", "5"]


def test_a_list_that_is_called_json_lines_is_told_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('[\n{"question": "q", "answer": "1"}\n]\n')
    with pytest.raises(UserError, match=r"^a\.jsonl: is one JSON list .* call it \.json$"):
        file(path=str(tmp_path / "a.jsonl"))


def test_the_folder_of_a_user_that_is_not_there() -> None:
    with pytest.raises(UserError, match="there is no such user"):
        file(path="~no_such_user_here/a.jsonl")


@pytest.mark.parametrize(
    ("answer", "reason"), [(True, "is True"), (NAN, "no answer"), (None, "no answer")]
)
def test_problems_of_a_recipe_or_a_script(answer: Any, reason: str) -> None:
    row = {"question": "q", "answer": answer}
    with pytest.raises(UserError, match=reason):
        parse_problems([row])
    with pytest.raises(UserError, match=reason):
        inline(rows=(row,))
    assert parse_problems([{"id": None, "question": "q", "answer": 1}])[0].id == "given/0"
    with pytest.raises(UserError, match="has no question"):
        parse_problems([(None, "1")])  # type: ignore[list-item]
