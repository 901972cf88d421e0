"""Curves with their scales and labels, as a page draws them.

`report/templates/charts.html.j2` draws them as inline SVG that needs neither script nor network.
Places are percent of a drawing, so that it is as wide as its page lets it be while its text keeps
its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.step_record import StepRecord

Unit = Literal["share", "number"]
Point = tuple[float, float | None]
Range = tuple[float, float]

LETTER = 7.2  # width of a letter of a label in pixels, about
LABEL = 12  # letters of a name that a label has room for
LABEL_HEIGHT = 14  # pixels
SMOOTH_FROM = 12  # curves with at least so many points get a running mean
ROUND_STEPS = (1, 2, 2.5, 5, 10)  # between ticks, times a power of ten


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    `dots` marks every point of few, measured values; otherwise many points get a running mean.
    """

    name: str
    points: Sequence[Point]
    color: int = 0
    dots: bool = False
    band: Mapping[float, Sequence[float]] = field(default_factory=dict)  # low and high at x

    @property
    def known(self) -> list[tuple[float, float]]:
        """The points that have a value."""
        return [(x, y) for x, y in self.points if y is not None]

    @property
    def smooth(self) -> bool:
        """Whether a running mean is drawn over the points."""
        return not self.dots and len(self.known) >= SMOOTH_FROM

    @property
    def line(self) -> Sequence[Point]:
        """What is drawn strong: the points or their running mean."""
        return compute_running_mean(self.known) if self.smooth else self.points

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
    x_range: Range
    y_range: Range
    cold_start_steps: int = 0
    saturated: int | None = None
    wide: bool = False

    @property
    def height(self) -> int:
        """Height between the axes, in pixels."""
        return 282 if self.wide else 162

    def place_x(self, value: float) -> float:
        """Return the place of a step from the left, in percent."""
        return place_on_scale(value, self.x_range)

    def place_y(self, value: float) -> float:
        """Return the place of a value from the top, in percent."""
        return 100 - place_on_scale(value, self.y_range)

    def show(self, value: float) -> str:
        """Return a value as people read it."""
        return format_value(value, self.unit)

    def list_ticks(self) -> tuple[list[float], list[float]]:
        """Return where numbers stand below and beside the drawing."""
        across = 7 if self.wide else 5
        up = 6 if self.wide else 4
        return list_ticks(*self.x_range, across, whole=True), list_ticks(*self.y_range, up)

    def measure_margins(self) -> tuple[float, float]:
        """Return the pixels that the numbers need at the left and the labels at the right."""
        _, ticks = self.list_ticks()
        numbers = map(self.show, ticks)
        labels = map(self.make_label, self.series)
        left = LETTER * max(map(len, numbers)) + 4
        right = LETTER * max(map(len, labels)) + 12
        return max(left, 40.0), max(right, 46.0)

    def make_label(self, one: Series) -> str:
        """Return the value at the end of a curve, with its name where there are several."""
        value = self.show(one.end)
        if len(self.series) == 1:
            return value
        name = one.name
        if len(name) > LABEL:
            name = name[: LABEL - 1] + "…"
        return f"{name} {value}"

    def place_labels(self) -> list[tuple[float, Series]]:
        """Return the curves with the places of their labels, pushed apart where they overlap."""
        gap = 100 * LABEL_HEIGHT / self.height
        ranked = sorted(self.series, key=lambda one: self.place_y(one.end))
        labels = []
        above = -100.0
        for index, one in enumerate(ranked):
            above = max(self.place_y(one.end), above + gap)
            lowest = 99 - gap * (len(ranked) - 1 - index)  # which leaves room for those below
            labels.append((min(above, lowest), one))
        return labels

    def draw_path(self, points: Sequence[Point]) -> str:
        """Return an SVG path on a square of 100, broken where a value is missing."""
        commands = []
        pen = "M"
        for x, y in points:
            if y is None:
                pen = "M"
                continue
            commands.append(f"{pen}{self.place_x(x):.2f} {self.place_y(y):.2f}")
            pen = "L"
        return "".join(commands)


