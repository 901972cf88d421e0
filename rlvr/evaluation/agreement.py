"""Whether a reward can be trusted.

Golds that verify, controls that earn nothing, verdicts beside other graders.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr import registry
from rlvr.config import loader
from rlvr.data.controls import score_controls
from rlvr.data.gate import RejectedGold, check_golds
from rlvr.errors import UserError
from rlvr.evaluation.grade import Answer, opened_thinking, parse_line
from rlvr.grading.extract import find_last_box, find_last_number
from rlvr.grading.math_verify import second_opinions
from rlvr.grading.units import read_number
from rlvr.storage.records import read_records
from rlvr.storage.sample_record import SampleRecord
from rlvr.tasks.judge import Judge, Pending, judge_by_task, judge_safely, wait_all
from rlvr.types import Finish, Problem, Response, Verdict

SHOWN_EXAMPLES = 8  # of a kind in the text
PAGE_EXAMPLES = 50  # of a kind on the page

# The other graders, with the names that people read.
NAMES = {"library": "math-verify", "string": "the same string", "number": "the last number"}


@dataclass(frozen=True, slots=True)
class JudgedResponse:
    """One response as it was judged, and what other graders say of it.

    None: the library did not answer.
    """

    problem: Problem
    verdict: Verdict
    others: Mapping[str, bool | None]


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found; `controls` are shares."""

    seen: tuple[JudgedResponse, ...]
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
        right = sum(judged.verdict.correct for judged in self.seen)
        controls = "no control is rewarded"
        if self.rewarded:
            controls = f"rewarded without work: {', '.join(self.rewarded)}"
        return f"{len(self.seen)} responses to {self.problems} problems, {right} judged correct; {controls}."

    def table(self) -> list[tuple[str, int, int, int]]:
        """Return (grader, agreed, only we accept, only the other accepts) for each other grader."""
        rows: list[tuple[str, int, int, int]] = []
        for grader in NAMES:
            agreed, only_ours, only_theirs = self._count_agreement(grader)
            rows.append((grader, agreed, only_ours, only_theirs))
        return rows

    def _count_agreement(self, grader: str) -> tuple[int, int, int]:
        agreed = 0
        only_ours = 0
        only_theirs = 0
        for judged in self.seen:
            theirs = judged.others[grader]
            if theirs is None:
                continue
            if theirs == judged.verdict.correct:
                agreed += 1
            elif theirs:
                only_theirs += 1
            else:
                only_ours += 1
        return agreed, only_ours, only_theirs

    def disagreements(self, grader: str) -> list[JudgedResponse]:
        """Return responses on which that grader and we differ, each pair of gold and answer once."""
        differing: dict[tuple[str, str | None], JudgedResponse] = {}
        for judged in self.seen:
            if judged.others[grader] not in (None, judged.verdict.correct):
                differing[judged.problem.answer, judged.verdict.answer] = judged
        return list(differing.values())


def audit_responses(path: Path) -> Audit:
    """Judge the samples of a run, or the lines of a file, again and by other graders; raises
    UserError.
    """
    answers = list(_read_answers(path))
    if not answers:
        raise UserError(
            f"{path}: there is nothing to audit; it should be a run with samples or a file of JSON lines"
        )
    judge = _find_judge(path)
    problems = _list_problems(answers)
    _, refused = check_golds(problems, "mark")
    return Audit(
        seen=tuple(_judge_all(judge, answers)),
        refused=refused,
        problems=len(problems),
        controls=score_controls(judge, problems),
    )


def _list_problems(answers: Sequence[Answer]) -> list[Problem]:
    """Return each problem once; of those with the same id the last."""
    by_id: dict[str, Problem] = {}
    for problem, _ in answers:
        by_id[problem.id] = problem
    return list(by_id.values())


