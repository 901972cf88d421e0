"""The report of a run: one HTML file that says in plain words what happened and shows the figures it says it from."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from rlvr import charts
from rlvr.errors import RunError, UserError
from rlvr.progress import duration, number
from rlvr.progress import percent as plain_percent
from rlvr.trackers import JsonLines

Record = Mapping[str, Any]
PARTS = ("recipe.yaml", "metrics.jsonl", "evals.jsonl", "summary.json")
MINUS = "\N{MINUS SIGN}"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SAMPLE: Record = dict.fromkeys(("id", "question", "gold", "text", "tokens", "status", "answer", "reward", "parts"))
LONGEST = 3000  # letters of a response that are shown


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run folder holds; whatever is absent is empty."""

    folder: Path
    recipe: str
    summary: Record
    metrics: Sequence[Record]
    evals: Sequence[Record]
    history: Sequence[Record]
    planned: int | None

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def finished(self) -> bool:
        return bool(self.summary.get("finished"))

    @property
    def steps(self) -> int:
        return max((record["step"] for record in (*self.metrics, *self.evals)), default=0)

    @property
    def cold(self) -> int:
        """Number of cold-start steps."""
        return max((r["step"] for r in self.metrics if r.get("phase") == "cold_start"), default=0)

    @property
    def rl(self) -> Sequence[Record]:
        return [record for record in self.metrics if record.get("phase") != "cold_start"]

    @property
    def benchmarks(self) -> list[str]:
        """All benchmarks, the held-out set first."""
        return list(dict.fromkeys([*(e["benchmark"] for e in self.evals), *(self.summary.get("evals") or {})]))

    def of(self, benchmark: str) -> Sequence[Record]:
        """The evaluations of one benchmark in order, as in evals.jsonl or, where that is lost, as summed up."""
        found = [e for e in self.evals if e["benchmark"] == benchmark]
        summed = (self.summary.get("evals") or {}).get(benchmark) or {}
        known = [(step, summed[key]) for step, key in ((0, "before"), (self.steps, "after")) if summed.get(key)]
        return found or [
            {"step": step, "metrics": s, "ci95": {"pass@1": s.get("ci95")}, "counts": {"problems": s.get("n")}}
            for step, s in known
        ]


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy at one evaluation."""

    label: str
    step: int
    value: float
    interval: Sequence[float] | None
    n: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of before and after; `gain` is (difference, interval or None)."""

    name: str
    scores: list[Score | None]
    gain: tuple[float, Sequence[float] | None] | None
    part: bool = False  # a category of the benchmark above it

    @property
    def n(self) -> int | None:
        return next((score.n for score in self.scores if score and score.n), None)

    @property
    def strip(self) -> str:
        return charts.strip([(s.label, s.value, s.interval) for s in self.scores if s])


