"""Data "file", "hub" and "shipped": problems from JSON, JSON Lines, Parquet and the hub, with
mapped columns.
"""

from __future__ import annotations

import hashlib
import json
import os
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from rlvr.errors import UserError, import_optional, suggest
from rlvr.registry import register
from rlvr.resources import load_asset
from rlvr.types import Problem

from rlvr.grading.extract import find_last_box


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Pairs of a place and a row.   ("line 7", {"question": "2 + 2?", "answer": "4"})"""
    readers = {".json": _json, ".jsonl": _lines, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UserError(f"{path}: should end in {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; set path to another, or start where it lies")
    try:
        yield from readers[path.suffix](path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number}", _parsed(line, f"{path.name}, line {number}")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parsed(path.read_bytes(), path.name)
    if not isinstance(rows, list):
        raise UserError(f"{path.name}: should be a list of problems, not {type(rows).__name__}")
    yield from ((f"item {index}", row) for index, row in enumerate(rows))


def _parsed(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        place = (
            f"line {error.lineno}, column {error.colno}"
            if data.count(b"\n") > 1
            else f"column {error.colno}"
        )
        raise UserError(f"{where}: not valid JSON: {error.msg} ({place})") from None
    except RecursionError:
        raise UserError(f"{where}: not valid JSON: nested too deeply") from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise UserError(
            f"{path.name}: not a readable Parquet file: {str(error).splitlines()[0]}"
        ) from None
    yield from ((f"row {index}", row) for index, row in enumerate(table.to_pylist()))


_COLUMNS = load_asset("tasks/columns")


QUESTIONS, ANSWERS, KEPT = (_COLUMNS[part] for part in ("question", "answer", "kept"))


TRUTH = "reward_model.ground_truth"  # verl's gold


PUZZLE = "solution_text_format"  # Logic-RL's gold: lines such as "(1) Zoey is a knight"


# every other key of `columns` names an entry of meta
FIELDS = ("id", "question", "answer", "solution")


Row = Mapping[str, Any]


# what becomes of a row whose answer is empty; dropping renumbers no other
Unanswered = Literal["refuse", "drop"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields of a row stand, and how the gold is taken from its column."""

    columns: Mapping[str, str]
    after: str | None = None  # the gold is what follows this
    within: Literal["box"] | None = None  # the gold is the content of the last box
    choices: str | None = None  # the column of the options, of which the gold becomes a letter
    task: str | None = None


@register("data", "file")
def file(
    *,
    path: str,
    columns: Mapping[str, str] = {},
    answer_after: str | None = None,
    answer_in: Literal["box"] | None = None,
    choices: str | None = None,
    unanswered: Unanswered = "refuse",
    task: str | None = None,
) -> list[Problem]:
    """The problems of a .json, .jsonl or .parquet file; `columns` says where a field or an entry of
    meta is found.

    The rows of OpenRLHF and verl scripts are recognised without it (docs/migration.md). The gold is
    the answer column, what follows `answer_after` in it, or the last box in it (`answer_in`).
    `choices` is the column of the options of a multiple-choice question: they are asked below it
    with letters, and the gold is a letter. `task` is math, choice where there are options, or
    knights where the gold of a row is an assignment.

    file(path="gsm8k.jsonl", answer_after="####") file(path="train.parquet", columns={"question":
    "extra.text", "answer": "extra.gold", "level": "extra.level"})
    """
    name = Path(path).expanduser()
    layout = Layout(columns, answer_after, answer_in, choices, task)
    return problems_of(read_rows(name), name.name, name.stem, layout, unanswered)


@register("data", "inline")
def inline(*, rows: tuple[Mapping[str, Any], ...], task: str | None = None) -> list[Problem]:
    """Problems written into the recipe itself.   inline(rows=({"question": "What is 7 + 8?",
    "answer": "15"},))
    """
    return problems_of(
        ((f"row {i}", row) for i, row in enumerate(rows)), "inline", "inline", Layout({}, task=task)
    )


