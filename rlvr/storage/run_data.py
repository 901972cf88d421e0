"""Read a run folder, finished or not."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlvr.errors import UserError
from rlvr.storage.jsonl import JsonLines


def measured(record: Mapping[str, Any], key: str) -> float | None:
    """One metric of an evaluation where it is a number."""
    return number((record.get("metrics") or {}).get(key))


Record = Mapping[str, Any]


PARTS = ("recipe.yaml", "metrics.jsonl", "evals.jsonl", "summary.json")


SAMPLE: Record = dict.fromkeys(
    ("id", "question", "gold", "text", "tokens", "status", "answer", "reward", "parts")
)


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run folder holds; whatever is absent is empty."""

    folder: Path
    recipe: str
    summary: Record
    metrics: Sequence[Record]
    evals: Sequence[Record]
    history: Sequence[Record]
    planned: int | None

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def finished(self) -> bool:
        return bool(self.summary.get("finished"))

    @property
    def steps(self) -> int:
        return max((record["step"] for record in (*self.metrics, *self.evals)), default=0)

    @property
    def cold(self) -> int:
        """Number of cold-start steps."""
        return max((r["step"] for r in self.metrics if r.get("phase") == "cold_start"), default=0)

    @property
    def rl(self) -> Sequence[Record]:
        return [record for record in self.metrics if record.get("phase") != "cold_start"]

    @property
    def stages(self) -> Mapping[str, int]:
        """How many steps of reinforcement each stage has; one, "rl", in a run without stages."""
        return Counter(str(record.get("phase", "rl")) for record in self.rl)

    @property
    def last_stage(self) -> Sequence[Record]:
        """The steps that compare with one another: another stage may have other problems, limits
        and rewards.
        """
        return [record for record in self.rl if record.get("phase") == self.rl[-1].get("phase")]

    @property
    def benchmarks(self) -> list[str]:
        """All benchmarks, the held-out set first."""
        return list(dict.fromkeys(e["benchmark"] for e in self.evals))

    def measured(self, key: str) -> list[float]:
        """One metric of all evaluations of the held-out set that have it, in order."""
        records = self.of(self.benchmarks[0]) if self.benchmarks else []
        values = [measured(record, key) for record in records]
        return [value for value in values if value is not None]

    @property
    def scores(self) -> list[Score]:
        """Accuracy at each evaluation of the held-out set."""
        return scores_of(self, self.benchmarks[0]) if self.benchmarks else []

    def of(self, benchmark: str) -> Sequence[Record]:
        """The evaluations of one benchmark in order."""
        return [e for e in self.evals if e["benchmark"] == benchmark]


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy at one evaluation."""

    label: str
    step: int
    value: float
    interval: Sequence[float] | None
    n: int | None


def read_run(run: Path) -> RunData:
    """Read a run folder, finished or not."""
    folder = Path(run)
    try:
        if not folder.is_dir():
            raise UserError(
                f"{folder}: is not a folder; name the folder of a run, such as runs/demo"
            )
        if not any((folder / part).exists() for part in PARTS):
            raise UserError(
                f"{folder}: is not the folder of a run: it has none of {', '.join(PARTS)}"
            )
        path = folder / "recipe.yaml"
        recipe = path.read_text("utf-8", "replace") if path.exists() else ""
        metrics = [r for r in _records(folder / "metrics.jsonl") if isinstance(r.get("step"), int)]
        evals = [
            r
            for r in _records(folder / "evals.jsonl")
            if isinstance(r.get("step"), int) and r.get("benchmark")
        ]
        history = _records(folder / "history.jsonl")
        return RunData(
            folder,
            recipe,
            _summary(folder / "summary.json"),
            metrics,
            evals,
            history,
            _planned(recipe),
        )
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None


def scores_of(run: RunData, benchmark: str) -> list[Score]:
    records = run.of(benchmark)
    found = []
    for index, record in enumerate(records):
        label = (
            "before"
            if index == 0
            else "after"
            if index == len(records) - 1
            else f"step {record['step']}"
        )
        facts = {**(record.get("metrics") or {}), "n": (record.get("counts") or {}).get("problems")}
        found.append(
            make_score(
                label, record["step"], {**facts, "ci95": (record.get("ci95") or {}).get("pass@1")}
            )
        )
    return [score for score in found if score]


def make_score(label: str, step: int, facts: Record) -> Score | None:
    value = number(facts.get("pass@1"))
    return (
        None
        if value is None
        else Score(label, step, value, facts.get("ci95") or None, facts.get("n"))
    )


def solved_shares(samples: Sequence[Record]) -> dict[str, float]:
    """The share of right answers of each problem."""
    right: dict[str, list[bool]] = {}
    for sample in samples:
        right.setdefault(str(sample.get("id")), []).append(sample.get("status") == "correct")
    return {key: statistics.fmean(values) for key, values in right.items()}


def evaluated(run: RunData, benchmark: str, step: int) -> list[dict[str, Any]]:
    return samples_of(run.folder / "samples" / f"eval-{benchmark}-{step:06}.jsonl")


def samples_of(path: Path) -> list[dict[str, Any]]:
    return [{**SAMPLE, **record} for record in _records(path)]


def _records(path: Path) -> list[dict[str, Any]]:
    return JsonLines.read(path) if path.exists() else []


def _summary(path: Path) -> Record:
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # a run that was killed has none, or half of one
        return {}
    return summary if isinstance(summary, dict) else {}


def _planned(recipe: str) -> int | None:
    try:
        keys = yaml.safe_load(recipe)
        return int(keys["run"]["steps"]) + int((keys.get("cold_start") or {}).get("steps", 0))
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError):
        return None


def number(value: Any) -> float | None:
    """The value where it is a finite number: records hold null for what was not."""
    return float(value) if isinstance(value, int | float) and abs(value) < float("inf") else None
