"""Held-out evaluation: a model asked the problems of a benchmark, what its verdicts say, and how sure that is."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit

from rlvr import recipe as recipes
from rlvr import scores
from rlvr.build import Benchmark, benchmark_of, load_engine, read_problems
from rlvr.errors import UserError
from rlvr.progress import Progress
from rlvr.recipe import Model, Spec
from rlvr.rollouts import Rollouts
from rlvr.trackers import JsonLines
from rlvr.types import Draw, Finish, Response, Rollout, Sampling, Status, Verdict
from rlvr.verify import judge_safely, settle
from rlvr.world import ALONE, World

Z95 = 1.959963984540054


def evaluate(
    model: str,
    benchmarks: Sequence[str | Mapping[str, Any]],
    *,
    prompt: str | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 256,
    max_prompt_tokens: int = 4096,
    seed: int = 0,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Evaluate a model folder, hub id or built-in model; returns one record a benchmark, objects as in `evals.jsonl`.

    A benchmark is the name of a registered one or a row `{name, data, task, prompt}`. With `out`, `results.json` and
    `samples.jsonl` are written there. Raises UserError for bad input.
    """
    rows = [recipes.eval_set(row) for row in benchmarks]
    if prompt is not None:
        rows = [row.model_copy(update={"prompt": Spec(name=prompt)}) for row in rows]
    sampling = _sampling(samples, temperature, max_tokens)
    folder = Path(out) if out is not None else None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with Progress(f"evaluating {model}", 0) as progress:
        problems = [read_problems(row, f"benchmark {row.name}") for row in rows]
        progress.stage(f"loading {model}")
        rollouts = load_engine(Model(name=model), Spec(name="local"))
        results, lines = [], []
        for row, asked in zip(rows, problems, strict=True):
            progress.stage(f"evaluating {row.name}")
            held_out = benchmark_of(row, asked, rollouts.tokenizer, max_prompt_tokens)
            evaluation = evaluate_one(held_out, rollouts, sampling, 0, seed)
            progress.evaluated(evaluation.record)
            results.append(evaluation.record)
            lines += [{"benchmark": row.name, **sample} for sample in evaluation.samples]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        JsonLines.write(folder / "samples.jsonl", lines)
        (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def _sampling(samples: int, temperature: float, max_tokens: int) -> Sampling:
    if samples < 1 or max_tokens < 1 or temperature < 0:
        raise UserError("samples and max_tokens should be at least 1 and temperature at least 0")
    return Sampling(samples, max_tokens, temperature)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An `evals.jsonl` record and one row for each sample."""

    record: dict[str, Any]
    samples: list[dict[str, Any]]


def evaluate_one(
    benchmark: Benchmark, rollouts: Rollouts, sampling: Sampling, step: int, seed: int, world: World = ALONE
) -> Evaluation:
    """Accuracy of the engine's present weights, each rank asking its share. The keys do not depend on the step, so
    evaluations pair sample by sample."""
    start = time.perf_counter()
    prompts = benchmark.render([Draw(problem, 0) for problem in world.share(benchmark.problems)])
    own = rollouts(prompts, sampling, seed, "eval", benchmark.name)
    judged = settle([judge_safely(benchmark.judge, r.prompt.problem, _response(r)) for r in own])
    pairs, count = list(zip(own, judged, strict=True)), sampling.samples
    whole = world.joined([pairs[i : i + count] for i in range(0, len(pairs), count)])
    found, verdicts = zip(*(pair for problem in whole for pair in problem), strict=True)
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
        "reflection": _mean([scores.reflects(r.text) for r in rollouts]),
        "foreign": _mean([scores.foreign(r.text) for r in rollouts]),
        "repetition": _mean([scores.repetition(r.text) for r in rollouts]),
        **_of_many(rollouts, verdicts),
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


def _of_many(rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> dict[str, float]:
    """pass@k and maj@n where every problem has several samples; {} where it has one."""
    rows: dict[str, list[Verdict]] = {}
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        rows.setdefault(rollout.prompt.problem.id, []).append(verdict)
    count = min(len(row) for row in rows.values())
    if count < 2:
        return {}
    found = {
        f"pass@{k}": _mean([scores.pass_at_k(len(row), sum(v.correct for v in row), k) for row in rows.values()])
        for k in scores.powers(count)[1:]
    }
    chosen = [(row, scores.majority([v.answer for v in row])) for row in rows.values()]
    return found | {f"maj@{count}": _mean([at is not None and row[at].correct for row, at in chosen])}


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


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of per-problem shares: Wilson's (1927) where each is 0 or 1, else a normal one.

    >>> [round(x, 3) for x in interval([1.0] * 5 + [0.0] * 5)]
    [0.237, 0.763]
    """
    n, mean = len(shares), math.fsum(shares) / len(shares)
    if all(share in (0.0, 1.0) for share in shares):
        centre, spread = mean + Z95**2 / (2 * n), Z95 * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n**2))
        low, high = (centre - spread) / (1 + Z95**2 / n), (centre + spread) / (1 + Z95**2 / n)
    else:
        low, high = _normal(shares)
    return max(0.0, low), min(1.0, high)


def paired_gain(before: Sequence[float], after: Sequence[float]) -> dict[str, object]:
    """The mean gain over the same problems with its 95 % interval, from the deviation of the per-problem
    differences."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return {
        "pass@1": math.fsum(differences) / len(differences),
        "ci95": list(_normal(differences)),
        "n": len(differences),
    }


def crossed_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of values [problems, seeds] where both are drawn from many.

    A two-way analysis of variance with problems and seeds at random: the variance of the mean is
    (MS_s + max(MS_p - MS_e, 0)) / (problems * seeds), with a t quantile at the degrees of freedom of Hillis (2007,
    Statistics in Medicine 26:596). Never narrower than the interval over problems alone, which one seed gives.
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
