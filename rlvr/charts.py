"""Line charts as inline SVG that needs neither script nor network, and the list of charts that a run is shown by.

Colours are CSS variables (`--c0` and so on) of the page. A drawing is about as wide as a phone, so that its text stays
legible there; wider pages put several side by side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from markupsafe import Markup

from rlvr.progress import number

Unit = Literal["share", "number"]
Point = tuple[float, float | None]
WIDTH, HEIGHT = 360, 200
LETTER = 6.8  # width of a letter of a label, about
SMOOTH_FROM = 12  # curves with at least so many points get a running mean
TOOLTIPS = 150

# Key of a step's record, heading, unit. Reward, accuracy and the shares with an evaluation of their own come apart.
PLAIN: tuple[tuple[str, str, Unit], ...] = (
    ("length", "Response length, tokens", "number"),
    ("truncated", "Truncated responses", "share"),
    ("no_answer", "Responses without an answer", "share"),
    ("entropy", "Entropy per token", "number"),
    ("kl", "KL to the reference", "number"),
    ("no_signal", "Groups without signal", "share"),
    ("repetition", "Repeated phrases", "share"),
    ("foreign", "Letters outside ASCII", "share"),
    ("grad_norm", "Gradient norm", "number"),
    ("loss", "Loss", "number"),
    ("clipped", "Clipped tokens", "share"),
    ("mismatch", "Log-probability gap of engine and trainer", "number"),
    ("kl_coef", "Coefficient of the KL in the reward", "number"),
    ("critic/explained_variance", "Variance of the returns that the critic explains", "number"),
    ("critic/loss", "Loss of the critic", "number"),
    ("critic/clipped", "Clipped values of the critic", "share"),
)
ALARMING = (
    "no_answer",
    "repetition",
    "foreign",
    "clipped",
    "mismatch",
    "critic/clipped",
)  # not worth a chart while they are zero


@dataclass(frozen=True, slots=True)
class Series:
    """One curve; `dots` marks every point (few, measured values), otherwise many points get a running mean."""

    name: str
    points: Sequence[Point]
    color: int = 0
    dots: bool = False
    band: Sequence[tuple[float, float, float]] = ()  # x, low, high

    @property
    def known(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.points if y is not None]


@dataclass(frozen=True, slots=True)
class Chart:
    """A heading with its drawing; `wide` is a second drawing for wide pages."""

    title: str
    svg: Markup
    wide: Markup | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """Where data coordinates lie in the drawing."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    size: tuple[int, int]
    left: float
    right: float

    top = 12
    bottom = 26

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.size[0] - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.size[1] - self.bottom - (value - low) / (high - low) * (self.size[1] - self.top - self.bottom)


def run_charts(
    metrics: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]], saturated: int | None = None
) -> list[Chart]:
    """The charts of one run, those with nothing to show left out; `saturated` is the step to mark in the first."""
    cold = max((record["step"] for record in metrics if record.get("phase") == "cold_start"), default=0)
    charts = [
        _accuracy_chart(metrics, evals, cold, saturated),
        _reward_chart(metrics, cold),
        _format_chart(metrics, evals, cold),
    ]
    for key, title, unit in PLAIN:
        points = column(metrics, *key.split("/"))
        if key in ALARMING and not any(y for _, y in points):
            continue
        charts.append(_chart(title, [Series(title, points)], unit, cold))
    speed = [{"step": r["step"], "speed": (r.get("time") or {}).get("tokens_per_second")} for r in metrics]
    charts.append(_chart("Generated tokens per second", [Series("tokens/s", column(speed, "speed"))], "number", cold))
    return [chart for chart in charts if chart]


def heldout(evals: Iterable[Mapping[str, Any]], name: str, color: int = 0) -> Series:
    """Accuracy of one benchmark with its interval."""
    evals = list(evals)
    points = [(float(e["step"]), number((e.get("metrics") or {}).get("pass@1"))) for e in evals]
    intervals = [(float(e["step"]), (e.get("ci95") or {}).get("pass@1")) for e in evals]
    return Series(name, points, color, dots=True, band=[(x, ci[0], ci[1]) for x, ci in intervals if ci])


def compared(title: str, series: Sequence[Series], top: float | None = None) -> Chart | None:
    """Curves of several runs over each other; charts that share a `top` have the same scale and are drawn small."""
    return _chart(title, series, "share", 0, wide=top is None, top=top)


