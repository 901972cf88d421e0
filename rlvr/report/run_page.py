"""The report of a run: one HTML file that says in plain words what happened and shows the figures
it says it from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr.report import charts, findings, phenomena, table, trends
from rlvr.report.rendering import template, write_page
from rlvr.report.samples import compared_problems, training_samples
from rlvr.storage import run_data
from rlvr.storage.run_data import RunData, number, read_run


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder; raises UserError where the folder cannot be read."""
    data = read_run(run)
    page = template("report.html.j2").render(
        **_view(data),
        trends={key: trends.trend(data.last_stage, key) for key in ("reward", "formatted")},
        phenomena=phenomena.phenomena(data),
        charts=charts.run_charts(data.metrics, data.evals, trends.saturation(data)),
        problems=compared_problems(data),
        training=training_samples(data),
        verdicts=verdict_counts(data),
        totals=_added(data.metrics),
        memory=[number((r.get("time") or {}).get("peak_memory_gb")) or 0 for r in data.metrics],
        selection=_selection(data),
    )
    return write_page(Path(run) / "report.html", page)


def compare(runs: Sequence[Path], out: Path) -> Path:
    """Write one page that sets several runs side by side."""
    loaded = [read_run(run) for run in runs]
    scored = [data for data in loaded if data.benchmarks]
    series = [
        charts.heldout(data.of(data.benchmarks[0]), data.name, i % 6)
        for i, data in enumerate(scored)
    ]
    sets = {
        (data.benchmarks[0], score.n)
        for data in scored
        for score in run_data.scores_of(data, data.benchmarks[0])
    }
    page = template("report.html.j2").render(
        run=None,
        runs=[_view(data) for data in loaded],
        same=len(sets) < 2,
        curves=charts.chart("Held-out accuracy with 95 % interval", series, "share", wide=True),
    )
    return write_page(Path(out), page)


def _view(run: RunData) -> dict[str, Any]:
    """What both pages say of a run."""
    tone, sentence = findings.headline(run)
    rows = [row for benchmark in run.benchmarks for row in table.table(run, benchmark)]
    view = {"run": run, "tone": tone, "sentence": sentence, "alarms": findings.alarms(run)}
    return {**view, "rows": rows, "times": time_spent(run)}


def verdict_counts(run: RunData) -> dict[str, Counter[str]]:
    """How often each verdict was given in the first steps, the last steps and altogether."""
    records = [record for record in run.rl if record.get("verdicts")]
    size = max(1, min(5, len(records) // 2))
    spans = (
        {f"first {size} steps": records[:size], f"last {size} steps": records[-size:]}
        if len(records) > 1
        else {}
    )
    return {
        span: _added(r["verdicts"] for r in part)
        for span, part in [*spans.items(), ("all steps", records)]
    }


def _added(records: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for record in records:
        total.update(
            {name: known for name, value in record.items() if (known := number(value)) is not None}
        )
    return total


def time_spent(run: RunData) -> list[tuple[str, float]]:
    """Seconds of each stage; they add up to the wall clock of the run."""
    times = [record.get("time") or {} for record in run.metrics]
    stages = _added(
        {k: v for k, v in t.items() if not k.endswith(("_per_second", "_gb"))} for t in times
    )
    in_steps = stages.pop("step", 0.0)
    known = sum(stages.values())
    evaluation = sum(number((e.get("time") or {}).get("seconds")) or 0.0 for e in run.evals)
    rest = (number(run.summary.get("seconds")) or 0.0) - max(in_steps, known) - evaluation
    spent = {
        **stages,
        "rest of the steps": in_steps - known,
        "evaluation": evaluation,
        "set-up, saving, rest": rest,
    }
    return [(name.replace("_", " "), seconds) for name, seconds in spent.items() if seconds > 0]


def _selection(run: RunData) -> str:
    """The method of `rlvr select` that fits the run: accuracy varies only where problems were
    visited several times.
    """
    visits = {(str(record.get("id")), str(record.get("step"))) for record in run.history}
    problems = {name for name, _ in visits}
    method = "historical_variance" if len(visits) >= 2 * len(problems) else "pass_rate"
    return f"--method {method} --top {min(16, len(problems))}" if len(problems) > 1 else ""
