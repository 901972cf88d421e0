"""What a run shows while it runs: a live display on a terminal, one line a step elsewhere, the same
figures in both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from rlvr.report.formatting import MINUS, decimal, duration, interval_text, percent, shorten, signed
from rlvr.storage.run_data import number

RECENT = 8  # steps whose mean duration gives the time left


ASCII = str.maketrans({"→": "->", "✓": "ok", "✗": "no", "·": "|", "…": "...", MINUS: "-"})


class Progress:
    """The display of one run; leaving the `with` block restores the terminal whatever happened
    inside.
    """

    def __init__(
        self, name: str, total: int, out: Console | None = None, *, shown: bool = True
    ) -> None:
        self.name = name
        self.total = total
        self.out = out or Console(highlight=False, quiet=not shown)
        self._step = 0
        self._record: Mapping[str, Any] = {}
        self._sample: Mapping[str, Any] | None = None
        self._stage = ""
        self._stages: set[str] = set()
        self._accuracy: dict[str, list[float]] = {}
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._spinner = Spinner("dots" if self._unicode else "line")
        rich = (
            shown
            and self.out.is_terminal
            and not self.out.is_dumb_terminal
            and not self.out.is_jupyter
        )
        self._live = (
            Live(self, console=self.out, refresh_per_second=2, transient=True) if rich else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
            if self._step:  # the display is gone now; where the run stood stays readable
                self.note(self._line())

    def stage(self, text: str) -> None:
        """Say what is going on now; plain output repeats no text, so a stage of every step is
        printed once.
        """
        self._stage = text
        if not self._live and text not in self._stages:
            self.note(f"{text} …")
        self._stages.add(text)

    def step(self, record: Mapping[str, Any], sample: Mapping[str, Any] | None) -> None:
        """Show the figures of a finished step (a line of metrics.jsonl) and one of its rollouts."""
        seconds = number((record.get("time") or {}).get("step"))
        self._seconds.extend([seconds] if seconds is not None else [])
        self._step = int(record.get("step", self._step + 1))
        self._record, self._sample = record, sample
        if self._live:
            self._live.refresh()
        else:
            self.note(" · ".join(filter(None, [self._line(), self._short_sample()])))

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Print the result of an evaluation (a line of evals.jsonl), which stays above the live
        display.
        """
        benchmark, step = str(record.get("benchmark", "")), int(record.get("step", 0))
        accuracy = number((record.get("metrics") or {}).get("pass@1"))
        if accuracy is not None:
            self._accuracy.setdefault(benchmark, []).append(accuracy)
        problems = (record.get("counts") or {}).get("problems")
        figures = [f"{benchmark} at step {step}: {percent(accuracy)} correct"]
        interval = (record.get("ci95") or {}).get("pass@1")
        figures += [f"95 % interval {interval_text(interval)}"] if interval else []
        figures += [f"{problems} problems"] if problems else []
        self.note(" · ".join(figures), "bold")

    def note(self, text: str, style: str = "") -> None:
        """Print a line that stays."""
        self.out.print(Text(self._safe(text), style=style), soft_wrap=not self.out.is_terminal)

    def summary(self, summary: Mapping[str, Any], report: Path) -> None:
        """Print the table of before and after, and where the report lies."""
        if self._live:
            self._live.stop()
            self._live = None
        evals: Mapping[str, Any] = summary.get("evals") or {}
        columns = {"before": "before", "after_cold_start": "cold start", "after": "after"}
        if not any("after_cold_start" in result for result in evals.values()):
            del columns["after_cold_start"]
        numbers = [
            Column(heading, justify="right") for heading in (*columns.values(), "gain (points)")
        ]
        table = Table(
            "benchmark",
            *numbers,
            title=f"{self.name}: share of problems solved",
            box=box.SIMPLE_HEAD,
        )
        table.title_justify, table.title_style = "left", "bold"
        for name, result in evals.items():
            problems = (result.get("after") or result.get("before") or {}).get("n")
            about = f"{name}\n{problems} problems" if problems else name
            shares = (_scored(result.get(key), partial(percent, digits=1)) for key in columns)
            table.add_row(about, *shares, self._plain(_scored(result.get("gain"), signed)))
        self.out.print(table)
        self.note(
            f"{summary.get('steps', '?')} steps in {duration(number(summary.get('seconds')))}"
        )
        self.note(f"report: {report}", "bold")

    def __rich__(self) -> RenderableType:
        """The live display as it stands now."""
        width = self.out.width
        left = Column(no_wrap=True, overflow="ellipsis")
        head = Table.grid(left, Column(justify="right", no_wrap=True), expand=True)
        phase = str(self._record.get("phase", "")).replace("_", " ")
        title = Text.assemble(
            (self._safe(self.name), "bold"),
            f" step {self._step}/{self.total}",
            (f" {phase}", "dim"),
        )
        head.add_row(title, Text(self._left()))
        figures = [Text.assemble((f"{name} ", "dim"), value) for name, value in self._figures()]
        parts: list[RenderableType] = [
            head,
            Padding(ProgressBar(total=max(self.total, 1), completed=self._step), 0),
        ]
        parts += [Columns(figures, padding=(0, 3))] if figures else []
        if self._sample:
            parts.append(Padding(self._show_sample(width), (1, 0, 0, 0)))
        if self._stage:
            self._spinner.update(text=Text(self._safe(self._stage)))
            parts.append(Padding(self._spinner, (1, 0, 0, 0)))
        return Padding(Group(*parts), (1, 1, 0, 0))

    def _figures(self) -> list[tuple[str, str]]:
        record = self._record
        speed = number((record.get("time") or {}).get("tokens_per_second"))
        shown = {
            "reward": decimal(record.get("reward"), 2),
            "accuracy": percent(record["accuracy"])
            if number(record.get("accuracy")) is not None
            else None,
            "length": decimal(record.get("length"), 1),
            "loss": decimal(record.get("loss"), 3) if record.get("phase") == "cold_start" else None,
            "tokens/s": f"{speed:,.0f}" if speed is not None else None,
        }
        figures = [(name, value) for name, value in shown.items() if value is not None]
        for known in list(self._accuracy.values())[:1]:
            start = f"{percent(known[0])} → " if len(known) > 1 else ""
            figures.append(("held-out", start + percent(known[-1])))
        return figures

    def _line(self) -> str:
        phase = str(self._record.get("phase", "")).replace("_", " ")
        figures = [f"{name} {value}" for name, value in self._figures()]
        parts = [f"step {self._step}/{self.total}", phase, *figures, self._left()]
        return " · ".join(filter(None, parts))

    def _left(self) -> str:
        return (
            f"{duration(max(self.total - self._step, 0) * fmean(self._seconds))} left"
            if self._seconds
            else ""
        )

    def _show_sample(self, width: int) -> RenderableType:
        sample = self._sample or {}
        grid = Table.grid(
            Column(style="dim", no_wrap=True), Column(overflow="fold"), padding=(0, 1)
        )
        room = max(width - 12, 16)
        grid.add_row(
            "problem", Text(self._safe(shorten(str(sample.get("question", "")), 2 * room)))
        )
        grid.add_row("response", Text(self._safe(shorten(str(sample.get("text", "")), 4 * room))))
        style = "green" if sample.get("status") == "correct" else "red"
        grid.add_row(
            "verdict", Text(self._safe(f"{_mark(sample)} {_verdict(sample)}"), style=style)
        )
        return grid

    def _short_sample(self) -> str:
        if not self._sample:
            return ""
        question, text = (
            shorten(str(self._sample.get(key, "")), 48) for key in ("question", "text")
        )
        return f"{_mark(self._sample)} {question} → {text}"

    @property
    def _unicode(self) -> bool:
        return self.out.encoding.lower().startswith("utf")

    def _plain(self, text: str) -> str:
        return text if self._unicode else text.translate(ASCII)

    def _safe(self, text: str) -> str:
        """Text that this output can show: no control codes (model output may hold any), no letter
        it cannot encode.
        """
        text = "".join(letter if letter.isprintable() else " " for letter in text)
        text = self._plain(text)
        return text.encode(self.out.encoding, "replace").decode(self.out.encoding)


def _mark(sample: Mapping[str, Any]) -> str:
    return "✓" if sample.get("status") == "correct" else "✗"


def _verdict(sample: Mapping[str, Any]) -> str:
    words = [str(sample.get("status", "")).replace("_", " ")]
    if sample.get("answer") is not None:
        words.append(f"answer {shorten(str(sample['answer']), 40)}")
    if sample.get("status") != "correct" and sample.get("gold") is not None:
        words.append(f"expected {shorten(str(sample['gold']), 40)}")
    reward = decimal(sample.get("reward"), 2)
    return ", ".join([*words, f"reward {reward}"] if reward else words)


def _scored(result: Mapping[str, Any] | None, show: Callable[[float], str]) -> str:
    """Accuracy or a gain with its interval below."""
    value = number((result or {}).get("pass@1"))
    if result is None or value is None:
        return "-"
    return show(value) + (f"\n{interval_text(result['ci95'])}" if result.get("ci95") else "")