@register("data", "hub")
def hub(
    *,
    dataset: str,
    subset: str | None = None,
    split: str = "train",
    data_files: str | None = None,
    columns: Mapping[str, str] = {},
    answer_after: str | None = None,
    answer_in: Literal["box"] | None = None,
    choices: str | None = None,
    unanswered: Unanswered = "refuse",
    task: str | None = None,
) -> list[Problem]:
    """The problems of a Hugging Face data set.   hub(dataset="openai/gsm8k", subset="main",
    answer_after="####")
    """
    datasets = import_optional(
        "datasets", f"data set '{dataset}': needs the package datasets; pip install datasets"
    )
    files = {"data_files": data_files} if data_files else {}
    try:
        rows = datasets.load_dataset(dataset, subset, split=split, **files)
    # no network, no such set or split, a fault in the set: each library has its own kinds
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise UserError(f"data set '{dataset}': cannot be loaded: {reason}") from None
    numbered = ((f"row {i}", row) for i, row in enumerate(rows))
    layout = Layout(columns, answer_after, answer_in, choices, task)
    return problems_of(numbered, dataset, f"{dataset}/{split}", layout, unanswered)


DATA_DIR = "RLVR_DATA_DIR"


@register("data", "shipped")
def shipped(
    *,
    filename: str,
    dataset: Mapping[str, Any],
    layout: Mapping[str, Any] = {},
    sha256: str | None = None,
    folder: str | None = None,
) -> list[Problem]:
    """The problems of a published set: its file in `folder` (or RLVR_DATA_DIR), which must be the
    one of that digest, or where no folder is named `dataset` on the hub. `layout` are the options
    of `file`, `dataset` those of `hub`.
    """
    place = folder or os.environ.get(DATA_DIR)
    if place:
        return file(path=str(_known(Path(place).expanduser(), filename, sha256)), **layout)
    try:
        return hub(**dataset)
    except UserError as error:
        raise UserError(
            f"{error}; or name the folder with {filename}: --data DIR or {DATA_DIR}"
        ) from None