def make_chart(
    title: str,
    series: Sequence[Series],
    unit: Unit = "number",
    top: float | None = None,
    *,
    cold_start_steps: int = 0,
    saturated: int | None = None,
    wide: bool = False,
) -> Chart | None:
    """Return the curves that have a known point on scales that hold them; None where none has one.

    Charts that share a `top` share their scale.
    """
    shown: list[Series] = []
    steps: list[float] = []
    values: list[float] = []
    for one in series:
        if not one.known:
            continue
        shown.append(one)
        for step, value in one.known:
            steps.append(step)
            values.append(value)
        for ends in one.band.values():
            values.extend(ends)
    if not shown:
        return None
    first = min(steps)
    highest = max(values) if top is None else top
    return Chart(
        title=title,
        series=shown,
        unit=unit,
        x_range=(first, max(*steps, first + 1)),
        y_range=_choose_scale(min(values), highest, unit),
        cold_start_steps=cold_start_steps,
        saturated=saturated,
        wide=wide,
    )


def _choose_scale(low: float, high: float, unit: Unit) -> Range:
    """Return a scale with room around its values; it begins at 0 where they are not far from it."""
    if unit == "share":
        return 0.0, min(1.0, max(high * 1.08, 0.1))
    if low >= 0 and low < 0.6 * high:
        low = 0.0
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    if low == 0.0:
        return low, high + pad
    return low - pad, high + pad


def plot_metric(steps: Iterable[StepRecord], metric: str) -> list[Point]:
    """Return a metric over the steps; None where it is absent or not finite."""
    return [(float(record.step), record.metric(metric)) for record in steps]


def plot_accuracy(evals: Sequence[EvalRecord], name: str, color: int = 0) -> Series:
    """Return the accuracy of one benchmark with its interval."""
    points: list[Point] = []
    band: dict[float, Sequence[float]] = {}
    for record in evals:
        step = float(record.step)
        points.append((step, record.metric("pass@1")))
        if "pass@1" in record.ci95:
            band[step] = record.ci95["pass@1"]
    return Series(name, points, color, dots=True, band=band)


def compute_running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the mean over a window of about a seventh of the points.   [n] -> [n]

    The window is narrower at the ends.
    """
    reach = max(1, len(points) // 14)
    values = [y for _, y in points]
    means = []
    for index, (x, _) in enumerate(points):
        window = values[max(0, index - reach) : index + reach + 1]
        means.append((x, sum(window) / len(window)))
    return means


def place_on_scale(value: float, scale: Range) -> float:
    """Return where a value lies between two others, in percent."""
    return 100 * (value - scale[0]) / (scale[1] - scale[0])


def list_ticks(low: float, high: float, wanted: int, whole: bool = False) -> list[float]:
    """Return round numbers inside a range.

    >>> list_ticks(0, 1, 4), list_ticks(0, 30, 5, whole=True)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 10.0, 20.0, 30.0])
    """
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = _choose_step(rough, unit)
    if whole:
        step = max(float(math.ceil(step)), 1.0)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    ticks = []
    for index in range(first, last + 1):
        ticks.append(round(index * step, 12) + 0.0)  # so that none is -0.0
    return ticks


def _choose_step(least: float, unit: float) -> float:
    """Return a round distance of ticks, of about this size or the next larger one."""
    for factor in ROUND_STEPS:
        if unit * factor >= least * 0.999:
            break
    return unit * factor


def format_value(value: float, unit: Unit) -> str:
    """Return a number as people read it.

    >>> format_value(0.384, "share"), format_value(0.0123, "share")
    ('38 %', '1.2 %')
    >>> format_value(12345, "number"), format_value(0.0042, "number")
    ('12,345', '0.0042')
    """
    if unit == "share":
        percent = 100 * value
        if 0 < abs(value) < 0.0995 and round(percent, 1) != round(percent):
            return f"{percent:.1f} %"
        return f"{percent:.0f} %"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1e-4 or value == 0:
        return f"{float(f'{value:.3g}'):.10g}"
    return f"{value:.1e}"