@dataclass(frozen=True, slots=True)
class Trend:
    """Mean of the first and of the last steps; `clear` where they differ by more than the noise between steps."""

    start: float
    end: float
    clear: bool

    @property
    def change(self) -> float:
        return self.end - self.start


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder; raises UserError where the folder cannot be read."""
    data = load(run)
    tone, sentence = headline(data)
    rows = [row for benchmark in data.benchmarks for row in table(data, benchmark)]
    view = {"run": data, "tone": tone, "sentence": sentence, "alarms": alarms(data), "rows": rows, "facts": facts(data)}
    page = template("report.html.j2").render(
        **view,
        charts=charts.run_charts(data.metrics, data.evals),
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
    sets = {(data.benchmarks[0], score.n) for data in scored for score in _scores(data, data.benchmarks[0])}
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


def load(run: Path) -> RunData:
    """Read a run folder, finished or not."""
    folder = Path(run)
    try:
        if not folder.is_dir():
            raise UserError(f"{folder}: is not a folder; name the folder of a run, such as runs/demo")
        if not any((folder / part).exists() for part in PARTS):
            raise UserError(f"{folder}: is not the folder of a run: it has none of {', '.join(PARTS)}")
        path = folder / "recipe.yaml"
        recipe = path.read_text("utf-8", "replace") if path.exists() else ""
        metrics = [r for r in _records(folder / "metrics.jsonl") if isinstance(r.get("step"), int)]
        evals = [r for r in _records(folder / "evals.jsonl") if isinstance(r.get("step"), int) and r.get("benchmark")]
        history = _records(folder / "history.jsonl")
        return RunData(folder, recipe, _summary(folder / "summary.json"), metrics, evals, history, _planned(recipe))
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None


def headline(run: RunData) -> tuple[str, str]:
    """What happened, in one sentence, and its tone: good, bad, flat or none."""
    start = "" if run.finished else f"This run is unfinished: {_reached(run)}. "
    so_far = "" if run.finished else " so far"
    scores = _scores(run, run.benchmarks[0]) if run.benchmarks else []
    if not scores:
        return "none", f"{start}No evaluation was recorded, so nothing can be said about accuracy."
    first, last = scores[0], scores[-1]
    unseen = f"{last.n} unseen problems" if last.n else "unseen problems"
    if len(scores) == 1:
        return (
            "none",
            f"{start}Held-out accuracy was {percent(first.value)} at step {first.step} ({unseen}); \
there is no second evaluation to compare it with.",
        )
    gain = _gain(run, run.benchmarks[0], first, last)
    tone, why = _judge(first, last, gain[1])
    values = f"from {percent(first.value)} to {percent(last.value)}{so_far} ({unseen})"
    if tone == "flat":
        text = f"No measurable change: held-out accuracy went {values}; {why}."
    else:
        text = f"Held-out accuracy {'rose' if tone == 'good' else 'fell'} {values}; {why}."
    return tone, start + text + _after_cold_start(run, scores)


def _judge(first: Score, last: Score, paired: Sequence[float] | None) -> tuple[str, str]:
    before, after = first.interval, last.interval
    apart = before and after and (after[0] > before[1] or after[1] < before[0])
    tone = "good" if last.value > first.value else "bad"
    if apart:
        return tone, "the 95 % intervals do not overlap"
    if paired and (paired[0] > 0 or paired[1] < 0):
        return tone, f"compared problem by problem the change is {_points(paired)} points (95 % interval)"
    if paired:
        return "flat", f"compared problem by problem the change is {_points(paired)} points (95 % interval), maybe none"
    return "flat", "the 95 % intervals overlap" if before and after else "no intervals were recorded"


def _after_cold_start(run: RunData, scores: list[Score]) -> str:
    middle = next((score for score in scores[1:-1] if score.step == run.cold), None)
    if not middle or not run.cold:
        return ""
    gain = _gain(run, run.benchmarks[0], middle, scores[-1])
    interval = f", 95 % interval {_points(gain[1])}" if gain[1] else ""
    change = 100 * (scores[-1].value - middle.value)
    return (
        f" After the cold start it was {percent(middle.value)}; reinforcement changed that by "
        f"{change:+.0f} points{interval}."
    )


def alarms(run: RunData) -> list[tuple[str, str]]:
    """Signs that the figures of training do not mean what they seem to: (heading, explanation with the numbers)."""
    found = [_hacking(run), _reward_alone(run), _truncation(run), _exhausted(run), _skipped(run)]
    return [alarm for alarm in found if alarm]


def _hacking(run: RunData) -> tuple[str, str] | None:
    scores = [s for s in _scores(run, run.benchmarks[0]) if s.step >= run.cold] if run.benchmarks else []
    if len(scores) < 2:
        return None
    first, last = scores[0], scores[-1]
    gain = _gain(run, run.benchmarks[0], first, last)
    fell = last.value < first.value - 0.02
    rose = gain[1][0] > 0 if gain[1] else last.value - first.value > 0.03
    rises = _rises(run)
    if not rises or ((rose or first.value > 0.97) and not fell):
        return None
    way = "fell" if fell else "did not measurably rise"
    facts = f"{' and '.join(rises)}, but held-out accuracy {way}: {percent(first.value)} to {percent(last.value)}."
    accuracy, empty = _trend(run.rl, "accuracy"), _trend(run.rl, "no_answer")
    if not fell and accuracy and accuracy.clear and accuracy.change > 0.05:
        return (
            "Training improves, held-out problems do not",
            f"{facts} Training accuracy rose too, from {percent(accuracy.start)} to {percent(accuracy.end)}: the "
            "policy may know its training problems by heart, or the held-out set is too small to show the gain.",
        )
    more = f" {percent(empty.end)} of the last rollouts give no answer at all." if empty and empty.end > 0.3 else ""
    return (
        "The reward may be hacked",
        f"{facts}{more} The policy seems to have learned what the reward pays for instead of solving the problems: "
        "read the samples below, and pay for the answer rather than for its form.",
    )


def _rises(run: RunData) -> list[str]:
    """What rose clearly in training, as words."""
    reward, formatted = _trend(run.rl, "reward"), _trend(run.rl, "formatted")
    shares = [number((e.get("metrics") or {}).get("formatted")) for e in run.of(run.benchmarks[0])]
    held = [share for share in shares if share is not None]
    if len(held) > 1 and run.cold == 0:
        formatted = Trend(held[0], held[-1], True)
    words = []
    if reward and reward.clear and reward.change > 0.1:
        words.append(f"training reward rose from {reward.start:.2f} to {reward.end:.2f}")
    if formatted and formatted.clear and formatted.change > 0.2:
        words.append(f"the share of well-formed answers rose from {formatted.start:.2f} to {formatted.end:.2f}")
    return [words[0][0].upper() + words[0][1:], *words[1:]] if words else []


def _reward_alone(run: RunData) -> tuple[str, str] | None:
    reward, accuracy = _trend(run.rl, "reward"), _trend(run.rl, "accuracy")
    if not (reward and accuracy and reward.clear and accuracy.clear and reward.change > 0.05):
        return None
    if accuracy.change > -0.05:
        return None
    return (
        "Reward rises while training accuracy falls",
        f"Mean reward went from {reward.start:.2f} to {reward.end:.2f}, but the share of correct training rollouts "
        f"from {percent(accuracy.start)} to {percent(accuracy.end)}. Some part of the reward works against the answer.",
    )


def _truncation(run: RunData) -> tuple[str, str] | None:
    cut = _trend(run.rl, "truncated")
    if not (cut and cut.clear and cut.change > 0.15):
        return None
    return (
        "Responses run into the token limit",
        f"The share of truncated responses rose from {percent(cut.start)} to {percent(cut.end)}. "
        "Raise the limit, or look whether responses only grow longer.",
    )


def _exhausted(run: RunData) -> tuple[str, str] | None:
    equal, entropy = _trend(run.rl, "no_signal"), _trend(run.rl, "entropy")
    if not equal or equal.end < 0.9 or (entropy and entropy.end > 0.5 * entropy.start):
        return None
    fell = f"Entropy per token fell from {entropy.start:.2f} to {entropy.end:.2f}, and in" if entropy else "In"
    accuracy = _trend(run.rl, "accuracy")
    solved = bool(accuracy and accuracy.end > 0.95)
    why = "nearly all answers are right; harder problems would help" if solved else "the policy no longer explores"
    return (
        "Nothing left to learn from",
        f"{fell} {percent(equal.end)} of the last groups all rewards are equal, so they change no weights: {why}.",
    )


def _skipped(run: RunData) -> tuple[str, str] | None:
    skipped = sum(int(number(record.get("skipped_updates")) or 0) for record in run.metrics)
    if not skipped:
        return None
    return ("Updates were skipped", f"{skipped} times the loss or its gradient was not finite.")


def _trend(records: Sequence[Record], key: str) -> Trend | None:
    values = [value for record in records if (value := number(record.get(key))) is not None]
    if len(values) < 4:
        return None
    size = max(2, min(5, len(values) // 3))
    first, last = values[:size], values[-size:]
    noise = math.sqrt((statistics.variance(first) + statistics.variance(last)) / size)
    start, end = statistics.fmean(first), statistics.fmean(last)
    return Trend(start, end, abs(end - start) > 2 * noise + 1e-9)


def table(run: RunData, benchmark: str) -> list[Row]:
    """Before, after the cold start where there was one, and after: the benchmark, then its categories."""
    records = run.of(benchmark)
    scores = _scores(run, benchmark)
    if not scores:
        return []
    middle = next((s for s in scores[1:-1] if run.cold and s.step == run.cold), None)
    last = scores[-1] if len(scores) > 1 else None
    shown = [scores[0], middle, last] if run.cold else [scores[0], last]
    rows = [Row(benchmark, shown, _gain(run, benchmark, scores[0], last) if last else None)]
    at = {record["step"]: record.get("categories") or {} for record in records}
    for name in at.get(scores[0].step, {}):
        parts = [_score(s.label, s.step, at[s.step].get(name) or {}) if s and s.step in at else None for s in shown]
        first, end = parts[0], parts[-1]
        gain = (end.value - first.value, None) if first and end else None
        rows.append(Row(name, parts, gain, part=True))
    return rows


def _scores(run: RunData, benchmark: str) -> list[Score]:
    records = run.of(benchmark)
    found = []
    for index, record in enumerate(records):
        label = "before" if index == 0 else "after" if index == len(records) - 1 else f"step {record['step']}"
        facts = {**(record.get("metrics") or {}), "n": (record.get("counts") or {}).get("problems")}
        found.append(_score(label, record["step"], {**facts, "ci95": (record.get("ci95") or {}).get("pass@1")}))
    return [score for score in found if score]


def _score(label: str, step: int, facts: Record) -> Score | None:
    value = number(facts.get("pass@1"))
    return None if value is None else Score(label, step, value, facts.get("ci95") or None, facts.get("n"))


def _gain(run: RunData, benchmark: str, first: Score, last: Score) -> tuple[float, Sequence[float] | None]:
    """Difference with its paired interval: as summed up, else computed from the samples of both evaluations."""
    summed = (((run.summary.get("evals") or {}).get(benchmark)) or {}).get("gain") or {}
    if number(summed.get("pass@1")) is not None and (first.label, last.label) == ("before", "after"):
        return summed["pass@1"], summed.get("ci95")
    before, after = (_solved(_evaluated(run, benchmark, score.step)) for score in (first, last))
    changes = [after[key] - before[key] for key in before if key in after]
    if len(changes) < 2:
        return last.value - first.value, None
    mean, error = statistics.fmean(changes), statistics.stdev(changes) / math.sqrt(len(changes))
    return mean, [mean - 1.96 * error, mean + 1.96 * error]


def _solved(samples: Sequence[Record]) -> dict[str, float]:
    right: dict[str, list[bool]] = {}
    for sample in samples:
        right.setdefault(str(sample.get("id")), []).append(sample.get("status") == "correct")
    return {key: statistics.fmean(values) for key, values in right.items()}


def compared_problems(run: RunData) -> list[dict[str, Any]]:
    """Held-out problems with their answers before, during and after: two that were learned, one not, one unlearned."""
    steps = [record["step"] for record in run.of(run.benchmarks[0])] if run.benchmarks else []
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    tables = [
        (step, {str(s.get("id")): s for s in reversed(_evaluated(run, run.benchmarks[0], step))}) for step in chosen
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
    steps = [samples for path in dict.fromkeys(files[:1] + files[-1:]) if (samples := _samples(path))]
    if not steps:
        return []
    ranked = [sorted(samples, key=lambda s: -(number(s.get("reward")) or 0.0)) for samples in steps]
    shown = [("best paid", ranked[0][0])] if len(ranked) > 1 else []
    shown += [("best paid", ranked[-1][0]), ("worst paid", ranked[-1][-1])]
    return [(f"step {sample.get('step', '?')}, {place}", sample) for place, sample in shown]


def facts(run: RunData) -> list[tuple[str, str, str]]:
    """The few figures at the top, as (name, value, what to know about it)."""
    found = []
    scores = _scores(run, run.benchmarks[0]) if run.benchmarks else []
    if len(scores) > 1:
        gain = _gain(run, run.benchmarks[0], scores[0], scores[-1])
        value = f"{percent(scores[0].value)} → {percent(scores[-1].value)}"
        found.append(("held-out accuracy", value, f"{scores[0].n or '?'} unseen problems"))
        found.append(("gain", f"{_signed(gain[0])} points", f"{_points(gain[1])} with 95 %" if gain[1] else ""))
    for key, name in (("reward", "training reward"), ("formatted", "well-formed answers")):
        trend = _trend(run.rl, key)
        if trend:
            show = percent if key == "formatted" else "{:.2f}".format
            found.append((name, f"{show(trend.start)} → {show(trend.end)}", "first and last steps of training"))
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


def _reached(run: RunData) -> str:
    if not run.steps:
        return "no step was recorded"
    return f"the last recorded step is {run.steps}" + (f" of {run.planned}" if run.planned else "")


def _points(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:+.0f} to {100 * interval[1]:+.0f}".replace("-", MINUS)


def _evaluated(run: RunData, benchmark: str, step: int) -> list[dict[str, Any]]:
    return _samples(run.folder / "samples" / f"eval-{benchmark}-{step:06}.jsonl")


def _samples(path: Path) -> list[dict[str, Any]]:
    return [{**SAMPLE, **record} for record in _records(path)]


def _records(path: Path) -> list[dict[str, Any]]:
    return JsonLines.read(path) if path.exists() else []


def _summary(path: Path) -> Record:
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # a run that was killed has none, or half of one
        return {}
    return summary if isinstance(summary, dict) else {}


def _planned(recipe: str) -> int | None:
    try:
        keys = yaml.safe_load(recipe)
        return int(keys["run"]["steps"]) + int((keys.get("cold_start") or {}).get("steps", 0))
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError):
        return None


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


def percent(share: float | None, digits: int = 0) -> str:
    """A share that no line break tears apart."""
    return plain_percent(share, digits).replace(" ", "\N{NO-BREAK SPACE}")


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