def forest(title: str, rows: Sequence[tuple[str, int, float, float, float]]) -> Chart | None:
    """Changes with their intervals below each other, beside a line at no change.   [(name, color, value, low, high)]"""
    if not rows:
        return None
    return Chart(title, _forest(title, rows, 360), _forest(title, rows, 1040))


def _change(value: float) -> str:
    """A change with its sign.   12.5 -> "+12.5", 0.0 -> "0" """
    return f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _forest(title: str, rows: Sequence[tuple[str, int, float, float, float]], width: int) -> Markup:
    left = LETTER * max(len(name) for name, *_ in rows) * (1.15 if width > WIDTH else 1.0) + 10
    low, high = min(0.0, *(r[3] for r in rows)), max(0.0, *(r[4] for r in rows))
    pad = 0.04 * (high - low) or 1.0
    base = 12 + 26 * len(rows)
    frame = Frame((low - pad, high + pad), (0.0, 1.0), (width, base + 26), left, 10)
    parts = [f'<svg viewBox="0 0 {width} {base + 26}" role="img" aria-label="{escape(title)}">']
    for tick in ticks(*frame.x_range, 5 if width <= WIDTH else 10):
        x = frame.x(tick)
        parts.append(f'<line class="{"axis" if tick == 0 else "grid"}" x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{base}"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 17}" text-anchor="middle">{_change(tick)}</text>')
    for i, (name, hue, value, below, above) in enumerate(rows):
        y, color = 22 + 26 * i, f"var(--c{hue})"
        text = escape(f"{name}: {value:+.1f} [{below:+.1f}, {above:+.1f}]")
        parts.append(
            f'<text class="label" style="fill:{color}" x="0" y="{y + 4}">{escape(name)}</text>'
            f'<g style="stroke:{color};fill:{color}"><title>{text}</title>'
            f'<line class="interval" x1="{frame.x(below):.1f}" x2="{frame.x(above):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle cx="{frame.x(value):.1f}" cy="{y}" r="5"/></g>'
        )
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 - built from escaped parts


def column(records: Iterable[Mapping[str, Any]], key: str, part: str | None = None) -> list[Point]:
    """One key of the records over the steps; None where it is absent or not a number."""
    values = [(float(record["step"]), record.get(key)) for record in records]
    return [(x, number(v.get(part) if part and isinstance(v, Mapping) else v)) for x, v in values]


def _accuracy_chart(metrics: Any, evals: Sequence[Mapping[str, Any]], cold: int, saturated: int | None) -> Chart | None:
    names = list(dict.fromkeys(e["benchmark"] for e in evals))
    series = [heldout([e for e in evals if e["benchmark"] == name], name, i) for i, name in enumerate(names[:5])]
    series.append(Series("training", column(metrics, "accuracy"), 5))
    title = "Accuracy: held-out problems with 95 % interval, and training rollouts"
    return _chart(title, series, "share", cold, True, saturated)


def _reward_chart(metrics: Sequence[Mapping[str, Any]], cold: int) -> Chart | None:
    parts = list(dict.fromkeys(part for record in metrics for part in record.get("reward_parts") or ()))
    series = [Series("reward", column(metrics, "reward"), 0)]
    if len(parts) > 1:
        series += [Series(part, column(metrics, "reward_parts", part), 1 + i % 5) for i, part in enumerate(parts)]
    return _chart("Reward and its parts" if len(parts) > 1 else "Reward", series, "number", cold)


def _format_chart(metrics: Any, evals: Sequence[Mapping[str, Any]], cold: int) -> Chart | None:
    first = [e for e in evals if e["benchmark"] == evals[0]["benchmark"]]
    points = [(float(e["step"]), number((e.get("metrics") or {}).get("formatted"))) for e in first]
    series = [Series("training", column(metrics, "formatted"), 5), Series("held-out", points, 0, dots=True)]
    return _chart("Well-formed answers (boxed, tagged)", series, "share", cold)


def _chart(
    title: str,
    series: Sequence[Series],
    unit: Unit,
    cold: int,
    wide: bool = False,
    saturated: int | None = None,
    top: float | None = None,
) -> Chart | None:
    series = [one for one in series if one.known]
    if not series:
        return None
    marks = {"cold": cold, "saturated": saturated}
    svg = line_chart(title, series, unit, **marks, top=top)
    return Chart(title, svg, line_chart(title, series, unit, **marks, size=(1040, 320)) if wide else None)


