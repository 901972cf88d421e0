"""Writes the tables of docs/performance.md from bench/results: the last figure of each benchmark on
each machine.

python bench/table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS.parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- made by bench/table.py -->\n", "<!-- end -->\n"


def main() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + tables() + END + rest.split(END)[1], encoding="utf-8")


def tables() -> str:
    """A table of ratios and a table of growth, one row for each benchmark of each machine."""
    rows = list(latest())
    ratios = [f"| {name} | {what} |" for name, result in rows if (what := ratio(name, result))]
    growth = [f"| {name} | {curve(result)} |" for name, result in rows if "exponent" in result]
    text = "\n".join(
        [
            "| benchmark | rlvr | peer | ratio | spread | machine |",
            "|---|---|---|---|---|---|",
            *ratios,
            "",
        ]
    )
    if growth:
        head = [
            "\n| growth of | microseconds a token (of them attention) | rest, largest over first |"
            " exponent | machine |",
            "|---|---|---|---|---|",
        ]
        text += "\n".join([*head, *growth, ""])
    return text


def latest() -> Iterator[tuple[str, dict[str, Any]]]:
    """Benchmarks by name with their last result on each machine; `where` says machine and day."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(RESULTS.glob("*.json"), key=lambda path: path.stem[-10:]):
        machine, day = path.stem[:-11], path.stem[-10:]
        for name, result in json.loads(path.read_text()).items():
            found[name, machine] = {**result, "where": f"{machine.replace('-', ' ')}, {day}"}
    return ((name, result) for (name, _), result in sorted(found.items()))


def ratio(name: str, result: dict[str, Any]) -> str:
    """The cells of a comparison; "" for a result of another kind."""
    if "ratio" not in result:
        return ""
    spread = result.get("spread")
    ranges = (
        ", ".join(f"{side} {low:g} to {high:g}" for side, (low, high) in spread.items())
        if spread
        else ""
    )
    return f"{result['ours']:g} | {result['peer']:g} | {result['ratio']:.2f} | {ranges} | {result['where']}"


def curve(result: dict[str, Any]) -> str:
    cells = ", ".join(f"{row['ours_us']} ({row['attention_us']})" for row in result["rows"])
    return (
        f"{cells} | {result['rest_over_first']:.2f} | {result['exponent']:.2f} | {result['where']}"
    )


if __name__ == "__main__":
    main()
