"""The run folder: what a run leaves behind, and how a resumed run takes back what came after its
checkpoint.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlvr.errors import RunError, UserError
from rlvr.evals import Evaluation, paired_gain, sample_row
from rlvr.findings import solved
from rlvr.recipe import Recipe
from rlvr.step import StepResult
from rlvr.trackers import JsonLines, write_whole
from rlvr.types import SampleGroup


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
    step: int, groups: Sequence[SampleGroup], advantages: Sequence[float]
) -> Iterable[dict[str, Any]]:
    at = 0
    for group in groups:
        for sample in group.samples:
            size = len(sample.rollout.token_ids) if group.trained else 0
            mean = sum(advantages[at : at + size]) / size if size else None
            at += size
            worth = {
                "reward": sample.reward.value,
                "parts": dict(sample.reward.parts),
                "advantage": mean,
            }
            yield {**sample_row(step, sample.rollout, sample.verdict), **worth}
        for member in group.failed:
            nothing = {"reward": None, "parts": {}, "advantage": None}
            yield {**sample_row(step, member.rollout, member.verdict), **nothing}


def summarise(path: Path, recipe: Recipe, steps: int) -> dict[str, Any]:
    """What a finished run says of itself, from its files."""
    records, evals = JsonLines.read(path / "metrics.jsonl"), JsonLines.read(path / "evals.jsonl")
    times = [r["time"]["step"] for r in records] + [e["time"]["seconds"] for e in evals]
    cold = recipe.cold_start.steps if recipe.cold_start else None
    summary = {
        "recipe": recipe.run.name,
        "model": recipe.model.name,
        "steps": steps,
        "seconds": sum(times),
        "response_tokens": sum(r.get("response_tokens", 0) for r in records),
        "evals": {
            e["benchmark"]: _before_after(path, evals, e["benchmark"], steps, cold)
            for e in evals
            if e["step"] == 0
        },
        "hardware": f"{_processor()}, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "finished": True,
    }
    best = best_step(path, recipe.checkpoint.best)
    return summary | ({"best": best} if best else {})


def best_step(path: Path, benchmark: str | None) -> dict[str, Any] | None:
    """The step with the highest pass@1 on a held-out set, the first of equals, and its checkpoint;
    None without one.

    The model before training has no checkpoint: it is the recipe's model itself.
    """
    records = [e for e in JsonLines.read(path / "evals.jsonl") if e["benchmark"] == benchmark]
    if not records:
        return None
    best = max(records, key=lambda e: (e["metrics"]["pass@1"], -e["step"]))
    kept = f"checkpoints/step-{best['step']:06d}"
    found = {"benchmark": benchmark, "step": best["step"], "pass@1": best["metrics"]["pass@1"]}
    return {**found, "checkpoint": kept if (path / kept).is_dir() else None}


def _before_after(
    path: Path, evals: list[dict[str, Any]], name: str, last: int, cold: int | None
) -> dict[str, Any]:
    at = {e["step"]: e for e in evals if e["benchmark"] == name}

    def result(step: int) -> dict[str, Any]:
        e = at[step]
        return {
            "pass@1": e["metrics"]["pass@1"],
            "ci95": e["ci95"]["pass@1"],
            "n": e["counts"]["problems"],
        }

    def gain(first: int) -> dict[str, Any]:
        return paired_gain(
            *(_shares(path / "samples" / f"eval-{name}-{step:06d}.jsonl") for step in (first, last))
        )

    found = {"before": result(0), "after": result(last), "gain": gain(0)}
    if cold is not None and cold in at:
        found |= {"after_cold_start": result(cold), "gain_over_cold_start": gain(cold)}
    return found


def _shares(path: Path) -> list[float]:
    return list(solved(JsonLines.read(path)).values())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else [*models, platform.machine()][0]
    )