def line_chart(
    title: str,
    series: Sequence[Series],
    unit: Unit,
    *,
    cold: int = 0,
    saturated: int | None = None,
    top: float | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Markup:
    """Draw curves with axes, direct labels and tooltips; every series has at least one known point."""
    frame = _frame(series, unit, size, top)
    axes, labels = _axes(frame, unit), _labels(frame, series, unit)
    shade = (_cold_start(frame, cold) if cold else "") + _saturated(frame, saturated)
    curves = [_band(frame, one) + _curve(frame, one) for one in reversed(series)]  # the first lies on top
    tips = [_tooltips(frame, one, unit, named=len(series) > 1) for one in series]
    ends = ", ".join(f"{s.name} from {show(s.known[0][1], unit)} to {show(s.known[-1][1], unit)}" for s in series)
    head = f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(f"{title}: {ends}")}">'
    return Markup("".join([head, shade, axes, *curves, labels, *tips, "</svg>"]))  # noqa: S704 - built from escaped parts


def _frame(series: Sequence[Series], unit: Unit, size: tuple[int, int], top: float | None = None) -> Frame:
    xs = [x for one in series for x, _ in one.known]
    ys = [y for one in series for _, y in one.known] + [y for one in series for band in one.band for y in band[1:]]
    low, high = min(ys), max(ys) if top is None else top
    if unit == "share":
        low, high = 0.0, min(1.0, max(high * 1.08, 0.1))
    elif low >= 0 and low < 0.6 * high:
        low = 0.0
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    y_range = (low if low == 0.0 else low - pad, high if unit == "share" else high + pad)
    x_low, x_high = min(xs), max(xs)
    longest = max(len(_label(one, series, unit)) for one in series)
    numbers = max(len(show(tick, unit)) for tick in ticks(*y_range, _rows(size)))
    letter = LETTER * (1.15 if size[0] > WIDTH else 1.0)  # the page sets the text of wide drawings larger
    margins = max(letter * numbers + 4, 40.0), max(letter * longest + 12, 46.0)
    return Frame((x_low, max(x_high, x_low + 1)), y_range, size, *margins)


def _rows(size: tuple[int, int]) -> int:
    return 4 if size[1] < 250 else 6


def _axes(frame: Frame, unit: Unit) -> str:
    left, right, base = frame.left, frame.size[0] - frame.right, frame.size[1] - frame.bottom
    parts = []
    for tick in ticks(*frame.y_range, _rows(frame.size)):
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{show(tick, unit)}</text>')
    for tick in ticks(*frame.x_range, 5 if frame.size[0] < 500 else 10, whole=True):
        parts.append(f'<text x="{frame.x(tick):.1f}" y="{base + 17}" text-anchor="middle">{tick:.0f}</text>')
    parts.append(f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text x="{right + 16:.1f}" y="{base + 17}">step</text>')
    return "".join(parts)


def _cold_start(frame: Frame, cold: int) -> str:
    left, edge = frame.x(frame.x_range[0]), frame.x(min(max(cold, frame.x_range[0]), frame.x_range[1]))
    height = frame.size[1] - frame.top - frame.bottom
    if edge <= left:
        return ""
    rect = f'<rect class="cold" x="{left:.1f}" y="{frame.top}" width="{edge - left:.1f}" height="{height}"/>'
    room = edge - left > 10 * LETTER
    return rect + (f'<text class="soft" x="{left + 6:.1f}" y="{frame.top + 13}">cold start</text>' if room else "")


def _saturated(frame: Frame, step: int | None) -> str:
    """A dashed line where training accuracy has saturated."""
    if step is None or not frame.x_range[0] <= step <= frame.x_range[1]:
        return ""
    x, base = frame.x(step), frame.size[1] - frame.bottom
    line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{base}"/>'
    return line + f'<text class="soft" x="{x + 5:.1f}" y="{base - 6}">training saturated</text>'


def _band(frame: Frame, series: Series) -> str:
    if len(series.band) < 2:
        return "".join(
            f'<line style="stroke:var(--c{series.color})" x1="{frame.x(x):.1f}" x2="{frame.x(x):.1f}" '
            f'y1="{frame.y(low):.1f}" y2="{frame.y(high):.1f}"/>'
            for x, low, high in series.band
        )
    edge = [(x, high) for x, _, high in series.band] + [(x, low) for x, low, _ in reversed(series.band)]
    points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in edge)
    return f'<polygon class="band" style="fill:var(--c{series.color})" points="{points}"/>'


