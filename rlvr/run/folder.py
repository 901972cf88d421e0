"""The run folder: what a run leaves behind, and how a resumed run takes back what came after its
checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.errors import RunError, UserError
from rlvr.evaluation.ask import Evaluation
from rlvr.step import StepResult
from rlvr.storage.jsonl import JsonLines, write_whole
from rlvr.storage.records import sample_row
from rlvr.types import RewardedGroup


class RunFolder:
    """`runs/NAME/` with its files; every record is on the disk when its method returns."""

    def __init__(self, path: Path) -> None:
        self.path, self.samples, self.checkpoints = path, path / "samples", path / "checkpoints"
        try:
            self.samples.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run folder {path}: {error.strerror}") from error
        self.metrics = JsonLines(path / "metrics.jsonl")
        self.evals = JsonLines(path / "evals.jsonl")
        self.history = JsonLines(path / "history.jsonl")

    @staticmethod
    def check(path: Path, overwrite: bool) -> None:
        """A fresh folder; raises UserError where a run lies there already and may not be
        overwritten.
        """
        above = next(p for p in (path, *path.parents) if p.exists())
        if not above.is_dir():
            raise UserError(f"{path}: '{above}' is a file; choose another run.name or run.folder")
        if path.exists() and any(path.iterdir()) and not _only_begun(path):
            if not overwrite:
                raise UserError(
                    f"{path}: a run lies here already; add --resume to go on or --overwrite to replace it"
                )
            if not (path / "recipe.yaml").is_file():
                raise UserError(
                    f"{path}: not empty and not a run folder, so not overwritten; choose another run.name"
                )

    @staticmethod
    def create(path: Path, overwrite: bool) -> RunFolder:
        RunFolder.check(path, overwrite)
        if path.exists():
            shutil.rmtree(path)
        return RunFolder(path)

    def cut_back(self, step: int | None) -> None:
        """Forget everything after a checkpoint's step (all, where there is no checkpoint)."""
        for log in (self.metrics, self.evals, self.history):
            log.close()
            JsonLines.cut(log.path, lambda row: step is not None and row["step"] <= step)
        for path in self.samples.glob("*.jsonl"):
            if step is None or int(path.stem.rpartition("-")[2]) > step:
                path.unlink()
        self.__init__(self.path)

    def record_step(self, result: StepResult, record: Mapping[str, Any]) -> None:
        """The step's metrics, its rollouts with their advantages, and the accuracy of each problem
        that it visited.
        """
        step = result.state.step
        rows = list(_train_rows(step, result.groups, result.advantages))
        if rows:
            JsonLines.write(self.samples / f"train-{step:06d}.jsonl", rows)
        for group in (group for group in result.groups if group.samples):
            right = sum(sample.verdict.correct for sample in group.samples)
            count = len(group.samples)
            self.history.append(
                {"step": step, "id": group.problem.id, "accuracy": right / count, "n": count}
            )
        self.metrics.append(record)

    def record_eval(self, evaluation: Evaluation) -> None:
        record = evaluation.record
        JsonLines.write(
            self.samples / f"eval-{record['benchmark']}-{record['step']:06d}.jsonl",
            evaluation.samples,
        )
        self.evals.append(record)

    def write(self, name: str, content: str) -> None:
        """A whole file, replaced in one step."""
        write_whole(self.path / name, content)

    def close(self) -> None:
        for log in (self.metrics, self.evals, self.history):
            log.close()


def _only_begun(path: Path) -> bool:
    """Whether a run was killed here before it had its recipe: there is nothing but what it makes
    first, and empty.
    """
    logs = {"metrics.jsonl", "evals.jsonl", "history.jsonl"}
    first = {"samples", "checkpoints", ".recipe.yaml.unfinished"}
    return all(
        p.name in first or (p.name in logs and not p.stat().st_size) for p in path.rglob("*")
    )


class WatchedFolder(RunFolder):
    """The same folder on the other ranks, which read it and leave the writing to rank 0."""

    def __init__(self, path: Path) -> None:
        self.path, self.samples, self.checkpoints = path, path / "samples", path / "checkpoints"

    def _left_to_rank_0(self, *_: Any, **__: Any) -> None:
        pass

    cut_back = record_step = record_eval = write = close = _left_to_rank_0


def _train_rows(
    step: int, groups: Sequence[RewardedGroup], advantages: Sequence[float | None]
) -> Iterable[dict[str, Any]]:
    remaining = iter(advantages)  # one of each sample, in the order of the groups
    for group in groups:
        for sample in group.samples:
            worth = {
                "reward": sample.reward.value,
                "parts": dict(sample.reward.parts),
                "advantage": next(remaining),
            }
            yield {**sample_row(step, sample.rollout, sample.verdict), **worth}
        for member in group.failed:
            nothing = {"reward": None, "parts": {}, "advantage": None}
            yield {**sample_row(step, member.rollout, member.verdict), **nothing}
