"""Evaluating a model on a set of problems: prompts, rollouts, verdicts, and the record and samples that they give."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.evals.score import interval
from rlvr.rollouts import Renderer, Rollouts
from rlvr.types import Draw, Finish, Problem, Response, Rollout, Sampling, Status, Verdict
from rlvr.verify import Judge, judge_safely, settle


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Problems under a name, with the judge of their answers and the template that asks them."""

    name: str
    problems: tuple[Problem, ...]
    judge: Judge
    render: Renderer


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An `evals.jsonl` record and one row for each sample."""

    record: dict[str, Any]
    samples: list[dict[str, Any]]


def evaluate(benchmark: Benchmark, rollouts: Rollouts, sampling: Sampling, step: int, seed: int) -> Evaluation:
    """Accuracy of the engine's present weights. The keys do not depend on the step, so evaluations pair sample by
    sample."""
    start = time.perf_counter()
    prompts = benchmark.render([Draw(problem, 0) for problem in benchmark.problems])
    found = rollouts(prompts, sampling, seed, "eval", benchmark.name)
    verdicts = settle([judge_safely(benchmark.judge, r.prompt.problem, _response(r)) for r in found])
    record = {"step": step, "benchmark": benchmark.name, **summarise(found, verdicts)}
    record["time"] = {"seconds": time.perf_counter() - start}
    rows = [sample_row(step, rollout, verdict) for rollout, verdict in zip(found, verdicts, strict=True)]
    return Evaluation(record, rows)


def _response(rollout: Rollout) -> Response:
    return Response(rollout.text, rollout.finish is Finish.LENGTH, rollout.prompt.prefill)


def summarise(rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Metrics, counts, intervals and categories of one evaluation."""
    shares = accuracy_by_problem(rollouts, verdicts)
    samples, formatted = len(verdicts), [v for v in verdicts if v.formatted]
    truncated = sum(r.finish is Finish.LENGTH for r in rollouts)
    metrics = {
        "pass@1": _mean(list(shares.values())),
        "formatted": len(formatted) / samples,
        "pass@1_formatted": _mean([v.correct for v in formatted]) if formatted else None,
        "truncated": truncated / samples,
        "length": _mean([len(r.token_ids) for r in rollouts]),
    }
    counts = {
        "problems": len(shares),
        "samples": samples,
        "correct": sum(v.correct for v in verdicts),
        "formatted": len(formatted),
        "truncated": truncated,
        "error": sum(v.status in (Status.ERROR, Status.TIMEOUT) for v in verdicts),
        "response_tokens": sum(len(r.token_ids) for r in rollouts),
    }
    ci95 = {"pass@1": list(interval(list(shares.values())))}
    return {"metrics": metrics, "counts": counts, "ci95": ci95, "categories": _categories(rollouts, shares)}


def accuracy_by_problem(rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The share of correct samples of each problem, in the order of the problems."""
    found: dict[str, list[bool]] = {}
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        found.setdefault(rollout.prompt.problem.id, []).append(verdict.correct)
    return {name: _mean(correct) for name, correct in found.items()}


def _categories(rollouts: Sequence[Rollout], shares: dict[str, float]) -> dict[str, dict[str, float]]:
    category = {r.prompt.problem.id: str(r.prompt.problem.meta.get("category", "")) for r in rollouts}
    named = {c: [shares[i] for i in shares if category[i] == c] for c in sorted(set(category.values()) - {""})}
    return {name: {"pass@1": _mean(values), "n": len(values)} for name, values in named.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


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
