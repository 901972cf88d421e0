"""The display shows the same figures on a terminal and in a pipe, survives hostile text, and
restores the terminal.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from support.fake_run import healthy

from rlvr.run.progress import Progress
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.records import read_records
from rlvr.storage.sample_record import SampleRecord
from rlvr.storage.step_record import StepRecord
from rlvr.storage.summary import Summary

SAMPLE = SampleRecord.parse_row(
    {
        "question": "What is 7 + 8?",
        "text": "It is \\boxed{15}.",
        "status": "correct",
        "answer": "15",
        "reward": 1.0,
    }
)


def console(terminal: bool, width: int = 80) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=width,
        highlight=False,
        _environ={"TERM": "xterm"},
    )


def output(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def record(step: int, **more: object) -> StepRecord:
    times = {"step": 10.0, "tokens_per_second": 318.4}
    return StepRecord.parse_row(
        {
            "step": step,
            "phase": "rl",
            "reward": 0.52,
            "accuracy": 0.48,
            "length": 21.3,
            "time": times,
            **more,
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return healthy(tmp_path_factory.mktemp("runs") / "demo")


def test_plain_output_is_one_line_a_step(run: Path) -> None:
    out = console(terminal=False)
    evals = {e.step: e for e in read_records(run / "evals.jsonl", EvalRecord)}
    with Progress("demo", 30, out) as progress:
        progress.stage("evaluating heldout before training")
        progress.evaluated(evals[0])
        for step in read_records(run / "metrics.jsonl", StepRecord):
            progress.stage("training")
            progress.step(step, SAMPLE)
        summary = Summary.parse_row(json.loads((run / "summary.json").read_text()))
        progress.summary(summary, run / "report.html")
    lines = output(out).splitlines()
    assert len([line for line in lines if line.startswith("step ")]) == 30
    assert len([line for line in lines if line.startswith("training")]) == 1
    assert "heldout at step 0: 42 % correct · 95 % interval [36.3, 48.3] · 256 problems" in lines
    assert lines[-1] == f"report: {run / 'report.html'}"
    assert "\x1b" not in output(out)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [30, 80])
def test_both_show_the_same_figures(terminal: bool, width: int) -> None:
    out = console(terminal, width)
    with Progress("demo", 4, out) as progress:
        progress.step(record(1), SAMPLE)
        if terminal:
            out.print(progress)
    shown = output(out)
    for figure in ("1/4", "0.52", "48 %", "21.3", "318", "0:30", "What is 7 + 8?", "✓"):
        assert figure in shown


def test_nothing_is_wider_than_the_terminal(run: Path) -> None:
    for width in (24, 40, 80):
        out = console(terminal=False, width=width)
        progress = Progress("a very long name of a run that goes on", 1000, out)
        progress.stage("evaluating a benchmark with a long name before training")
        progress.evaluated(read_records(run / "evals.jsonl", EvalRecord)[0])
        for step in read_records(run / "metrics.jsonl", StepRecord):
            progress.step(step, replace(SAMPLE, text="x" * 5000, question="why " * 900))
        begin = len(output(out))
        out.print(progress)
        assert max(map(len, output(out)[begin:].splitlines())) <= width


def test_time_left_follows_the_last_steps() -> None:
    out = console(terminal=False)
    with Progress("demo", 100, out) as progress:
        progress.step(record(1, time={"step": 1000.0}), None)
        for step in range(2, 11):
            progress.step(record(step, time={"step": 2.0}), None)
    assert "3:00 left" in output(out).splitlines()[-1]


def test_the_terminal_is_restored_and_the_last_figures_stay() -> None:
    out = console(terminal=True)
    with pytest.raises(KeyboardInterrupt), Progress("demo", 4, out) as progress:
        progress.step(record(1), SAMPLE)
        raise KeyboardInterrupt
    shown = output(out)
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0
    assert "step 1/4" in shown[shown.rfind("\x1b[?25h") :]


def test_hostile_and_missing_values_do_no_harm() -> None:
    evil = {
        "question": "\x1b[2J[red]",
        "text": "\x07[/]\x1b]0;title\x07 \ud800",
        "status": None,
        "answer": "[bold]",
    }
    for terminal in (True, False):
        out = console(terminal)
        with Progress("demo", 4, out) as progress:
            empty = {"step": 1, "reward": None, "time": None}
            progress.step(StepRecord.parse_row(empty), SampleRecord.parse_row(evil))
            cold = {"step": 2, "phase": "cold_start", "loss": 1.25}
            progress.step(StepRecord.parse_row(cold), None)
            unknown = {"step": 2, "benchmark": "x", "metrics": {"pass@1": None}}
            progress.evaluated(EvalRecord.parse_row(unknown))
            progress.note("[/bold] note")
            short = {"evals": {"x": {"before": {"pass@1": 0.5}}}}
            progress.summary(Summary.parse_row(short), Path("report.html"))
        assert "\x1b[2J" not in output(out)
        assert "\x07" not in output(out)
        assert "[/bold] note" in output(out)


def test_an_ascii_pipe_is_enough() -> None:
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Progress("demo", 4, Console(file=raw, highlight=False)) as progress:
        progress.stage("training")
        progress.step(record(1), replace(SAMPLE, text="é → 15"))
        fell = {"before": {"pass@1": 0.5}, "gain": {"pass@1": -0.1, "ci95": [-0.2, 0.0]}}
        progress.summary(Summary.parse_row({"evals": {"heldout": fell}}), Path("r.html"))
    raw.flush()
    assert b"ok What is 7 + 8? -> ? -> 15" in raw.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"-10.0" in raw.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"step 1/4" in raw.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_cold_start_has_a_column_of_its_own() -> None:
    out = console(terminal=False)
    scores = {
        key: {"pass@1": value, "n": 9}
        for key, value in (("before", 0.1), ("after_cold_start", 0.4), ("after", 0.6))
    }
    found = {**scores, "gain": {"pass@1": 0.5, "ci95": [0.4, 0.6]}}
    summary = Summary.parse_row({"evals": {"heldout": found}})
    Progress("demo", 4, out).summary(summary, Path("r.html"))
    assert "cold start" in output(out)
    assert "40.0 %" in output(out)
    assert "+50.0" in output(out)
