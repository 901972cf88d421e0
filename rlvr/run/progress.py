"""What a run shows while it runs.

A live display on a terminal, one line a step elsewhere, the same figures in both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from rlvr.report.formatting import MINUS, format_duration, make_printable, shorten
from rlvr.run.display import (
    SEPARATOR,
    Figure,
    describe_evaluation,
    describe_phase,
    describe_sample,
    describe_verdict,
    list_figures,
    tabulate_evals,
)
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.sample_record import SampleRecord
from rlvr.storage.step_record import StepRecord
from rlvr.storage.summary import Summary

RECENT = 8  # steps whose mean duration gives the time left
ASCII = str.maketrans({"→": "->", "✓": "ok", "✗": "no", "·": "|", "…": "...", MINUS: "-"})


class Progress:
    """The display of one run.

    Leaving the `with` block restores the terminal whatever happened inside.
    """

    def __init__(
        self,
        name: str,
        total: int,
        out: Console | None = None,
        *,
        shown: bool = True,
    ) -> None:
        self.name = name
        self.total = total
        self.out = out or Console(highlight=False, quiet=not shown)
        self._record: StepRecord | None = None
        self._sample: SampleRecord | None = None
        self._stage = ""
        self._stages: set[str] = set()
        self._accuracies: dict[str, list[float]] = {}  # by benchmark, the held-out set first
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._spinner = Spinner("dots" if self._unicode else "line")
        self._live: Live | None = None
        if shown and self._can_live:
            self._live = Live(self, console=self.out, refresh_per_second=2, transient=True)

    @property
    def _can_live(self) -> bool:
        """Whether the output can be written over."""
        plain = self.out.is_dumb_terminal or self.out.is_jupyter
        return self.out.is_terminal and not plain

    @property
    def _unicode(self) -> bool:
        return self.out.encoding.lower().startswith("utf")

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
            if self._record:  # the display is gone now; where the run stood stays readable
                self.note(self._describe_step(self._record))

    def stage(self, text: str) -> None:
        """Say what is going on now; plain output repeats no text, so a stage of every step is
        printed once.
        """
        self._stage = text
        if not self._live and text not in self._stages:
            self.note(f"{text} …")
        self._stages.add(text)

    def step(self, record: StepRecord, sample: SampleRecord | None) -> None:
        """Show the figures of a finished step and one of its rollouts."""
        self._record = record
        self._sample = sample
        if record.seconds is not None:
            self._seconds.append(record.seconds)
        if self._live:
            self._live.refresh()
            return
        line = self._describe_step(record)
        if sample:
            line += SEPARATOR + describe_sample(sample)
        self.note(line)

    def evaluated(self, record: EvalRecord) -> None:
        """Print the result of an evaluation, which stays above the live display."""
        accuracy = record.metric("pass@1")
        if accuracy is not None:
            self._accuracies.setdefault(record.benchmark, []).append(accuracy)
        self.note(describe_evaluation(record), "bold")

    def note(self, text: str, style: str = "") -> None:
        """Print a line that stays."""
        self.out.print(Text(self._safe(text), style=style), soft_wrap=not self.out.is_terminal)

    def summary(self, summary: Summary, report: Path) -> None:
        """Print the table of before and after, and where the report lies."""
        if self._live:
            self._live.stop()
            self._live = None
        title = f"{self.name}: share of problems solved"
        self.out.print(tabulate_evals(title, summary.evals, self._safe))
        self.note(f"{summary.steps} steps in {format_duration(summary.seconds)}")
        self.note(f"report: {report}", "bold")

    def _describe_step(self, record: StepRecord) -> str:
        parts = [f"step {record.step}/{self.total}", describe_phase(record)]
        for name, value in self._list_figures(record):
            parts.append(f"{name} {value}")
        parts.append(self._describe_time_left())
        return SEPARATOR.join(filter(None, parts))

    def _list_figures(self, record: StepRecord) -> Iterator[Figure]:
        held_out = next(iter(self._accuracies.values()), [])
        return list_figures(record, held_out)

    def _describe_time_left(self) -> str:
        if not self._seconds:
            return ""
        steps = max(self.total - self._steps_done, 0)
        return f"{format_duration(steps * fmean(self._seconds))} left"

    @property
    def _steps_done(self) -> int:
        if self._record is None:
            return 0
        return self._record.step

    def __rich__(self) -> RenderableType:
        """The live display as it stands now."""
        bar = ProgressBar(total=max(self.total, 1), completed=self._steps_done)
        parts: list[RenderableType] = [self._render_head(), Padding(bar, 0)]
        if self._record:
            parts.append(self._render_figures(self._record))
        if self._sample:
            parts.append(Padding(self._render_sample(self._sample), (1, 0, 0, 0)))
        if self._stage:
            self._spinner.update(text=Text(self._safe(self._stage)))
            parts.append(Padding(self._spinner, (1, 0, 0, 0)))
        return Padding(Group(*parts), (1, 1, 0, 0))

    def _render_head(self) -> RenderableType:
        """Return the line above the bar: name, step and phase on the left, the time left on the
        right.
        """
        phase = ""
        if self._record:
            phase = describe_phase(self._record)
        title = Text.assemble(
            (self._safe(self.name), "bold"),
            f" step {self._steps_done}/{self.total}",
            (f" {phase}", "dim"),
        )
        head = Table.grid(
            Column(no_wrap=True, overflow="ellipsis"),
            Column(justify="right", no_wrap=True),
            expand=True,
        )
        head.add_row(title, Text(self._describe_time_left()))
        return head

    def _render_figures(self, record: StepRecord) -> RenderableType:
        figures: list[Text] = []
        for name, value in self._list_figures(record):
            figures.append(Text.assemble((f"{name} ", "dim"), value))
        return Columns(figures, padding=(0, 3))

    def _render_sample(self, sample: SampleRecord) -> RenderableType:
        grid = Table.grid(
            Column(style="dim", no_wrap=True),
            Column(overflow="fold"),
            padding=(0, 1),
        )
        line = max(self.out.width - 12, 16)  # letters beside the names of the rows
        question = shorten(sample.question, 2 * line)
        response = shorten(sample.text, 4 * line)
        style = "red"
        if sample.correct:
            style = "green"
        grid.add_row("problem", Text(self._safe(question)))
        grid.add_row("response", Text(self._safe(response)))
        grid.add_row("verdict", Text(self._safe(describe_verdict(sample)), style=style))
        return grid

    def _plain(self, text: str) -> str:
        if self._unicode:
            return text
        return text.translate(ASCII)

    def _safe(self, text: str) -> str:
        """Return text that this output can show: no control codes (model output may hold any), no
        letter it cannot encode.
        """
        text = self._plain(make_printable(text))
        return text.encode(self.out.encoding, "replace").decode(self.out.encoding)
