"""Rank problems by what a run's history or samples say of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlvr import registry
from rlvr.data.run_history import read_answers, read_history
from rlvr.errors import UserError
from rlvr.registry import Share, register
from rlvr.seeds import permutation

# The accuracies of each problem, one a visit, in order.
Histories = Mapping[str, Sequence[float]]

# How often each answer was given to each problem; None is no answer.
Answers = Mapping[str, Mapping[str | None, int]]

# Ids with their scores, first the one to train on.
Ranking = list[tuple[str, float]]


@register("ranking", "historical_variance")
def historical_variance(histories: Histories) -> Ranking:
    """Rank by the standard deviation of all visits, largest first (Wang et al. 2025, arXiv
    2504.20571); ties stay in the order of the file. Raises UserError where no problem was visited
    twice.
    """
    if max(map(len, histories.values())) < 2:
        raise UserError(
            "no problem was visited twice, so no accuracy varies; take more epochs, or method pass_rate"
        )
    scores: Ranking = []
    for name, visits in histories.items():
        scores.append((name, float(np.std(visits))))
    return _sort_descending(scores)


@register("ranking", "lim")
def lim(histories: Histories) -> Ranking:
    """Rank by alignment with the mean curve over the visits that all problems have (Li et al. 2025,
    arXiv 2502.11886): 1 - sum_j (s_ij - mean_j)² / sum_j (1 - mean_j)².
    """
    common = min(map(len, histories.values()))
    table = np.array([visits[:common] for visits in histories.values()])  # [problems, visits]
    mean = table.mean(axis=0)  # [visits]
    most = ((1 - mean) ** 2).sum()
    distance = ((table - mean) ** 2).sum(axis=1)  # [problems]
    # Where everything was right at every visit, no problem differs from the mean.
    scores = 1 - distance / most if most else np.ones(len(table))
    return _sort_descending(zip(histories, scores.tolist(), strict=True))


@register("ranking", "pass_rate")
def pass_rate(
    histories: Histories,
    *,
    low: Share = 0.0,
    high: Share = 1.0,
    target: Share | None = None,
    of: Literal["mean", "last"] = "mean",
) -> Ranking:
    """Rank problems whose mean (or last) accuracy lies in low..high, nearest to `target` first, by
    default to the middle; raises UserError where there are none.
    """
    if low > high:
        raise UserError(f"low: {low:g} is above high: {high:g}; exchange them")
    inside: Ranking = []
    for name, visits in histories.items():
        rate = math.fsum(visits) / len(visits) if of == "mean" else visits[-1]
        if low <= rate <= high:
            inside.append((name, rate))
    if not inside:
        raise UserError(
            f"no problem has a {of} accuracy from low: {low:g} to high: {high:g}; widen the band"
        )
    aim = (low + high) / 2 if target is None else target
    return sorted(inside, key=lambda row: abs(row[1] - aim))


@register("ranking", "random")
def shuffled(histories: Histories, *, seed: int = 0) -> Ranking:
    """Rank in random order; every score is 0."""
    names = list(histories)
    return [(names[index], 0.0) for index in permutation(len(names), seed, "select")]


@register("ranking", "uncertainty", needs={"answers"})
def uncertainty(answers: Answers) -> Ranking:
    """Rank by the entropy -sum p ln p of the answers of all samples of a problem, largest first;
    answers are compared as texts, and no answer is one of them.
    """
    scores: Ranking = []
    for name, counts in answers.items():
        scores.append((name, _measure_entropy(list(counts.values()))))
    return _sort_descending(scores)


def _measure_entropy(counts: Sequence[int]) -> float:
    total = sum(counts)
    return math.fsum(count / total * math.log(total / count) for count in counts)


def _sort_descending(scores: Iterable[tuple[str, float]]) -> Ranking:
    return sorted(scores, key=lambda row: -row[1])


@dataclass(frozen=True, slots=True)
class Ranked:
    """A problem's place in a ranking, from 1."""

    rank: int
    id: str
    score: float


def rank_problems(
    source: str | Path,
    method: str,
    options: Mapping[str, Any],
    start: int = 1,
    top: int | None = None,
) -> list[Ranked]:
    """Return `top` ranks from `start` on of a registered ranking of what `source` holds.

    Raises UserError where the source, the options or the range of ranks do not fit.
    """
    plugin = registry.find("ranking", method, "--method")
    rank = plugin.bind(options, f"--method {method}")
    _check_at_least_one("start", start)
    _check_at_least_one("top", top)
    known = read_answers(source) if "answers" in plugin.needs else read_history(source)
    rows = _number_rows(rank, known, source)
    if start > len(rows):
        raise UserError(
            f"{source}: start: rank {start} asked for, and {len(rows)} problems are ranked"
        )
    remaining = rows[start - 1 :]
    if top is not None and top > len(remaining):
        raise UserError(
            f"{source}: top: {top} problems asked for, and {len(remaining)} are ranked from rank {start} on"
        )
    return remaining[:top]


def _check_at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UserError(f"{name}: should be at least 1, not {value}")


def _number_rows(
    rank: Callable[[Mapping[str, Any]], Ranking], known: Mapping[str, Any], source: str | Path
) -> list[Ranked]:
    """Return the whole ranking with its ranks; a fault names the source."""
    try:
        ranking = rank(known)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    rows = []
    for number, (name, score) in enumerate(ranking, start=1):
        rows.append(Ranked(number, str(name), float(score)))
    return rows
