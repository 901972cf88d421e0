"""What the charts of a page show: curves with their scales and labels, and the list of charts that
a run is shown by.

`report/templates/charts.html.j2` draws them as inline SVG that needs neither script nor network. Places are
percent of a drawing, so that it is as wide as its page lets it be while its text keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rlvr.resources import load_asset
from rlvr.storage.run_data import measured, number

Unit = Literal["share", "number"]


Point = tuple[float, float | None]


LETTER = 7.2  # width of a letter of a label in pixels, about


SMOOTH_FROM = 12  # curves with at least so many points get a running mean


# Reward, accuracy and the shares with an evaluation of their own come apart.
PLAIN: Sequence[Mapping[str, Any]] = load_asset("report/charts")


@dataclass(frozen=True, slots=True)
class Series:
    """One curve; `dots` marks every point (few, measured values), otherwise many points get a
    running mean.
    """

    name: str
    points: Sequence[Point]
    color: int = 0
    dots: bool = False
    band: Mapping[float, Sequence[float]] = field(default_factory=dict)  # low and high at x

    @property
    def known(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.points if y is not None]

    @property
    def smooth(self) -> bool:
        return not self.dots and len(self.known) >= SMOOTH_FROM

    @property
    def line(self) -> Sequence[Point]:
        """What is drawn strong: the points or their running mean."""
        return running_mean(self.known) if self.smooth else self.points

    @property
    def end(self) -> float:
        """What stands at the right end of the curve."""
        return [y for _, y in self.line if y is not None][-1]


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over the steps on one pair of scales; every curve has a known point."""

    title: str
    series: Sequence[Series]
    unit: Unit
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    cold: int = 0
    saturated: int | None = None
    wide: bool = False

    @property
    def height(self) -> int:
        """Height between the axes, in pixels."""
        return 282 if self.wide else 162

    def x(self, value: float) -> float:
        return scale_position(value, self.x_range)

    def y(self, value: float) -> float:
        return 100 - scale_position(value, self.y_range)

    def show(self, value: float) -> str:
        return show(value, self.unit)

    def ticks(self) -> tuple[list[float], list[float]]:
        """Where numbers stand below and beside the drawing."""
        across, up = (7, 6) if self.wide else (5, 4)
        return ticks(*self.x_range, across, whole=True), ticks(*self.y_range, up)

    def margins(self) -> tuple[float, float]:
        """Pixels that the numbers need at the left and the labels at the right."""
        numbers = max(len(self.show(tick)) for tick in self.ticks()[1])
        labels = max(len(self.label(one)) for one in self.series)
        return max(LETTER * numbers + 4, 40.0), max(LETTER * labels + 12, 46.0)

    def label(self, one: Series) -> str:
        name = one.name if len(one.name) <= 12 else one.name[:11] + "…"
        return f"{name} {self.show(one.end)}" if len(self.series) > 1 else self.show(one.end)

    def labels(self) -> list[tuple[float, Series]]:
        """The curves with the places of their labels, pushed apart where they would overlap."""
        gap, ranked, places = (
            1400 / self.height,
            sorted(self.series, key=lambda one: self.y(one.end)),
            [-100.0],
        )
        for one in ranked:
            places.append(max(self.y(one.end), places[-1] + gap))
        lowest = [99 - gap * below for below in reversed(range(len(ranked)))]
        return list(zip(map(min, places[1:], lowest), ranked, strict=True))

    def path(self, points: Sequence[Point]) -> str:
        """An SVG path on a square of 100, broken where a value is missing."""
        words, pen = [], "M"
        for x, y in points:
            if y is not None:
                words.append(f"{pen}{self.x(x):.2f} {self.y(y):.2f}")
            pen = "M" if y is None else "L"
        return "".join(words)


def chart(
    title: str,
    series: Sequence[Series],
    unit: Unit = "number",
    top: float | None = None,
    **marks: Any,
) -> Chart | None:
    """The curves that have a known point on scales that hold them, with marks as in `Chart`; charts
    that share a `top` share their scale.
    """
    series = [one for one in series if one.known]
    if not series:
        return None
    xs = [x for one in series for x, _ in one.known]
    ys = [y for one in series for _, y in one.known] + [
        y for one in series for ends in one.band.values() for y in ends
    ]
    low, high = min(ys), max(ys) if top is None else top
    if unit == "share":
        low, high = 0.0, min(1.0, max(high * 1.08, 0.1))
    elif low >= 0 and low < 0.6 * high:
        low = 0.0
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    y_range = (low if low == 0.0 else low - pad, high if unit == "share" else high + pad)
    return Chart(title, series, unit, (min(xs), max(*xs, min(xs) + 1)), y_range, **marks)


