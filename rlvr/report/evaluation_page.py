"""The pages of evaluations: curves over checkpoints, and two models side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rlvr.errors import UserError
from rlvr.metrics.statistics import (
    compute_sign_flip,
    estimate_detectable,
    estimate_paired_gain,
)
from rlvr.report.charts import Chart, make_chart, plot_accuracy
from rlvr.report.rendering import load_template, write_page
from rlvr.storage.estimate import Estimate
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.fields import WrongShape
from rlvr.storage.records import read_records
from rlvr.storage.sample_record import SampleRecord

COLORS = 6  # of curves on one page

Problems = dict[str, list[SampleRecord]]  # the samples of each problem


def is_evaluation(folder: Path) -> bool:
    """Tell whether the folder is what `rlvr eval` leaves, and not a run."""
    return (folder / "results.json").is_file() and not (folder / "recipe.yaml").exists()


def write_curves(folder: Path) -> Path:
    """Write `report.html` into the folder of an evaluation.

    It has all records in a table, and curves where there are several checkpoints.
    """
    records = _read_results(folder)
    page = load_template("evals.html.j2").render(
        title=folder.name, records=records, charts=_chart_benchmarks(records), pairs=[]
    )
    return write_page(folder / "report.html", page)


def _read_results(folder: Path) -> list[EvalRecord]:
    """Read the records of an evaluation; raises UserError."""
    path = folder / "results.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise WrongShape("is no list of objects")
        return [EvalRecord.parse_row(row) for row in rows]
    except WrongShape as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError):
        raise UserError(
            f"{folder}: holds no results.json of a finished evaluation; run its rlvr eval again"
        ) from None


def _chart_benchmarks(records: Sequence[EvalRecord]) -> list[Chart]:
    """Return a curve over the checkpoints for each benchmark; none for a single checkpoint."""
    if len({record.step for record in records}) < 2:
        return []
    by_benchmark: dict[str, list[EvalRecord]] = {}
    for record in records:
        by_benchmark.setdefault(record.benchmark, []).append(record)
    charts = []
    for index, (benchmark, evals) in enumerate(by_benchmark.items()):
        series = plot_accuracy(evals, benchmark, index % COLORS)
        chart = make_chart(benchmark, [series], "share")
        if chart is not None:
            charts.append(chart)
    return charts


def write_beside(first: Path, second: Path, out: Path) -> Path:
    """Write one page that sets two evaluations side by side, problem by problem; raises UserError."""
    names = (first.name, second.name)
    if first.name == second.name:
        names = (f"{first.parent.name}/{first.name}", f"{second.parent.name}/{second.name}")
    pairs = list(compare_evaluations(first, second))
    if not pairs:
        raise UserError(f"{first} and {second}: have no benchmark with the same problems in common")
    page = load_template("evals.html.j2").render(
        title=" and ".join(names), names=names, pairs=pairs, charts=[], records=[]
    )
    return write_page(out, page)


class PairedProblem(NamedTuple):
    """A problem with the samples of two models and their shares of right ones."""

    id: str
    shares: tuple[float, float]
    samples: tuple[list[SampleRecord], list[SampleRecord]]

    @property
    def change(self) -> float:
        """How much more of its samples the second model solved."""
        first, second = self.shares
        return second - first


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on one benchmark."""

    benchmark: str
    shares: tuple[float, float]
    """Accuracy of the first and of the second model."""

    gain: Estimate
    """Their difference with its interval, paired by problem."""

    p: float
    """Exact p-value of the difference, by sign flips."""

    detectable: float
    """The smallest difference that would mostly show."""

    problems: list[PairedProblem]

    def list_kinds(self) -> list[tuple[str, list[PairedProblem]]]:
        """Return the problems by which model solved more of its samples.

        The largest differences come first.
        """
        ranked = sorted(self.problems, key=lambda problem: -abs(problem.change))
        kinds = []
        for name, belongs in KINDS.items():
            kinds.append((name, [problem for problem in ranked if belongs(*problem.shares)]))
        return kinds


KINDS: Mapping[str, Callable[[float, float], bool]] = {
    "the second alone, or more often": lambda first, second: second > first,
    "the first alone, or more often": lambda first, second: first > second,
    "neither": lambda first, second: first == second == 0,
    "both alike": lambda first, second: first == second > 0,
}


def compare_evaluations(first: Path, second: Path) -> Iterator[Pair]:
    """Yield the benchmarks that both evaluations asked with the same problems.

    Each is taken at its last checkpoint.
    """
    of_first = _read_by_problem(first)
    of_second = _read_by_problem(second)
    for benchmark, problems in of_first.items():
        if benchmark in of_second and set(problems) == set(of_second[benchmark]):
            yield _pair(benchmark, problems, of_second[benchmark])


def _pair(benchmark: str, of_first: Problems, of_second: Problems) -> Pair:
    counts = map(len, (*of_first.values(), *of_second.values()))
    unit = math.lcm(*counts)  # of which all changes are whole multiples
    problems = []
    first = []
    second = []
    changes = []
    for name, samples in of_first.items():
        others = of_second[name]
        shares = (_share_right(samples), _share_right(others))
        problem = PairedProblem(name, shares, (samples, others))
        problems.append(problem)
        first.append(shares[0])
        second.append(shares[1])
        changes.append(problem.change)
    return Pair(
        benchmark=benchmark,
        shares=(fmean(first), fmean(second)),
        gain=Estimate(*estimate_paired_gain(first, second)),
        p=compute_sign_flip([round(change * unit) for change in changes]),
        detectable=estimate_detectable(changes, paired=True),
        problems=problems,
    )


def _share_right(samples: Sequence[SampleRecord]) -> float:
    return sum(sample.correct for sample in samples) / len(samples)


def _read_by_problem(folder: Path) -> dict[str, Problems]:
    """Read the samples of each problem of each benchmark, at the benchmark's last checkpoint."""
    last_step = {record.benchmark: record.step for record in _read_results(folder)}
    problems: dict[str, Problems] = {benchmark: {} for benchmark in last_step}
    for sample in read_records(folder / "samples.jsonl", SampleRecord):
        benchmark = sample.benchmark or ""
        if benchmark in last_step and sample.step == last_step[benchmark]:
            problems[benchmark].setdefault(sample.id, []).append(sample)
    return problems
