"""Ask a held-out set once and keep every sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.data.prompts import Renderer
from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.evaluation.summary import summarise
from rlvr.grading.math_verify import second_opinions
from rlvr.rollouts.generate import Rollouts
from rlvr.storage.records import sample_row
from rlvr.tasks.judge import Judge, judge_safely, wait_all
from rlvr.types import Draw, Problem, Sampling


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Problems under a name, with the judge of their answers, the template that asks them and how
    they are sampled.
    """

    name: str
    problems: tuple[Problem, ...]
    judge: Judge
    render: Renderer
    sampling: Sampling


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
    world: World = SINGLE_PROCESS,
) -> Evaluation:
    """Accuracy of the engine's present weights, each rank asking its share. The keys do not depend
    on the step, so evaluations pair sample by sample.
    """
    start = time.perf_counter()
    draws, count = (
        [Draw(problem, 0) for problem in world.local_shard(benchmark.problems)],
        benchmark.sampling.samples,
    )
    own = ask_problems(benchmark, rollouts, draws, step, seed, second)
    whole = world.all_gather([own[i : i + count] for i in range(0, len(own), count)])
    rows = [row for problem in whole for row in problem]
    record = {"step": step, "benchmark": benchmark.name, **summarise(rows, benchmark.problems)}
    record["time"] = {"seconds": time.perf_counter() - start}
    return Evaluation(record, rows)


def ask_problems(
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
        for rollout, verdict, opinion in zip(found, wait_all(pending), opinions, strict=True)
    ]
