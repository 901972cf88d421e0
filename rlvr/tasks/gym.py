"""Data and task "gym": the data sets of reasoning-gym.

Its library runs in a helper process (`gym_worker.py`), where no text of the model can run or hang.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from rlvr.errors import UserError, suggest
from rlvr.grading.extract import extract_answers, find_last_box
from rlvr.grading.math_verify import ENVIRONMENT
from rlvr.grading.worker import Died, Killable, Late
from rlvr.registry import register
from rlvr.seeds import TrainOrTest, side_of
from rlvr.tasks.answer_forms import Forms, get_unanswered_status, take_first
from rlvr.tasks.gym_comparisons import NEED_INFO, OWN, UNSAFE, Comparison
from rlvr.tasks.gym_forms import FORMS
from rlvr.types import Problem, Response, Status, Verdict

# Processor time for one answer, and for CHUNK problems.
SECONDS = 5.0
MAKE_SECONDS = 120.0
CHUNK = 200

# A score this near to 1 is the full score.
FULL_SCORE = 1.0 - 1e-9

_WORKER = Killable(str(Path(__file__).with_name("gym_worker.py")), ENVIRONMENT)


@register("data", "gym")
def gym(
    *,
    dataset: str,
    count: Annotated[int, Field(ge=1)] = 1000,
    seed: int = 0,
    config: Mapping[str, Any] = {},
    split: TrainOrTest = "train",
) -> list[Problem]:
    """Make distinct problems of a data set of reasoning-gym; a question belongs to one split
    whatever the seed.

    gym(dataset="leg_counting", count=100, config={"max_animals": 4})
    """
    _refuse_unsafe(dataset)
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError("data 'gym': needs the package reasoning-gym; pip install 'rlvr[gym]'")
    # More entries than problems: some repeat, and a quarter of all questions is for testing.
    size = count * (8 if split == "test" else 3)
    # The library gives problem i the seed `seed + i`, so neighbouring seeds of ours lie far apart.
    library_seed = seed * 1_000_003 % 2**31
    settings = json.dumps(dict(config) | {"seed": library_seed, "size": size}, sort_keys=True)
    problems: dict[str, Problem] = {}
    faults: list[str] = []
    for start in range(0, size, CHUNK):
        made = _make_entries(dataset, settings, start, min(start + CHUNK, size))
        faults += made.faults
        for index, entry in made.entries.items():
            question = entry["question"]
            if question in problems or not _is_usable(entry, split):
                continue
            problems[question] = Problem(
                id=f"gym/{dataset}/{split}/{seed}/{index}",
                task="gym",
                question=question,
                answer=entry["answer"],
                meta={
                    "dataset": dataset,
                    "config": settings,
                    "index": int(index),
                    "category": dataset,
                },
            )
            if len(problems) == count:
                _report_faults(dataset, faults)
                return list(problems.values())
    if not problems and faults:
        raise UserError(f"gym: '{dataset}' makes no problem with this config: {faults[0]}")
    _report_faults(dataset, faults)
    raise UserError(
        f"gym: count={count} is too many: '{dataset}' has only {len(problems)} questions in split '{split}'"
    )


def _report_faults(dataset: str, faults: Sequence[str]) -> None:
    """Say in one line how many entries the library could not make."""
    if faults:
        left_out = f"gym: '{dataset}': entries left out: {len(faults)}"
        print(f"{left_out}, which reasoning-gym cannot make ({faults[0]})", file=sys.stderr)


class _Made(NamedTuple):
    """Entries by their index, and what the library said of those that it could not make."""

    entries: Mapping[str, Mapping[str, str]]
    faults: Sequence[str]


def _is_usable(entry: Mapping[str, str], split: TrainOrTest) -> bool:
    """Return whether an entry has a gold and belongs to the split."""
    return bool(entry["answer"].strip()) and side_of("gym-split", entry["question"]) == split


@register("task", "gym")
def check_gym(
    problem: Problem, response: Response, *, extract: Forms = ("answer", "box")
) -> Verdict:
    """Accept an answer where the data set's scorer gives the full score and it is what the question
    allows (see FORMS), or where a comparison of ours does (see OWN).
    """
    dataset = str(problem.meta.get("dataset", ""))
    _refuse_unsafe(dataset)
    answers = extract_answers(response.text, response.prefill, extract)
    formatted = bool(answers.get(extract[0]))
    form, answer = take_first(answers)
    if answer and form in ("answer", "hash"):
        answer = _open_box(answer)
    if not answer:
        rule = f"{form}:empty" if form else "none"
        return Verdict(get_unanswered_status(response), None, formatted, rule)
    try:
        status, rule = _judge(problem, dataset, answer)
    except Late:
        return Verdict(Status.TIMEOUT, answer, formatted, f"{form}:timeout")
    except Died:
        return Verdict(Status.ERROR, answer, formatted, f"{form}:died")
    return Verdict(status, answer, formatted, f"{form}:{rule}")


def _open_box(answer: str) -> str:
    """Return the content of the box in an answer, else the answer."""
    boxed = find_last_box(answer)
    return answer if boxed is None else boxed


def _judge(problem: Problem, dataset: str, answer: str) -> tuple[Status, str]:
    """Return the status of an answer and what decided; raises Late or Died."""
    entry = {
        "dataset": dataset,
        "config": problem.meta["config"],
        "index": problem.meta["index"],
    }
    if dataset in OWN:
        return _compare(OWN[dataset], problem, answer, entry), "own"
    reply = _WORKER.ask(
        {"do": "score", **entry, "question": problem.question, "answer": answer}, SECONDS
    )
    if "stale" in reply:
        return Status.ERROR, "another version of reasoning-gym"
    # The scorer stumbled over the text; it does not over a well-formed answer.
    if "error" in reply:
        return Status.UNPARSEABLE, _name_error(reply)
    if reply["score"] < FULL_SCORE:
        return Status.WRONG, "scorer"
    if dataset in FORMS:
        status = _compare(FORMS[dataset], problem, answer, entry)
        if status is not Status.CORRECT:
            return status, "form"
    return Status.CORRECT, "scorer"


def _compare(
    is_right: Comparison, problem: Problem, answer: str, entry: Mapping[str, Any]
) -> Status:
    """Compare an answer by our own rule, which may need what the entry says beside its gold."""
    info: Mapping[str, Any] = {}
    if entry["dataset"] in NEED_INFO:
        info = _WORKER.ask({"do": "info", **entry}, SECONDS)
    if "error" in info:
        return Status.ERROR
    if is_right(problem.answer, answer, info):
        return Status.CORRECT
    return Status.WRONG


def _name_error(reply: Mapping[str, Any]) -> str:
    return reply["error"].split(":", 1)[0]


def _refuse_unsafe(dataset: str) -> None:
    """Refuse a data set whose scorer executes text, and no data set at all; raises UserError."""
    if not dataset:
        raise UserError("task 'gym': the problem names no data set; it should come from data 'gym'")
    if dataset in UNSAFE and dataset not in OWN:
        raise UserError(f"gym: '{dataset}' is refused: its scorer executes model text")


def _make_entries(dataset: str, config: str, start: int, stop: int) -> _Made:
    """Return the questions and golds of a range of entries that can be made; raises UserError."""
    request = {
        "do": "make",
        "dataset": dataset,
        "config": config,
        "start": start,
        "stop": stop,
    }
    try:
        reply = _WORKER.ask(request, MAKE_SECONDS)
    except (Late, Died) as error:
        raise UserError(f"gym: '{dataset}' makes no problems with this config: {error}") from None
    if "error" not in reply:
        return _Made(reply["entries"], reply["faults"])
    kind, _, message = reply["error"].partition(": ")
    if kind == "LookupError":
        nearest = suggest(dataset, re.findall(r"[a-z0-9_]+", message))
        raise UserError(f"gym: unknown data set '{dataset}'{nearest}")
    raise UserError(f"gym: '{dataset}' does not take this config: {message or kind}")
