"""Every line of a run's files is read into its type and written back to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.fake_run import healthy

from rlvr.errors import UserError
from rlvr.report.run_page import write_report
from rlvr.storage.eval_record import EvalRecord
from rlvr.storage.history_record import HistoryRecord
from rlvr.storage.jsonl import JsonLines
from rlvr.storage.records import read_records
from rlvr.storage.sample_record import SampleRecord
from rlvr.storage.step_record import StepRecord
from rlvr.storage.summary import Summary
from rlvr.storage.sweep_result import SweepResult

ESTIMATE = '{"pass@1": 0.5, "ci95": [0.25, 0.75], "n": 2}'
POINT = '{"step": 2, "pass@1": 0.5, "ci95": [0.25, 0.75], "n": 2}'
SAMPLE = (
    '"step": 2, "id": "sums/1", "task": "math", "copy": 0, "index": 1, "question": "What is 7 + 8?", "gold": "15", '
    '"text": "\\\\boxed{15}", "tokens": 4, "finish": "stop", "status": "correct", "answer": "15", "formatted": true, '
    '"rule": "box", "version": 1'
)
COUNTS = (
    '{"problems": 2, "samples": 4, "correct": 2, "formatted": 3, "no_answer": 1, "truncated": 0, "error": 0, '
    '"second_verifier": 4, "only_ours_accepts": 1, "only_second_accepts": 0, "response_tokens": 16}'
)
EVALUATION = (
    '"step": 0, "benchmark": "heldout", "metrics": {"pass@1": 0.5, "pass@1_formatted": null}, '
    f'"counts": {COUNTS}, "ci95": {{"pass@1": [0.25, 0.75]}}, "detectable": 0.9, '
    '"categories": {"add": {"pass@1": 0.5, "n": 2}}, "levels": {}'
)
LINES: dict[str, tuple[Any, str]] = {
    "a step of reinforcement": (
        StepRecord,
        '{"step": 3, "phase": "rl", "reward": 0.5, "reward_parts": {"correct": 0.5}, "critic": {"loss": 0.1}, '
        '"samples": 8.0, "verdicts": {"wrong": 4.0, "correct": 4.0}, "loss": null, "time": {"generate": 1.5, '
        '"step": 2.5, "tokens_per_second": 20.0, "peak_memory_gb": 2.5}}',
    ),
    "a supervised step": (
        StepRecord,
        '{"step": 1, "phase": "cold_start", "losses": {"nll": 1.5}, "time": {"step": 2.5}}',
    ),
    "an evaluation": (EvalRecord, f'{{{EVALUATION}, "time": {{"seconds": 9.5}}}}'),
    "an evaluation with several seeds": (
        EvalRecord,
        f'{{{EVALUATION}, "seeds": {{"pass@1": {{"0": 0.5, "1": 0.25}}, "mean": 0.375, "deviation": 0.125}}, '
        '"time": {"seconds": 9.5}}',
    ),
    "a training sample": (
        SampleRecord,
        f'{{{SAMPLE}, "time": {{"verify_ms": 0.5}}, "reward": 1.0, "parts": {{"correct": 1.0}}, "advantage": null}}',
    ),
    "a held-out sample": (SampleRecord, f'{{{SAMPLE}, "time": {{"verify_ms": 0.5}}}}'),
    "a sample of rlvr eval": (
        SampleRecord,
        f'{{"benchmark": "heldout", "seed": 0, {SAMPLE}, "time": {{"verify_ms": 0.5, "seconds": 0.25}}, '
        '"second": false}',
    ),
    "a visit": (HistoryRecord, '{"step": 3, "id": "sums/1", "accuracy": 0.5, "n": 8}'),
    "a summary": (
        Summary,
        '{"recipe": "demo", "model": "tiny", "steps": 3, "seconds": 9.5, "response_tokens": 96.0, "evals": '
        f'{{"heldout": {{"before": {ESTIMATE}, "after": {ESTIMATE}, "gain": {ESTIMATE}, "after_cold_start": '
        f'{ESTIMATE}, "gain_over_cold_start": {ESTIMATE}}}}}, "hardware": "2 cores", "versions": {{"python": "3.11"}}, '
        '"finished": true, "best": {"benchmark": "heldout", "step": 2, "pass@1": 0.5, "checkpoint": null}}',
    ),
    "a sweep": (
        SweepResult,
        '{"name": "losses", "benchmark": "heldout", "baseline": "a", "arms": {"a": {"seeds": []}, "b": {"seeds": '
        f'[0, 1], "before": {POINT}, "after": {POINT}, "gain": {ESTIMATE}, "formatted": [0.5, 1.0], '
        '"pass@1_formatted": [null, 0.5], "gain_split": {"form": 0.25, "content": 0.0, "rest": 0.0}, '
        f'"training_accuracy": 0.75, "curve": [{POINT}], "difference": {ESTIMATE}}}}}, '
        '"missing": {"a-0": "not begun"}}',
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_written_back_as_it_was_read(name: str) -> None:
    kind, line = LINES[name]
    assert json.dumps(kind.parse_row(json.loads(line)).dump_row()) == line


def test_a_step_says_what_was_measured_by_name_and_by_path() -> None:
    _, line = LINES["a step of reinforcement"]
    step = StepRecord.parse_row(json.loads(line))
    assert (step.reward, step.samples, step.loss, step.accuracy) == (0.5, 8.0, None, None)
    assert (step.metric("critic/loss"), step.metric("time/step")) == (0.1, 2.5)
    assert dict(step.stage_seconds) == {"generate": 1.5}


def test_keys_that_a_line_lacks_and_keys_that_it_has_beside_are_tolerated() -> None:
    assert StepRecord.parse_row({"step": 1, "time": None}).phase == "rl"
    assert EvalRecord.parse_row({"step": 1, "benchmark": "x", "new": 1}).accuracy is None
    assert SampleRecord.parse_row({"id": "a", "status": "correct", "category": "add"}).correct
    assert not Summary.parse_row({"steps": 3, "evals": {"held": {}}}).finished


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("metrics", '{"reward": 0.5}', "has no 'step'"),
        ("metrics", '{"step": 2, "time": 3}', "time: should be an object, not 3"),
        ("metrics", '{"step": "two"}', "step: should be a whole number, not 'two'"),
        ("evals", '{"step": 2}', "has no 'benchmark'"),
        (
            "evals",
            '{"step": 2, "benchmark": "x", "ci95": {"pass@1": [0.5]}}',
            "pass@1: should be the two ends of an interval",
        ),
        ("history", '{"step": 2, "id": 7}', "id: should be a text, not 7"),
    ],
)
def test_a_line_of_another_shape_is_refused_by_file_and_line(
    tmp_path: Path, name: str, line: str, fault: str
) -> None:
    path = healthy(tmp_path / "run", steps=2) / f"{name}.jsonl"
    first = path.read_text().splitlines()[0]
    path.write_text(f"{first}\n\n{line}\n")
    with pytest.raises(UserError) as error:
        write_report(tmp_path / "run")
    assert str(error.value).startswith(f"{path}, line 3: {fault}")


def test_a_sample_of_another_shape_is_refused_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    JsonLines.write(path, [{"id": "a"}, {"id": "b", "tokens": "four"}])
    with pytest.raises(UserError, match="line 2: tokens: should be a whole number, not 'four'"):
        read_records(path, SampleRecord)
