"""Texts of the display: a step, a sample, an evaluation, a run as people read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from rich import box
from rich.table import Column, Table
from rich.text import Text

from rlvr.report.formatting import (
    format_change,
    format_decimal,
    format_interval,
    format_percent,
    shorten,
)
from rlvr.storage.estimate import Estimate
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.sample_record import SampleRecord
from rlvr.storage.step_record import StepRecord
from rlvr.storage.summary import BeforeAfter

Figure = tuple[str, str]  # its name and its value
SEPARATOR = " · "
ANSWER_LIMIT = 40  # letters of an answer or a gold
NAME_LIMIT = 80  # letters of the name of a benchmark
PREVIEW_LIMIT = 48  # letters of a question or a response on one line


def describe_phase(record: StepRecord) -> str:
    return record.phase.replace("_", " ")


def list_figures(record: StepRecord, held_out: Sequence[float]) -> Iterator[Figure]:
    """Yield the figures of a step that were measured, and the accuracies of the held-out set."""
    reward = format_decimal(record.reward, 2)
    length = format_decimal(record.length, 1)
    loss = format_decimal(record.loss, 3)
    if reward is not None:
        yield "reward", reward
    if record.accuracy is not None:
        yield "accuracy", format_percent(record.accuracy)
    if length is not None:
        yield "length", length
    if loss is not None and record.is_cold_start:
        yield "loss", loss
    if record.tokens_per_second is not None:
        yield "tokens/s", f"{record.tokens_per_second:,.0f}"
    if held_out:
        yield "held-out", _describe_change(held_out)


def _describe_change(accuracies: Sequence[float]) -> str:
    """Return the first and the last accuracy: "38 % → 72 %"."""
    last = format_percent(accuracies[-1])
    if len(accuracies) == 1:
        return last
    return f"{format_percent(accuracies[0])} → {last}"


def describe_evaluation(record: EvalRecord) -> str:
    """Return the accuracy of an evaluation with its interval in one line."""
    parts = [
        f"{record.benchmark} at step {record.step}: {format_percent(record.metric('pass@1'))} correct"
    ]
    accuracy = record.accuracy
    if accuracy is not None and accuracy.ci95:
        parts.append(f"95 % interval {format_interval(accuracy.ci95)}")
    if record.counts.problems:
        parts.append(f"{record.counts.problems} problems")
    return SEPARATOR.join(parts)


def describe_sample(sample: SampleRecord) -> str:
    """Return a sample in one line: verdict, question, response."""
    question = shorten(sample.question, PREVIEW_LIMIT)
    text = shorten(sample.text, PREVIEW_LIMIT)
    return f"{_mark(sample)} {question} → {text}"


def describe_verdict(sample: SampleRecord) -> str:
    """Return how a sample was judged: "✗ wrong, answer 7, expected 8, reward 0.00"."""
    parts = [sample.status.replace("_", " ")]
    if sample.answer is not None:
        parts.append(f"answer {shorten(sample.answer, ANSWER_LIMIT)}")
    if sample.gold and not sample.correct:
        parts.append(f"expected {shorten(sample.gold, ANSWER_LIMIT)}")
    reward = format_decimal(sample.reward, 2)
    if reward is not None:
        parts.append(f"reward {reward}")
    return f"{_mark(sample)} {', '.join(parts)}"


def _mark(sample: SampleRecord) -> str:
    if sample.correct:
        return "✓"
    return "✗"


def tabulate_evals(
    title: str,
    evals: Mapping[str, BeforeAfter],
    adapt: Callable[[str], str],
) -> Table:
    """Return the table of accuracy before and after a run; a cold start has its own column.

    `adapt` makes a text one that the output can show.
    """
    has_cold_start = any(change.after_cold_start is not None for change in evals.values())
    headings = ["before", "after", "gain (points)"]
    if has_cold_start:
        headings.insert(1, "cold start")
    table = Table(
        "benchmark",
        *[Column(heading, justify="right") for heading in headings],
        title=Text(adapt(title)),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    for name, change in evals.items():
        cells = _list_cells(name, change, has_cold_start)
        table.add_row(*[_adapt_lines(cell, adapt) for cell in cells])
    return table


def _adapt_lines(cell: str, adapt: Callable[[str], str]) -> Text:
    """Return a cell of several lines, each of them adapted; as a Text it holds no markup."""
    return Text("\n".join(map(adapt, cell.split("\n"))))


def _list_cells(name: str, change: BeforeAfter, has_cold_start: bool) -> Iterator[str]:
    show_accuracy = partial(format_percent, digits=1)
    yield _describe_benchmark(name, change)
    yield _describe_estimate(change.before, show_accuracy)
    if has_cold_start:
        yield _describe_estimate(change.after_cold_start, show_accuracy)
    yield _describe_estimate(change.after, show_accuracy)
    yield _describe_estimate(change.gain, format_change)


def _describe_benchmark(name: str, change: BeforeAfter) -> str:
    accuracy = change.after or change.before
    if accuracy is None or not accuracy.n:
        return shorten(name, NAME_LIMIT)
    return f"{shorten(name, NAME_LIMIT)}\n{accuracy.n} problems"


def _describe_estimate(estimate: Estimate | None, show: Callable[[float], str]) -> str:
    """Return an accuracy or a gain with its interval below; "-" where there is none."""
    if estimate is None:
        return "-"
    if not estimate.ci95:
        return show(estimate.value)
    return f"{show(estimate.value)}\n{format_interval(estimate.ci95)}"
