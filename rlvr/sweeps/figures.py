"""Figures of a sweep's arms, with intervals over problems and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlvr.errors import RunError
from rlvr.metrics.statistics import estimate_crossed_interval, estimate_interval
from rlvr.report.trends import split_gain
from rlvr.storage.estimate import Estimate
from rlvr.storage.run_data import RunData, read_eval_samples, read_run, solve_rates
from rlvr.storage.sweep_result import ArmFigures, ArmResult, CurvePoint, GainSplit, SweepResult

if TYPE_CHECKING:
    from rlvr.sweeps.planning import Plan

LAST_STEPS = 5  # of training, whose rollouts give the accuracy at its end

RunsBySeed = Mapping[int, RunData]


class Form(NamedTuple):
    """How many answers are well-formed, and how many of these are right (None: there are none)."""

    formatted: float
    accuracy: float | None


def pool_gains(folders: Sequence[Path]) -> Estimate | None:
    """Return the gain over several runs (seeds) on the first held-out set, paired by problem, with
    its interval over problems and runs.

    None where the runs are not finished or did not ask the same number of problems.
    """
    before: list[list[float]] = []  # [runs][problems]
    after: list[list[float]] = []
    for folder in folders:
        run = read_run(folder)
        if run.summary is None or not run.summary.evals:
            return None
        benchmark = next(iter(run.summary.evals))
        before.append(_list_rates(run, benchmark, 0))
        after.append(_list_rates(run, benchmark, run.summary.steps))
    counts = {len(rates) for rates in (*before, *after)}
    if len(counts) != 1 or 0 in counts:
        return None
    return _estimate_change(np.array(before).T, np.array(after).T)


def _list_rates(run: RunData, benchmark: str, step: int) -> list[float]:
    """Return the share of right samples of each problem of an evaluation."""
    return list(solve_rates(read_eval_samples(run, benchmark, step)).values())


def compare_arms(plan: Plan, missing: Mapping[Path, str]) -> SweepResult:
    """Return what the finished runs of a sweep show; `missing` says of the others why they are not
    finished.
    """
    runs_by_arm: dict[str, dict[int, RunData]] = {}
    for arm in plan.sweep.arms:
        runs_by_arm[arm] = {}
        for unit in plan.of(arm):
            if unit.path not in missing:
                runs_by_arm[arm][unit.seed] = read_run(unit.path)
    baseline = runs_by_arm[plan.baseline]
    arms: dict[str, ArmResult] = {}
    for arm, runs in runs_by_arm.items():
        figures = None
        if runs:
            figures = _describe_arm(runs, baseline, plan.benchmark)
        arms[arm] = ArmResult(tuple(runs), figures)
    reasons: dict[str, str] = {}
    for path, reason in missing.items():
        reasons[path.name] = reason
    return SweepResult(
        name=plan.name,
        benchmark=plan.benchmark,
        baseline=plan.baseline,
        arms=arms,
        missing=reasons,
    )


def _describe_arm(runs: RunsBySeed, baseline: RunsBySeed, benchmark: str) -> ArmFigures:
    """Return what the runs of an arm show together, and how they differ from those of the
    baseline.
    """
    each = list(runs.values())
    steps = _find_common_steps(each, benchmark)
    tables: dict[int, np.ndarray] = {}
    curve: list[CurvePoint] = []
    for step in steps:
        tables[step] = _tabulate([(run, step) for run in each], benchmark)
        curve.append(CurvePoint(step, _estimate_level(tables[step])))
    first = steps[0]
    last = steps[-1]
    form_before = _measure_form(each, benchmark, first)
    form_after = _measure_form(each, benchmark, last)
    return ArmFigures(
        before=curve[0],
        after=curve[-1],
        gain=_estimate_change(tables[first], tables[last]),
        formatted=(form_before.formatted, form_after.formatted),
        accuracy_formatted=(form_before.accuracy, form_after.accuracy),
        gain_split=_split_gain(
            curve[0].accuracy.value,
            form_before,
            curve[-1].accuracy.value,
            form_after,
        ),
        training_accuracy=_measure_last_steps(each),
        curve=tuple(curve),
        difference=_estimate_difference(runs, baseline, benchmark),
    )


def _find_common_steps(runs: Sequence[RunData], benchmark: str) -> list[int]:
    """Return the steps at which every run was evaluated."""
    steps_of_runs: list[set[int]] = []
    for run in runs:
        steps_of_runs.append({record.step for record in run.evals_of(benchmark)})
    return sorted(set.intersection(*steps_of_runs))


def _tabulate(evaluations: Sequence[tuple[RunData, int]], benchmark: str) -> np.ndarray:
    """Return the share of right answers of each problem in each evaluation (run, step).

    The table is [problems, evaluations]; only problems that all of them asked are in it.
    """
    columns: list[dict[str, float]] = []
    for run, step in evaluations:
        columns.append(solve_rates(read_eval_samples(run, benchmark, step)))
    in_all = set.intersection(*map(set, columns))
    shared = [problem for problem in columns[0] if problem in in_all]
    if not shared:
        one = evaluations[0][0].folder
        other = evaluations[-1][0].folder
        raise RunError(
            f"{one}: shares no held-out problem of '{benchmark}' with {other}; is its samples/ whole?"
        )
    return np.array([[column[problem] for column in columns] for problem in shared])


def _estimate_change(before: np.ndarray, after: np.ndarray) -> Estimate:
    """Return the mean change of a table [problems, seeds] with its interval."""
    change = after - before
    return Estimate(
        value=float(change.mean()),
        ci95=estimate_crossed_interval(change),
        n=len(change),
    )


def _estimate_level(values: np.ndarray) -> Estimate:
    """Return the accuracy of a table [problems, seeds] with its interval.

    For one seed, or several that agree on every problem, it is that of one run.
    """
    first_seed = values[:, 0]
    if (values == first_seed[:, None]).all():
        bounds = estimate_interval(first_seed.tolist())
    else:
        bounds = estimate_crossed_interval(values).clamp()
    return Estimate(value=float(values.mean()), ci95=bounds, n=len(values))


def _estimate_difference(
    runs: RunsBySeed,
    baseline: RunsBySeed,
    benchmark: str,
) -> Estimate | None:
    """Return the accuracy after training against the baseline's, paired by problem and seed.

    None for the baseline itself, and where the two have no seed in common.
    """
    seeds = [seed for seed in runs if seed in baseline]
    if not seeds or runs is baseline:
        return None
    evaluations: list[tuple[RunData, int]] = []
    for side in (baseline, runs):
        for seed in seeds:
            evaluations.append((side[seed], side[seed].steps))
    values = _tabulate(evaluations, benchmark)  # [problems, the baseline's seeds, then the arm's]
    return _estimate_change(values[:, : len(seeds)], values[:, len(seeds) :])


def _measure_form(runs: Sequence[RunData], benchmark: str, step: int) -> Form:
    """Return the form of the answers of all runs at one step."""
    count = 0
    verdicts: list[bool] = []  # of the well-formed answers
    for run in runs:
        samples = read_eval_samples(run, benchmark, step)
        count += len(samples)
        verdicts += [sample.correct for sample in samples if sample.formatted]
    accuracy = None
    if verdicts:
        accuracy = sum(verdicts) / len(verdicts)
    return Form(len(verdicts) / count, accuracy)


def _split_gain(
    accuracy_before: float,
    form_before: Form,
    accuracy_after: float,
    form_after: Form,
) -> GainSplit:
    """Return the parts of a gain, see `split_gain`.

    Where one side has no well-formed answer, content is taken as unchanged.
    """
    content_before = _first_known(form_before.accuracy, form_after.accuracy)
    content_after = _first_known(form_after.accuracy, form_before.accuracy)
    before = (accuracy_before, form_before.formatted, content_before)
    after = (accuracy_after, form_after.formatted, content_after)
    form, content, rest = split_gain(before, after)
    return GainSplit(form, content, rest)


def _first_known(*shares: float | None) -> float:
    """Return the first share that is known, 0 where none is."""
    for share in shares:
        if share is not None:
            return share
    return 0.0


def _measure_last_steps(runs: Sequence[RunData]) -> float | None:
    """Return the accuracy of the training rollouts of the last five steps of all runs."""
    right: list[float] = []
    counts: list[float] = []
    for run in runs:
        for record in run.last_stage[-LAST_STEPS:]:
            if record.accuracy is not None and record.samples:
                right.append(record.accuracy * record.samples)
                counts.append(record.samples)
    if not counts:
        return None
    return sum(right) / sum(counts)
