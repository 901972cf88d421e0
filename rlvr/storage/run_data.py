"""A run folder as values, finished or not."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.errors import UserError
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.fields import WrongShape
from rlvr.storage.history_record import HistoryRecord
from rlvr.storage.records import RecordType, read_records
from rlvr.storage.sample_record import SampleRecord
from rlvr.storage.step_record import StepRecord
from rlvr.storage.summary import Summary

# A folder with one of these is that of a run.
RUN_FILES = ("recipe.yaml", "metrics.jsonl", "evals.jsonl", "summary.json")


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy at one evaluation."""

    label: str
    step: int
    value: float
    interval: Sequence[float] | None
    n: int | None


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run folder holds; whatever is absent is empty."""

    folder: Path
    recipe: str
    summary: Summary | None
    metrics: Sequence[StepRecord]
    evals: Sequence[EvalRecord]
    history: Sequence[HistoryRecord]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def finished(self) -> bool:
        return self.summary is not None and self.summary.finished

    @property
    def planned(self) -> int | None:
        """Number of steps that the recipe plans; None where it does not say."""
        return _count_planned_steps(self.recipe)

    @property
    def steps(self) -> int:
        """The last step that left a record."""
        return max((record.step for record in (*self.metrics, *self.evals)), default=0)

    @property
    def cold_start_steps(self) -> int:
        """Number of supervised steps."""
        return count_cold_start_steps(self.metrics)

    @property
    def rl_steps(self) -> Sequence[StepRecord]:
        """The steps of reinforcement."""
        return [record for record in self.metrics if not record.is_cold_start]

    @property
    def stages(self) -> Mapping[str, int]:
        """How many steps of reinforcement each stage has; one, "rl", in a run without stages."""
        return Counter(record.phase for record in self.rl_steps)

    @property
    def last_stage(self) -> Sequence[StepRecord]:
        """The steps that compare with one another.

        Another stage may have other problems, limits and rewards.
        """
        steps = self.rl_steps
        return [record for record in steps if record.phase == steps[-1].phase]

    @property
    def benchmarks(self) -> list[str]:
        """All benchmarks, the held-out set first."""
        return list(dict.fromkeys(record.benchmark for record in self.evals))

    @property
    def scores(self) -> list[Score]:
        """Accuracy at each evaluation of the held-out set."""
        return score_evaluations(self.held_out_evals)

    @property
    def held_out_evals(self) -> Sequence[EvalRecord]:
        """The evaluations of the held-out set in order."""
        return self.evals_of(self.benchmarks[0]) if self.benchmarks else []

    def evals_of(self, benchmark: str) -> Sequence[EvalRecord]:
        """Return the evaluations of one benchmark in order."""
        return [record for record in self.evals if record.benchmark == benchmark]

    def list_held_out(self, metric: str) -> list[float]:
        """Return one metric of all evaluations of the held-out set that have it, in order."""
        return list_known(self.held_out_evals, metric)


def read_run(run: Path) -> RunData:
    """Read a run folder, finished or not; raises UserError."""
    folder = Path(run)
    try:
        _check_is_run(folder)
        recipe_file = folder / "recipe.yaml"
        recipe = recipe_file.read_text("utf-8", "replace") if recipe_file.exists() else ""
        return RunData(
            folder=folder,
            recipe=recipe,
            summary=_read_summary(folder / "summary.json"),
            metrics=_read_if_there(folder / "metrics.jsonl", StepRecord),
            evals=_read_if_there(folder / "evals.jsonl", EvalRecord),
            history=_read_if_there(folder / "history.jsonl", HistoryRecord),
        )
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None


def _check_is_run(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; name the folder of a run, such as runs/demo")
    if not any((folder / name).exists() for name in RUN_FILES):
        raise UserError(
            f"{folder}: is not the folder of a run: it has none of {', '.join(RUN_FILES)}"
        )


def _read_if_there(path: Path, kind: type[RecordType]) -> list[RecordType]:
    return read_records(path, kind) if path.exists() else []


def _read_summary(path: Path) -> Summary | None:
    """Read `summary.json`; None where a run that was killed has none, or half of one."""
    try:
        row = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(row, dict):
        return None
    try:
        return Summary.parse_row(row)
    except WrongShape as error:
        raise UserError(f"{path}: {error}") from None


def _count_planned_steps(recipe: str) -> int | None:
    import yaml  # only what is said of an unfinished run needs it

    try:
        keys: Any = yaml.safe_load(recipe)
        steps = int(keys["run"]["steps"])
        if keys.get("cold_start"):
            steps += int(keys["cold_start"]["steps"])
        return steps
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        return None


def list_known(records: Iterable[StepRecord | EvalRecord], metric: str) -> list[float]:
    """Return a metric of the records that have it, in order."""
    values = []
    for record in records:
        value = record.metric(metric)
        if value is not None:
            values.append(value)
    return values


def count_cold_start_steps(steps: Sequence[StepRecord]) -> int:
    """Return the number of supervised steps, which come first."""
    return max((record.step for record in steps if record.is_cold_start), default=0)


def score_evaluations(evals: Sequence[EvalRecord]) -> list[Score]:
    """Return the accuracy of each evaluation of one benchmark that has one."""
    scores = []
    for index, record in enumerate(evals):
        accuracy = record.accuracy
        if accuracy is None:
            continue
        label = f"step {record.step}"
        if index == 0:
            label = "before"
        elif index == len(evals) - 1:
            label = "after"
        scores.append(Score(label, record.step, accuracy.value, accuracy.ci95, accuracy.n))
    return scores


def solve_rates(samples: Sequence[SampleRecord]) -> dict[str, float]:
    """Return the share of right answers of each problem."""
    outcomes: dict[str, list[bool]] = {}
    for sample in samples:
        outcomes.setdefault(sample.id, []).append(sample.correct)
    return {problem: statistics.fmean(correct) for problem, correct in outcomes.items()}


def read_eval_samples(run: RunData, benchmark: str, step: int) -> list[SampleRecord]:
    """Return the samples of one evaluation of a run, none where they are not there."""
    return read_samples(run.folder / "samples" / f"eval-{benchmark}-{step:06}.jsonl")


def read_samples(path: Path) -> list[SampleRecord]:
    """Return the samples of a file, none where it is not there; raises UserError."""
    return _read_if_there(path, SampleRecord)
