"""The pages of evaluations: curves over checkpoints, and two models side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rlvr.errors import UserError
from rlvr.metrics import statistics
from rlvr.metrics.statistics import paired_gain
from rlvr.report import charts
from rlvr.report.rendering import template, write_page
from rlvr.storage.jsonl import JsonLines
from rlvr.storage.run_data import Record


def is_evaluation(folder: Path) -> bool:
    """Whether the folder is what `rlvr eval` leaves, and not a run."""
    return (folder / "results.json").is_file() and not (folder / "recipe.yaml").exists()


def _evaluation(folder: Path) -> list[Record]:
    """The records of an evaluation; raises UserError."""
    try:
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{folder}: holds no results.json of a finished evaluation; run its rlvr eval again"
        ) from None


def write_curves(folder: Path) -> Path:
    """Write `report.html` into the folder of an evaluation: all its records in a table, curves over
    checkpoints.
    """
    records = _evaluation(folder)
    named: dict[str, list[Record]] = {}
    for record in records:
        named.setdefault(record["benchmark"], []).append(record)
    several = len({record["step"] for record in records}) > 1
    series = [
        charts.heldout(found, name, i % 6)
        for i, (name, found) in enumerate(named.items())
        if several
    ]
    curves = [charts.chart(one.name, [one], "share") for one in series if one.known]
    page = template("evals.html.j2").render(
        title=folder.name, records=records, charts=curves, pairs=[]
    )
    return write_page(folder / "report.html", page)


def write_beside(first: Path, second: Path, out: Path) -> Path:
    """Write one page that sets two evaluations side by side, problem by problem; raises UserError."""
    names = (f"{first.parent.name}/{first.name}", f"{second.parent.name}/{second.name}")
    names = (first.name, second.name) if first.name != second.name else names
    pairs = [*beside(first, second)]
    if not pairs:
        raise UserError(f"{first} and {second}: have no benchmark with the same problems in common")
    page = template("evals.html.j2").render(
        title=" and ".join(names), names=names, pairs=pairs, charts=[], records=[]
    )
    return write_page(out, page)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on one benchmark: accuracies, their difference with its interval and exact
    p-value, the smallest difference that would mostly show, and the problems with the samples of
    both.
    """

    benchmark: str
    shares: tuple[float, float]
    gain: Mapping[str, Any]
    p: float
    detectable: float
    problems: list[tuple[str, tuple[float, float], tuple[list[Record], list[Record]]]]

    def kinds(self) -> list[tuple[str, list[Any]]]:
        """The problems by which model solved more of its samples, the largest differences first."""
        ranked = sorted(self.problems, key=lambda row: -abs(row[1][1] - row[1][0]))
        tests = {
            "the second alone, or more often": lambda a, b: b > a,
            "the first alone, or more often": lambda a, b: a > b,
            "neither": lambda a, b: a == b == 0,
            "both alike": lambda a, b: a == b > 0,
        }
        return [(name, [row for row in ranked if test(*row[1])]) for name, test in tests.items()]


def beside(first: Path, second: Path) -> Iterator[Pair]:
    """The benchmarks that both evaluations asked with the same problems, each at its last
    checkpoint.
    """
    sides = [_by_problem(folder) for folder in (first, second)]
    for name in sides[0]:
        ours, theirs = sides[0][name], sides[1].get(name, {})
        if set(ours) != set(theirs):
            continue
        right = [
            [[row["status"] == "correct" for row in side[key]] for key in ours]
            for side in (ours, theirs)
        ]
        shares = [[sum(rows) / len(rows) for rows in side] for side in right]
        counts = [len(rows) for side in right for rows in side]
        changes = [b - a for a, b in zip(*shares, strict=True)]
        yield Pair(
            benchmark=name,
            shares=(fmean(shares[0]), fmean(shares[1])),
            gain=paired_gain(*shares),
            p=statistics.sign_flip([round(change * math.lcm(*counts)) for change in changes]),
            detectable=statistics.detectable(changes, paired=True),
            problems=[
                (k, (a, b), (ours[k], theirs[k])) for k, a, b in zip(ours, *shares, strict=True)
            ],
        )


def _by_problem(folder: Path) -> dict[str, dict[str, list[Record]]]:
    """The samples of each problem of each benchmark, at the benchmark's last checkpoint."""
    last = {record["benchmark"]: record["step"] for record in _evaluation(folder)}
    found: dict[str, dict[str, list[Record]]] = {name: {} for name in last}
    for row in JsonLines.read(folder / "samples.jsonl"):
        if row["step"] == last.get(row["benchmark"]):
            found[row["benchmark"]].setdefault(row["id"], []).append(row)
    return found
