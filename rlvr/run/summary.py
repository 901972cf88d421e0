"""Sum a finished run up."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from rlvr.config.schema import Recipe
from rlvr.metrics.statistics import paired_gain
from rlvr.storage.jsonl import JsonLines
from rlvr.storage.run_data import solved_shares


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
    return list(solved_shares(JsonLines.read(path)).values())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else [*models, platform.machine()][0]
    )
