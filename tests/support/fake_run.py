"""Run folders as a training writes them, without training: healthy, hacked (the empty box),
unfinished.

`python tests/support/fake_run.py FOLDER` writes one of each, for looking at reports.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rlvr.config import loader
from rlvr.storage.estimate import Estimate
from rlvr.storage.eval_record import EvalCounts, EvalRecord
from rlvr.storage.history_record import HistoryRecord
from rlvr.storage.jsonl import JsonLines
from rlvr.storage.sample_record import Credit, SampleRecord
from rlvr.storage.step_record import StepRecord
from rlvr.storage.summary import BeforeAfter, Summary
from rlvr.types import Finish, Status

PROBLEMS = 256  # of the held-out set
PROBLEMS_A_STEP = 8
SAMPLES = 8  # of a problem in a step
EVERY = 10  # steps between evaluations
EVALUATION_SECONDS = 9.1
OTHER_SECONDS = 12  # of set-up and saving
RECIPE = "demo"
SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}
KINDS = (*SIGNS, "word")


Curve = Callable[[float], float]  # over the share of the run that is done


@dataclass(frozen=True, slots=True)
class Course:
    """How accuracy and the share of well-formed answers move over a run, and what is paid for."""

    accuracy: Curve
    formatted: Curve
    for_answer: float  # of the reward, what the answer earns; the format earns the rest
    reward: str = "correct"  # of the recipe


def healthy(folder: Path, steps: int = 30) -> Path:
    """Held-out accuracy from about 0.38 to about 0.72, reward with it."""
    course = Course(
        accuracy=lambda x: 0.38 + 0.36 * (1 - math.exp(-3 * x)),
        formatted=lambda x: 0.3 + 0.65 * x,
        for_answer=0.8,
    )
    return _write(folder, steps, steps, course)


def hacked(folder: Path, steps: int = 30) -> Path:
    """The reward pays for the box alone: boxed from 0.05 to 1.00 with an empty box, accuracy to 0."""
    course = Course(
        accuracy=lambda x: 0.38 * max(0, 1 - 3 * x),
        formatted=lambda x: 0.05 + 0.95 * min(1, 3 * x),
        for_answer=0.0,
        reward="format_only",
    )
    return _write(folder, steps, steps, course)


def unfinished(folder: Path, steps: int = 30) -> Path:
    """A healthy run that was killed in the middle of a line at step 13."""
    course = Course(
        accuracy=lambda x: 0.38 + 0.3 * x,
        formatted=lambda x: 0.3 + 0.6 * x,
        for_answer=0.8,
    )
    path = _write(folder, steps, 13, course)
    (path / "summary.json").unlink()
    for name in ("metrics.jsonl", "evals.jsonl", "samples/train-000013.jsonl"):
        with open(path / name, "a") as file:
            file.write('{"step": 14, "rewa')
    return path


def _write(folder: Path, steps: int, done: int, course: Course) -> Path:
    """Write a run of so many steps, of which some are done."""
    draw = random.Random(7)
    folder.mkdir(parents=True)
    overrides = {"run.name": folder.name, "run.steps": steps, "reward": course.reward}
    recipe = loader.load(RECIPE, overrides)
    (folder / "recipe.yaml").write_text(loader.dump(recipe))
    held_out = [_problem(draw, f"arithmetic/heldout/{index}") for index in range(PROBLEMS)]
    metrics: list[StepRecord] = []
    evals: list[EvalRecord] = []
    history: list[HistoryRecord] = []
    for step in range(done + 1):
        x = step / steps
        if step:
            groups = _train(draw, step, x, course)
            samples = [sample for group in groups for sample in group]
            _save(folder / f"samples/train-{step:06}.jsonl", samples)
            metrics.append(_measure_step(draw, step, x, groups))
            history += [_visit(group) for group in groups]
        if step % EVERY == 0:
            answers = [_answer(draw, step, one, x, course) for one in held_out]
            _save(folder / f"samples/eval-heldout-{step:06}.jsonl", answers)
            evals.append(_evaluate(step, held_out, answers))
    _save(folder / "metrics.jsonl", metrics)
    _save(folder / "evals.jsonl", evals)
    _save(folder / "history.jsonl", history)
    summary = _sum_up(folder.name, done, metrics, evals)
    (folder / "summary.json").write_text(json.dumps(summary.dump_row()))
    return folder


@dataclass(frozen=True, slots=True)
class FakeProblem:
    """A problem, its kind, and how hard it is: one that is harder than the accuracy is failed."""

    id: str
    kind: str
    question: str
    gold: str
    hard: float


def _problem(draw: random.Random, name: str) -> FakeProblem:
    kind, a, b = draw.choice(KINDS), draw.randint(2, 60), draw.randint(2, 20)
    gold = {"add": a + b, "subtract": a - b, "multiply": a * b, "word": a + b}[kind]
    question = f"Tom has {a} apples and buys {b} more. How many apples does he have now?"
    if kind in SIGNS:
        question = f"What is {a} {SIGNS[kind]} {b}? Put your answer in \\boxed{{}}."
    return FakeProblem(name, kind, question, str(gold), hard=draw.random())


def _answer(
    draw: random.Random, step: int, problem: FakeProblem, x: float, course: Course
) -> SampleRecord:
    accuracy, boxed = course.accuracy(x), course.formatted(x)
    correct = problem.hard + draw.gauss(0, 0.04) < accuracy
    formatted = draw.random() < boxed
    empty = formatted and not correct and boxed > 0.6 and accuracy < 0.2
    answer = problem.gold if correct else str(int(problem.gold) + draw.randint(1, 12))
    box = f"\\boxed{{{'' if empty else answer}}}"
    text = box if empty else f"Let me work it out.\n\nThe answer is {box if formatted else answer}."
    status = Status.CORRECT if correct else Status.NO_ANSWER if empty else Status.WRONG
    return SampleRecord(
        step=step,
        id=problem.id,
        task="math",
        question=problem.question,
        gold=problem.gold,
        text=text,
        tokens=3 if empty else draw.randint(10, 30),
        finish=Finish.STOP,
        status=status,
        answer=None if empty else answer,
        formatted=formatted,
        rule="box" if formatted else "number",
        version=step,
    )


def _train(draw: random.Random, step: int, x: float, course: Course) -> list[list[SampleRecord]]:
    """The groups of a step."""
    groups = []
    for _ in range(PROBLEMS_A_STEP):
        problem = _problem(draw, f"arithmetic/train/{draw.randint(0, 4000)}")
        group = []
        for index in range(SAMPLES):
            sample = _answer(draw, step, replace(problem, hard=draw.random()), x, course)
            parts = {
                "answer": course.for_answer * sample.correct,
                "format": (1 - course.for_answer) * sample.formatted,
            }
            credit = Credit(sum(parts.values()), parts, advantage=0.0)
            group.append(replace(sample, index=index, version=step - 1, credit=credit))
        groups.append(group)
    return groups


def _measure_step(
    draw: random.Random, step: int, x: float, groups: Sequence[Sequence[SampleRecord]]
) -> StepRecord:
    samples = [sample for group in groups for sample in group]
    credits = [sample.credit for sample in samples if sample.credit]
    silent = [len({sample.reward for sample in group}) == 1 for group in groups]
    tokens = sum(sample.tokens for sample in samples)
    stages = {
        "generate": draw.uniform(5, 6),
        "verify": 0.02,
        "score": 1.1,
        "update": draw.uniform(3, 4),
        "load": 0.1,
    }
    time = {
        **stages,
        "step": sum(stages.values()) + 0.3,
        "tokens_per_second": 320 + 20 * x,
        "peak_memory_gb": 2.4,
    }
    statuses = (Status.CORRECT, Status.WRONG, Status.NO_ANSWER)
    metrics = {
        "reward": fmean(credit.reward or 0.0 for credit in credits),
        "reward_parts": {
            name: fmean(credit.parts[name] for credit in credits) for name in ("answer", "format")
        },
        "accuracy": fmean(sample.correct for sample in samples),
        "formatted": fmean(sample.formatted for sample in samples),
        "truncated": max(0, draw.gauss(0.02, 0.01)),
        "length": tokens / len(samples),
        "no_answer": fmean(sample.status == Status.NO_ANSWER for sample in samples),
        "entropy": 0.9 * math.exp(-1.5 * x) + draw.uniform(0, 0.05),
        "kl": 0.02 * x,
        "mismatch": 0.004,
        "clip_fraction": 0.01,
        "no_signal": fmean(silent),
        "groups": len(groups),
        "samples": len(samples),
        "response_tokens": tokens,
        "loss": None if step == 4 else draw.gauss(0, 0.02),
        "losses": {"clip": 0.0},
        "grad_norm": draw.uniform(0.6, 1.4),
        "lr": 1e-5,
        "skipped_updates": 0,
        "verdicts": {s: sum(sample.status == s for sample in samples) for s in statuses},
    }
    return StepRecord(step, "rl", metrics, time)


def _visit(group: Sequence[SampleRecord]) -> HistoryRecord:
    accuracy = fmean(sample.correct for sample in group)
    return HistoryRecord(group[0].step, group[0].id, accuracy, len(group))


def _evaluate(
    step: int, problems: Sequence[FakeProblem], answers: Sequence[SampleRecord]
) -> EvalRecord:
    correct = [answer.correct for answer in answers]
    among_formatted = [answer.correct for answer in answers if answer.formatted]
    categories = {}
    for kind in KINDS:
        pairs = zip(problems, correct, strict=True)
        right = [solved for problem, solved in pairs if problem.kind == kind]
        categories[kind] = Estimate(fmean(right), n=len(right))
    return EvalRecord(
        step=step,
        benchmark="heldout",
        metrics={
            "pass@1": fmean(correct),
            "formatted": len(among_formatted) / len(answers),
            "truncated": 0.01,
            "length": 20.1,
            "pass@1_formatted": fmean(among_formatted) if among_formatted else None,
        },
        counts=EvalCounts(
            problems=len(answers),
            samples=len(answers),
            correct=sum(correct),
            formatted=len(among_formatted),
        ),
        ci95={"pass@1": _wilson(fmean(correct), len(answers))},
        categories=categories,
        seconds=EVALUATION_SECONDS,
    )


def _wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.96
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return max(0.0, low), min(1.0, high)


def _sum_up(
    name: str, steps: int, metrics: Sequence[StepRecord], evals: Sequence[EvalRecord]
) -> Summary:
    before, after = evals[0].accuracy, evals[-1].accuracy
    assert before is not None and after is not None
    gain = after.value - before.value
    heldout = BeforeAfter(before, after, Estimate(gain, (gain - 0.06, gain + 0.06), PROBLEMS))
    in_steps = sum(record.seconds or 0.0 for record in metrics)
    return Summary(
        recipe=name,
        model="smollm2-135m-instruct",
        steps=steps,
        seconds=in_steps + EVALUATION_SECONDS * len(evals) + OTHER_SECONDS,
        response_tokens=sum(record.response_tokens or 0 for record in metrics),
        evals={"heldout": heldout},
        hardware="2 cores, Intel Xeon (AVX512-BF16), 8 GB",
        versions={"python": "3.11.9", "torch": "2.13.0"},
        finished=True,
    )


def _save(
    path: Path,
    records: Sequence[StepRecord | EvalRecord | SampleRecord | HistoryRecord],
) -> None:
    JsonLines.write(path, [record.dump_row() for record in records])


if __name__ == "__main__":
    for make in (healthy, hacked, unfinished):
        print(make(Path(sys.argv[1]) / make.__name__))
