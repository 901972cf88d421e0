"""Which problems are trained on: rankings of problems by what a run made of them, and the selection
rules of a recipe.

A ranking takes the accuracy of each problem at each of its visits and gives the problems with their
scores, first the one to train on; `rlvr select` prints it, and the selection rule of the same name
takes a range of its ranks.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field

from rlvr import registry
from rlvr.errors import UserError, suggest
from rlvr.registry import Count, Share, register
from rlvr.seeds import permutation
from rlvr.trackers import JsonLines
from rlvr.types import Problem

Histories = Mapping[str, Sequence[float]]  # the accuracies of each problem, one a visit, in order
# how often each answer was given to each problem; None is no answer
Answers = Mapping[str, Mapping[str | None, int]]
Ranking = list[tuple[str, float]]  # ids with their scores, first the one to train on

# One number for all selected problems, or one for each.
Repeat = Annotated[
    tuple[Count, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,)),
]


# --- rankings
# --------------------------------------------------------------------------------------------------------


@register("ranking", "historical_variance")
def historical_variance(histories: Histories) -> Ranking:
    """By the standard deviation of all visits, largest first (Wang et al. 2025, arXiv 2504.20571);
    ties stay in the order of the file. Raises UserError where no problem was visited twice.
    """
    if max(map(len, histories.values())) < 2:
        raise UserError(
            "no problem was visited twice, so no accuracy varies; take more epochs, or method pass_rate"
        )
    return _descending((name, float(np.std(visits))) for name, visits in histories.items())


@register("ranking", "lim")
def lim(histories: Histories) -> Ranking:
    """By alignment with the mean curve over the visits that all problems have (Li et al. 2025,
    arXiv 2502.11886): 1 - sum_j (s_ij - mean_j)² / sum_j (1 - mean_j)².
    """
    common = min(map(len, histories.values()))
    table = np.array([visits[:common] for visits in histories.values()])  # [problems, visits]
    mean = table.mean(axis=0)  # [visits]
    most = ((1 - mean) ** 2).sum()
    distance = ((table - mean) ** 2).sum(axis=1)  # [problems]
    # Where everything was right at every visit, no problem differs from the mean.
    scores = 1 - distance / most if most else np.ones(len(table))
    return _descending(zip(histories, scores.tolist(), strict=True))


@register("ranking", "pass_rate")
def pass_rate(
    histories: Histories,
    *,
    low: Share = 0.0,
    high: Share = 1.0,
    target: Share | None = None,
    of: Literal["mean", "last"] = "mean",
) -> Ranking:
    """Problems whose mean (or last) accuracy lies in low..high, nearest to `target` first, by
    default to the middle; raises UserError where there are none.
    """
    if low > high:
        raise UserError(f"low: {low:g} is above high: {high:g}; exchange them")
    aim = (low + high) / 2 if target is None else target
    rates = (
        (name, math.fsum(v) / len(v) if of == "mean" else v[-1]) for name, v in histories.items()
    )
    inside = [(name, rate) for name, rate in rates if low <= rate <= high]
    if not inside:
        raise UserError(
            f"no problem has a {of} accuracy from low: {low:g} to high: {high:g}; widen the band"
        )
    return sorted(inside, key=lambda row: abs(row[1] - aim))


@register("ranking", "random")
def shuffled(histories: Histories, *, seed: int = 0) -> Ranking:
    """In random order; every score is 0."""
    names = list(histories)
    return [(names[i], 0.0) for i in permutation(len(names), seed, "select")]


@register("ranking", "uncertainty", needs={"answers"})
def uncertainty(answers: Answers) -> Ranking:
    """By the entropy -sum p ln p of the answers of all samples of a problem, largest first; answers
    are compared as texts, and no answer is one of them.
    """
    return _descending((name, _entropy(list(counts.values()))) for name, counts in answers.items())


def _entropy(counts: Sequence[int]) -> float:
    total = sum(counts)
    return math.fsum(count / total * math.log(total / count) for count in counts)


def _descending(scores: Iterable[tuple[str, float]]) -> Ranking:
    return sorted(scores, key=lambda row: -row[1])


# --- what a run left behind
# ------------------------------------------------------------------------------------------


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


# --- ranks
# -----------------------------------------------------------------------------------------------------------


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


# --- selection rules of a recipe
# -------------------------------------------------------------------------------------


@register("select", "all")
def everything(problems: Sequence[Problem]) -> list[Problem]:
    """Every problem, once."""
    return list(problems)


@register("select", "ids")
def by_id(
    problems: Sequence[Problem],
    *,
    ids: Annotated[tuple[str, ...], Field(min_length=1)],
    repeat: Repeat = (1,),
    answer: str | None = None,
) -> list[Problem]:
    """The named problems, each `repeat` times; repeats drawn in one step are groups of their own
    (One-Shot-RLVR). `answer` takes the place of their golds: the control with a wrong label.
    """
    known = {problem.id: problem for problem in problems}
    missing = next((name for name in ids if name not in known), None)
    if missing is not None:
        raise UserError(f"select.ids: no problem '{missing}'{suggest(missing, list(known)[:50])}")
    chosen = [known[name] for name in ids]
    return _repeated(
        [replace(p, answer=answer) for p in chosen] if answer is not None else chosen, repeat
    )


@register("select", "random")
def at_random(
    problems: Sequence[Problem], *, take: Count, seed: int = 0, repeat: Repeat = (1,)
) -> list[Problem]:
    """`take` problems at random, each `repeat` times."""
    if take > len(problems):
        raise UserError(f"select.take: {take} problems asked for, the source has {len(problems)}")
    return _repeated(
        [problems[i] for i in permutation(len(problems), seed, "select")[:take]], repeat
    )


def _ruled(name: str, rule: Callable[..., Ranking], key: str = "history") -> None:
    """Register the selection rule of a ranking: the problems in a range of its ranks, each `repeat`
    times. Its options are those of the ranking, and `key` says which run is ranked.
    """

    def chosen(
        problems: Sequence[Problem],
        *,
        top: Count | None = None,
        start: Count = 1,
        repeat: Repeat = (1,),
        **own: Any,
    ) -> list[Problem]:
        source = own.pop(key)
        return _repeated(
            _found(problems, ranked(source, name, own, start, top), key, source), repeat
        )

    offered = [
        p
        for f in (chosen, rule)
        for p in signature(f).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    ]
    place = Parameter(key, Parameter.KEYWORD_ONLY, annotation=str)
    chosen.__signature__ = Signature([place, *offered])  # type: ignore[attr-defined]
    register("select", name)(chosen)


_ruled("historical_variance", historical_variance)
_ruled("lim", lim)
_ruled("pass_rate", pass_rate)
_ruled("uncertainty", uncertainty, "samples")


def _found(
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


def _repeated(problems: Sequence[Problem], repeat: tuple[int, ...]) -> list[Problem]:
    times = repeat * len(problems) if len(repeat) == 1 else repeat
    if len(times) != len(problems):
        raise UserError(
            f"select.repeat: {len(times)} numbers for {len(problems)} problems; give one, or one for each"
        )
    return [problem for problem, count in zip(problems, times, strict=True) for _ in range(count)]
