"""Whether a reward can be trusted: golds that verify, controls that earn nothing, verdicts beside
other graders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlvr.config import loader
from rlvr.data.controls import score_controls
from rlvr.data.gate import RejectedGold, check_golds
from rlvr.errors import UserError
from rlvr.evaluation.grade import opened_thinking, parse_line
from rlvr.grading.math_verify import second_opinions
from rlvr.tasks.judge import Judge, judge_by_task, judge_safely, wait_all
from rlvr.types import Problem, Response, Verdict

from rlvr import registry
from rlvr.grading.extract import find_last_box, find_last_number
from rlvr.grading.units import read_number

EXAMPLES = 8


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
    refused: tuple[RejectedGold, ...]
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


def audit_responses(path: Path) -> Audit:
    """Judge the samples of a run, or the lines of a file, again and by other graders; raises
    UserError.
    """
    rows = list(_responses(path))
    if not rows:
        raise UserError(
            f"{path}: there is nothing to audit; it should be a run with samples or a file of JSON lines"
        )
    judge = _judge_of(path)
    verdicts = wait_all([judge_safely(judge, problem, response) for problem, response in rows])
    opinions = second_opinions([(problem, response.text) for problem, response in rows])
    seen = [
        Seen(problem, verdict, {"library": opinion, **_plainly(problem.answer, response.text)})
        for (problem, response), verdict, opinion in zip(rows, verdicts, opinions, strict=True)
    ]
    problems = list({problem.id: problem for problem, _ in rows}.values())
    return Audit(
        tuple(seen),
        check_golds(problems, "mark")[1],
        len(problems),
        score_controls(judge, problems),
    )


def _judge_of(path: Path) -> Judge:
    """The task as the run's recipe binds it, else that which each problem names."""
    if not (path / "recipe.yaml").is_file():
        return judge_by_task
    spec = loader.load(path / "recipe.yaml").train[0].task
    return (
        registry.find("task", spec.name, str(path)).bind(spec.params, "task") if spec else judge_by_task
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
                    Response(row["text"], row["finish"] == "length", opened_thinking(row["text"])),
                )
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    for number, line in enumerate(lines):
        if pair := parse_line(number, line, "math")[1]:
            yield pair


def _plainly(gold: str, text: str) -> dict[str, bool]:
    """Whether the box is the gold letter by letter, and whether the last number is the gold's."""
    same_number = read_number(gold) == read_number(find_last_number(text) or "") is not None
    return {"string": (find_last_box(text) or "").strip() == gold.strip(), "number": same_number}


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
    from rlvr.report.rendering import template

    rows = [(NAMES[name], *figures) for name, *figures in found.table()]
    differing = {
        NAMES[name]: found.disagreements(name)[:50] for name in ("library", "number", "string")
    }
    page = template("audit.html.j2").render(
        title=title, found=found, rows=rows, differing=differing
    )
    out.write_text(page, encoding="utf-8", errors="replace")
    return out
