"""Data "file", "inline", "hub" and "shipped": problems from files, recipes and the hub.

How a file is read stands in `row_files.py`, which formats of rows are known in `formats.py`, and
how a row becomes a problem in `problems.py`.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rlvr.errors import UserError, import_optional
from rlvr.registry import register
from rlvr.tasks.arrow_rows import iterate_rows
from rlvr.tasks.problems import Layout, Unanswered, build_problems
from rlvr.tasks.row_files import BATCH_ROWS, expand_path, read_rows, read_stem
from rlvr.types import Problem

DATA_DIR = "RLVR_DATA_DIR"


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
    """Read the problems of a .json, .jsonl or .parquet file; `columns` says where a field or an
    entry of meta is found.

    The rows of OpenRLHF and verl scripts are recognised without it (docs/migration.md). The gold is
    the answer column, what follows `answer_after` in it, or the last box in it (`answer_in`).
    `choices` is the column of the options of a multiple-choice question: they are asked below it
    with letters, and the gold is a letter. `task` is math, choice where there are options, or
    knights where the gold of a row is an assignment.

    file(path="gsm8k.jsonl", answer_after="####")
    file(path="train.parquet", columns={"question": "extra.text", "level": "extra.level"})
    """
    place = expand_path(path)
    layout = Layout(columns, answer_after, answer_in, choices, task)
    return build_problems(read_rows(place), place.name, read_stem(place), layout, unanswered)


@register("data", "inline")
def inline(*, rows: tuple[Mapping[str, Any], ...], task: str | None = None) -> list[Problem]:
    """Take problems written into the recipe itself.   inline(rows=({"question": "What is 7 + 8?",
    "answer": "15"},))
    """
    placed_rows = ((f"row {index}", row) for index, row in enumerate(rows))
    return build_problems(placed_rows, "inline", "inline", Layout({}, task=task))


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
    """Load the problems of a Hugging Face data set.   hub(dataset="openai/gsm8k", subset="main",
    answer_after="####")
    """
    datasets = import_optional(
        "datasets", f"data set '{dataset}': needs the package datasets; pip install datasets"
    )
    files = {"data_files": data_files} if data_files else {}
    try:
        loaded = datasets.load_dataset(dataset, subset, split=split, **files)
    # No network, no such set or split, a fault in the set: each library has its own kinds.
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise UserError(f"data set '{dataset}': cannot be loaded: {reason}") from None
    # As Arrow's tables: the library's own rows have lost what a gold of mixed types was written as.
    tables = loaded.with_format("arrow").iter(batch_size=BATCH_ROWS)
    rows = itertools.chain.from_iterable(map(iterate_rows, tables))
    placed_rows = ((f"row {index}", row) for index, row in enumerate(rows))
    layout = Layout(columns, answer_after, answer_in, choices, task)
    return build_problems(placed_rows, dataset, f"{dataset}/{split}", layout, unanswered)


@register("data", "shipped")
def shipped(
    *,
    filename: str,
    dataset: Mapping[str, Any],
    layout: Mapping[str, Any] = {},
    sha256: str | None = None,
    folder: str | None = None,
) -> list[Problem]:
    """Read the problems of a published set: its file in `folder` (or RLVR_DATA_DIR), which must be
    the one of that digest, or where no folder is named `dataset` on the hub. `layout` are the
    options of `file`, `dataset` those of `hub`.
    """
    place = folder or os.environ.get(DATA_DIR)
    if place:
        path = _find_published(Path(place).expanduser(), filename)
        _check_digest(path, sha256)
        return file(path=str(path), **layout)
    try:
        return hub(**dataset)
    except UserError as error:
        raise UserError(
            f"{error}; or name the folder with {filename}: --data DIR or {DATA_DIR}"
        ) from None


def _find_published(folder: Path, filename: str) -> Path:
    """Return the file of a published set below a folder; raises UserError where there is none.

    It may also be called `NAME/test.jsonl`, as evaluation harnesses keep it.
    """
    stem, suffix = os.path.splitext(filename)
    places = [
        folder / filename,
        *sorted(folder.glob(f"*/{filename}")),
        *sorted(folder.glob(f"**/{stem}/test{suffix}")),
    ]
    for path in places:
        if path.is_file():
            return path
    raise UserError(
        f"{folder}: holds no {filename} (nor {stem}/test{suffix}); name another with --data DIR"
    )


def _check_digest(path: Path, sha256: str | None) -> None:
    """Refuse a file that is not the published one; raises UserError."""
    if sha256 is None:
        return
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise UserError(
            f"{path}: is not the published file, its SHA-256 is {digest[:12]}… and not {sha256[:12]}…; restore it, or"
            " name the file itself as a benchmark"
        )
