"""Sum a finished run up."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from rlvr.config.schema import Recipe
from rlvr.metrics.statistics import estimate_paired_gain
from rlvr.run.folder import RunFolder
from rlvr.storage.estimate import Estimate
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.records import read_records
from rlvr.storage.run_data import solve_rates
from rlvr.storage.sample_record import SampleRecord
from rlvr.storage.step_record import StepRecord
from rlvr.storage.summary import BeforeAfter, BestStep, Summary


def summarise(folder: RunFolder, recipe: Recipe, steps: int) -> Summary:
    """Return what a finished run says of itself, from its files."""
    records = read_records(folder.metrics, StepRecord)
    evals = read_records(folder.evals, EvalRecord)
    cold_steps = None
    if recipe.cold_start:
        cold_steps = recipe.cold_start.steps
    seconds: list[float] = []
    response_tokens: list[float] = []
    for record in records:
        seconds.append(record.seconds or 0.0)
        if record.response_tokens is not None:  # a supervised step has none
            response_tokens.append(record.response_tokens)
    for record in evals:
        seconds.append(record.seconds)
    changes: dict[str, BeforeAfter] = {}
    for benchmark, by_step in _group_by_benchmark(evals).items():
        if 0 in by_step and steps in by_step:
            changes[benchmark] = _compare(folder, by_step, steps, cold_steps)
    return Summary(
        recipe=str(recipe.run.name),
        model=recipe.model.name,
        steps=steps,
        seconds=sum(seconds),
        response_tokens=sum(response_tokens),
        evals=changes,
        hardware=f"{_name_processor()}, {torch.get_num_threads()} threads",
        versions={"python": platform.python_version(), "torch": torch.__version__},
        finished=True,
        best=best_step(folder, recipe.checkpoint.best),
    )


def best_step(folder: RunFolder, benchmark: str | None) -> BestStep | None:
    """Return the step with the highest pass@1 on a held-out set, the first of equals.

    None without an evaluation. The model before training has no checkpoint: it is the recipe's
    model itself.
    """
    evals: list[EvalRecord] = []
    for record in read_records(folder.evals, EvalRecord):
        if record.benchmark == benchmark:
            evals.append(record)
    if not evals:
        return None
    best = max(evals, key=lambda record: (_accuracy_of(record).value, -record.step))
    checkpoint = folder.checkpoints / f"step-{best.step:06d}"
    saved_as = None
    if checkpoint.is_dir():
        saved_as = str(checkpoint.relative_to(folder.path))
    return BestStep(best.benchmark, best.step, _accuracy_of(best).value, saved_as)


def _accuracy_of(record: EvalRecord) -> Estimate:
    assert record.accuracy is not None, "every evaluation has pass@1"
    return record.accuracy


def _group_by_benchmark(evals: Sequence[EvalRecord]) -> dict[str, dict[int, EvalRecord]]:
    """Return the evaluations of each benchmark by their steps."""
    groups: dict[str, dict[int, EvalRecord]] = {}
    for record in evals:
        groups.setdefault(record.benchmark, {})[record.step] = record
    return groups


def _compare(
    folder: RunFolder,
    by_step: Mapping[int, EvalRecord],
    steps: int,
    cold_steps: int | None,
) -> BeforeAfter:
    """Return what the run changed on one benchmark, of which these are the evaluations."""
    change = BeforeAfter(
        before=_accuracy_of(by_step[0]),
        after=_accuracy_of(by_step[steps]),
        gain=_measure_gain(folder, by_step[0], by_step[steps]),
    )
    if cold_steps is None or cold_steps not in by_step:
        return change
    cold_start = by_step[cold_steps]
    return BeforeAfter(
        before=change.before,
        after=change.after,
        gain=change.gain,
        after_cold_start=_accuracy_of(cold_start),
        gain_over_cold_start=_measure_gain(folder, cold_start, by_step[steps]),
    )


def _measure_gain(folder: RunFolder, before: EvalRecord, after: EvalRecord) -> Estimate:
    return Estimate(*estimate_paired_gain(_shares(folder, before), _shares(folder, after)))


def _shares(folder: RunFolder, record: EvalRecord) -> list[float]:
    """Return the share of right samples of each problem of an evaluation."""
    path = folder.locate_eval_samples(record.benchmark, record.step)
    return list(solve_rates(read_records(path, SampleRecord)).values())


def _name_processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
