"""The table of a sweep: arms beside the baseline, with intervals over problems and seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Column, Table

from rlvr.errors import RunError
from rlvr.metrics.statistics import crossed_interval, interval
from rlvr.report import charts, trends
from rlvr.report.formatting import interval_text, signed
from rlvr.report.rendering import percent, template, write_page
from rlvr.storage import run_data
from rlvr.storage.jsonl import JsonLines
from rlvr.storage.run_data import Record, RunData, evaluated, number, read_run

if TYPE_CHECKING:
    from rlvr.sweeps.planning import Plan


def pooled_gain(runs: Sequence[Path]) -> dict[str, object] | None:
    """The gain over several runs (seeds) on the first held-out set, paired by problem, with its
    interval over problems and runs.

    None where the runs are not finished or did not ask the same number of problems.
    """
    columns = []
    for run in runs:
        if not (run / "summary.json").is_file():
            return None
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        name, steps = next(iter(summary["evals"]), None), (0, summary["steps"])
        files = [run / "samples" / f"eval-{name}-{step:06d}.jsonl" for step in steps]
        columns.append(
            [list(run_data.solved_shares(JsonLines.read(file)).values()) for file in files]
        )
    if len({len(shares) for pair in columns for shares in pair}) != 1:
        return None
    # [problems, runs]
    gains = np.array([np.subtract(after, before) for before, after in columns]).T
    return {"pass@1": float(gains.mean()), "ci95": list(crossed_interval(gains)), "n": len(gains)}


def publish(plan: Plan, missing: Mapping[Path, str]) -> dict[str, Any]:
    """Write `sweep.json`, `table.md` and `sweep.html` from the finished runs of a sweep, and print
    the table; `missing` says of the others why they are not finished.
    """
    done = [unit for unit in plan.units if unit.path not in missing]
    held = {
        arm: {unit.seed: read_run(unit.path) for unit in done if unit.arm == arm}
        for arm in plan.sweep.arms
    }
    arms = {arm: _arm(runs, held[plan.baseline], plan.benchmark) for arm, runs in held.items()}
    found = {
        "name": plan.name,
        "benchmark": plan.benchmark,
        "baseline": plan.baseline,
        "arms": arms,
    }
    found["missing"] = {path.name: why for path, why in missing.items()}
    cells = _cells(found, len(plan.sweep.seeds))
    write_page(plan.folder / "sweep.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    done = {arm: row for arm, row in arms.items() if row["seeds"]}
    view = {
        "plan": plan,
        "found": found,
        "heads": cells[0],
        "rows": cells[1],
        "explained": EXPLAINED,
        "arms": done,
    }
    write_page(plan.folder / "table.md", template("table.md.j2").render(**view))
    page = template("sweep.html.j2").render(**view, curves=_curves(done, plan.baseline))
    write_page(plan.folder / "sweep.html", page)
    _print_table(found, cells, plan.folder / "sweep.html")
    return found


def _arm(
    runs: Mapping[int, RunData], baseline: Mapping[int, RunData], benchmark: str
) -> dict[str, Any]:
    """What the runs of an arm (by seed) show together, and how they differ from those of the
    baseline.
    """
    if not runs:
        return {"seeds": []}
    each = list(runs.values())
    known = [{e["step"] for e in run.of(benchmark)} for run in each]
    steps = sorted(set.intersection(*known))
    tables = {step: _matrix([(run, step) for run in each], benchmark) for step in steps}
    curve = [{"step": step, **_level(values)} for step, values in tables.items()]
    first, last = steps[0], steps[-1]
    forms = [_form([evaluated(run, benchmark, step) for run in each]) for step in (first, last)]
    found = {
        "seeds": list(runs),
        "before": curve[0],
        "after": curve[-1],
        "gain": _contrast(tables[first], tables[last]),
        "formatted": [share for share, _ in forms],
        "pass@1_formatted": [right for _, right in forms],
        "gain_split": _split((curve[0]["pass@1"], *forms[0]), (curve[-1]["pass@1"], *forms[1])),
        "training_accuracy": _at_the_end(each),
        "curve": curve,
    }
    seeds = [seed for seed in runs if seed in baseline]
    if seeds and runs is not baseline:
        pairs = [(side[seed], side[seed].steps) for side in (baseline, runs) for seed in seeds]
        values = _matrix(pairs, benchmark)  # [problems, the baseline's seeds and then the arm's]
        found["difference"] = _contrast(values[:, : len(seeds)], values[:, len(seeds) :])
    return found


def _matrix(evaluations: Sequence[tuple[RunData, int]], benchmark: str) -> np.ndarray:
    """The share of right answers of each problem in each evaluation (run, step), as [problems,
    evaluations].
    """
    columns = [run_data.solved_shares(evaluated(run, benchmark, step)) for run, step in evaluations]
    shared = [key for key in columns[0] if all(key in column for column in columns)]
    if not shared:
        one, other = evaluations[0][0].folder, evaluations[-1][0].folder
        raise RunError(
            f"{one}: shares no held-out problem of '{benchmark}' with {other}; is its samples/ whole?"
        )
    return np.array([[column[key] for column in columns] for key in shared])


def _contrast(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    change = after - before
    return {
        "pass@1": float(change.mean()),
        "ci95": list(crossed_interval(change)),
        "n": len(change),
    }


def _level(values: np.ndarray) -> dict[str, Any]:
    """Accuracy with its interval; for one seed, or several that agree on every problem, it is that
    of one run.
    """
    same = bool((values == values[:, :1]).all())
    low, high = interval(values[:, 0].tolist()) if same else crossed_interval(values)
    return {
        "pass@1": float(values.mean()),
        "ci95": [max(0.0, low), min(1.0, high)],
        "n": len(values),
    }


def _form(runs: Sequence[Sequence[Record]]) -> tuple[float, float | None]:
    """The share of answers that are well-formed, and that of these that are right."""
    samples = [sample for run in runs for sample in run]
    right = [sample.get("status") == "correct" for sample in samples if sample.get("formatted")]
    return len(right) / len(samples), sum(right) / len(right) if right else None


def _split(
    before: tuple[float, float, float | None], after: tuple[float, float, float | None]
) -> dict[str, float]:
    """The gain as in `split_gain`; where one side has no well-formed answer, content is taken as
    unchanged.
    """
    among = [share for share in (before[2], after[2]) if share is not None] or [0.0]
    parts = trends.split_gain((*before[:2], among[0]), (*after[:2], among[-1]))
    return dict(zip(("form", "content", "rest"), parts, strict=True))


def _at_the_end(runs: Sequence[RunData]) -> float | None:
    """Accuracy of the training rollouts of the last five steps."""
    records = [record for run in runs for record in run.last_stage[-5:]]
    known = [(number(record.get("accuracy")), number(record.get("samples"))) for record in records]
    counted = [(share * count, count) for share, count in known if share is not None and count]
    return (
        sum(right for right, _ in counted) / sum(count for _, count in counted) if counted else None
    )


Cells = tuple[list[str], list[list[str]]]


EXPLAINED = "Accuracy in percent, changes in points, with 95 % intervals over problems and seeds."


NONE = "\N{EN DASH}"


def _cells(found: Mapping[str, Any], seeds: int) -> Cells:
    """The heads and rows of the table as texts, with a line break before each interval."""
    heads = ["arm", "seeds", "before", "after", "gain", f"against {found['baseline']}"]
    heads += ["well-formed", "right among these", "gain by form", "training, end"]
    return heads, [_row(arm, row, seeds, len(heads)) for arm, row in found["arms"].items()]


def _row(arm: str, row: Mapping[str, Any], seeds: int, width: int) -> list[str]:
    done = len(row["seeds"])
    count = f"{done}" if done == seeds else f"{done} of {seeds}"
    if not done:
        return [arm, count, *[NONE] * (width - 2)]
    text_quality = [
        f"{100 * row[key]['pass@1']:.1f}\n{interval_text(row[key]['ci95'])}"
        for key in ("before", "after")
    ]
    changes = [row["gain"], row.get("difference")]
    shown = [f"{signed(c['pass@1'])}\n{interval_text(c['ci95'])}" if c else NONE for c in changes]
    shares = [row[key] for key in ("formatted", "pass@1_formatted")]
    forms = [
        " → ".join(NONE if share is None else percent(share) for share in pair) for pair in shares
    ]
    return [
        arm,
        count,
        *text_quality,
        *shown,
        *forms,
        signed(row["gain_split"]["form"]),
        percent(row["training_accuracy"]),
    ]


def _print_table(found: Mapping[str, Any], cells: Cells, page: Path) -> None:
    heads, rows = cells
    out = Console(highlight=False)
    for title, chosen in (
        (f"{found['name']}: {found['benchmark']}", range(6)),
        ("", (0, *range(6, len(heads)))),
    ):
        # in two parts, which fit a terminal of 80 letters
        columns = [
            Column(heads[i], justify="right" if i else "left", overflow="fold") for i in chosen
        ]
        shown = Table(
            *columns,
            title=title or None,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
        )
        for row in rows:
            shown.add_row(*(row[i] for i in chosen))
        out.print(shown)
    notes = [f"{name} is not finished: {why}" for name, why in found["missing"].items()]
    for line in [EXPLAINED, *notes, f"figure: {page}"]:
        out.print(line, markup=False, soft_wrap=True)


def _curves(arms: Mapping[str, Any], baseline: str) -> list[charts.Chart | None]:
    """One chart an arm beside the baseline, all on one scale."""
    top = max((point["ci95"][1] for row in arms.values() for point in row["curve"]), default=1.0)
    series = []
    for i, (arm, row) in enumerate(arms.items()):
        points = [(point["step"], point["pass@1"]) for point in row["curve"]]
        bands = {point["step"]: point["ci95"] for point in row["curve"]}
        series.append(charts.Series(arm, points, i % 5, dots=True, band=bands))
    base = [replace(one, color=5) for one in series if one.name == baseline]
    beside = [[one, *(base if one.name != baseline else [])] for one in series]
    return [charts.chart(pair[0].name, pair, "share", top=top) for pair in beside]
