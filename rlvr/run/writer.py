"""Writers of a run's records: the disk on rank 0, nothing on the other ranks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from rlvr.evaluation.ask import Evaluation
from rlvr.run.folder import RunFolder
from rlvr.step import StepResult
from rlvr.storage.history_record import HistoryRecord
from rlvr.storage.jsonl import JsonLines, write_whole
from rlvr.storage.sample_record import Credit, SampleRecord, make_sample
from rlvr.storage.step_record import StepRecord
from rlvr.types import RewardedGroup

SAMPLE_FILE = re.compile(r"(train|eval-.+)-(?P<step>[0-9]{6,})\.jsonl")


class RunWriter(Protocol):
    """What takes the records of a run."""

    def record_step(self, record: StepRecord, result: StepResult) -> None:
        """Keep a step's metrics, its rollouts with their advantages, and the accuracy of each
        problem that it visited.
        """
        ...

    def record_eval(self, evaluation: Evaluation) -> None:
        """Keep the record and the samples of an evaluation."""
        ...

    def write(self, name: str, content: str) -> None:
        """Keep a whole file, replaced in one step."""
        ...

    def cut_back(self, step: int | None) -> None:
        """Forget everything after a checkpoint's step (all, where there is no checkpoint)."""
        ...

    def close(self) -> None: ...


class NullRunWriter:
    """Writes nothing: the writer of every rank but 0, which leaves the folder to rank 0."""

    def record_step(self, record: StepRecord, result: StepResult) -> None:
        pass

    def record_eval(self, evaluation: Evaluation) -> None:
        pass

    def write(self, name: str, content: str) -> None:
        pass

    def cut_back(self, step: int | None) -> None:
        pass

    def close(self) -> None:
        pass


class DiskRunWriter:
    """Writes into a run folder; every record is on the disk when its method returns."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.folder.make()
        self._open_logs()

    def _open_logs(self) -> None:
        self.metrics = JsonLines(self.folder.metrics)
        self.evals = JsonLines(self.folder.evals)
        self.history = JsonLines(self.folder.history)

    def record_step(self, record: StepRecord, result: StepResult) -> None:
        """Keep a step's metrics, its rollouts with their advantages, and the accuracy of each
        problem that it visited.

        The metrics come last: a step whose line is there has all of its files.
        """
        rows = [sample.dump_row() for sample in _make_samples(result)]
        if rows:
            JsonLines.write(self.folder.locate_train_samples(record.step), rows)
        for group in result.groups:
            if group.samples:
                self.history.append(_make_history(record.step, group).dump_row())
        self.metrics.append(record.dump_row())

    def record_eval(self, evaluation: Evaluation) -> None:
        """Keep the record and the samples of an evaluation."""
        record = evaluation.record
        path = self.folder.locate_eval_samples(record.benchmark, record.step)
        JsonLines.write(path, [sample.dump_row() for sample in evaluation.samples])
        self.evals.append(record.dump_row())

    def write(self, name: str, content: str) -> None:
        """Keep a whole file, replaced in one step."""
        write_whole(self.folder.path / name, content)

    def cut_back(self, step: int | None) -> None:
        """Forget everything after a checkpoint's step (all, where there is no checkpoint)."""
        self.close()
        for path in (self.folder.metrics, self.folder.evals, self.folder.history):
            JsonLines.cut(path, lambda row: step is not None and row["step"] <= step)
        for path in self.folder.samples.glob("*.jsonl"):
            written_at = SAMPLE_FILE.fullmatch(path.name)
            if written_at and (step is None or int(written_at["step"]) > step):
                path.unlink()
        self._open_logs()

    def close(self) -> None:
        for log in (self.metrics, self.evals, self.history):
            log.close()


def _make_samples(result: StepResult) -> Iterator[SampleRecord]:
    """Yield the samples of a step group by group, those whose verifier failed at the end of it."""
    step = result.state.step
    advantages = iter(result.advantages)  # one of each sample, in the order of the groups
    for group in result.groups:
        for sample in group.samples:
            credit = Credit(
                reward=sample.reward.value,
                parts=sample.reward.parts,
                advantage=next(advantages),
            )
            yield replace(make_sample(step, sample.rollout, sample.verdict), credit=credit)
        for member in group.failed:
            unpaid = Credit(reward=None)
            yield replace(make_sample(step, member.rollout, member.verdict), credit=unpaid)


def _make_history(step: int, group: RewardedGroup) -> HistoryRecord:
    count = len(group.samples)
    correct = sum(sample.verdict.correct for sample in group.samples)
    return HistoryRecord(
        step=step,
        id=group.problem.id,
        accuracy=correct / count,
        n=count,
    )
