"""Whether a reward can be trusted: golds that verify, controls that earn nothing, verdicts beside
other graders.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any, Literal

from rlvr import recipe as recipes
from rlvr import registry
from rlvr.errors import UserError
from rlvr.grading import symbolic
from rlvr.grading.extract import last_box, last_number
from rlvr.grading.symbolic import Died, Late
from rlvr.grading.units import read_number
from rlvr.scores import words
from rlvr.tree import asset
from rlvr.types import Problem, Response, Status, Verdict
from rlvr.verify import Judge, by_task, judge_safely, settle

CHUNK = 1024
CONTROL_PROBLEMS = 64
EXAMPLES = 8

Mode = Literal["mark", "drop", "off"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A problem whose gold cannot be compared by meaning, and why."""

    id: str
    gold: str
    reason: str


def gated(
    problems: Sequence[Problem], mode: Mode
) -> tuple[tuple[Problem, ...], tuple[Refused, ...]]:
    """The problems after the gate of their task, and those whose gold it refused: marked as text
    only, or dropped.

    A problem without a gold is always dropped.
    """
    gates = set(registry.names("gate")) if mode != "off" else set()
    kept: list[Problem] = []
    refused: list[Refused] = []
    for problem in problems:
        if not problem.answer.strip():
            refused.append(Refused(problem.id, "", "its row has no gold, so it is left out"))
            continue
        reason = (
            registry.find("gate", problem.task, problem.id).function(problem)
            if problem.task in gates
            else ""
        )
        if reason:
            refused.append(Refused(problem.id, problem.answer, reason))
            problem = replace(problem, meta={**problem.meta, "string_only": reason})
        if not reason or mode == "mark":
            kept.append(problem)
    return tuple(kept), tuple(refused)


# What a model could write without solving anything, from a problem and the text of its prompt.
CONTROLS: Mapping[str, str] = asset("controls")
NEVER = ("empty", "empty box", "empty tags")
ECHOES = ("echo of the question", "echo of the prompt")


def control_scores(
    judge: Judge, problems: Sequence[Problem], prompts: Sequence[str] = ()
) -> dict[str, float]:
    """The share of problems on which each control is judged correct."""
    asked = list(problems[:CONTROL_PROBLEMS])
    texts = [*prompts[: len(asked)], *[""] * (len(asked) - len(prompts))]
    found = {}
    pairs = zip(asked, texts, strict=True)
    given = [
        {"question": p.question, "answer": p.answer, "prompt": t or p.question} for p, t in pairs
    ]
    for name, control in CONTROLS.items():
        written = [Template(control).substitute(known) for known in given]
        pending = [
            judge_safely(judge, p, Response(text)) for p, text in zip(asked, written, strict=True)
        ]
        found[name] = sum(verdict.correct for verdict in settle(pending)) / max(1, len(asked))
    return found


def check_controls(
    where: str, judge: Judge, problems: Sequence[Problem], prompts: Sequence[str], limit: float
) -> None:
    """Refuse a task that rewards an empty answer at all, or an echo on a larger share of problems
    than `limit`.
    """
    scores = control_scores(judge, problems, prompts)
    for name in (*NEVER, *ECHOES):
        if scores[name] > (0.0 if name in NEVER else limit):
            raise UserError(
                f"{where}: the task takes the control '{name}' for correct on {scores[name]:.0%} of"
                f" {min(len(problems), CONTROL_PROBLEMS)} problems, so a model could earn the reward without solving"
                " anything; mend the task, or raise verify.echo_limit where the answers stand in the questions"
            )


NGRAM = 13  # words in a row, of which problems of the same making share a few by chance
# what more problems share is the phrase of a kind of problem (Brown et al., 2020, appendix C)
COMMON = 10
# of a problem's stretches of 13 words in one training problem: the same problem, told a little
# otherwise
MOST = 0.5


@dataclass(frozen=True, slots=True)
class Overlap:
    """Held-out problems that also stand among the training problems, each with one of those: word
    for word, in most of their stretches of 13 words, or in some.
    """

    exact: Mapping[str, str]
    most: Mapping[str, str]
    some: Mapping[str, str]
    held_out: int
    train: int

    def line(self, name: str) -> str:
        """What was found, in one line."""
        found = {**self.exact, **self.most, **self.some}
        if not found:
            return f"{name}: no held-out problem of {self.held_out} shares {NGRAM} words with {self.train} trained on"
        pairs = ", ".join(f"{held} ({train})" for held, train in list(found.items())[:4])
        return (
            f"{name}: of {self.held_out} held-out problems {len(self.exact)} stand word for word among {self.train} to"
            f" train on, {len(self.most)} in most stretches of {NGRAM} words, {len(self.some)} in some: {pairs}"
            + (", …" if len(found) > 4 else "")
        )


