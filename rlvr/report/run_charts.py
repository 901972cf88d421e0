"""The charts that a run is shown by."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.report.charts import Chart, Series, Unit, make_chart, plot_accuracy, plot_metric
from rlvr.storage.run_data import RunData

TRAINING_COLOR = 5
COLORS = 5  # of the curves beside that of training
MOST_BENCHMARKS = 5  # in one chart


@dataclass(frozen=True, slots=True)
class MetricChart:
    """One metric over the steps.

    `metric` is a path as in `StepRecord.metric`. An alarming one is left out while it is zero.
    """

    metric: str
    title: str
    unit: Unit
    alarming: bool = False


# In the order of the page, below accuracy, reward and well-formed answers.
METRIC_CHARTS = (
    MetricChart("length", "Response length, tokens", "number"),
    MetricChart("truncated", "Truncated responses", "share"),
    MetricChart("no_answer", "Responses without an answer", "share", alarming=True),
    MetricChart("entropy", "Entropy per token", "number"),
    MetricChart("kl", "KL to the reference", "number"),
    MetricChart("no_signal", "Groups without signal", "share"),
    MetricChart("repetition", "Repeated phrases", "share", alarming=True),
    MetricChart("non_ascii", "Letters outside ASCII", "share", alarming=True),
    MetricChart("grad_norm", "Gradient norm", "number"),
    MetricChart("loss", "Loss", "number"),
    MetricChart("clip_fraction", "Clipped tokens", "share", alarming=True),
    MetricChart("mismatch", "Log-probability gap of engine and trainer", "number", alarming=True),
    MetricChart("kl_coef", "Coefficient of the KL in the reward", "number"),
    MetricChart(
        "critic/explained_variance", "Variance of the returns that the critic explains", "number"
    ),
    MetricChart("critic/loss", "Loss of the critic", "number"),
    MetricChart("critic/clip_fraction", "Clipped values of the critic", "share", alarming=True),
    MetricChart("time/tokens_per_second", "Generated tokens per second", "number"),
    MetricChart("time/tokens_per_pass", "Tokens of a response per pass of the model", "number"),
    MetricChart("time/guesses_held", "Share of guessed tokens that held", "share"),
)


def make_run_charts(run: RunData, saturated: int | None = None) -> list[Chart]:
    """Return the charts of a run, those with nothing to show left out.

    `saturated` is the step to mark in the first.
    """
    charts = [_chart_accuracy(run, saturated), _chart_reward(run), _chart_format(run)]
    for shown in METRIC_CHARTS:
        points = plot_metric(run.metrics, shown.metric)
        if shown.alarming and not any(value for _, value in points):
            continue
        series = [Series(shown.title, points)]
        charts.append(
            make_chart(shown.title, series, shown.unit, cold_start_steps=run.cold_start_steps)
        )
    return list(filter(None, charts))


def _chart_accuracy(run: RunData, saturated: int | None) -> Chart | None:
    series = []
    for color, benchmark in enumerate(run.benchmarks[:MOST_BENCHMARKS]):
        series.append(plot_accuracy(run.evals_of(benchmark), benchmark, color))
    series.append(Series("training", plot_metric(run.metrics, "accuracy"), TRAINING_COLOR))
    return make_chart(
        "Accuracy: held-out problems with 95 % interval, and training rollouts",
        series,
        "share",
        cold_start_steps=run.cold_start_steps,
        saturated=saturated,
        wide=True,
    )


def _chart_reward(run: RunData) -> Chart | None:
    """Return the reward with its parts, where it has several."""
    names: dict[str, None] = {}  # in the order in which they appear
    for record in run.metrics:
        names |= dict.fromkeys(record.reward_parts)
    title = "Reward"
    series = [Series("reward", plot_metric(run.metrics, "reward"))]
    if len(names) > 1:
        title = "Reward and its parts"
        for index, name in enumerate(names):
            points = plot_metric(run.metrics, f"reward_parts/{name}")
            series.append(Series(name, points, 1 + index % COLORS))
    return make_chart(title, series, cold_start_steps=run.cold_start_steps)


def _chart_format(run: RunData) -> Chart | None:
    held_out = [(float(record.step), record.metric("formatted")) for record in run.held_out_evals]
    series = [
        Series("training", plot_metric(run.metrics, "formatted"), TRAINING_COLOR),
        Series("held-out", held_out, dots=True),
    ]
    return make_chart(
        "Well-formed answers (boxed, tagged)",
        series,
        "share",
        cold_start_steps=run.cold_start_steps,
    )
