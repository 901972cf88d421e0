"""The report of a run: one HTML file that says in plain words what happened and shows the figures
it says it from.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Column, Table

from rlvr import charts, findings, scores
from rlvr.errors import RunError, UserError
from rlvr.evals import crossed_interval, interval, paired_gain
from rlvr.findings import Record, RunData, evaluated, load, percent, template
from rlvr.progress import interval_text, number, signed
from rlvr.trackers import JsonLines, write_whole

if TYPE_CHECKING:
    from rlvr.arms import Plan

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder; raises UserError where the folder cannot be read."""
    data = load(run)
    page = template("report.html.j2").render(
        **_view(data),
        trends={key: findings.trend(data.last_stage, key) for key in ("reward", "formatted")},
        phenomena=findings.phenomena(data),
        charts=charts.run_charts(data.metrics, data.evals, findings.saturation(data)),
        problems=compared_problems(data),
        training=training_samples(data),
        verdicts=verdict_counts(data),
        totals=_added(data.metrics),
        memory=[number((r.get("time") or {}).get("peak_memory_gb")) or 0 for r in data.metrics],
        selection=_selection(data),
    )
    return write_page(Path(run) / "report.html", page)


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
        columns.append([list(findings.solved(JsonLines.read(file)).values()) for file in files])
    if len({len(shares) for pair in columns for shares in pair}) != 1:
        return None
    # [problems, runs]
    gains = np.array([np.subtract(after, before) for before, after in columns]).T
    return {"pass@1": float(gains.mean()), "ci95": list(crossed_interval(gains)), "n": len(gains)}


def compare(runs: Sequence[Path], out: Path) -> Path:
    """Write one page that sets several runs side by side."""
    loaded = [load(run) for run in runs]
    scored = [data for data in loaded if data.benchmarks]
    series = [
        charts.heldout(data.of(data.benchmarks[0]), data.name, i % 6)
        for i, data in enumerate(scored)
    ]
    sets = {
        (data.benchmarks[0], score.n)
        for data in scored
        for score in findings.scores_of(data, data.benchmarks[0])
    }
    page = template("report.html.j2").render(
        run=None,
        runs=[_view(data) for data in loaded],
        same=len(sets) < 2,
        curves=charts.chart("Held-out accuracy with 95 % interval", series, "share", wide=True),
    )
    return write_page(Path(out), page)


def _view(run: RunData) -> dict[str, Any]:
    """What both pages say of a run."""
    tone, sentence = findings.headline(run)
    rows = [row for benchmark in run.benchmarks for row in findings.table(run, benchmark)]
    view = {"run": run, "tone": tone, "sentence": sentence, "alarms": findings.alarms(run)}
    return {**view, "rows": rows, "times": time_spent(run)}