def overlap(train: Sequence[Problem], held_out: Sequence[Problem]) -> Overlap:
    """Compare the questions of two sets by their words, numbers and operators, without marks,
    spaces and capitals.
    """
    asked = {problem.id: words(problem.question) for problem in held_out}
    grams = {name: _ngrams(text) for name, text in asked.items()}
    seen = Counter(gram for found in grams.values() for gram in found)
    whole: dict[str, str] = {}
    shared: dict[str, list[str]] = {gram: [] for gram in seen}
    # a repeat says nothing new
    distinct = {" ".join(words(problem.question)): problem for problem in reversed(train)}
    for joined, problem in distinct.items():
        text = joined.split()
        whole[joined] = problem.id
        for gram in _ngrams(text) & shared.keys():
            shared[gram].append(problem.id)
    exact = {name: whole[" ".join(text)] for name, text in asked.items() if " ".join(text) in whole}
    most, some = {}, {}
    for name in (name for name in asked if name not in exact):
        telling = [
            gram
            for gram in grams[name]
            if shared[gram] and len(shared[gram]) + seen[gram] <= COMMON
        ]
        ids = Counter(sorted(train_id for gram in telling for train_id in shared[gram]))
        if ids:
            closest, count = ids.most_common(1)[0]
            (most if count >= MOST * len(grams[name]) else some)[name] = closest
    return Overlap(exact, most, some, len(asked), len(distinct))


def _ngrams(text: Sequence[str]) -> set[str]:
    return {" ".join(text[i : i + NGRAM]) for i in range(len(text) - NGRAM + 1)}


def grade(lines: Iterable[str], task: str = "math") -> Iterator[dict[str, Any]]:
    """A verdict for each line `{"gold", "prediction", "id"}`, in order; a malformed line has the
    status `error`.
    """
    judge = registry.find("task", task, "--task").function
    numbered = enumerate(lines)
    while chunk := list(islice(numbered, CHUNK)):
        rows = [_parsed(number, line, task) for number, line in chunk]
        pending = [judge_safely(judge, *pair) if pair else _MALFORMED for _, pair in rows]
        for (name, _), verdict in zip(rows, settle(pending), strict=True):
            more = {"formatted": verdict.formatted} if task == "knights" else {}
            yield {
                "id": name, "status": verdict.status, "correct": verdict.correct, "answer": verdict.answer,
                **more, "ms": round(verdict.ms, 3),
            }  # fmt: skip


_MALFORMED = Verdict(Status.ERROR, rule="malformed line")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _parsed(number: int, line: str, task: str) -> tuple[Any, tuple[Problem, Response] | None]:
    """The id of a line, and its problem with the response where it is well formed."""
    try:
        row = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return number, None
    if not isinstance(row, dict):
        return number, None
    name, gold, text = row.get("id", number), row.get("gold"), row.get("prediction")
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        gold = str(gold)
    if not isinstance(gold, str) or not isinstance(text, str):
        return name, None
    return name, (Problem(str(name), task, "", gold), Response(text, prefill=_opened(text)))


