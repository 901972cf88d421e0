"""The report of a run: one HTML file that says in plain words what happened and shows the figures it says it from."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from rlvr import charts
from rlvr.errors import RunError, UserError
from rlvr.findings import (
    MINUS,
    Record,
    RunData,
    alarms,
    evaluated,
    gain_of,
    headline,
    load,
    percent,
    phenomena,
    points,
    samples_of,
    saturation,
    scores_of,
    table,
    trend,
)
from rlvr.progress import duration, number

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
LONGEST = 3000  # letters of a response that are shown


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder; raises UserError where the folder cannot be read."""
    data = load(run)
    tone, sentence = headline(data)
    rows = [row for benchmark in data.benchmarks for row in table(data, benchmark)]
    view = {"run": data, "tone": tone, "sentence": sentence, "alarms": alarms(data), "rows": rows, "facts": facts(data)}
    view["phenomena"] = phenomena(data)
    page = template("report.html.j2").render(
        **view,
        charts=charts.run_charts(data.metrics, data.evals, saturation(data)),
        problems=compared_problems(data),
        training=training_samples(data),
        verdicts=verdict_counts(data),
        times=time_spent(data),
        cost=cost(data),
        commands=commands(data),
    )
    return _write(Path(run) / "report.html", page)


def compare(runs: Sequence[Path], out: Path) -> Path:
    """Write one page that sets several runs side by side."""
    loaded = [load(run) for run in runs]
    if not loaded:
        raise UserError("report: name at least one run folder")
    scored = [data for data in loaded if data.benchmarks]
    series = [charts.heldout(data.of(data.benchmarks[0]), data.name, i % 6) for i, data in enumerate(scored)]
    sets = {(data.benchmarks[0], score.n) for data in scored for score in scores_of(data, data.benchmarks[0])}
    page = template("report.html.j2").render(
        run=None,
        runs=[_compared(data) for data in loaded],
        same=len(sets) < 2,
        curves=charts.compared("Held-out accuracy with 95 % interval", series),
        legend=[(one.name, one.color) for one in series],
    )
    return _write(Path(out), page)


def _compared(data: RunData) -> dict[str, Any]:
    rows = table(data, data.benchmarks[0]) if data.benchmarks else []
    about = f"{data.steps} steps" + ("" if data.finished else ", unfinished")
    view = {"name": data.name, "about": about, "row": rows[0] if rows else None, "alarms": alarms(data)}
    return {**view, "sentence": headline(data)[1], "seconds": sum(seconds for _, seconds in time_spent(data)) or None}


def compared_problems(run: RunData) -> list[dict[str, Any]]:
    """Held-out problems with their answers before, during and after: two that were learned, one not, one unlearned."""
    steps = [record["step"] for record in run.of(run.benchmarks[0])] if run.benchmarks else []
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    tables = [
        (step, {str(s.get("id")): s for s in reversed(evaluated(run, run.benchmarks[0], step))}) for step in chosen
    ]
    tables = [(step, samples) for step, samples in tables if samples]
    if not tables:
        return []
    first, last = tables[0][1], tables[-1][1]
    shared = [key for key in reversed(first) if key in last]
    right = {key: (first[key].get("status") == "correct", last[key].get("status") == "correct") for key in shared}
    found = []
    for kind, wanted, count in (
        ("wrong before, right after", (False, True), 2),
        ("wrong before and after", (False, False), 1),
        ("right before, wrong after", (True, False), 1),
    ):
        for key in [key for key in shared if right[key] == wanted and len(tables) > 1][:count]:
            answers = [(step, samples[key]) for step, samples in tables if key in samples]
            found.append({"kind": kind, "problem": first[key], "answers": answers})
    return found or [{"kind": "", "problem": first[key], "answers": [(tables[0][0], first[key])]} for key in shared[:2]]


def training_samples(run: RunData) -> list[tuple[str, Record]]:
    """The best paid rollout of the first step, and the best and the worst paid ones of the last step."""
    files = sorted((run.folder / "samples").glob("train-*.jsonl"))
    steps = [samples for path in dict.fromkeys(files[:1] + files[-1:]) if (samples := samples_of(path))]
    if not steps:
        return []
    ranked = [sorted(samples, key=lambda s: -(number(s.get("reward")) or 0.0)) for samples in steps]
    shown = [("best paid", ranked[0][0])] if len(ranked) > 1 else []
    shown += [("best paid", ranked[-1][0]), ("worst paid", ranked[-1][-1])]
    return [(f"step {sample.get('step', '?')}, {place}", sample) for place, sample in shown]


def facts(run: RunData) -> list[tuple[str, str, str]]:
    """The few figures at the top, as (name, value, what to know about it)."""
    found = []
    scores = scores_of(run, run.benchmarks[0]) if run.benchmarks else []
    if len(scores) > 1:
        gain = gain_of(run, run.benchmarks[0], scores[0], scores[-1])
        value = f"{percent(scores[0].value)} → {percent(scores[-1].value)}"
        found.append(("held-out accuracy", value, f"{scores[0].n or '?'} unseen problems"))
        found.append(("gain", f"{_signed(gain[0])} points", f"{points(gain[1])} with 95 %" if gain[1] else ""))
    for key, name in (("reward", "training reward"), ("formatted", "well-formed answers")):
        change = trend(run.last_stage, key)
        if change:
            show = percent if key == "formatted" else "{:.2f}".format
            span = "training" if len(run.stages) < 2 else f"the last stage, {list(run.stages)[-1]}"
            found.append((name, f"{show(change.start)} → {show(change.end)}", f"first and last steps of {span}"))
    seconds = sum(seconds for _, seconds in time_spent(run))
    if seconds:
        found.append(("time", duration(seconds), f"{run.steps} steps"))
    return found