def publish(plan: Plan, missing: Mapping[Path, str]) -> dict[str, Any]:
    """Write `sweep.json`, `table.md` and `sweep.html` from the finished runs of a sweep, and print
    the table; `missing` says of the others why they are not finished.
    """
    done = [unit for unit in plan.units if unit.path not in missing]
    held = {
        arm: {unit.seed: load(unit.path) for unit in done if unit.arm == arm}
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
    columns = [findings.solved(evaluated(run, benchmark, step)) for run, step in evaluations]
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
    parts = findings.split_gain((*before[:2], among[0]), (*after[:2], among[-1]))
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
    scores = [
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
        *scores,
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


def compared_problems(run: RunData) -> list[dict[str, Any]]:
    """Held-out problems with their answers before, during and after: two that were learned, one
    not, one unlearned.
    """
    steps = [record["step"] for record in run.of(run.benchmarks[0])] if run.benchmarks else []
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    found = [(step, reversed(evaluated(run, run.benchmarks[0], step))) for step in chosen]
    tables = [
        (step, samples)
        for step, rows in found
        if (samples := {str(row.get("id")): row for row in rows})
    ]
    if not tables:
        return []
    first, last = tables[0][1], tables[-1][1]
    shared = [key for key in reversed(first) if key in last]
    right = {
        key: (first[key].get("status") == "correct", last[key].get("status") == "correct")
        for key in shared
    }
    found = []
    for kind, wanted, count in (
        ("wrong before, right after", (False, True), 2),
        ("wrong before and after", (False, False), 1),
        ("right before, wrong after", (True, False), 1),
    ):
        for key in [key for key in shared if right[key] == wanted and len(tables) > 1][:count]:
            answers = [(step, samples[key]) for step, samples in tables if key in samples]
            found.append({"kind": kind, "problem": first[key], "answers": answers})
    return found or [
        {"kind": "", "problem": first[key], "answers": [(tables[0][0], first[key])]}
        for key in shared[:2]
    ]


def training_samples(run: RunData) -> list[tuple[str, Record]]:
    """The best paid rollout of the first step, and the best and the worst paid ones of the last
    step.
    """
    files = sorted((run.folder / "samples").glob("train-*.jsonl"))
    steps = [
        samples
        for path in dict.fromkeys(files[:1] + files[-1:])
        if (samples := findings.samples_of(path))
    ]
    if not steps:
        return []
    ranked = [sorted(samples, key=lambda s: -(number(s.get("reward")) or 0.0)) for samples in steps]
    shown = [("best paid", ranked[0][0])] if len(ranked) > 1 else []
    shown += [("best paid", ranked[-1][0]), ("worst paid", ranked[-1][-1])]
    return [(f"step {sample.get('step', '?')}, {place}", sample) for place, sample in shown]


def verdict_counts(run: RunData) -> dict[str, Counter[str]]:
    """How often each verdict was given in the first steps, the last steps and altogether."""
    records = [record for record in run.rl if record.get("verdicts")]
    size = max(1, min(5, len(records) // 2))
    spans = (
        {f"first {size} steps": records[:size], f"last {size} steps": records[-size:]}
        if len(records) > 1
        else {}
    )
    return {
        span: _added(r["verdicts"] for r in part)
        for span, part in [*spans.items(), ("all steps", records)]
    }


def _added(records: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for record in records:
        total.update(
            {name: known for name, value in record.items() if (known := number(value)) is not None}
        )
    return total


def time_spent(run: RunData) -> list[tuple[str, float]]:
    """Seconds of each stage; they add up to the wall clock of the run."""
    times = [record.get("time") or {} for record in run.metrics]
    stages = _added(
        {k: v for k, v in t.items() if not k.endswith(("_per_second", "_gb"))} for t in times
    )
    in_steps = stages.pop("step", 0.0)
    known = sum(stages.values())
    evaluation = sum(number((e.get("time") or {}).get("seconds")) or 0.0 for e in run.evals)
    rest = (number(run.summary.get("seconds")) or 0.0) - max(in_steps, known) - evaluation
    spent = {
        **stages,
        "rest of the steps": in_steps - known,
        "evaluation": evaluation,
        "set-up, saving, rest": rest,
    }
    return [(name.replace("_", " "), seconds) for name, seconds in spent.items() if seconds > 0]


def _selection(run: RunData) -> str:
    """The method of `rlvr select` that fits the run: accuracy varies only where problems were
    visited several times.
    """
    visits = {(str(record.get("id")), str(record.get("step"))) for record in run.history}
    problems = {name for name, _ in visits}
    method = "historical_variance" if len(visits) >= 2 * len(problems) else "pass_rate"
    return f"--method {method} --top {min(16, len(problems))}" if len(problems) > 1 else ""


def write_page(path: Path, page: str) -> Path:
    """Replace a text file at one stroke, without control codes; raises RunError."""
    write_whole(path, CONTROLS.sub("", page))
    return path


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
            p=scores.sign_flip([round(change * math.lcm(*counts)) for change in changes]),
            detectable=scores.detectable(changes, paired=True),
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
