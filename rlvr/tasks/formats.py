"""Known formats of the rows of a data file: those of OpenRLHF, verl, Logic-RL and rlvr itself.

A recipe need not name the columns of a file in one of these. To add a format of problems, edit
this file alone: put its columns into the tables below, and what more its rows hold into
`keep_known`. What a recipe can say of any other file is a `Layout` (`rlvr/tasks/problems.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from rlvr.errors import UserError
from rlvr.tasks.columns import Row, find_first_column, get_value
from rlvr.types import Problem

# Every other key of `columns` names an entry of meta.
FIELDS = ("id", "question", "answer", "solution")

# verl's gold.
TRUTH = "reward_model.ground_truth"

# Logic-RL's gold: lines such as "(1) Zoey is a knight".
PUZZLE = "solution_text_format"

# Where the fields of a row stand that does not say so itself; each is the first of these that it
# has.
QUESTIONS = ("question", "problem", "quiz", "prompt", "input")

# What says that it is the truth goes before `answer`, which many files use for a worked text.
ANSWERS = (
    f"{TRUTH}.{PUZZLE}",
    TRUTH,
    PUZZLE,
    "ground_truth_answer",
    "ground_truth",
    "gt_answer",
    "answer",
    "final_answer",
    "target",
    "solution",
)

# Entries of meta that are kept without being named.
KEPT: Mapping[str, tuple[str, ...]] = {
    "level": ("level", "extra_info.level"),
    "category": ("subject", "extra_info.subject", "subfield", "type", "data_source"),
    "data_source": ("data_source",),
    "extra_info": ("extra_info",),
}


# The keys of the rows that `to_json` writes.
_OWN_KEYS = frozenset((*FIELDS, "task", "meta"))


def find_columns(row: Row, columns: Mapping[str, str], where: str) -> tuple[str, str]:
    """Return the columns of the question and of the answer; raises UserError where one is missing."""
    question = columns.get("question") or find_first_column(row, QUESTIONS, "question", where)
    others = [column for column in ANSWERS if column != question]
    answer = columns.get("answer") or find_first_column(row, others, "answer", where)
    return question, answer


def is_unsolved(row: Row, answer_column: str) -> bool:
    """Whether this is a row of verl with an empty gold.

    It is left out by name when a run is built: the pool of One-Shot-RLVR has one, and its programs
    train on it for nothing.
    """
    return answer_column == TRUTH and get_value(row, TRUTH) == ""


def is_puzzle(answer_column: str) -> bool:
    """Whether the answer is the assignment of a puzzle of Logic-RL."""
    return answer_column.endswith(PUZZLE)


def keep_known(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return what a row of a known format holds beside question and answer.

    That is KEPT, a gold of several parts, and its prompts.
    """
    meta: dict[str, Any] = {}
    for key, places in KEPT.items():
        value = _get_first_value(row, places)
        if value is not None:
            meta[key] = value
    truth = get_value(row, TRUTH)
    if isinstance(truth, Mapping):
        meta["ground_truth"] = truth
    # Whoever names the question says which prompts to keep.
    if "question" not in columns:
        for key in ("prompt", "input"):
            text = _get_last_text(row.get(key))
            if isinstance(text, str):
                meta[key] = text
    return meta


def _get_first_value(row: Row, columns: tuple[str, ...]) -> Any:
    for column in columns:
        value = get_value(row, column)
        if value is not None:
            return value
    return None


def _get_last_text(value: Any) -> Any:
    value = _read_messages(value)
    if _is_chat(value):
        return _join_or_keep(value[-1]["content"])
    return value


def join_texts(parts: object) -> str | None:
    """Return the texts of a content in parts as one text; None where a part is no text, such as an image.

    >>> join_texts(["What is ", {"type": "text", "text": "2+2?"}])
    'What is 2+2?'
    """
    if not isinstance(parts, list | tuple) or not parts:
        return None
    texts: list[str] = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "".join(texts)


def _join_or_keep(content: Any) -> Any:
    joined = join_texts(content)
    return content if joined is None else joined


def split_turns(value: Any, column: str, where: str) -> tuple[list[Row], Any]:
    """Return the earlier messages of a chat and the text of the last, or any other value alone.

    Raises UserError where the last message is not the user's.
    """
    value = _read_messages(value)
    if not _is_chat(value):
        return [], value
    *before, last = value
    if last.get("role", "user") != "user":
        raise UserError(
            f"{where}: the last message of '{column}' is not the user's but of the role '{last['role']}'"
        )
    return before, _join_or_keep(last["content"])


def _read_messages(value: Any) -> Any:
    """Return the messages of a chat that is written as JSON text, any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        messages = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return messages if _is_chat(messages) else value


def _is_chat(value: Any) -> TypeGuard[list[Row]]:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(message, Mapping) and "content" in message for message in value)


def to_json(problem: Problem) -> dict[str, Any]:
    """Return the row of a problem in a file that the data "file" reads back unchanged."""
    return {
        "id": problem.id,
        "task": problem.task,
        "question": problem.question,
        "answer": problem.answer,
        "solution": problem.solution,
        "meta": dict(problem.meta),
    }


def from_json(row: Row) -> Problem:
    """Return the problem of such a row.   from_json(to_json(problem)) == problem"""
    return Problem(
        id=row["id"],
        task=row["task"],
        question=row["question"],
        answer=row["answer"],
        meta=dict(row["meta"] or {}),
        solution=row["solution"],
    )


def is_own_row(row: Row) -> bool:
    """Whether `to_json` wrote the row."""
    if row.keys() != _OWN_KEYS:
        return False
    texts = [row[key] for key in ("id", "task", "question", "answer")]
    return all(isinstance(text, str) and text.strip() for text in texts)