def _curve(frame: Frame, series: Series) -> str:
    color = f"var(--c{series.color})"
    known = series.known
    if series.dots or len(known) < 2:
        dots = (f'<circle style="fill:{color}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3.5"/>' for x, y in known)
        return _path(frame, series.points, "line", color) + "".join(dots)
    if len(known) < SMOOTH_FROM:
        return _path(frame, series.points, "line", color)
    return _path(frame, series.points, "raw", color) + _path(frame, running_mean(known), "line", color)


def _path(frame: Frame, points: Sequence[Point], style: str, color: str) -> str:
    words, pen = [], "M"
    for x, y in points:
        if y is not None:
            words.append(f"{pen}{frame.x(x):.1f} {frame.y(y):.1f}")
        pen = "M" if y is None else "L"
    return f'<path class="{style}" style="stroke:{color}" d="{"".join(words)}"/>'


def _labels(frame: Frame, series: Sequence[Series], unit: Unit) -> str:
    """A label at the end of each curve, pushed apart where they would overlap."""
    wanted = sorted(((frame.y(end_value(one)), one) for one in series), key=lambda pair: pair[0])
    gap, lowest = 13.0 if frame.size[0] <= WIDTH else 16.0, frame.size[1] - frame.bottom - 2.0
    places: list[float] = []
    for y, _ in wanted:
        places.append(max(y, places[-1] + gap) if places else max(y, frame.top))
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], lowest - gap * (len(places) - 1 - index))
    return "".join(
        f'<text class="label" style="fill:var(--c{one.color})" x="{frame.x(one.known[-1][0]) + 8:.1f}" '
        f'y="{place + 4:.1f}">{escape(_label(one, series, unit))}</text>'
        for place, (_, one) in zip(places, wanted, strict=True)
    )


def _label(one: Series, series: Sequence[Series], unit: Unit) -> str:
    value = show(end_value(one), unit)
    name = one.name if len(one.name) <= 12 else one.name[:11] + "…"
    return f"{name} {value}" if len(series) > 1 else value


def end_value(series: Series) -> float:
    """What stands at the right end of a curve: the last value, or the running mean where one is drawn."""
    known = series.known
    return known[-1][1] if series.dots or len(known) < SMOOTH_FROM else running_mean(known)[-1][1]


def _tooltips(frame: Frame, series: Series, unit: Unit, named: bool) -> str:
    known = series.known
    every = max(1, math.ceil(len(known) / TOOLTIPS))
    intervals = {x: f" [{show(low, unit)}, {show(high, unit)}]" for x, low, high in series.band}
    name = f"{series.name}, " if named else ""
    texts = (escape(f"{name}step {x:.0f}: {show(y, unit)}{intervals.get(x, '')}") for x, y in known[::every])
    return "".join(
        f'<circle class="tip" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="7"><title>{text}</title></circle>'
        for (x, y), text in zip(known[::every], texts, strict=True)
    )


def strip(scores: Sequence[tuple[str, float, Sequence[float] | None]]) -> Markup:
    """Shares with their intervals on one line from 0 to 100 %, the last in colour.   [(name, share, interval)]"""
    parts = ['<line class="grid" x1="6" x2="194" y1="14" y2="14"/>']
    for index, (name, share, interval) in enumerate(scores):
        color = "var(--c0)" if index == len(scores) - 1 else "var(--soft)"
        low, high = interval or (share, share)
        text = escape(f"{name}: {show(share, 'share')} [{show(low, 'share')}, {show(high, 'share')}]")
        parts.append(
            f'<g style="stroke:{color};fill:{color}"><title>{text}</title>'
            f'<line class="interval" x1="{6 + 188 * low:.1f}" x2="{6 + 188 * high:.1f}" y1="14" y2="14"/>'
            f'<circle cx="{6 + 188 * share:.1f}" cy="14" r="5"/></g>'
        )
    return Markup(f'<svg class="strip" viewBox="0 0 200 28" aria-hidden="true">{"".join(parts)}</svg>')  # noqa: S704 - built from escaped parts


def running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean over a window of about a seventh of the points, narrower at the ends.   [n] -> [n]"""
    half = max(1, len(points) // 14)
    sums = [0.0, *itertools.accumulate(y for _, y in points)]
    spans = ((max(0, i - half), min(len(points), i + half + 1)) for i in range(len(points)))
    return [(x, (sums[b] - sums[a]) / (b - a)) for (x, _), (a, b) in zip(points, spans, strict=True)]


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
