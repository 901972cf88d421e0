"""Go through benchmarks, checkpoints and seeds, passing over the samples that are there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlvr.evaluation.ask import Benchmark, ask_problems
from rlvr.evaluation.summary import summarise
from rlvr.models.policy import Policy
from rlvr.rollouts.generate import Rollouts
from rlvr.run import checkpoint
from rlvr.run.evaluation_folder import EvaluationFolder, SampleKey
from rlvr.run.progress import Progress
from rlvr.storage.eval_record import EvalRecord, SeedSpread
from rlvr.storage.sample_record import SampleRecord
from rlvr.types import Draw, Problem

Place = tuple[str, int]  # of a sample within a benchmark and seed: problem and number


@dataclass(frozen=True, slots=True)
class Version:
    """Weights to evaluate.

    `step` counts the updates they have seen, `path` is their checkpoint (None: as loaded).
    """

    step: int
    rollouts: Rollouts
    policy: Policy | None = None
    path: Path | None = None

    def enter(self) -> None:
        """Load the weights into the engine."""
        if self.path is not None:
            assert self.policy is not None, "checkpoints are those of a policy"
            self.policy.load(checkpoint.policy_weights(self.path))
            self.rollouts.load(self.policy.weights(), version=self.step)


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Goes through benchmarks with each seed, about `batch` samples at a time.

    What the folder holds is not asked.
    """

    seeds: Sequence[int]
    folder: EvaluationFolder | None
    batch: int
    progress: Progress

    def evaluate(
        self,
        versions: Sequence[Version],
        benchmarks: Sequence[Benchmark],
    ) -> list[EvalRecord]:
        """Return the records of all benchmarks for all weights."""
        records: list[EvalRecord] = []
        for version in versions:
            version.enter()
            for benchmark in benchmarks:
                record = self._evaluate_one(benchmark, version)
                self.progress.evaluated(record)
                self.progress.note(_describe_resolution(record))
                records.append(record)
        return records

    def _evaluate_one(self, benchmark: Benchmark, version: Version) -> EvalRecord:
        """Return the record of one benchmark; the samples of all seeds are those of one
        evaluation.
        """
        by_seed: dict[int, list[SampleRecord]] = {}
        samples: list[SampleRecord] = []
        for seed in self.seeds:
            by_seed[seed] = list(self._sample(benchmark, version, seed))
            samples += by_seed[seed]
        seconds = sum(sample.seconds or 0.0 for sample in samples)
        record = summarise(version.step, benchmark.name, samples, benchmark.problems, seconds)
        if len(self.seeds) == 1:
            return record
        return replace(record, seeds=_spread_over_seeds(by_seed, benchmark))

    def _sample(self, benchmark: Benchmark, version: Version, seed: int) -> Iterator[SampleRecord]:
        """Yield the samples of one seed in the order of the problems.

        The parts are the same whatever is there, since the neighbours of a sample decide its last
        bits.
        """
        count = benchmark.sampling.samples
        size = max(1, self.batch // count)
        for start in range(0, len(benchmark.problems), size):
            part = benchmark.problems[start : start + size]
            samples = self._recall(benchmark, version, seed, part)
            if len(samples) < len(part) * count:
                where = f"{benchmark.name} at step {version.step}, seed {seed}"
                total = count * len(benchmark.problems)
                self.progress.stage(f"{where}: {count * start} of {total} samples")
            for sample in _sample_missing(benchmark, version, seed, part, samples):
                samples[sample.id, sample.index] = sample
                if self.folder is not None:
                    self.folder.add(sample)
            for problem in part:
                for index in range(count):
                    yield samples[problem.id, index]

    def _recall(
        self,
        benchmark: Benchmark,
        version: Version,
        seed: int,
        problems: Sequence[Problem],
    ) -> dict[Place, SampleRecord]:
        """Return the samples of some problems that the folder holds."""
        samples: dict[Place, SampleRecord] = {}
        if self.folder is None:
            return samples
        for problem in problems:
            for index in range(benchmark.sampling.samples):
                key = SampleKey(benchmark.name, version.step, seed, problem.id, index)
                if key in self.folder.done:
                    samples[problem.id, index] = self.folder.done[key]
        return samples


def _sample_missing(
    benchmark: Benchmark,
    version: Version,
    seed: int,
    problems: Sequence[Problem],
    known: Mapping[Place, SampleRecord],
) -> Iterator[SampleRecord]:
    """Yield the samples of some problems that are not known.

    All of a problem are asked at once, or one by one where some are known.
    """
    all_at_once: list[Draw] = []
    one_by_one: list[Draw] = []
    count = benchmark.sampling.samples
    for problem in problems:
        missing = [index for index in range(count) if (problem.id, index) not in known]
        if len(missing) == count:
            all_at_once.append(Draw(problem, 0))
        else:
            one_by_one += [Draw(problem, 0, index) for index in missing]
    single = replace(benchmark, sampling=replace(benchmark.sampling, samples=1))
    yield from _ask(benchmark, version, seed, all_at_once)
    yield from _ask(single, version, seed, one_by_one)


def _ask(
    benchmark: Benchmark,
    version: Version,
    seed: int,
    draws: Sequence[Draw],
) -> Iterator[SampleRecord]:
    """Yield fresh samples, each with its share of the seconds that they took."""
    if not draws:
        return
    start = time.perf_counter()
    samples = ask_problems(benchmark, version.rollouts, draws, version.step, seed, second=True)
    seconds = time.perf_counter() - start
    for sample in samples:
        yield replace(
            sample,
            benchmark=benchmark.name,
            seed=seed,
            copy=0,
            seconds=seconds / len(samples),
        )


def _spread_over_seeds(
    by_seed: Mapping[int, Sequence[SampleRecord]],
    benchmark: Benchmark,
) -> SeedSpread:
    """Return the accuracy of each seed, with mean and deviation."""
    accuracies: dict[str, float] = {}
    for seed, samples in by_seed.items():
        accuracy = summarise(0, benchmark.name, samples, benchmark.problems).accuracy
        assert accuracy is not None, "every evaluation has pass@1"
        accuracies[str(seed)] = accuracy.value
    return SeedSpread(
        accuracies=accuracies,
        mean=statistics.fmean(accuracies.values()),
        deviation=statistics.stdev(accuracies.values()),
    )


def _describe_resolution(record: EvalRecord) -> str:
    """Return what difference between two models this benchmark could show at all."""
    assert record.detectable is not None, "every evaluation measures it"
    count = record.counts.problems
    points = 100 * record.detectable
    limit = "no difference would show"
    if points < 100:
        limit = f"a difference below {points:.0f} points would rarely show"
    step = f"one problem of {count} is {100 / count:.1f} points"
    return f"{record.benchmark}: {step}; {limit} between two models (80 % power)"
