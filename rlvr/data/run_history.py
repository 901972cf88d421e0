"""Read what a run noted of its problems: visits and answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from rlvr import registry
from rlvr.data.rankings import Ranking
from rlvr.errors import UserError
from rlvr.registry import Count, Share
from rlvr.storage.jsonl import JsonLines
from rlvr.types import Problem

# One number for all selected problems, or one for each.
Repeat = Annotated[
    tuple[Count, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,)),
]


def read_history(path: str | Path) -> dict[str, tuple[float, ...]]:
    """The accuracies of each problem from a run folder, its `history.jsonl`, or a JSON file {id:
    [accuracy, …]}; raises UserError.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        place = place / "history.jsonl"
        if not place.is_file():
            raise UserError(f"{path}: is not the folder of a run, since it has no history.jsonl")
    if place.suffix == ".jsonl":
        found = {
            name: tuple(at.values())
            for name, at in visits(_read(place, JsonLines.read), str(place)).items()
        }
    else:
        found = _published(_read(place, lambda file: json.loads(file.read_bytes())), str(place))
    if not found:
        raise UserError(
            f"{place}: holds no accuracy; give the history of a run that has taken a step"
        )
    return found


def visits(records: Iterable[Mapping[str, Any]], where: str) -> dict[str, dict[int, float]]:
    """The accuracy of each problem at each step that it was drawn in, from the rows of
    `history.jsonl`.

    Copies of a problem in one step are one visit: the share of all their samples. Raises UserError.
    """
    counts: dict[str, dict[int, tuple[int, int]]] = {}
    for number, record in enumerate(records, 1):
        row = registry.validated(_Visit, record, f"{where}, record {number}")
        right = round(row.accuracy * row.n)
        if abs(right - row.accuracy * row.n) > 1e-6:
            raise UserError(
                f"{where}, record {number}: accuracy {row.accuracy} is no share of n = {row.n} samples"
            )
        before = counts.setdefault(row.id, {}).get(row.step, (0, 0))
        counts[row.id][row.step] = before[0] + right, before[1] + row.n
    return {
        name: {step: right / n for step, (right, n) in at.items()} for name, at in counts.items()
    }


class _Visit(BaseModel, strict=True):
    id: str
    step: int
    n: Annotated[int, Field(ge=1, le=2**31)]  # samples
    accuracy: Share


class _Answered(BaseModel, strict=True):
    id: str
    answer: str | None


def _published(tree: Any, where: str) -> dict[str, tuple[float, ...]]:
    if not isinstance(tree, dict):
        raise UserError(
            f"{where}: should be an object {{id: [accuracy, …]}}, not a {type(tree).__name__}"
        )
    for name, row in tree.items():
        if not row or not isinstance(row, list):
            raise UserError(
                f"{where}: problem '{name}' should have a list of accuracies, not {row!r:.40}"
            )
        wrong = [
            x
            for x in row
            if isinstance(x, bool) or not isinstance(x, int | float) or not 0 <= x <= 1
        ]
        if wrong:
            raise UserError(
                f"{where}: problem '{name}': an accuracy is a number 0 to 1, not {wrong[0]!r}"
            )
    return {name: tuple(map(float, row)) for name, row in tree.items()}


def read_answers(path: str | Path) -> dict[str, Counter[str | None]]:
    """How often each answer was given to each problem: by the training samples of a run, or in one
    file of samples; samples whose verifier failed are left out. Raises UserError.
    """
    place = Path(path).expanduser()
    files = sorted(
        (place / "samples" if (place / "samples").is_dir() else place).glob("train-*.jsonl")
    )
    if place.is_dir() and not files:
        raise UserError(
            f"{path}: holds no samples/train-*.jsonl; give a run that took a step, or a file of samples"
        )
    found: dict[str, Counter[str | None]] = {}
    for file in files or [place]:
        for number, record in enumerate(_read(file, JsonLines.read), 1):
            row = registry.validated(_Answered, record, f"{file}, record {number}")
            if record.get("status") not in ("error", "timeout"):
                found.setdefault(row.id, Counter())[row.answer] += 1
    if not found:
        raise UserError(f"{path}: holds no answer")
    return found


def _read(path: Path, how: Callable[[Path], Any]) -> Any:
    try:
        return how(path)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; give a run, its history.jsonl or a JSON file"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8
        raise UserError(f"{path}: not valid JSON: {error}") from None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A problem's place in a ranking, from 1."""

    rank: int
    id: str
    score: float


def ranked(
    source: str | Path,
    method: str,
    options: Mapping[str, Any],
    start: int = 1,
    top: int | None = None,
) -> list[Ranked]:
    """`top` ranks from `start` on of a registered ranking of what `source` holds; raises UserError."""
    rule = registry.find("ranking", method, "--method")
    bound = rule.bind(options, f"--method {method}")
    for name, value in (("start", start), ("top", top)):
        if value is not None and value < 1:
            raise UserError(f"{name}: should be at least 1, not {value}")
    held = read_answers(source) if "answers" in rule.needs else read_history(source)
    try:
        ranking: Ranking = bound(held)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    if start > len(ranking):
        raise UserError(
            f"{source}: start: rank {start} asked for, and {len(ranking)} problems are ranked"
        )
    rest = [Ranked(rank, str(name), float(score)) for rank, (name, score) in enumerate(ranking, 1)][
        start - 1 :
    ]
    if top is not None and top > len(rest):
        raise UserError(
            f"{source}: top: {top} problems asked for, and {len(rest)} are ranked from rank {start} on"
        )
    return rest[:top]


def read_or_refuse(
    problems: Sequence[Problem], ranks: Sequence[Ranked], key: str, source: str
) -> list[Problem]:
    """The problem of each rank: the one of that id, or for a bare index the one at that place of
    its file.
    """
    known = {problem.id: problem for problem in problems}
    at: dict[str, list[Problem]] = {}
    for problem in problems:
        at.setdefault(problem.id.rpartition("/")[2], []).append(problem)
    found = []
    for row in ranks:
        index = row.id.isascii() and row.id.isdigit()
        fits = [known[row.id]] if row.id in known else at.get(row.id, []) if index else []
        if len(fits) > 1:
            raise UserError(
                f"select.{key}: '{row.id}' of {source} fits both '{fits[0].id}' and '{fits[1].id}'"
            )
        if not fits:
            raise UserError(
                f"select.{key}: '{row.id}' (rank {row.rank} of {source}) is not among the {len(problems)} problems of"
                f" the source, whose ids are like '{problems[0].id}'; give a {key} of these problems"
            )
        found += fits
    return found


def repeated(problems: Sequence[Problem], repeat: tuple[int, ...]) -> list[Problem]:
    times = repeat * len(problems) if len(repeat) == 1 else repeat
    if len(times) != len(problems):
        raise UserError(
            f"select.repeat: {len(times)} numbers for {len(problems)} problems; give one, or one for each"
        )
    return [problem for problem, count in zip(problems, times, strict=True) for _ in range(count)]