def verdict_counts(run: RunData) -> dict[str, Any]:
    """How often each verdict was given in the first steps, the last steps and altogether."""
    records = [record for record in run.rl if record.get("verdicts")]
    size = max(1, min(5, len(records) // 2))
    spans = {f"first {size} steps": records[:size], f"last {size} steps": records[-size:], "all steps": records}
    counts = {span: _added(r["verdicts"] for r in part) for span, part in spans.items() if part}
    names = [name for name, total in _added(counts.values()).items() if total]
    return {
        "names": names,
        "spans": counts if len(records) > 1 else {k: v for k, v in counts.items() if k == "all steps"},
    }


def _added(records: Any) -> dict[str, float]:
    total: dict[str, float] = {}
    for record in records:
        for name, value in record.items():
            total[name] = total.get(name, 0) + (number(value) or 0)
    return total


def time_spent(run: RunData) -> list[tuple[str, float]]:
    """Seconds of each stage; they add up to the wall clock of the run."""
    times = [record.get("time") or {} for record in run.metrics]
    stages = _added({k: v for k, v in t.items() if not k.endswith(("_per_second", "_gb"))} for t in times)
    in_steps = stages.pop("step", 0.0)
    known = sum(stages.values())
    evaluation = sum(number((e.get("time") or {}).get("seconds")) or 0.0 for e in run.evals)
    rest = (number(run.summary.get("seconds")) or 0.0) - max(in_steps, known) - evaluation
    spent = {**stages, "rest of the steps": in_steps - known, "evaluation": evaluation, "set-up, saving, rest": rest}
    return [(name.replace("_", " "), seconds) for name, seconds in spent.items() if seconds > 0]


def cost(run: RunData) -> list[tuple[str, str]]:
    """What the run cost, as (what, how much)."""
    seconds = number(run.summary.get("seconds")) or sum(seconds for _, seconds in time_spent(run))
    tokens = number(run.summary.get("response_tokens")) or _added(run.metrics).get("response_tokens", 0)
    rollouts = _added(run.metrics).get("samples", 0)
    memory = [number((r.get("time") or {}).get("peak_memory_gb")) for r in run.metrics]
    peak = max((gb for gb in memory if gb is not None), default=None)
    versions = ", ".join(f"{name} {version}" for name, version in (run.summary.get("versions") or {}).items())
    rows = [
        ("wall clock", duration(seconds) if seconds else ""),
        ("steps", f"{run.steps}" + (f" (the first {run.cold} of them cold start)" if run.cold else "")),
        ("stages", ", ".join(f"{name} {n}" for name, n in run.stages.items()) if len(run.stages) > 1 else ""),
        ("rollouts", f"{rollouts:,.0f}" if rollouts else ""),
        ("response tokens", f"{tokens:,.0f}" if tokens else ""),
        ("peak memory", f"{peak:.1f} GB" if peak else ""),
        ("hardware", str(run.summary.get("hardware") or "")),
        ("versions", versions),
    ]
    return [(what, value) for what, value in rows if value]


def commands(run: RunData) -> list[tuple[str, str]]:
    """How to go on from here, as (what for, command)."""
    folder = shlex.quote(str(run.folder))
    if not run.finished:
        name = shlex.quote(f"run.name={run.name}")
        return [("go on where it stopped", f"rlvr train {folder}/recipe.yaml {name} --resume")]
    chosen = _selection(run)
    return [
        ("check the reward for loopholes", f"rlvr audit {folder}"),
        *([("find the problems worth training on", f"rlvr select {folder} {chosen}")] if chosen else []),
        ("set it beside another run", f"rlvr report {folder} runs/OTHER"),
        ("use the model", f'AutoModelForCausalLM.from_pretrained("{run.folder}/model")'),
    ]


def _selection(run: RunData) -> str:
    """The method of `rlvr select` that fits the run: accuracy varies only where problems were visited several times."""
    visits = {(str(record.get("id")), str(record.get("step"))) for record in run.history}
    problems = {name for name, _ in visits}
    method = "historical_variance" if len(visits) >= 2 * len(problems) else "pass_rate"
    return f"--method {method} --top {min(16, len(problems))}" if len(problems) > 1 else ""


def template(name: str) -> Template:
    """A page of `assets`, with the filters that all pages use."""
    folder = Path(__file__).parent / "assets"
    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = {"number": lambda value: "?" if number(value) is None else f"{value:.3g}"}
    made.filters.update(percent=percent, duration=duration, clean=_clean, interval=_interval, signed=_signed, **shown)
    return made.get_template(name)


def _signed(change: float) -> str:
    return f"{100 * change:+.1f}".replace("-", MINUS)


def _interval(interval: Sequence[float]) -> str:
    low, high = (f"{100 * edge:.1f}".replace("-", MINUS) for edge in interval)
    return f"[{low}, {high}]"


def _clean(text: Any, limit: int = LONGEST) -> str:
    """Model text as a page may hold it: without control codes, and not endless."""
    text = "".join(letter for letter in str(text) if letter.isprintable() or letter in "\n\t ")
    return text if len(text) <= limit else f"{text[: limit // 2]}\n[…]\n{text[-limit // 2 :]}"


def _write(path: Path, page: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{path.name}.part")
        half.write_bytes(CONTROLS.sub("", page).encode("utf-8", "replace"))
        os.replace(half, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; what was saved before it stays") from None
    return path
