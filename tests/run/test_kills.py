"""A few of the random kills of `make kills`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "kills.py"
LOG = Path(__file__).parents[2] / "bench" / "results" / "kills.jsonl"


@pytest.mark.slow
def test_resume_after_five_random_kills_equals_the_undisturbed_run(tmp_path: Path) -> None:
    out = tmp_path / "kills.jsonl"
    words = [sys.executable, str(SCRIPT), "--kills", "5", "--seed", "1", "--out", str(out)]
    ended = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    head, *rows = map(json.loads, out.read_text().splitlines())
    assert head["kills"] == sum(len(row["killed_in"]) for row in rows) == 5
    assert [row["differs"] for row in rows] == [[]] * len(rows)


def test_the_log_of_a_hundred_kills_says_what_the_pages_say() -> None:
    head, *rows = map(json.loads, LOG.read_text().splitlines())
    assert head["kills"] == sum(len(row["killed_in"]) for row in rows) >= 100
    assert head["equal"] == head["runs"] == len(rows)
    assert not any(row["differs"] for row in rows)
    assert {"generation", "verification", "update", "saving", "evaluation"} <= head["phases"].keys()
