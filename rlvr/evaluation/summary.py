"""What one evaluation says: a held-out set asked once, its verdicts counted, and how sure the
figures are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rlvr.metrics import statistics, text_quality, votes
from rlvr.metrics.statistics import interval
from rlvr.types import Finish, Problem, Status

from rlvr.grading.extract import find_last_box

Row = Mapping[str, Any]  # a line of samples.jsonl, see sample_row


# What is measured of every text.
MEASURES = {
    name: getattr(text_quality, name) for name in ("keywords", "foreign", "repetition", "repeats")
}


MEASURES |= {"boxed": lambda text: bool(find_last_box(text)), "reflection": text_quality.reflects}


def summarise(rows: Sequence[Row], problems: Sequence[Problem]) -> dict[str, Any]:
    """Metrics, counts, intervals, categories and levels of the samples of one evaluation."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["id"], []).append(row)
    right = {name: [_right(row) for row in group] for name, group in groups.items()}
    shares = {name: sum(group) / len(group) for name, group in right.items()}
    metrics, ci95 = _of_tries(list(groups.values()), list(shares.values()))
    within = statistics.sampling_interval(list(right.values()))
    return {
        "metrics": metrics | _of_texts(rows),
        "counts": _counts(rows, len(groups)),
        "ci95": ci95 | ({"pass@1_samples": list(within)} if within else {}),
        "detectable": statistics.detectable(list(shares.values())),
        "categories": _parts(problems, shares, "category"),
        "levels": _parts(problems, shares, "level"),
    }


def _right(row: Row) -> bool:
    return row["status"] == Status.CORRECT


def _of_tries(
    groups: Sequence[Sequence[Row]], shares: Sequence[float]
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """pass@1, and where every problem has several samples avg@n (the same figure), pass@k and
    maj@n, with intervals over problems, each of which counts once with all of its samples.
    """
    found = {"pass@1": list(shares)}
    count = min(map(len, groups))
    if count > 1:
        found[f"avg@{count}"] = list(shares)
        for k in statistics.tries(count)[1:]:
            found[f"pass@{k}"] = [
                statistics.pass_at_k(len(group), sum(map(_right, group)), k) for group in groups
            ]
        chosen = [(group, votes.majority([row["answer"] for row in group])) for group in groups]
        found[f"maj@{count}"] = [
            float(at is not None and _right(group[at])) for group, at in chosen
        ]
    return {name: fmean(values) for name, values in found.items()}, {
        k: list(interval(v)) for k, v in found.items()
    }


def _of_texts(rows: Sequence[Row]) -> dict[str, Any]:
    """Shares and means over all samples; None where there is nothing to take the mean of."""

    def length(kept: Sequence[Row]) -> float | None:
        return fmean([row["tokens"] for row in kept]) if kept else None

    formatted = [row for row in rows if row["formatted"]]
    stopped = [row for row in rows if row["finish"] != Finish.LENGTH]
    return {
        "formatted": len(formatted) / len(rows),
        "pass@1_formatted": fmean([_right(row) for row in formatted]) if formatted else None,
        "no_answer": fmean([row["answer"] is None for row in rows]),
        "truncated": 1 - len(stopped) / len(rows),
        "length": length(rows),
        "length_correct": length([row for row in rows if _right(row)]),
        "length_wrong": length([row for row in rows if not _right(row)]),
        "length_stopped": length(stopped),
        **{
            name: fmean([float(measure(row["text"])) for row in rows])
            for name, measure in MEASURES.items()
        },
    }


def _counts(rows: Sequence[Row], problems: int) -> dict[str, int]:
    compared = [(_right(row), row["second"]) for row in rows if "second" in row]
    return {
        "problems": problems,
        "samples": len(rows),
        "correct": sum(map(_right, rows)),
        "formatted": sum(row["formatted"] for row in rows),
        "no_answer": sum(row["answer"] is None for row in rows),
        "truncated": sum(row["finish"] == Finish.LENGTH for row in rows),
        "error": sum(row["status"] in (Status.ERROR, Status.TIMEOUT) for row in rows),
        "second_verifier": len(compared),
        "only_ours_accepts": sum(ours and not other for ours, other in compared),
        "only_second_accepts": sum(other and not ours for ours, other in compared),
        "response_tokens": sum(row["tokens"] for row in rows),
    }


def _parts(
    problems: Sequence[Problem], shares: Mapping[str, float], key: str
) -> dict[str, dict[str, float]]:
    """Accuracy of each category or level, in the order of their names."""
    known = {p.id: str(p.meta.get(key, "")) for p in problems}
    named = {
        c: [shares[i] for i in shares if known[i] == c] for c in sorted(set(known.values()) - {""})
    }
    return {
        name: {"pass@1": fmean(values), "n": len(values)}
        for name, values in named.items()
        if values
    }