def _judge_all(judge: Judge, answers: Sequence[Answer]) -> Iterator[JudgedResponse]:
    """Yield each response with our verdict and those of all other graders."""
    pending: list[Pending] = []
    pairs: list[tuple[Problem, str]] = []
    for problem, response in answers:
        pending.append(judge_safely(judge, problem, response))
        pairs.append((problem, response.text))
    verdicts = wait_all(pending)
    opinions = second_opinions(pairs)
    for answer, verdict, opinion in zip(answers, verdicts, opinions, strict=True):
        others = _grade_simply(answer.problem.answer, answer.response.text)
        yield JudgedResponse(answer.problem, verdict, {"library": opinion, **others})


def _grade_simply(gold: str, text: str) -> dict[str, bool]:
    """Return whether the box is the gold letter by letter, and whether the last number is the
    gold's.
    """
    box = find_last_box(text) or ""
    number = read_number(find_last_number(text) or "")
    return {
        "string": box.strip() == gold.strip(),
        "number": number is not None and read_number(gold) == number,
    }


def _find_judge(path: Path) -> Judge:
    """Return the task as the run's recipe binds it, else that which each problem names."""
    recipe = path / "recipe.yaml"
    if not recipe.is_file():
        return judge_by_task
    spec = loader.load(recipe).train[0].task
    if spec is None:
        return judge_by_task
    return registry.find("task", spec.name, str(path)).bind(spec.params, "task")


def _read_answers(path: Path) -> Iterator[Answer]:
    """Yield the responses of a run's training and evaluation samples, or of a file as `grade`
    reads it.
    """
    if path.is_dir():
        for file in sorted((path / "samples").glob("*.jsonl")):
            for sample in read_records(file, SampleRecord):
                yield _answer_of(sample)
        return
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    for number, data in enumerate(lines):
        line = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
        answer = parse_line(number, line, "math").answer
        if answer is not None:
            yield answer


def _answer_of(sample: SampleRecord) -> Answer:
    problem = Problem(sample.id, sample.task or "math", sample.question, sample.gold)
    truncated = sample.finish == Finish.LENGTH
    return Answer(problem, Response(sample.text, truncated, opened_thinking(sample.text)))


def describe_audit(audit: Audit) -> Iterator[str]:
    """Yield the audit as lines of text."""
    yield audit.headline
    share = 1 - len(audit.refused) / audit.problems
    yield f"golds that verify against themselves and their rewrites: {share:.1%}"
    for row in audit.refused[:SHOWN_EXAMPLES]:
        yield f"  {row.id}: {row.reason}: {row.gold[:80]!r}"
    yield f"{'beside':<20}{'agree':>8}{'only we accept':>17}{'only it accepts':>18}"
    for name, agreed, ours, theirs in audit.table():
        yield f"{NAMES[name]:<20}{agreed:>8}{ours:>17}{theirs:>18}"
    for name in ("library", "number"):
        for judged in audit.disagreements(name)[:SHOWN_EXAMPLES]:
            yield _describe_disagreement(judged, NAMES[name])
    controls = ", ".join(f"{name} {share:.0%}" for name, share in audit.controls.items())
    yield f"controls, which should earn nothing: {controls}"


def _describe_disagreement(judged: JudgedResponse, grader: str) -> str:
    who = f"only {grader} accepts"
    if judged.verdict.correct:
        who = "only we accept"
    answer = str(judged.verdict.answer)
    return f"  {who}: gold {judged.problem.answer[:60]!r}, answer {answer[:60]!r}"


def write_page(audit: Audit, title: str, out: Path) -> Path:
    """Write the audit as one self-contained page."""
    from rlvr.report.rendering import load_template
    from rlvr.report.rendering import write_page as write_text

    differing: dict[str, list[JudgedResponse]] = {}
    for grader in ("library", "number", "string"):
        differing[NAMES[grader]] = audit.disagreements(grader)[:PAGE_EXAMPLES]
    page = load_template("audit.html.j2").render(
        title=title,
        found=audit,
        rows=[(NAMES[grader], *counts) for grader, *counts in audit.table()],
        differing=differing,
    )
    return write_text(out, page)
