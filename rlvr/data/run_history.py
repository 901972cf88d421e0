"""Read what a run noted of its problems: visits and answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field

from rlvr import registry
from rlvr.errors import UserError
from rlvr.registry import Share
from rlvr.storage.jsonl import JsonLines

# A sum of samples that differs from a whole number by more is not one.
ROUNDING = 1e-6

_T = TypeVar("_T")


class _Visit(BaseModel, strict=True):
    """One row of `history.jsonl`; `n` is the number of samples."""

    id: str
    step: int
    n: Annotated[int, Field(ge=1, le=2**31)]
    accuracy: Share


class _Answered(BaseModel, strict=True):
    """What is read of one row of a file of samples."""

    id: str
    answer: str | None


def read_history(path: str | Path) -> dict[str, tuple[float, ...]]:
    """Return the accuracies of each problem, one a visit.

    `path` is a run folder, its `history.jsonl`, or a JSON file {id: [accuracy, …]}. Raises
    UserError.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "history.jsonl"
        if not file.is_file():
            raise UserError(f"{path}: is not the folder of a run, since it has no history.jsonl")
    if file.suffix == ".jsonl":
        by_step = collect_visits(_read_or_refuse(file, JsonLines.read), str(file))
        histories = {name: tuple(accuracies.values()) for name, accuracies in by_step.items()}
    else:
        histories = _check_published(_read_or_refuse(file, _parse_json), str(file))
    if not histories:
        raise UserError(
            f"{file}: holds no accuracy; give the history of a run that has taken a step"
        )
    return histories


def collect_visits(records: Iterable[Mapping[str, Any]], where: str) -> dict[str, dict[int, float]]:
    """Return the accuracy of each problem at each step that it was drawn in.

    `records` are the rows of `history.jsonl`. Copies of a problem in one step are one visit: the
    share of all their samples. Raises UserError.
    """
    counts: dict[str, dict[int, tuple[int, int]]] = {}
    for number, record in enumerate(records, start=1):
        row = registry.validate(_Visit, record, f"{where}, record {number}")
        correct = round(row.accuracy * row.n)
        if abs(correct - row.accuracy * row.n) > ROUNDING:
            raise UserError(
                f"{where}, record {number}: accuracy {row.accuracy} is no share of n = {row.n} samples"
            )
        by_step = counts.setdefault(row.id, {})
        correct_before, samples_before = by_step.get(row.step, (0, 0))
        by_step[row.step] = (correct_before + correct, samples_before + row.n)

    visits: dict[str, dict[int, float]] = {}
    for name, by_step in counts.items():
        visits[name] = {step: correct / samples for step, (correct, samples) in by_step.items()}
    return visits


def _check_published(tree: Any, where: str) -> dict[str, tuple[float, ...]]:
    """Return the histories of a JSON file {id: [accuracy, …]}; raises UserError for any other."""
    if not isinstance(tree, dict):
        raise UserError(
            f"{where}: should be an object {{id: [accuracy, …]}}, not a {type(tree).__name__}"
        )
    histories: dict[str, tuple[float, ...]] = {}
    for name, row in tree.items():
        if not row or not isinstance(row, list):
            raise UserError(
                f"{where}: problem '{name}' should have a list of accuracies, not {row!r:.40}"
            )
        for value in row:
            if not _is_accuracy(value):
                raise UserError(
                    f"{where}: problem '{name}': an accuracy is a number 0 to 1, not {value!r}"
                )
        histories[name] = tuple(map(float, row))
    return histories


def _is_accuracy(value: Any) -> bool:
    # For Python true and false are numbers; for a history they are a mistake.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= 1


def read_answers(path: str | Path) -> dict[str, Counter[str | None]]:
    """Count how often each answer was given to each problem.

    `path` is a run, whose training samples are read, or one file of samples. Samples whose verifier
    failed are left out. Raises UserError.
    """
    answers: dict[str, Counter[str | None]] = {}
    for file in _find_sample_files(path):
        for number, record in enumerate(_read_or_refuse(file, JsonLines.read), start=1):
            row = registry.validate(_Answered, record, f"{file}, record {number}")
            if record.get("status") in ("error", "timeout"):
                continue
            counts = answers.setdefault(row.id, Counter())
            counts[row.answer] += 1
    if not answers:
        raise UserError(f"{path}: holds no answer")
    return answers


def _find_sample_files(path: str | Path) -> list[Path]:
    """Return the files of training samples of a run in their order, or the one file itself."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return [place]
    folder = place / "samples"
    files = sorted((folder if folder.is_dir() else place).glob("train-*.jsonl"))
    if not files:
        raise UserError(
            f"{path}: holds no samples/train-*.jsonl; give a run that took a step, or a file of samples"
        )
    return files


def _parse_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _read_or_refuse(path: Path, read: Callable[[Path], _T]) -> _T:
    """Return what `read` makes of a file; raises UserError where it cannot be read."""
    try:
        return read(path)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; give a run, its history.jsonl or a JSON file"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8
        raise UserError(f"{path}: not valid JSON: {error}") from None
