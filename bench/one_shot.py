"""Writes the tables of docs/experiments/one_shot.md from the runs of `rlvr sweep
one_shot_experiment_small`.

    python bench/one_shot.py [--runs runs/one_shot_experiment_small]

The second table splits each gain in two: answers that end within the limit of tokens where they
were cut off before, and answers that are right more often in either state. With e the share that
ends, p and q the accuracy of those that end and of those that are cut off, and means of before and
after under a bar: gain = Δe (p̄ - q̄) + ē Δp + (1 - ē) Δq.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

PAGE = Path(__file__).resolve().parent.parent / "docs" / "experiments" / "one_shot.md"
BEGIN, END = "<!-- made by bench/one_shot.py -->\n", "<!-- end -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/one_shot_experiment_small"))
    runs = parser.parse_args().runs
    table = [
        line
        for line in (runs / "table.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    head = "| arm | ends in time | right among these | right among the others | gain | by ending | by being right |"
    text = "\n".join([*table, "", head, "|---|---|---|---|---|---|---|", *splits(runs), ""])
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")


def splits(runs: Path) -> Iterator[str]:
    """A row for each arm that has finished runs, means over their seeds."""
    arms = list(
        dict.fromkeys(
            path.parent.name.rpartition("-")[0] for path in sorted(runs.glob("*/summary.json"))
        )
    )
    for arm in arms:
        columns = []
        for path in runs.glob(f"{arm}-*/summary.json"):
            last = json.loads(path.read_text(encoding="utf-8"))["steps"]
            (e0, p0, q0), (e1, p1, q1) = shares(path.parent, 0), shares(path.parent, last)
            ending = (e1 - e0) * (p0 + p1 - q0 - q1) / 2
            right = (e0 + e1) / 2 * (p1 - p0) + (1 - (e0 + e1) / 2) * (q1 - q0)
            columns.append((e0, e1, p0, p1, q0, q1, ending + right, ending, right))
        e0, e1, p0, p1, q0, q1, *gains = (fmean(values) for values in zip(*columns, strict=True))
        pairs = " | ".join(
            f"{100 * a:.0f} % → {100 * b:.0f} %" for a, b in ((e0, e1), (p0, p1), (q0, q1))
        )
        yield f"| {arm} | {pairs} | " + " | ".join(f"{100 * x:+.1f}" for x in gains) + " |"


def shares(run: Path, step: int) -> tuple[float, float, float]:
    """The share of answers that end by themselves, and the accuracy of these and of the others."""
    text = (run / "samples" / f"eval-heldout-{step:06d}.jsonl").read_text(encoding="utf-8")
    rows = [
        (row["finish"] != "length", row["status"] == "correct")
        for row in map(json.loads, text.splitlines())
    ]
    ended, cut = ([right for ends, right in rows if ends is state] for state in (True, False))
    return len(ended) / len(rows), fmean(ended or [0]), fmean(cut or [0])


if __name__ == "__main__":
    main()