@dataclass(frozen=True, slots=True)
class Seen:
    """One response as it was judged, and what other graders say of it (None: the library did not
    answer).
    """

    problem: Problem
    verdict: Verdict
    others: Mapping[str, bool | None]


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found; `controls` are shares."""

    seen: tuple[Seen, ...]
    refused: tuple[Refused, ...]
    problems: int
    controls: Mapping[str, float]

    @property
    def rewarded(self) -> list[str]:
        """The controls that earn something."""
        return [name for name, share in self.controls.items() if share]

    @property
    def headline(self) -> str:
        """What was found, in one line."""
        right = sum(seen.verdict.correct for seen in self.seen)
        paid = (
            f"rewarded without work: {', '.join(self.rewarded)}"
            if self.rewarded
            else "no control is rewarded"
        )
        return f"{len(self.seen)} responses to {self.problems} problems, {right} judged correct; {paid}."

    def table(self) -> list[tuple[str, int, int, int]]:
        """(grader, agreed, only we accept, only the other accepts) for each other grader."""
        rows = []
        for name in NAMES:
            pairs = [
                (s.verdict.correct, other)
                for s in self.seen
                if (other := s.others[name]) is not None
            ]
            ours, theirs = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
            rows.append((name, len(pairs) - ours - theirs, ours, theirs))
        return rows

    def disagreements(self, grader: str) -> list[Seen]:
        """Responses on which that grader and we differ, each pair of gold and answer once."""
        differing = [s for s in self.seen if s.others[grader] not in (None, s.verdict.correct)]
        return list({(s.problem.answer, s.verdict.answer): s for s in differing}.values())


def audit(path: Path) -> Audit:
    """Judge the samples of a run, or the lines of a file, again and by other graders; raises
    UserError.
    """
    rows = list(_responses(path))
    if not rows:
        raise UserError(
            f"{path}: there is nothing to audit; it should be a run with samples or a file of JSON lines"
        )
    judge = _judge_of(path)
    verdicts = settle([judge_safely(judge, problem, response) for problem, response in rows])
    opinions = second_opinions([(problem, response.text) for problem, response in rows])
    seen = [
        Seen(problem, verdict, {"library": opinion, **_plainly(problem.answer, response.text)})
        for (problem, response), verdict, opinion in zip(rows, verdicts, opinions, strict=True)
    ]
    problems = list({problem.id: problem for problem, _ in rows}.values())
    return Audit(
        tuple(seen), gated(problems, "mark")[1], len(problems), control_scores(judge, problems)
    )


def _judge_of(path: Path) -> Judge:
    """The task as the run's recipe binds it, else that which each problem names."""
    if not (path / "recipe.yaml").is_file():
        return by_task
    spec = recipes.load(path / "recipe.yaml").train[0].task
    return (
        registry.find("task", spec.name, str(path)).bind(spec.params, "task") if spec else by_task
    )


def _responses(path: Path) -> Iterator[tuple[Problem, Response]]:
    """Problems and responses of a run's training and evaluation samples, or of a file as `grade`
    reads it.
    """
    if path.is_dir():
        for file in sorted((path / "samples").glob("*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                problem = Problem(row["id"], row.get("task", "math"), row["question"], row["gold"])
                yield (
                    problem,
                    Response(row["text"], row["finish"] == "length", _opened(row["text"])),
                )
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    for number, line in enumerate(lines):
        if pair := _parsed(number, line, "math")[1]:
            yield pair


def _opened(text: str) -> str:
    """What the prompt of such a response had opened."""
    return "<think>" if "</think>" in text and "<think>" not in text else ""


def second_opinions(pairs: Sequence[tuple[Problem, str]]) -> list[bool | None]:
    """What math-verify alone says of whole responses to problems of the task math; None where it
    did not answer.
    """
    asked = [
        symbolic.whole(p.answer, text) if p.task == "math" and text else None for p, text in pairs
    ]
    return [_answered(future) for future in asked]


def _answered(future: Future[bool] | None) -> bool | None:
    try:
        return future.result() if future is not None else None
    except (Late, Died):
        return None


def _plainly(gold: str, text: str) -> dict[str, bool]:
    """Whether the box is the gold letter by letter, and whether the last number is the gold's."""
    same_number = read_number(gold) == read_number(last_number(text) or "") is not None
    return {"string": (last_box(text) or "").strip() == gold.strip(), "number": same_number}


NAMES = {"library": "math-verify", "string": "the same string", "number": "the last number"}


def lines_of(found: Audit) -> Iterator[str]:
    """The audit as text."""
    yield found.headline
    share = 1 - len(found.refused) / found.problems
    yield f"golds that verify against themselves and their rewrites: {share:.1%}"
    for row in found.refused[:EXAMPLES]:
        yield f"  {row.id}: {row.reason}: {row.gold[:80]!r}"
    yield f"{'beside':<20}{'agree':>8}{'only we accept':>17}{'only it accepts':>18}"
    for name, agreed, ours, theirs in found.table():
        yield f"{NAMES[name]:<20}{agreed:>8}{ours:>17}{theirs:>18}"
    for name in ("library", "number"):
        for seen in found.disagreements(name)[:EXAMPLES]:
            who = "only we accept" if seen.verdict.correct else f"only {NAMES[name]} accepts"
            yield f"  {who}: gold {seen.problem.answer[:60]!r}, answer {str(seen.verdict.answer)[:60]!r}"
    yield "controls, which should earn nothing: " + ", ".join(
        f"{k} {v:.0%}" for k, v in found.controls.items()
    )


def write_page(found: Audit, title: str, out: Path) -> Path:
    """The audit as one self-contained page."""
    from rlvr.report import template

    rows = [(NAMES[name], *figures) for name, *figures in found.table()]
    differing = {
        NAMES[name]: found.disagreements(name)[:50] for name in ("library", "number", "string")
    }
    page = template("audit.html.j2").render(
        title=title, found=found, rows=rows, differing=differing
    )
    out.write_text(page, encoding="utf-8", errors="replace")
    return out
