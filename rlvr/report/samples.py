"""The samples that a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlvr.storage.run_data import RunData, read_eval_samples, read_samples
from rlvr.storage.sample_record import SampleRecord


@dataclass(frozen=True, slots=True)
class Kind:
    """Problems that went one way between the first and the last evaluation."""

    name: str
    solved_before: bool
    solved_after: bool
    shown: int  # problems of this kind on a page


KINDS = (
    Kind("wrong before, right after", solved_before=False, solved_after=True, shown=2),
    Kind("wrong before and after", solved_before=False, solved_after=False, shown=1),
    Kind("right before, wrong after", solved_before=True, solved_after=False, shown=1),
)


@dataclass(frozen=True, slots=True)
class ComparedProblem:
    """A held-out problem with an answer at each of some evaluations."""

    kind: str
    problem: SampleRecord
    answers: list[tuple[int, SampleRecord]]  # step, sample


@dataclass(frozen=True, slots=True)
class Answers:
    """The first sample of each problem at one evaluation."""

    step: int
    samples: Mapping[str, SampleRecord]


def compare_problems(run: RunData) -> list[ComparedProblem]:
    """Return held-out problems with their answers before, during and after.

    Two that were learned, one that was not and one that was unlearned; the first two problems where
    there is nothing to compare.
    """
    evaluations = _read_answers(run)
    if not evaluations:
        return []
    first = evaluations[0]
    last = evaluations[-1]
    shared = [problem for problem in first.samples if problem in last.samples]
    compared = []
    if len(evaluations) > 1:
        for kind in KINDS:
            for problem in _choose_problems(kind, shared, first, last):
                compared.append(_compare(kind.name, problem, evaluations))
    if compared:
        return compared
    return [_compare("", problem, [first]) for problem in shared[:2]]


def _read_answers(run: RunData) -> list[Answers]:
    """Read the first, the middle and the last evaluation of the held-out set, where they are."""
    steps = [record.step for record in run.held_out_evals]
    if not steps:
        return []
    evaluations = []
    for step in sorted({steps[0], steps[len(steps) // 2], steps[-1]}):
        samples: dict[str, SampleRecord] = {}
        for sample in read_eval_samples(run, run.benchmarks[0], step):
            samples.setdefault(sample.id, sample)
        if samples:
            evaluations.append(Answers(step, samples))
    return evaluations


def _choose_problems(
    kind: Kind, problems: Sequence[str], first: Answers, last: Answers
) -> list[str]:
    """Return the first few problems of a kind."""
    chosen = []
    for problem in problems:
        solved_before = first.samples[problem].correct
        solved_after = last.samples[problem].correct
        if solved_before == kind.solved_before and solved_after == kind.solved_after:
            chosen.append(problem)
    return chosen[: kind.shown]


def _compare(kind: str, problem: str, evaluations: Sequence[Answers]) -> ComparedProblem:
    answers = []
    for evaluation in evaluations:
        if problem in evaluation.samples:
            answers.append((evaluation.step, evaluation.samples[problem]))
    return ComparedProblem(kind, evaluations[0].samples[problem], answers)


def pick_training_samples(run: RunData) -> list[tuple[str, SampleRecord]]:
    """Return the best paid rollout of the first step, and the best and the worst of the last step.

    Each has its title.
    """
    files = sorted((run.folder / "samples").glob("train-*.jsonl"))
    steps = []
    for path in dict.fromkeys([*files[:1], *files[-1:]]):
        samples = sorted(read_samples(path), key=_read_reward, reverse=True)
        if samples:
            steps.append(samples)
    if not steps:
        return []
    shown = []
    if len(steps) > 1:
        shown.append(_add_title("best paid", steps[0][0]))
    shown.append(_add_title("best paid", steps[-1][0]))
    shown.append(_add_title("worst paid", steps[-1][-1]))
    return shown


def _add_title(place: str, sample: SampleRecord) -> tuple[str, SampleRecord]:
    return f"step {sample.step}, {place}", sample


def _read_reward(sample: SampleRecord) -> float:
    return sample.reward or 0.0
