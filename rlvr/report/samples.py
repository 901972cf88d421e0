"""The samples that a report shows."""

from __future__ import annotations

from typing import Any

from rlvr.storage import run_data
from rlvr.storage.run_data import Record, RunData, evaluated, number


def compared_problems(run: RunData) -> list[dict[str, Any]]:
    """Held-out problems with their answers before, during and after: two that were learned, one
    not, one unlearned.
    """
    steps = [record["step"] for record in run.of(run.benchmarks[0])] if run.benchmarks else []
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    found = [(step, reversed(evaluated(run, run.benchmarks[0], step))) for step in chosen]
    tables = [
        (step, samples)
        for step, rows in found
        if (samples := {str(row.get("id")): row for row in rows})
    ]
    if not tables:
        return []
    first, last = tables[0][1], tables[-1][1]
    shared = [key for key in reversed(first) if key in last]
    right = {
        key: (first[key].get("status") == "correct", last[key].get("status") == "correct")
        for key in shared
    }
    found = []
    for kind, wanted, count in (
        ("wrong before, right after", (False, True), 2),
        ("wrong before and after", (False, False), 1),
        ("right before, wrong after", (True, False), 1),
    ):
        for key in [key for key in shared if right[key] == wanted and len(tables) > 1][:count]:
            answers = [(step, samples[key]) for step, samples in tables if key in samples]
            found.append({"kind": kind, "problem": first[key], "answers": answers})
    return found or [
        {"kind": "", "problem": first[key], "answers": [(tables[0][0], first[key])]}
        for key in shared[:2]
    ]


def training_samples(run: RunData) -> list[tuple[str, Record]]:
    """The best paid rollout of the first step, and the best and the worst paid ones of the last
    step.
    """
    files = sorted((run.folder / "samples").glob("train-*.jsonl"))
    steps = [
        samples
        for path in dict.fromkeys(files[:1] + files[-1:])
        if (samples := run_data.samples_of(path))
    ]
    if not steps:
        return []
    ranked = [sorted(samples, key=lambda s: -(number(s.get("reward")) or 0.0)) for samples in steps]
    shown = [("best paid", ranked[0][0])] if len(ranked) > 1 else []
    shown += [("best paid", ranked[-1][0]), ("worst paid", ranked[-1][-1])]
    return [(f"step {sample.get('step', '?')}, {place}", sample) for place, sample in shown]