def _known(folder: Path, filename: str, sha256: str | None) -> Path:
    """The file of a published set below a folder, also as `NAME/test.jsonl`, as evaluation
    harnesses keep it.
    """
    stem, suffix = os.path.splitext(filename)
    places = [
        folder / filename,
        *sorted(folder.glob(f"*/{filename}")),
        *sorted(folder.glob(f"**/{stem}/test{suffix}")),
    ]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{folder}: holds no {filename} (nor {stem}/test{suffix}); name another with --data DIR"
        )
    if sha256 is not None and (found := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256:
        raise UserError(
            f"{path}: is not the published file, its SHA-256 is {found[:12]}… and not {sha256[:12]}…; restore it, or"
            " name the file itself as a benchmark"
        )
    return path


def to_json(problem: Problem) -> dict[str, Any]:
    """The row of a problem in a file that `file` reads back unchanged."""
    return {
        "id": problem.id, "task": problem.task, "question": problem.question, "answer": problem.answer,
        "solution": problem.solution, "meta": dict(problem.meta),
    }  # fmt: skip


def from_json(row: Row) -> Problem:
    """The problem of such a row.   from_json(to_json(problem)) == problem"""
    return Problem(
        row["id"],
        row["task"],
        row["question"],
        row["answer"],
        dict(row["meta"] or {}),
        row["solution"],
    )


def problems_of(
    rows: Iterable[tuple[str, Row]],
    name: str,
    stem: str,
    layout: Layout,
    unanswered: Unanswered | None = None,
) -> list[Problem]:
    """Problems from pairs of a place ("line 7") and a row; a fault is reported with its place."""
    problems: dict[str, Problem] = {}
    for index, (place, row) in enumerate(rows):
        where = f"{name}, {place}"
        if not isinstance(row, Mapping):
            raise UserError(
                f"{where}: should be an object with named fields, not {type(row).__name__}"
            )
        empty = _empty_answer(row, layout.columns, where) if unanswered else None
        if empty is not None and unanswered == "drop":
            continue
        if empty is not None and not _is_unsolved(row, empty):
            fault = f"the problem has no answer ('{empty}' is empty)"
            raise UserError(f"{where}: {fault}; unanswered: drop leaves such rows out")
        problem = _problem(row, where, f"{stem}/{index}", layout)
        if problem.id in problems:
            fix = (
                "; leave 'id' out of columns, and the rows are numbered"
                if "id" in layout.columns
                else ""
            )
            raise UserError(f"{where}: the id '{problem.id}' occurs twice{fix}")
        problems[problem.id] = problem
    if not problems:
        raise UserError(f"{name}: holds no problem")
    return list(problems.values())


def _problem(row: Row, where: str, default: str, layout: Layout) -> Problem:
    columns = layout.columns
    if layout == Layout({}, task=layout.task) and _is_ours(row):
        return from_json(row)
    question_at, answer_at = _places(row, columns, where)
    answer = "" if _is_unsolved(row, answer_at) else _gold(row, answer_at, layout, where)
    before, asked = _turns(lookup(row, question_at, where), question_at, where)
    question = _text(asked, "question", question_at, where)
    if layout.choices is not None:
        options, answer = _lettered(
            lookup(row, layout.choices, where), answer, f"{where}, '{layout.choices}'"
        )
        question = f"{question}\n{options}"
    meta = _kept(row, columns) | ({"before": before} if before else {})
    meta |= {
        key: lookup(row, column, where) for key, column in columns.items() if key not in FIELDS
    }
    solution = lookup(row, columns["solution"], where) if "solution" in columns else None
    name = lookup(row, columns["id"], where) if "id" in columns else row.get("id", default)
    task = layout.task or (
        "choice" if layout.choices else "knights" if answer_at.endswith(PUZZLE) else "math"
    )
    return Problem(
        str(name), task, question, answer.strip(), meta, None if solution is None else str(solution)
    )


def _gold(row: Row, answer_at: str, layout: Layout, where: str) -> str:
    """The gold of a row, taken from its column as the layout says."""
    text = _text(lookup(row, answer_at, where), "answer", answer_at, where)
    if layout.after is not None:
        _, found, text = text.rpartition(layout.after)
        if not found or not text.strip():
            raise UserError(f"{where}: no answer after '{layout.after}' in '{answer_at}'")
    if layout.within is not None:
        boxed = find_last_box(text)
        if not boxed:
            raise UserError(f"{where}: no answer in a box in '{answer_at}'")
        text = boxed
    return text


def _lettered(options: Any, gold: str, where: str) -> tuple[str, str]:
    """The options as lines with letters, and the gold's letter; the gold is a label, a number from
    0 or an option.

    >>> _lettered({"text": ["red", "blue"], "label": ["1", "2"]}, "2", "")
    ('A. red\\nB. blue', 'B')
    """
    texts = options["text"] if isinstance(options, Mapping) and "text" in options else options
    if not isinstance(texts, list | tuple) or not 1 < len(texts) <= len(string.ascii_uppercase):
        raise UserError(
            f"{where}: should be a list of options, or a mapping with the lists text and label"
        )
    letters = string.ascii_uppercase[: len(texts)]
    labels = options.get("label") if isinstance(options, Mapping) else None
    known = (
        [list(labels)]
        if labels
        else [list(letters), [str(i) for i in range(len(texts))], list(texts)]
    )
    place = next((names.index(gold) for names in known if gold in names), None)
    if place is None:
        raise UserError(f"{where}: the answer '{gold}' is none of the options")
    return "\n".join(
        f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True)
    ), letters[place]


def _places(row: Row, columns: Mapping[str, str], where: str) -> tuple[str, str]:
    """The columns of the question and of the answer."""
    question_at = columns.get("question") or _first(row, QUESTIONS, "question", where)
    return question_at, columns.get("answer") or _first(
        row, [c for c in ANSWERS if c != question_at], "answer", where
    )


