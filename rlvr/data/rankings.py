"""Rank problems by what a run's history or samples say of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from rlvr.errors import UserError
from rlvr.registry import Share, register
from rlvr.seeds import permutation

Histories = Mapping[str, Sequence[float]]  # the accuracies of each problem, one a visit, in order


# how often each answer was given to each problem; None is no answer
Answers = Mapping[str, Mapping[str | None, int]]


Ranking = list[tuple[str, float]]  # ids with their scores, first the one to train on


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
