"""What the problems of a run were at its start, so that a resume sees a row that has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.build.run import Built
from rlvr.config.schema import Recipe, SourceConfig
from rlvr.config.staging import split_stages
from rlvr.errors import UserError
from rlvr.storage import fields
from rlvr.storage.fields import WrongShape
from rlvr.types import Problem

PROBLEMS_FILE = "problems.json"
DIGEST_BYTES = 5  # of each problem: one change of a million million goes unseen


@dataclass(frozen=True, slots=True)
class SourceDigest:
    """The problems of one source of one stage: where they come from, and a digest of each."""

    where: str
    digests: str
    """Hexadecimal, of equal length each, in the order of the source."""

    def list_digests(self) -> list[str]:
        size = 2 * DIGEST_BYTES
        return [self.digests[start : start + size] for start in range(0, len(self.digests), size)]


def digest_sources(recipe: Recipe, built: Built) -> list[SourceDigest]:
    """Return the digests of the problems of all stages."""
    sources: list[SourceDigest] = []
    for part, stage in zip(split_stages(recipe), built.stages, strict=True):
        for row, problems in zip(part.train, stage.run.sources.problems, strict=True):
            digests = "".join(map(_digest_problem, problems))
            sources.append(SourceDigest(_name_source(row), digests))
    return sources


def _name_source(row: SourceConfig) -> str:
    """Return the file, data set or data plug-in of a source."""
    assert row.data is not None
    for key in ("path", "filename", "dataset"):
        if isinstance(row.data.params.get(key), str):
            return row.data.params[key]
    return row.data.name


def _digest_problem(problem: Problem) -> str:
    parts = [problem.id, problem.task, problem.question, problem.answer, problem.solution]
    meta = dict(problem.meta) or None  # most have none, and a million need not wait for it
    text = json.dumps([*parts, meta], default=repr)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def dump_digests(sources: Sequence[SourceDigest]) -> str:
    """Return the file as it is kept in the run folder."""
    rows = [{"where": source.where, "digests": source.digests} for source in sources]
    return json.dumps({"sources": rows}, indent=1)


def check_unchanged(folder: Path, recipe: Recipe, built: Built) -> None:
    """Raise UserError where a problem is not what it was when the run was started.

    A run from before there was such a file passes.
    """
    file = folder / PROBLEMS_FILE
    if not file.is_file():
        return
    before = _read_digests(file)
    now = digest_sources(recipe, built)
    if len(before) != len(now):
        raise UserError(
            f"{folder}: the run was started with {len(before)} sources of problems, and the recipe has {len(now)};"
            f" choose a new run.name"
        )
    number = 0
    for part, stage in zip(split_stages(recipe), built.stages, strict=True):
        for position, problems in enumerate(stage.run.sources.problems):
            fault = _find_change(before[number], now[number], problems)
            if fault is not None:
                raise UserError(
                    f"{folder}: the problems of 'train' are not those that the run was started with:"
                    f" {_name_source(part.train[position])}: {fault}; restore the file, or the history of"
                    f" the selection, or choose a new run.name"
                )
            number += 1


def _read_digests(file: Path) -> list[SourceDigest]:
    """Read the file; raises UserError where it is of another shape."""
    try:
        tree: Any = json.loads(file.read_text("utf-8"))
        rows: Sequence[Mapping[str, Any]] = fields.read_list(tree, "sources")
        return [
            SourceDigest(fields.read_text(row, "where"), fields.read_text(row, "digests"))
            for row in rows
        ]
    except (OSError, ValueError, AttributeError, WrongShape):
        raise UserError(
            f"{file}: does not say what the problems were; restore it, or remove it to go on unchecked"
        ) from None


def _find_change(
    before: SourceDigest, now: SourceDigest, problems: Sequence[Problem]
) -> str | None:
    """Return which row of a source is not what it was; None where all are."""
    if before.digests == now.digests:
        return None
    was = before.list_digests()
    for index, digest in enumerate(now.list_digests()[: len(was)]):
        if digest != was[index]:
            return f"problem {index + 1}, '{problems[index].id}', has another id, question, answer, solution or meta"
    return f"it has {len(problems)} problems and had {len(was)}"