def run_charts(
    metrics: Sequence[Mapping[str, Any]],
    evals: Sequence[Mapping[str, Any]],
    saturated: int | None = None,
) -> list[Chart]:
    """The charts of one run, those with nothing to show left out; `saturated` is the step to mark
    in the first.
    """
    cold = max(
        (record["step"] for record in metrics if record.get("phase") == "cold_start"), default=0
    )
    names = list(dict.fromkeys(e["benchmark"] for e in evals))
    held = [
        heldout([e for e in evals if e["benchmark"] == name], name, i)
        for i, name in enumerate(names[:5])
    ]
    training = Series("training", column(metrics, "accuracy"), 5)
    parts = list(
        dict.fromkeys(part for record in metrics for part in record.get("reward_parts") or ())
    )
    paid = [
        Series(part, column(metrics, "reward_parts", part), 1 + i % 5)
        for i, part in enumerate(parts)
    ]
    reward = [Series("reward", column(metrics, "reward")), *(paid if len(parts) > 1 else [])]
    formatted = [
        (float(e["step"]), measured(e, "formatted")) for e in evals if e["benchmark"] == names[0]
    ]
    form = [
        Series("training", column(metrics, "formatted"), 5),
        Series("held-out", formatted, dots=True),
    ]
    title = "Accuracy: held-out problems with 95 % interval, and training rollouts"
    charts = [
        chart(title, [*held, training], "share", cold=cold, saturated=saturated, wide=True),
        chart("Reward and its parts" if len(parts) > 1 else "Reward", reward, cold=cold),
        chart("Well-formed answers (boxed, tagged)", form, "share", cold=cold),
    ]
    for row in PLAIN:
        points = column(metrics, *row["key"].split("/"))
        if not row.get("alarming") or any(y for _, y in points):
            charts.append(
                chart(row["title"], [Series(row["title"], points)], row["unit"], cold=cold)
            )
    return [chart for chart in charts if chart]


def heldout(evals: Sequence[Mapping[str, Any]], name: str, color: int = 0) -> Series:
    """Accuracy of one benchmark with its interval."""
    points = [(float(e["step"]), measured(e, "pass@1")) for e in evals]
    intervals = {float(e["step"]): (e.get("ci95") or {}).get("pass@1") for e in evals}
    return Series(name, points, color, dots=True, band={x: ci for x, ci in intervals.items() if ci})


def column(records: Iterable[Mapping[str, Any]], key: str, part: str | None = None) -> list[Point]:
    """One key of the records over the steps; None where it is absent or not a number."""
    values = [(float(record["step"]), record.get(key)) for record in records]
    return [(x, number(v.get(part) if part and isinstance(v, Mapping) else v)) for x, v in values]


def running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean over a window of about a seventh of the points, narrower at the ends.   [n] -> [n]"""
    window = np.ones(2 * max(1, len(points) // 14) + 1)
    sums = np.convolve([y for _, y in points], window, "same")
    means = sums / np.convolve(np.ones(len(points)), window, "same")
    return [(x, float(y)) for (x, _), y in zip(points, means, strict=True)]


def scale_position(value: float, span: tuple[float, float]) -> float:
    """Where a value lies between two others, in percent."""
    return 100 * (value - span[0]) / (span[1] - span[0])


def ticks(low: float, high: float, wanted: int, whole: bool = False) -> list[float]:
    """Round numbers inside a range.

    >>> ticks(0, 1, 4), ticks(0, 30, 5, whole=True)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 10.0, 20.0, 30.0])
    """
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    step = max(float(math.ceil(step)), 1.0) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, last + 1)]


def show(value: float, unit: Unit) -> str:
    """A number as people read it.

    >>> show(0.384, "share"), show(0.0123, "share"), show(12345, "number"), show(0.0042, "number")
    ('38 %', '1.2 %', '12,345', '0.0042')
    """
    if unit == "share":
        digits = 1 if 0 < abs(value) < 0.0995 and round(100 * value, 1) != round(100 * value) else 0
        return f"{100 * value:.{digits}f} %"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):.10g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"