def _empty_answer(row: Row, columns: Mapping[str, str], where: str) -> str | None:
    """The column of the answer, where that is empty."""
    column = _places(row, columns, where)[1]
    value = lookup(row, column, where)
    return column if value is None or (isinstance(value, str) and not value.strip()) else None


def _is_unsolved(row: Row, answer_at: str) -> bool:
    """Whether this is a row of verl with an empty gold, which is left out by name when a run is
    built.

    The pool of One-Shot-RLVR has one, and its programs train on it for nothing.
    """
    return answer_at == TRUTH and _value(row, TRUTH) == ""


def _kept(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """What a row of a known format holds beside question and answer: KEPT, a gold of several parts,
    its prompts.
    """
    found = {key: [_value(row, place) for place in places] for key, places in KEPT.items()}
    meta = {key: next((v for v in values if v is not None), None) for key, values in found.items()}
    truth = _value(row, TRUTH)
    if isinstance(truth, Mapping):
        meta["ground_truth"] = truth
    if "question" not in columns:  # whoever names the question says which prompts to keep
        asked = {name: row.get(name) for name in ("prompt", "input")}
        texts = {
            name: value[-1]["content"] if _is_chat(value) else value
            for name, value in asked.items()
        }
        meta |= {name: text for name, text in texts.items() if isinstance(text, str)}
    return {key: value for key, value in meta.items() if value is not None}


def _turns(value: Any, column: str, where: str) -> tuple[list[Row], Any]:
    """The earlier messages of a chat and the text of the last, which is the user's; any other value
    alone.
    """
    if not _is_chat(value):
        return [], value
    *before, last = value
    if last.get("role", "user") != "user":
        raise UserError(
            f"{where}: the last message of '{column}' is not the user's but of the role '{last['role']}'"
        )
    return before, last["content"]


def _is_chat(value: Any) -> TypeGuard[list[Row]]:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, Mapping) and "content" in m for m in value)
    )


def _is_ours(row: Row) -> bool:
    """Whether `to_json` wrote the row."""
    texts = (row.get(key) for key in ("id", "task", "question", "answer"))
    return set(row) == {*FIELDS, "task", "meta"} and all(
        isinstance(text, str) and text.strip() for text in texts
    )


def lookup(row: Row, column: str, where: str) -> Any:
    """The value at a dotted path.   lookup({"prompt": [{"content": "2+2"}]}, "prompt.0.content",
    "") -> "2+2"
    """
    value, missing = _reach(row, column)
    if missing is not None:
        known = _names(value)
        raise UserError(f"{where}: no column '{column}'{suggest(missing, known) if known else ''}")
    return value


def _reach(row: Row, column: str) -> tuple[Any, str | None]:
    """The value at a dotted path, or the last one on the way and the part that it lacks."""
    if column in row:
        return row[column], None
    value: Any = row
    for part in column.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif (
            isinstance(value, list | tuple)
            and part.isascii()
            and part.isdigit()
            and int(part) < len(value)
        ):
            value = value[int(part)]
        else:
            return value, part
    return value, None


def _value(row: Row, column: str) -> Any:
    value, missing = _reach(row, column)
    return value if missing is None else None


def _names(value: Any) -> list[str]:
    keys = (
        value
        if isinstance(value, Mapping)
        else range(len(value))
        if isinstance(value, list | tuple)
        else ()
    )
    return [str(key) for key in keys]


def _first(row: Row, names: Iterable[str], field: str, where: str) -> str:
    found = next((name for name in names if _reach(row, name)[1] is None), None)
    if found is None:
        raise UserError(
            f"{where}: no {field} column; name it in columns: {{{field}: …}} (known: {', '.join(row)})"
        )
    return found


def _text(value: Any, field: str, column: str, where: str) -> str:
    if isinstance(value, Mapping | list | tuple):
        part = next(iter(_names(value)), "0")
        raise UserError(
            f"{where}: '{column}' is not a text; reach into it with a column such as '{column}.{part}'"
        )
    if value is None or not str(value).strip():
        raise UserError(f"{where}: the problem has no {field} ('{column}' is empty)")
    return str(value)
