"""Select the problems that a source trains on.

A ranking (`rlvr/data/rankings.py`) takes the accuracy of each problem at each of its visits and
gives the problems with their scores, first the one to train on; `rlvr select` prints it. The
selection rule of the same name takes a range of its ranks: its options are those of the ranking,
and `history` (or `samples`) says which run is ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rlvr.data.rankings import Ranked, rank_problems
from rlvr.errors import UserError, suggest
from rlvr.registry import Count, Share, register
from rlvr.seeds import permutation
from rlvr.types import Problem


def _wrap_number(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


# One number for all selected problems, or one for each.
Repeat = Annotated[tuple[Count, ...], Field(min_length=1), BeforeValidator(_wrap_number)]

# So many known ids are named where one is not among them.
MAX_NAMED_IDS = 50


@register("select", "all")
def everything(problems: Sequence[Problem]) -> list[Problem]:
    """Select every problem, once."""
    return list(problems)


@register("select", "ids")
def by_id(
    problems: Sequence[Problem],
    *,
    ids: Annotated[tuple[str, ...], Field(min_length=1)],
    repeat: Repeat = (1,),
    answer: str | None = None,
) -> list[Problem]:
    """Select the named problems, each `repeat` times; repeats drawn in one step are groups of their
    own (One-Shot-RLVR). `answer` takes the place of their golds: the control with a wrong label.
    """
    known = {problem.id: problem for problem in problems}
    selected: list[Problem] = []
    for name in ids:
        if name not in known:
            nearest = suggest(name, list(known)[:MAX_NAMED_IDS])
            raise UserError(f"select.ids: no problem '{name}'{nearest}")
        selected.append(known[name])
    if answer is not None:
        selected = [replace(problem, answer=answer) for problem in selected]
    return repeat_problems(selected, repeat)


@register("select", "random")
def at_random(
    problems: Sequence[Problem], *, take: Count, seed: int = 0, repeat: Repeat = (1,)
) -> list[Problem]:
    """Select `take` problems at random, each `repeat` times."""
    if take > len(problems):
        raise UserError(f"select.take: {take} problems asked for, the source has {len(problems)}")
    order = permutation(len(problems), seed, "select")
    return repeat_problems([problems[index] for index in order[:take]], repeat)


@register("select", "historical_variance")
def by_historical_variance(
    problems: Sequence[Problem],
    *,
    history: str,
    top: Count | None = None,
    start: Count = 1,
    repeat: Repeat = (1,),
) -> list[Problem]:
    """Select a range of ranks of the ranking `historical_variance`, each problem `repeat` times."""
    ranks = rank_problems(history, "historical_variance", {}, start, top)
    return repeat_problems(find_problems(problems, ranks, "history", history), repeat)


@register("select", "lim")
def by_lim(
    problems: Sequence[Problem],
    *,
    history: str,
    top: Count | None = None,
    start: Count = 1,
    repeat: Repeat = (1,),
) -> list[Problem]:
    """Select a range of ranks of the ranking `lim`, each problem `repeat` times."""
    ranks = rank_problems(history, "lim", {}, start, top)
    return repeat_problems(find_problems(problems, ranks, "history", history), repeat)


@register("select", "pass_rate")
def by_pass_rate(
    problems: Sequence[Problem],
    *,
    history: str,
    top: Count | None = None,
    start: Count = 1,
    repeat: Repeat = (1,),
    low: Share = 0.0,
    high: Share = 1.0,
    target: Share | None = None,
    of: Literal["mean", "last"] = "mean",
) -> list[Problem]:
    """Select a range of ranks of the ranking `pass_rate`, each problem `repeat` times."""
    options = {"low": low, "high": high, "target": target, "of": of}
    ranks = rank_problems(history, "pass_rate", options, start, top)
    return repeat_problems(find_problems(problems, ranks, "history", history), repeat)


@register("select", "uncertainty")
def by_uncertainty(
    problems: Sequence[Problem],
    *,
    samples: str,
    top: Count | None = None,
    start: Count = 1,
    repeat: Repeat = (1,),
) -> list[Problem]:
    """Select a range of ranks of the ranking `uncertainty`, each problem `repeat` times."""
    ranks = rank_problems(samples, "uncertainty", {}, start, top)
    return repeat_problems(find_problems(problems, ranks, "samples", samples), repeat)


def find_problems(
    problems: Sequence[Problem], ranks: Sequence[Ranked], key: str, source: str
) -> list[Problem]:
    """Return the problem of each rank; raises UserError where none or several fit.

    It is the one of that id, or for a bare index the one at that place of its file.
    """
    by_id = {problem.id: problem for problem in problems}
    by_index: dict[str, list[Problem]] = {}
    for problem in problems:
        by_index.setdefault(problem.id.rpartition("/")[2], []).append(problem)
    found: list[Problem] = []
    for row in ranks:
        fitting = _find_fitting(row.id, by_id, by_index)
        if len(fitting) > 1:
            raise UserError(
                f"select.{key}: '{row.id}' of {source} fits both '{fitting[0].id}' and '{fitting[1].id}'"
            )
        if not fitting:
            raise UserError(
                f"select.{key}: '{row.id}' (rank {row.rank} of {source}) is not among the {len(problems)} problems of"
                f" the source, whose ids are like '{problems[0].id}'; give a {key} of these problems"
            )
        found += fitting
    return found


def _find_fitting(
    name: str, by_id: Mapping[str, Problem], by_index: Mapping[str, list[Problem]]
) -> list[Problem]:
    if name in by_id:
        return [by_id[name]]
    is_index = name.isascii() and name.isdigit()
    if is_index and name in by_index:
        return by_index[name]
    return []


def repeat_problems(problems: Sequence[Problem], repeat: tuple[int, ...]) -> list[Problem]:
    """Return each problem as often as `repeat` says: one number for all, or one for each."""
    counts = repeat * len(problems) if len(repeat) == 1 else repeat
    if len(counts) != len(problems):
        raise UserError(
            f"select.repeat: {len(counts)} numbers for {len(problems)} problems; give one, or one for each"
        )
    repeated: list[Problem] = []
    for problem, count in zip(problems, counts, strict=True):
        repeated += [problem] * count
    return repeated
