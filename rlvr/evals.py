"""What one evaluation says: a held-out set asked once, its verdicts counted, and how sure the
figures are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from scipy.special import stdtrit

from rlvr import scores
from rlvr.audit import second_opinions
from rlvr.build import Benchmark
from rlvr.grading.extract import last_box
from rlvr.rollouts import Rollouts
from rlvr.scores import Z95
from rlvr.types import Draw, Finish, Problem, Rollout, Status, Verdict
from rlvr.verify import judge_safely, settle
from rlvr.world import ALONE, World

Row = Mapping[str, Any]  # a line of samples.jsonl, see sample_row


# What is measured of every text.
MEASURES = {
    name: getattr(scores, name) for name in ("keywords", "foreign", "repetition", "repeats")
}
MEASURES |= {"boxed": lambda text: bool(last_box(text)), "reflection": scores.reflects}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An `evals.jsonl` record and one row for each sample."""

    record: dict[str, Any]
    samples: list[dict[str, Any]]


def evaluate_one(
    benchmark: Benchmark,
    rollouts: Rollouts,
    step: int,
    seed: int,
    second: bool = True,
    world: World = ALONE,
) -> Evaluation:
    """Accuracy of the engine's present weights, each rank asking its share. The keys do not depend
    on the step, so evaluations pair sample by sample.
    """
    start = time.perf_counter()
    draws, count = (
        [Draw(problem, 0) for problem in world.share(benchmark.problems)],
        benchmark.sampling.samples,
    )
    own = ask(benchmark, rollouts, draws, step, seed, second)
    whole = world.joined([own[i : i + count] for i in range(0, len(own), count)])
    rows = [row for problem in whole for row in problem]
    record = {"step": step, "benchmark": benchmark.name, **summarise(rows, benchmark.problems)}
    record["time"] = {"seconds": time.perf_counter() - start}
    return Evaluation(record, rows)


def ask(
    benchmark: Benchmark,
    rollouts: Rollouts,
    draws: Sequence[Draw],
    step: int,
    seed: int,
    second: bool,
) -> list[dict[str, Any]]:
    """The samples of some problems with their verdicts, as lines of samples.jsonl; `second` asks
    math-verify too.
    """
    found = rollouts(benchmark.render(draws), benchmark.sampling, seed, "eval", benchmark.name)
    pending = [judge_safely(benchmark.judge, r.prompt.problem, r.response) for r in found]
    opinions = (
        second_opinions([(r.prompt.problem, r.text) for r in found])
        if second
        else [None] * len(found)
    )
    return [
        sample_row(step, rollout, verdict) | ({} if opinion is None else {"second": opinion})
        for rollout, verdict, opinion in zip(found, settle(pending), opinions, strict=True)
    ]


def summarise(rows: Sequence[Row], problems: Sequence[Problem]) -> dict[str, Any]:
    """Metrics, counts, intervals, categories and levels of the samples of one evaluation."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["id"], []).append(row)
    right = {name: [_right(row) for row in group] for name, group in groups.items()}
    shares = {name: sum(group) / len(group) for name, group in right.items()}
    metrics, ci95 = _of_tries(list(groups.values()), list(shares.values()))
    within = scores.sampling_interval(list(right.values()))
    return {
        "metrics": metrics | _of_texts(rows),
        "counts": _counts(rows, len(groups)),
        "ci95": ci95 | ({"pass@1_samples": list(within)} if within else {}),
        "detectable": scores.detectable(list(shares.values())),
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
        for k in scores.tries(count)[1:]:
            found[f"pass@{k}"] = [
                scores.pass_at_k(len(group), sum(map(_right, group)), k) for group in groups
            ]
        chosen = [(group, scores.majority([row["answer"] for row in group])) for group in groups]
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


def sample_row(step: int, rollout: Rollout, verdict: Verdict) -> dict[str, Any]:
    """One rollout as a line of `samples/`."""
    problem = rollout.prompt.problem
    return {
        "step": step,
        "id": problem.id,
        "task": problem.task,
        "copy": rollout.prompt.draw.copy,
        "index": rollout.index,
        "question": problem.question,
        "gold": problem.answer,
        "text": rollout.text,
        "tokens": len(rollout.token_ids),
        "finish": rollout.finish,
        "status": verdict.status,
        "answer": verdict.answer,
        "formatted": verdict.formatted,
        "rule": verdict.rule,
        "version": rollout.version,
        "time": {"verify_ms": verdict.ms},
    }


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of per-problem shares: Wilson's (1927) where each is 0 or 1,
    else a normal one.

    >>> [round(x, 3) for x in interval([1.0] * 5 + [0.0] * 5)]
    [0.237, 0.763]
    """
    n, mean = len(shares), math.fsum(shares) / len(shares)
    if all(share in (0.0, 1.0) for share in shares):
        centre, spread = (
            mean + Z95**2 / (2 * n),
            Z95 * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n**2)),
        )
        low, high = (centre - spread) / (1 + Z95**2 / n), (centre + spread) / (1 + Z95**2 / n)
    else:
        low, high = _normal(shares)
    return max(0.0, low), min(1.0, high)


def paired_gain(before: Sequence[float], after: Sequence[float]) -> dict[str, object]:
    """The mean gain over the same problems with its 95 % interval, from the deviation of the
    per-problem differences.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return {"pass@1": fmean(differences), "ci95": list(_normal(differences)), "n": len(differences)}


def crossed_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of values [problems, seeds] where both are drawn from many.

    A two-way analysis of variance with problems and seeds at random: the variance of the mean is
    (MS_s + max(MS_p - MS_e, 0)) / (problems * seeds), with a t quantile at the degrees of freedom
    of Hillis (2007, Statistics in Medicine 26:596). Never narrower than the interval over problems
    alone, which one seed gives.
    """
    problems, seeds = values.shape
    mean, of_problem, of_seed = values.mean(), values.mean(axis=1), values.mean(axis=0)
    low, high = _normal(of_problem.tolist())
    ms_seed = problems * float(((of_seed - mean) ** 2).sum()) / max(1, seeds - 1)
    if ms_seed <= 1e-15:  # one seed, or no seed that differs from another
        return low, high
    ms_problem = seeds * float(((of_problem - mean) ** 2).sum()) / max(1, problems - 1)
    rest = float(((values - of_problem[:, None] - of_seed + mean) ** 2).sum())
    ms_rest = rest / max(1, (problems - 1) * (seeds - 1))
    total = ms_seed + max(ms_problem - ms_rest, 0.0)
    freedom = (seeds - 1) * (total / ms_seed) ** 2
    spread = max(float(stdtrit(freedom, 0.975)) * math.sqrt(total / values.size), (high - low) / 2)
    return float(mean) - spread, float(mean) + spread


def _normal(values: Sequence[float]) -> tuple[float, float]:
    n, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / max(1, n - 1)
    spread = Z95 * math.sqrt(variance / n)
    return mean - spread, mean + spread
