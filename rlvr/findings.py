"""What a run shows: its folder read, a headline, alarms and phenomena, in plain words with the
numbers.
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from rlvr import progress
from rlvr.charts import measured
from rlvr.errors import UserError
from rlvr.evals import paired_gain
from rlvr.progress import MINUS, number
from rlvr.trackers import JsonLines

Record = Mapping[str, Any]
PARTS = ("recipe.yaml", "metrics.jsonl", "evals.jsonl", "summary.json")
LONGEST = 3000  # letters of a response that are shown
Said = tuple[str, str] | None  # heading, text
SAMPLE: Record = dict.fromkeys(
    ("id", "question", "gold", "text", "tokens", "status", "answer", "reward", "parts")
)


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
    def stages(self) -> Mapping[str, int]:
        """How many steps of reinforcement each stage has; one, "rl", in a run without stages."""
        return Counter(str(record.get("phase", "rl")) for record in self.rl)

    @property
    def last_stage(self) -> Sequence[Record]:
        """The steps that compare with one another: another stage may have other problems, limits
        and rewards.
        """
        return [record for record in self.rl if record.get("phase") == self.rl[-1].get("phase")]

    @property
    def benchmarks(self) -> list[str]:
        """All benchmarks, the held-out set first."""
        return list(dict.fromkeys(e["benchmark"] for e in self.evals))

    def measured(self, key: str) -> list[float]:
        """One metric of all evaluations of the held-out set that have it, in order."""
        records = self.of(self.benchmarks[0]) if self.benchmarks else []
        values = [measured(record, key) for record in records]
        return [value for value in values if value is not None]

    @property
    def scores(self) -> list[Score]:
        """Accuracy at each evaluation of the held-out set."""
        return scores_of(self, self.benchmarks[0]) if self.benchmarks else []

    def of(self, benchmark: str) -> Sequence[Record]:
        """The evaluations of one benchmark in order."""
        return [e for e in self.evals if e["benchmark"] == benchmark]


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


@dataclass(frozen=True, slots=True)
class Trend:
    """Mean of the first and of the last steps; `clear` where they differ by more than the noise
    between steps.
    """

    start: float
    end: float
    clear: bool

    @property
    def change(self) -> float:
        return self.end - self.start


def load(run: Path) -> RunData:
    """Read a run folder, finished or not."""
    folder = Path(run)
    try:
        if not folder.is_dir():
            raise UserError(
                f"{folder}: is not a folder; name the folder of a run, such as runs/demo"
            )
        if not any((folder / part).exists() for part in PARTS):
            raise UserError(
                f"{folder}: is not the folder of a run: it has none of {', '.join(PARTS)}"
            )
        path = folder / "recipe.yaml"
        recipe = path.read_text("utf-8", "replace") if path.exists() else ""
        metrics = [r for r in _records(folder / "metrics.jsonl") if isinstance(r.get("step"), int)]
        evals = [
            r
            for r in _records(folder / "evals.jsonl")
            if isinstance(r.get("step"), int) and r.get("benchmark")
        ]
        history = _records(folder / "history.jsonl")
        return RunData(
            folder,
            recipe,
            _summary(folder / "summary.json"),
            metrics,
            evals,
            history,
            _planned(recipe),
        )
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None


def headline(run: RunData) -> tuple[str, str]:
    """What happened, in one sentence, and its tone: good, bad, flat or none."""
    found: dict[str, Any] = {"run": run, "scores": run.scores, "tone": "none"}
    if len(run.scores) > 1:
        (first, *others, last), name = run.scores, run.benchmarks[0]
        before, after, paired = first.interval, last.interval, gain_of(run, name, first, last)[1]
        apart = bool(before and after and (after[0] > before[1] or after[1] < before[0]))
        clear = apart or bool(paired and (paired[0] > 0 or paired[1] < 0))
        tone = "flat" if not clear else "good" if last.value > first.value else "bad"
        middle = next((score for score in others if run.cold and score.step == run.cold), None)
        since = gain_of(run, name, middle, last)[1] if middle else None
        found |= {"tone": tone, "apart": apart, "paired": paired, "middle": middle, "since": since}
    return found["tone"], said("headline", **found)[1]


def said(name: str, **figures: Any) -> tuple[str, str]:
    """A heading and a text of `assets/words.j2`."""
    heading, *lines = getattr(template("words.j2").module, name)(**figures).strip().split("\n")
    return heading, " ".join(filter(None, lines))


def alarms(run: RunData) -> list[tuple[str, str]]:
    """Signs that the figures of training do not mean what they seem to: (heading, explanation with
    the numbers).
    """
    found = [_hacking(run), _reward_alone(run), _truncation(run), _exhausted(run), _skipped(run)]
    return [alarm for alarm in found if alarm]


def _hacking(run: RunData) -> Said:
    scores = [score for score in run.scores if score.step >= run.cold]
    reward, form = trend(run.rl, "reward"), trend(run.rl, "formatted")
    held = run.measured("formatted")
    if len(held) > 1 and run.cold == 0:
        form = Trend(held[0], held[-1], True)
    pays = reward if reward and reward.clear and reward.change > 0.1 else None
    form = form if form and form.clear and form.change > 0.2 else None
    if len(scores) < 2 or not (pays or form):
        return None
    first, last = scores[0], scores[-1]
    gain = gain_of(run, run.benchmarks[0], first, last)
    fell = last.value < first.value - 0.02
    rose = gain[1][0] > 0 if gain[1] else last.value - first.value > 0.03
    if (rose or first.value > 0.97) and not fell:
        return None
    facts = {"reward": pays, "form": form, "fell": fell, "first": first.value, "last": last.value}
    accuracy, empty = trend(run.rl, "accuracy"), trend(run.rl, "no_answer")
    if not fell and accuracy and accuracy.clear and accuracy.change > 0.05:
        return said("not_held_out", **facts, accuracy=accuracy)
    return said("hacked", **facts, empty=empty)


def _reward_alone(run: RunData) -> Said:
    reward, accuracy = trend(run.last_stage, "reward"), trend(run.last_stage, "accuracy")
    if not (reward and accuracy and reward.clear and accuracy.clear):
        return None
    apart = reward.change > 0.05 and accuracy.change <= -0.05
    return said("reward_alone", reward=reward, accuracy=accuracy) if apart else None


def _truncation(run: RunData) -> Said:
    cut = trend(run.last_stage, "truncated")
    return said("truncation", cut=cut) if cut and cut.clear and cut.change > 0.15 else None


def _exhausted(run: RunData) -> Said:
    equal, entropy = trend(run.last_stage, "no_signal"), trend(run.last_stage, "entropy")
    if not equal or equal.end < 0.9 or (entropy and entropy.end > 0.5 * entropy.start):
        return None
    accuracy = trend(run.last_stage, "accuracy")
    return said("exhausted", equal=equal, entropy=entropy, solved=accuracy and accuracy.end > 0.95)


def _skipped(run: RunData) -> Said:
    critic = [record.get("critic") or {} for record in run.metrics]
    of_policy, of_critic = (
        sum(int(number(part.get("skipped_updates")) or 0) for part in parts)
        for parts in (run.metrics, critic)
    )
    updates = of_policy + of_critic
    return said("skipped", updates=updates, of_critic=of_critic) if updates else None


def phenomena(run: RunData) -> list[tuple[str, str]]:
    """What One-Shot-RLVR and its critics look for, each only where the run shows it: (heading,
    sentence).
    """
    found = [
        _saturated(run),
        _form_and_content(run),
        _tries(run),
        _reflection(run),
        _gibberish(run),
    ]
    return [one for one in found if one]


def saturation(run: RunData) -> int | None:
    """The first step from which training accuracy stays at 95 % or more in the mean of five steps."""
    values = [(r["step"], number(r.get("accuracy"))) for r in run.rl]
    known = [(step, value) for step, value in values if value is not None]
    means = [
        (known[i][0], statistics.fmean(v for _, v in known[i : i + 5]))
        for i in range(len(known) - 4)
    ]
    below = [place for place, (_, mean) in enumerate(means) if mean < 0.95]
    start = below[-1] + 1 if below else 0
    return means[start][0] if start < len(means) else None


def _saturated(run: RunData) -> Said:
    step = saturation(run)
    scores = [score for score in run.scores if step is not None and score.step >= step]
    return (
        said("saturated", step=step, first=scores[0], last=scores[-1]) if len(scores) > 1 else None
    )


def _form_and_content(run: RunData) -> Said:
    """The gain split in two: accuracy is the share of well-formed answers times their accuracy, and
    what is right without the form.
    """
    columns = [run.measured(key) for key in ("pass@1", "formatted", "pass@1_formatted")]
    if len({len(column) for column in columns}) > 1 or len(columns[0]) < 2:
        return None
    form, content, rest = split_gain(*([column[at] for column in columns] for at in (0, -1)))
    if max(abs(form), abs(content), abs(rest)) < 0.005:
        return None
    return said("form_and_content", form=form, content=content, rest=rest)


def split_gain(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """A gain as what more answers in the asked form brought, what better answers in that form did,
    and the rest, outside it; each side is (accuracy, share well-formed, accuracy among the
    well-formed).

    >>> [round(part, 3) for part in split_gain((0.3, 0.5, 0.6), (0.5, 0.7, 0.7))]
    [0.13, 0.06, 0.01]
    """
    (a0, f0, p0), (a1, f1, p1) = before, after
    form, content = (f1 - f0) * (p0 + p1) / 2, (p1 - p0) * (f0 + f1) / 2
    return form, content, (a1 - a0) - form - content


def _tries(run: RunData) -> Said:
    last = (run.of(run.benchmarks[0])[-1].get("metrics") or {}) if run.benchmarks else {}
    most = max(
        (int(name[5:]) for name in last if name.startswith("pass@") and name[5:].isdigit()),
        default=1,
    )
    one, many = run.measured("pass@1"), run.measured(f"pass@{most}")
    return said("tries", most=most, one=one, many=many) if most > 1 and len(many) > 1 else None


def _reflection(run: RunData) -> Said:
    known = run.measured("reflection")
    return said("reflection", known=known) if len(known) > 1 and max(known) >= 0.005 else None


def _gibberish(run: RunData) -> Said:
    """Where texts of training decay while those on held-out problems do not, as One-Shot-RLVR saw,
    or both do.
    """
    signs = []
    for key, words in (("foreign", "letters outside ASCII"), ("repetition", "repeated phrases")):
        change = trend(run.rl, key)
        if change and change.clear and change.end > 0.05 and change.change > 0.02:
            signs.append((words, change, run.measured(key)))
    return said("decay", signs=signs) if signs else None


def trend(records: Sequence[Record], key: str) -> Trend | None:
    values = [value for record in records if (value := number(record.get(key))) is not None]
    if len(values) < 4:
        return None
    size = max(2, min(5, len(values) // 3))
    first, last = values[:size], values[-size:]
    noise = math.sqrt((statistics.variance(first) + statistics.variance(last)) / size)
    start, end = statistics.fmean(first), statistics.fmean(last)
    return Trend(start, end, abs(end - start) > 2 * noise + 1e-9)


def table(run: RunData, benchmark: str) -> list[Row]:
    """Before, after the cold start where there was one, and after: the benchmark, then its
    categories.
    """
    records = run.of(benchmark)
    scores = scores_of(run, benchmark)
    if not scores:
        return []
    middle = next((s for s in scores[1:-1] if run.cold and s.step == run.cold), None)
    last = scores[-1] if len(scores) > 1 else None
    shown = [scores[0], middle, last] if run.cold else [scores[0], last]
    rows = [Row(benchmark, shown, gain_of(run, benchmark, scores[0], last) if last else None)]
    at = {record["step"]: record.get("categories") or {} for record in records}
    for name in at.get(scores[0].step, {}):
        parts = [
            _score(s.label, s.step, at[s.step].get(name) or {}) if s and s.step in at else None
            for s in shown
        ]
        first, end = parts[0], parts[-1]
        gain = (end.value - first.value, None) if first and end else None
        rows.append(Row(name, parts, gain, part=True))
    return rows


def scores_of(run: RunData, benchmark: str) -> list[Score]:
    records = run.of(benchmark)
    found = []
    for index, record in enumerate(records):
        label = (
            "before"
            if index == 0
            else "after"
            if index == len(records) - 1
            else f"step {record['step']}"
        )
        facts = {**(record.get("metrics") or {}), "n": (record.get("counts") or {}).get("problems")}
        found.append(
            _score(
                label, record["step"], {**facts, "ci95": (record.get("ci95") or {}).get("pass@1")}
            )
        )
    return [score for score in found if score]


def _score(label: str, step: int, facts: Record) -> Score | None:
    value = number(facts.get("pass@1"))
    return (
        None
        if value is None
        else Score(label, step, value, facts.get("ci95") or None, facts.get("n"))
    )


def gain_of(
    run: RunData, benchmark: str, first: Score, last: Score
) -> tuple[float, Sequence[float] | None]:
    """Difference with its paired interval: as summed up, else computed from the samples of both
    evaluations.
    """
    summed = (((run.summary.get("evals") or {}).get(benchmark)) or {}).get("gain") or {}
    if number(summed.get("pass@1")) is not None and (first.label, last.label) == (
        "before",
        "after",
    ):
        return summed["pass@1"], summed.get("ci95")
    before, after = (solved(evaluated(run, benchmark, score.step)) for score in (first, last))
    shared = [key for key in before if key in after]
    if len(shared) < 2:
        return last.value - first.value, None
    gain = paired_gain([before[key] for key in shared], [after[key] for key in shared])
    return gain["pass@1"], gain["ci95"]  # type: ignore[return-value]


def solved(samples: Sequence[Record]) -> dict[str, float]:
    """The share of right answers of each problem."""
    right: dict[str, list[bool]] = {}
    for sample in samples:
        right.setdefault(str(sample.get("id")), []).append(sample.get("status") == "correct")
    return {key: statistics.fmean(values) for key, values in right.items()}


def evaluated(run: RunData, benchmark: str, step: int) -> list[dict[str, Any]]:
    return samples_of(run.folder / "samples" / f"eval-{benchmark}-{step:06}.jsonl")


def samples_of(path: Path) -> list[dict[str, Any]]:
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


def percent(share: float | None, digits: int = 0) -> str:
    """A share that no line break tears apart."""
    return progress.percent(share, digits).replace(" ", "\N{NO-BREAK SPACE}")


def points(interval: Sequence[float]) -> str:
    """An interval in points, with a decimal where an end is so near 0 that its sign matters."""
    digits = 1 if any(0 < abs(edge) < 0.01 for edge in interval) else 0
    return f"{100 * interval[0]:+.{digits}f} to {100 * interval[1]:+.{digits}f}".replace("-", MINUS)


def template(name: str) -> Template:
    """A page of `assets`, with the filters that all pages use."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "assets"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(percent=percent, duration=progress.duration, clean=_clean, points=points)
    made.filters.update(interval=progress.interval_text, signed=progress.signed)
    made.filters["number"] = lambda value: "?" if number(value) is None else f"{value:.3g}"
    made.filters["quote"] = shlex.quote
    made.filters["yaml"] = partial(
        yaml.safe_dump, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return made.get_template(name)


def _clean(text: Any, limit: int = LONGEST) -> str:
    """Model text as a page may hold it: without control codes, and not endless."""
    text = "".join(letter for letter in str(text) if letter.isprintable() or letter in "\n\t ")
    return text if len(text) <= limit else f"{text[: limit // 2]}\n[…]\n{text[-limit // 2 :]}"
