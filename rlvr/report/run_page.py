"""The report of a run: one HTML file that says in plain words what happened.

It shows the figures that it says it from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr.report.charts import make_chart, plot_accuracy
from rlvr.report.findings import Finding, Headline, find_alarms, write_headline
from rlvr.report.phenomena import find_phenomena
from rlvr.report.rendering import load_template, write_page
from rlvr.report.run_charts import make_run_charts
from rlvr.report.samples import compare_problems, pick_training_samples
from rlvr.report.table import Row, tabulate
from rlvr.report.trends import find_saturation, measure_trend
from rlvr.storage.fields import keep_finite
from rlvr.storage.run_data import RunData, read_run
from rlvr.storage.step_record import StepRecord

COLORS = 6  # of curves on one page


@dataclass(frozen=True, slots=True)
class RunView:
    """What the page of one run and that of several say of a run."""

    run: RunData
    headline: Headline
    alarms: list[Finding]
    rows: list[Row]
    times: list[tuple[str, float]]


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder; raises UserError where the folder cannot be read."""
    data = read_run(run)
    page = load_template("report.html.j2").render(
        run=data,
        view=_view_run(data),
        trends={
            "reward": measure_trend(data.last_stage, "reward"),
            "formatted": measure_trend(data.last_stage, "formatted"),
        },
        phenomena=find_phenomena(data),
        charts=make_run_charts(data, find_saturation(data)),
        problems=compare_problems(data),
        training=pick_training_samples(data),
        verdicts=count_verdicts(data),
        totals=sum_up(data),
        selection=_suggest_selection(data),
    )
    return write_page(Path(run) / "report.html", page)


def compare(runs: Sequence[Path], out: Path) -> Path:
    """Write one page that sets several runs side by side."""
    views = []
    series = []
    sets = set()  # what was asked: the held-out set and the number of its problems
    for folder in runs:
        run = read_run(folder)
        views.append(_view_run(run))
        if run.benchmarks:
            series.append(plot_accuracy(run.held_out_evals, run.name, len(series) % COLORS))
        for score in run.scores:
            sets.add((run.benchmarks[0], score.n))
    page = load_template("report.html.j2").render(
        run=None,
        views=views,
        same=len(sets) < 2,
        curves=make_chart("Held-out accuracy with 95 % interval", series, "share", wide=True),
    )
    return write_page(Path(out), page)


def _view_run(run: RunData) -> RunView:
    rows = []
    for benchmark in run.benchmarks:
        rows += tabulate(run, benchmark)
    return RunView(
        run=run,
        headline=write_headline(run),
        alarms=find_alarms(run),
        rows=rows,
        times=sum_times(run),
    )


def count_verdicts(run: RunData) -> dict[str, Counter[str]]:
    """Return how often each verdict was given in the first steps, the last steps and altogether."""
    records = [record for record in run.rl_steps if record.verdicts]
    size = max(1, min(5, len(records) // 2))
    spans: dict[str, Sequence[StepRecord]] = {}
    if len(records) > 1:
        spans[f"first {size} steps"] = records[:size]
        spans[f"last {size} steps"] = records[-size:]
    spans["all steps"] = records
    counts = {}
    for span, steps in spans.items():
        counts[span] = _add_up(record.verdicts for record in steps)
    return counts


def _add_up(mappings: Iterable[Mapping[str, float | None]]) -> Counter[str]:
    """Return the sum of the finite numbers under each key."""
    total: Counter[str] = Counter()
    for mapping in mappings:
        for key, value in mapping.items():
            number = keep_finite(value)
            if number is not None:
                total[key] += number  # type: ignore[assignment]  # a Counter may hold any number
    return total


@dataclass(slots=True)
class Totals:
    """What the steps of a run add up to."""

    rollouts: float = 0
    response_tokens: float = 0
    seconds: float = 0.0
    peak_memory: float = 0  # the highest of all steps, in GiB


def sum_up(run: RunData) -> Totals:
    """Return what the steps add up to; tokens as the summary has them, where there is one."""
    totals = Totals()
    for record in run.metrics:
        totals.rollouts += record.samples or 0
        totals.response_tokens += record.response_tokens or 0
        totals.seconds += record.seconds or 0.0
        totals.peak_memory = max(totals.peak_memory, record.peak_memory_gb or 0)
    if run.summary and run.summary.response_tokens:
        totals.response_tokens = run.summary.response_tokens
    return totals


def sum_times(run: RunData) -> list[tuple[str, float]]:
    """Return the seconds of each stage; they add up to the wall clock of the run."""
    stages = _add_up(record.stage_seconds for record in run.metrics)
    in_stages = sum(stages.values())
    in_steps = sum_up(run).seconds
    evaluation = sum(record.seconds for record in run.evals)
    whole = run.summary.seconds if run.summary else 0.0
    spent = {
        **stages,
        "rest of the steps": in_steps - in_stages,
        "evaluation": evaluation,
        "set-up, saving, rest": whole - max(in_steps, in_stages) - evaluation,
    }
    return [(name.replace("_", " "), seconds) for name, seconds in spent.items() if seconds > 0]


def _suggest_selection(run: RunData) -> str:
    """Return the options of `rlvr select` that fit the run.

    Accuracy varies only where problems were visited several times.
    """
    visits = {(record.id, record.step) for record in run.history}
    problems = {name for name, _ in visits}
    if len(problems) < 2:
        return ""
    method = "pass_rate"
    if len(visits) >= 2 * len(problems):
        method = "historical_variance"
    return f"--method {method} --top {min(16, len(problems))}"
