"""What a finished run says of itself, computed from the files that it wrote."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlvr.evals.score import paired_gain
from rlvr.recipe import Recipe
from rlvr.trackers import JsonLines


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
            e["benchmark"]: _before_after(path, evals, e["benchmark"], steps, cold) for e in evals if e["step"] == 0
        },
        "hardware": f"{_processor()}, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "finished": True,
    }
    return summary


def _before_after(path: Path, evals: list[dict[str, Any]], name: str, last: int, cold: int | None) -> dict[str, Any]:
    at = {e["step"]: e for e in evals if e["benchmark"] == name}

    def result(step: int) -> dict[str, Any]:
        return {
            "pass@1": at[step]["metrics"]["pass@1"],
            "ci95": at[step]["ci95"]["pass@1"],
            "n": at[step]["counts"]["problems"],
        }

    def gain(first: int) -> dict[str, Any]:
        return paired_gain(*(_shares(path / "samples" / f"eval-{name}-{step:06d}.jsonl") for step in (first, last)))

    found = {"before": result(0), "after": result(last), "gain": gain(0)}
    if cold is not None and cold in at:
        found |= {"after_cold_start": result(cold), "gain_over_cold_start": gain(cold)}
    return found


def pooled_gain(runs: Sequence[Path]) -> dict[str, object] | None:
    """The gain over several runs (seeds) on the first held-out set, averaged for each problem and paired by problem.

    None where the runs are not finished or did not ask the same number of problems.
    """
    columns = []
    for run in runs:
        if not (run / "summary.json").is_file():
            return None
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        name, steps = next(iter(summary["evals"]), None), (0, summary["steps"])
        columns.append([_shares(run / "samples" / f"eval-{name}-{step:06d}.jsonl") for step in steps])
    if len({len(shares) for pair in columns for shares in pair}) != 1:
        return None
    before, after = ([sum(row) / len(row) for row in zip(*side, strict=True)] for side in zip(*columns, strict=True))
    return paired_gain(before, after)


def _shares(path: Path) -> list[float]:
    right: dict[str, list[bool]] = {}
    for row in JsonLines.read(path):
        right.setdefault(row["id"], []).append(row["status"] == "correct")
    return [sum(r) / len(r) for r in right.values()]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return torch.cuda.get_device_name() if torch.cuda.is_available() else named
