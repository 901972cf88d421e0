"""Six tiny runs give the numbers that they gave before: metrics, sampled tokens, advantages and
weights.
"""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parent / "golden" / "tiny_runs.json"
MADE_BY = runpy.run_path(str(FILE.with_suffix(".py")))


def differences(wanted: Any, given: Any, where: str) -> list[str]:
    """The places at which two trees of plain values differ by more than 1e-12, relative or
    absolute.
    """
    if isinstance(wanted, dict) and isinstance(given, dict) and wanted.keys() == given.keys():
        return [
            line
            for key in wanted
            for line in differences(wanted[key], given[key], f"{where}.{key}")
        ]
    if isinstance(wanted, list) and isinstance(given, list) and len(wanted) == len(given):
        return [
            line
            for i, pair in enumerate(zip(wanted, given, strict=True))
            for line in differences(*pair, f"{where}.{i}")
        ]
    numbers = isinstance(wanted, int | float) and isinstance(given, int | float)
    same = math.isclose(wanted, given, rel_tol=1e-12, abs_tol=1e-12) if numbers else wanted == given
    return [] if same else [f"{where}: {wanted} is now {given}"]


@pytest.mark.parametrize("name", list(MADE_BY["RUNS"]))
def test_a_tiny_run_gives_the_golden_numbers(name: str, tmp_path: Path) -> None:
    wanted = json.loads(FILE.read_text(encoding="utf-8"))[name]
    moved = differences(wanted, MADE_BY["run_of"](name, tmp_path), name)
    assert moved == [], (
        "if that is meant: python tests/golden/tiny_runs.py, and the commit says why"
    )


def test_the_comparison_sees_a_change_of_one_part_in_a_billion() -> None:
    assert differences({"a": [1.0, 2.0]}, {"a": [1.0, 2.0 + 2e-9]}, "run") == [
        "run.a.1: 2.0 is now 2.000000002"
    ]
    assert differences({"a": [1.0]}, {"a": [1.0, 1.0]}, "run")
