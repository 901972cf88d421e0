"""Go through benchmarks, checkpoints and seeds, passing over the samples that are there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvr.evaluation.ask import Benchmark, ask_problems
from rlvr.evaluation.summary import summarise
from rlvr.rollouts.generate import Rollouts
from rlvr.run import checkpoint
from rlvr.run.evaluation_folder import Folder
from rlvr.run.progress import Progress
from rlvr.types import Draw, Problem


@dataclass(frozen=True, slots=True)
class Version:
    """Weights to evaluate: `step` counts the updates they have seen, `path` is their checkpoint
    (None: as loaded).
    """

    step: int
    rollouts: Rollouts
    policy: Any = None
    path: Path | None = None

    def enter(self) -> None:
        """Load the weights into the engine."""
        if self.path is not None:
            self.policy.load(checkpoint.policy_weights(self.path))
            self.rollouts.load(self.policy.weights(), version=self.step)


def _small(record: Mapping[str, Any]) -> str:
    """What difference this benchmark could show at all."""
    n, least = record["counts"]["problems"], 100 * record["detectable"]
    told = (
        f"a difference below {least:.0f} points would rarely show"
        if least < 100
        else "no difference would show"
    )
    return f"{record['benchmark']}: one problem of {n} is {100 / n:.1f} points; {told} between two models (80 % power)"


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Goes through benchmarks with each seed, about `batch` samples at a time; what the folder
    holds is not asked.
    """

    seeds: Sequence[int]
    folder: Folder | None
    batch: int
    progress: Progress

    def results(
        self, versions: Sequence[Version], held_out: Sequence[Benchmark]
    ) -> list[dict[str, Any]]:
        """The records of all benchmarks for all weights."""
        results = []
        for version in versions:
            version.enter()
            for benchmark in held_out:
                record = self._record(benchmark, version)
                self.progress.evaluated(record)
                self.progress.note(_small(record))
                results.append(record)
        return results

    def _record(self, benchmark: Benchmark, version: Version) -> dict[str, Any]:
        """The record of one benchmark; the samples of all seeds are those of one evaluation."""
        columns = [list(self._samples(benchmark, version, seed)) for seed in self.seeds]
        rows = [row for column in columns for row in column]
        record = {
            "step": version.step,
            "benchmark": benchmark.name,
            **summarise(rows, benchmark.problems),
        }
        if len(self.seeds) > 1:
            alone = [
                summarise(column, benchmark.problems)["metrics"]["pass@1"] for column in columns
            ]
            record["seeds"] = {"pass@1": dict(zip(map(str, self.seeds), alone, strict=True))}
            record["seeds"] |= {
                "mean": statistics.fmean(alone),
                "deviation": statistics.stdev(alone),
            }
        return {**record, "time": {"seconds": sum(row["time"]["seconds"] for row in rows)}}

    def _samples(
        self, benchmark: Benchmark, version: Version, seed: int
    ) -> Iterator[dict[str, Any]]:
        """The samples of one seed in the order of the problems.

        The parts are the same whatever is there, since the neighbours of a sample decide its last
        bits.
        """
        count, place = benchmark.sampling.samples, (benchmark.name, version.step, seed)
        size, known = max(1, self.batch // count), self.folder.done if self.folder else {}
        for start in range(0, len(benchmark.problems), size):
            part = benchmark.problems[start : start + size]
            have = {
                (p.id, i): known[*place, p.id, i]
                for p in part
                for i in range(count)
                if (*place, p.id, i) in known
            }
            if len(have) < len(part) * count:
                where = f"{benchmark.name} at step {version.step}, seed {seed}"
                self.progress.stage(
                    f"{where}: {count * start} of {count * len(benchmark.problems)} samples"
                )
            for row in _missing(benchmark, version, seed, part, have):
                have[row["id"], row["index"]] = row
                if self.folder is not None:
                    self.folder.add(row)
            yield from (have[p.id, i] for p in part for i in range(count))


def _missing(
    benchmark: Benchmark,
    version: Version,
    seed: int,
    part: Sequence[Problem],
    have: Mapping[Any, Any],
) -> Iterator[dict[str, Any]]:
    """The samples of some problems that are not there: all of a problem at once, or one by one
    where some are.
    """
    numbers = range(benchmark.sampling.samples)
    lacking = {p.id: [i for i in numbers if (p.id, i) not in have] for p in part}
    whole = [Draw(p, 0) for p in part if len(lacking[p.id]) == len(numbers)]
    single = [
        Draw(p, 0, i) for p in part if len(lacking[p.id]) < len(numbers) for i in lacking[p.id]
    ]
    one_by_one = replace(benchmark, sampling=replace(benchmark.sampling, samples=1))
    for draws, asked in ((whole, benchmark), (single, one_by_one)):
        if draws:
            begun = time.perf_counter()
            found = ask_problems(asked, version.rollouts, draws, version.step, seed, second=True)
            seconds = time.perf_counter() - begun
            for row in found:
                clock = {**row["time"], "seconds": seconds / len(found)}
                yield {"benchmark": benchmark.name, "seed": seed, **row, "copy": 0, "time": clock}
