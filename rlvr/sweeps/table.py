"""The table of a sweep: arms beside the baseline, on the terminal and as pages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Column, Table

from rlvr.report.charts import Chart, Series, make_chart
from rlvr.report.formatting import format_change, format_interval
from rlvr.report.rendering import format_percent, load_template, write_page
from rlvr.storage.estimate import Estimate
from rlvr.storage.sweep_result import ArmFigures, ArmResult, SweepResult
from rlvr.sweeps.figures import compare_arms

if TYPE_CHECKING:
    from rlvr.sweeps.planning import Plan

EXPLAINED = "Accuracy in percent, changes in points, with 95 % intervals over problems and seeds."
NONE = "\N{EN DASH}"
COLORS = 5  # of arms
BASELINE_COLOR = 5


class Cells(NamedTuple):
    """The heads and rows of the table as texts, with a line break before each interval."""

    heads: list[str]
    rows: list[list[str]]


def publish(plan: Plan, missing: Mapping[Path, str]) -> dict[str, Any]:
    """Write `sweep.json`, `table.md` and `sweep.html` from the finished runs of a sweep, and print
    the table.

    `missing` says of the others why they are not finished. Returns what `sweep.json` holds.
    """
    result = compare_arms(plan, missing)
    cells = _make_cells(result, len(plan.sweep.seeds))
    row = result.dump_row()
    write_page(plan.folder / "sweep.json", json.dumps(row, indent=1, ensure_ascii=False) + "\n")
    finished: dict[str, ArmResult] = {}
    arm_rows: dict[str, Any] = {}
    for name, arm in result.arms.items():
        if arm.figures is not None:
            finished[name] = arm
            arm_rows[name] = arm.dump_row()
    view = {
        "plan": plan,
        "found": result,
        "heads": cells.heads,
        "rows": cells.rows,
        "explained": EXPLAINED,
        "arms": arm_rows,
        "curves": _draw_curves(finished, plan.baseline),
    }
    write_page(plan.folder / "table.md", load_template("table.md.j2").render(**view))
    page = plan.folder / "sweep.html"
    write_page(page, load_template("sweep.html.j2").render(**view))
    _print_table(result, cells, page)
    return row


def _make_cells(result: SweepResult, seeds: int) -> Cells:
    heads = [
        "arm",
        "seeds",
        "before",
        "after",
        "gain",
        f"against {result.baseline}",
        "well-formed",
        "right among these",
        "gain by form",
        "training, end",
    ]
    rows: list[list[str]] = []
    for name, arm in result.arms.items():
        row = [name, _describe_seeds(arm, seeds)]
        if arm.figures is None:
            row += [NONE] * (len(heads) - len(row))
        else:
            row += _describe_figures(arm.figures)
        rows.append(row)
    return Cells(heads, rows)


def _describe_seeds(arm: ArmResult, seeds: int) -> str:
    done = len(arm.seeds)
    if done == seeds:
        return f"{done}"
    return f"{done} of {seeds}"


def _describe_figures(figures: ArmFigures) -> list[str]:
    return [
        _describe_level(figures.before.accuracy),
        _describe_level(figures.after.accuracy),
        _describe_change(figures.gain),
        _describe_change(figures.difference),
        _describe_pair(figures.formatted),
        _describe_pair(figures.accuracy_formatted),
        format_change(figures.gain_split.form),
        format_percent(figures.training_accuracy),
    ]


def _describe_level(level: Estimate) -> str:
    return f"{100 * level.value:.1f}\n{format_interval(_interval_of(level))}"


def _describe_change(change: Estimate | None) -> str:
    if change is None:
        return NONE
    return f"{format_change(change.value)}\n{format_interval(_interval_of(change))}"


def _interval_of(estimate: Estimate) -> Sequence[float]:
    assert estimate.ci95 is not None, "every estimate of a sweep has one"
    return estimate.ci95


def _describe_pair(shares: Iterable[float | None]) -> str:
    """Return the share before and that after: "40 % → 80 %"."""
    texts: list[str] = []
    for share in shares:
        texts.append(NONE if share is None else format_percent(share))
    return " → ".join(texts)


def _print_table(result: SweepResult, cells: Cells, page: Path) -> None:
    """Print the table in two parts, which fit a terminal of 80 letters."""
    out = Console(highlight=False)
    title = f"{result.name}: {result.benchmark}"
    out.print(_make_part(cells, range(6), title))
    out.print(_make_part(cells, (0, *range(6, len(cells.heads)))))
    out.print(EXPLAINED, markup=False, soft_wrap=True)
    for name, reason in result.missing.items():
        out.print(f"{name} is not finished: {reason}", markup=False, soft_wrap=True)
    out.print(f"figure: {page}", markup=False, soft_wrap=True)


def _make_part(cells: Cells, chosen: Sequence[int], title: str | None = None) -> Table:
    """Return some columns of the table."""
    columns: list[Column] = []
    for number in chosen:
        column = Column(cells.heads[number], justify="right", overflow="fold")
        if number == 0:
            column.justify = "left"
        columns.append(column)
    part = Table(
        *columns,
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    for row in cells.rows:
        part.add_row(*(row[number] for number in chosen))
    return part


def _draw_curves(arms: Mapping[str, ArmResult], baseline: str) -> list[Chart | None]:
    """Return one chart an arm beside the baseline, all on one scale."""
    series: list[Series] = []
    for number, (name, arm) in enumerate(arms.items()):
        assert arm.figures is not None, "only finished arms are drawn"
        series.append(_make_series(name, arm.figures, number % COLORS))
    highest: list[float] = []
    in_grey: list[Series] = []
    for one in series:
        for _, high in one.band.values():
            highest.append(high)
        if one.name == baseline:
            in_grey.append(replace(one, color=BASELINE_COLOR))
    top = max(highest, default=1.0)
    curves: list[Chart | None] = []
    for one in series:
        drawn = [one]
        if one.name != baseline:
            drawn += in_grey
        curves.append(make_chart(one.name, drawn, "share", top=top))
    return curves


def _make_series(name: str, figures: ArmFigures, color: int) -> Series:
    points: list[tuple[float, float]] = []
    band: dict[float, Sequence[float]] = {}
    for point in figures.curve:
        points.append((point.step, point.accuracy.value))
        band[point.step] = _interval_of(point.accuracy)
    return Series(name, points, color, dots=True, band=band)
