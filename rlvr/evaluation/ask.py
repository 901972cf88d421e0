"""Ask a held-out set once and keep every sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlvr.data.prompts import Renderer
from rlvr.distributed.world import SINGLE_PROCESS, World
from rlvr.evaluation.summary import summarise
from rlvr.grading.math_verify import second_opinions
from rlvr.rollouts.generate import Rollouts
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.sample_record import SampleRecord, make_sample
from rlvr.tasks.judge import Judge, Pending, judge_safely, wait_all
from rlvr.types import Draw, Problem, Rollout, Sampling


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
    """The record of an evaluation and its samples."""

    record: EvalRecord
    samples: Sequence[SampleRecord]


def evaluate_one(
    benchmark: Benchmark,
    rollouts: Rollouts,
    step: int,
    seed: int,
    second: bool = True,
    world: World = SINGLE_PROCESS,
) -> Evaluation:
    """Return the accuracy of the engine's present weights, each rank asking its share.

    The keys of the random numbers do not depend on the step, so evaluations pair sample by sample.
    """
    start = time.perf_counter()
    draws = [Draw(problem, 0) for problem in world.local_shard(benchmark.problems)]
    own_samples = ask_problems(benchmark, rollouts, draws, step, seed, second)
    samples = _gather_samples(own_samples, benchmark.sampling.samples, world)
    record = summarise(step, benchmark.name, samples, benchmark.problems)
    seconds = time.perf_counter() - start
    return Evaluation(replace(record, seconds=seconds), samples)


def _gather_samples(
    own_samples: Sequence[SampleRecord],
    samples_per_problem: int,
    world: World,
) -> list[SampleRecord]:
    """Return the samples of all ranks in the order of the problems."""
    own_groups: list[Sequence[SampleRecord]] = []
    for start in range(0, len(own_samples), samples_per_problem):
        own_groups.append(own_samples[start : start + samples_per_problem])
    samples: list[SampleRecord] = []
    for group in world.all_gather(own_groups):
        samples += group
    return samples


def ask_problems(
    benchmark: Benchmark,
    rollouts: Rollouts,
    draws: Sequence[Draw],
    step: int,
    seed: int,
    second: bool,
) -> list[SampleRecord]:
    """Return the samples of some problems with their verdicts; `second` asks math-verify too."""
    prompts = benchmark.render(draws)
    sampled = rollouts(prompts, benchmark.sampling, seed, "eval", benchmark.name)
    # all are begun before math-verify is asked, which works in processes of its own
    pending: list[Pending] = []
    for rollout in sampled:
        pending.append(judge_safely(benchmark.judge, rollout.prompt.problem, rollout.response))
    opinions: Sequence[bool | None] = [None] * len(sampled)
    if second:
        opinions = _ask_math_verify(sampled)
    verdicts = wait_all(pending)
    samples: list[SampleRecord] = []
    for rollout, verdict, opinion in zip(sampled, verdicts, opinions, strict=True):
        sample = make_sample(step, rollout, verdict)
        samples.append(replace(sample, second=opinion))
    return samples


def _ask_math_verify(sampled: Sequence[Rollout]) -> list[bool | None]:
    return second_opinions([(rollout.prompt.problem, rollout.text) for rollout in sampled])
