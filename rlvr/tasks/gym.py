"""Data and task "gym": the data sets of reasoning-gym, scored where no text of the model can run or
hang.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from rlvr.errors import UserError, suggest
from rlvr.grading.math_verify import ENVIRONMENT
from rlvr.grading.values import exact, walk
from rlvr.grading.worker import Died, Killable, Late, serve
from rlvr.registry import register
from rlvr.resources import load_asset
from rlvr.seeds import TrainOrTest, side_of
from rlvr.types import Problem, Response, Status, Verdict

from rlvr.grading.extract import extract_answers
from rlvr.grading.parser import parse
from rlvr.grading.units import read_number
from rlvr.tasks.math import Forms

SECONDS = 5.0  # for one answer


MAKE_SECONDS = 120.0  # for CHUNK problems


CHUNK = 200


MEMORY = 4 << 30  # address space in bytes: an answer such as 1e999999999 must not fill the machine


NO_GOLD = "(whatever its scorer accepts)"


_EXAMPLES = ("example_answer", "example_correct_answer", "possible_answer")


_SETS = load_asset("tasks/gym")


# Their scorers (0.1.25) hand the text of the model to eval or to SymPy's parse_expr, which both
# execute it.
UNSAFE = frozenset(_SETS["unsafe"])


Info = Mapping[str, Any]


def _same(gold: str, answer: str, info: Info) -> bool:
    """Equal up to case, quotes, `.0` and spaces around signs.   _same("['1.0', '2.5']", "[1,2.5]",
    {}) -> True
    """
    left, right = (
        re.sub(r"\.0+(?![0-9])|['\"]", "", " ".join(text.casefold().split()))
        for text in (gold, answer)
    )
    left, right = (re.sub(r" ?([^\w.]) ?", r"\1", text) for text in (left, right))
    return left == right


def _number(gold: str, answer: str, info: Info) -> bool:
    """Exactly the same number.   _number("3/8", "0.375", {}) -> True"""
    return _same(gold, answer, info) or read_number(gold) == read_number(answer) is not None


def _board(gold: str, answer: str, info: Info) -> bool:
    return answer in [board.strip() for board in info["valid_answers"]]


def _calculation(gold: str, answer: str, info: Info) -> bool:
    """Whether the calculation uses each number once and gives the target.   "6 * 4 * (3 - 2)" """
    found = calculate(answer)
    return (
        found is not None
        and found[0] == info.get("target", 24)
        and sorted(found[1]) == sorted(info["numbers"])
    )


# Comparisons of ours: in place of scorers that execute text, and of those that accept answers which
# are not right (`True` and `False` alike, 0 for 3/8, any first number, a right beginning).
OWN: dict[str, Callable[[str, str, Info], bool]] = {
    name: how
    for how in (_board, _calculation, _number, _same)
    for name in _SETS[how.__name__.strip("_")]
}


_WORKER = Killable(__file__, ENVIRONMENT)


@register("data", "gym")
def gym(
    *,
    dataset: str,
    count: int = 1000,
    seed: int = 0,
    config: Mapping[str, Any] = {},
    split: TrainOrTest = "train",
) -> list[Problem]:
    """Distinct problems of a data set of reasoning-gym; a question belongs to one split whatever
    the seed.

    gym(dataset="leg_counting", count=100, config={"max_animals": 4})
    """
    _refuse(dataset)
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError("data 'gym': needs the package reasoning-gym; pip install 'rlvr[gym]'")
    size = count * (8 if split == "test" else 3)
    # The library gives problem i the seed `seed + i`, so neighbouring seeds of ours must lie far
    # apart.
    settings = json.dumps(
        dict(config) | {"seed": seed * 1_000_003 % 2**31, "size": size}, sort_keys=True
    )
    found: dict[str, Problem] = {}
    for start in range(0, size, CHUNK):
        for index, entry in enumerate(
            _make(dataset, settings, start, min(start + CHUNK, size)), start
        ):
            question = entry["question"]
            wanted = (
                question not in found
                and entry["answer"].strip()
                and side_of("gym-split", question) == split
            )
            if wanted and len(found) < count:
                meta = {"dataset": dataset, "config": settings, "index": index, "category": dataset}
                name = f"gym/{dataset}/{split}/{seed}/{index}"
                found[question] = Problem(name, "gym", question, entry["answer"], meta)
        if len(found) == count:
            return list(found.values())
    raise UserError(
        f"gym: count={count} is too many: '{dataset}' has only {len(found)} questions in split '{split}'"
    )


@register("task", "gym")
def check_gym(
    problem: Problem, response: Response, *, extract: Forms = ("answer", "box")
) -> Verdict:
    """Correct where the data set's scorer gives the full score (or the comparison of ours, see
    OWN).
    """
    dataset = str(problem.meta.get("dataset", ""))
    _refuse(dataset)
    found = extract_answers(response.text, response.prefill, extract)
    formatted = bool(found.get(extract[0]))
    form, answer = next(iter(found.items()), (None, None))
    if not answer:
        status = Status.TRUNCATED if response.truncated else Status.NO_ANSWER
        return Verdict(status, None, formatted, f"{form}:empty" if form else "none")
    status, how = _judge(problem, dataset, answer)
    return Verdict(status, answer, formatted, f"{form}:{how}")


def _judge(problem: Problem, dataset: str, answer: str) -> tuple[Status, str]:
    where = {"dataset": dataset, "config": problem.meta["config"], "index": problem.meta["index"]}
    try:
        if dataset in OWN:
            info = (
                _WORKER.ask({"do": "info", **where}, SECONDS) if OWN[dataset] is not _same else {}
            )
            if "error" in info:
                return Status.ERROR, info["error"].split(":", 1)[0]
            return (
                Status.CORRECT if OWN[dataset](problem.answer, answer, info) else Status.WRONG
            ), "own"
        reply = _WORKER.ask(
            {"do": "score", **where, "question": problem.question, "answer": answer}, SECONDS
        )
    except Late:
        return Status.TIMEOUT, "timeout"
    except Died:
        return Status.ERROR, "died"
    if "stale" in reply:
        return Status.ERROR, "another version of reasoning-gym"
    if "error" in reply:  # the scorer stumbled over the text; it does not over a well-formed answer
        return Status.UNPARSEABLE, reply["error"].split(":", 1)[0]
    return (Status.CORRECT if reply["score"] >= 1.0 - 1e-9 else Status.WRONG), "scorer"


def _refuse(dataset: str) -> None:
    if not dataset:
        raise UserError("task 'gym': the problem names no data set; it should come from data 'gym'")
    if dataset in UNSAFE and dataset not in OWN:
        raise UserError(f"gym: '{dataset}' is refused: its scorer executes model text")


def _make(dataset: str, config: str, start: int, stop: int) -> list[dict[str, str]]:
    try:
        reply = _WORKER.ask(
            dict(do="make", dataset=dataset, config=config, start=start, stop=stop), MAKE_SECONDS
        )
    except (Late, Died) as error:
        raise UserError(f"gym: '{dataset}' makes no problems with this config: {error}") from None
    if "error" not in reply:
        return reply["entries"]
    kind, _, message = reply["error"].partition(": ")
    if kind == "LookupError":
        raise UserError(
            f"gym: unknown data set '{dataset}'{suggest(dataset, re.findall(r'[a-z0-9_]+', message))}"
        )
    raise UserError(f"gym: '{dataset}' does not take this config: {message or kind}")


def calculate(text: str) -> tuple[Fraction, list[int]] | None:
    """The value and the whole numbers used, None where the text is anything but + - * / over whole
    numbers.

    >>> calculate("(3 + 5) / 2")
    (Fraction(4, 1), [3, 5, 2])
    """
    node = (
        parse(text.translate(_BRACKETS), thousands=False) if len(text) <= MAX_CALCULATION else None
    )
    parts = list(walk(node)) if node else []
    plain = all(part.kind in _OPERATIONS and part.name in ("", "()") for part in parts)
    value = exact(node) if node and plain else None
    used = [part.value for part in parts if part.value is not None]
    return None if value is None else (value, [int(number) for number in used])


MAX_CALCULATION = 200


_BRACKETS = str.maketrans("[]", "()")


_OPERATIONS = frozenset({"number", "add", "mul", "div", "neg", "group"})


def _answer(request: Any) -> Any:
    import reasoning_gym  # noqa: F401 - paid for by the start, not by the first question

    if request == "ready?":
        return "ready"
    try:
        return {"make": _entries, "score": _score, "info": _info}[request.pop("do")](**request)
    except Exception as error:  # the library may raise anything; the caller judges what it means
        return {"error": f"{type(error).__name__}: {str(error).strip()[:4000]}"}


def _entries(dataset: str, config: str, start: int, stop: int) -> dict[str, Any]:
    entries = [_entry(dataset, config, index) for index in range(start, stop)]
    return {
        "entries": [{"question": entry["question"], "answer": _gold(entry)} for entry in entries]
    }


def _score(dataset: str, config: str, index: int, question: str, answer: str) -> dict[str, Any]:
    entry = _entry(dataset, config, index)
    if entry["question"] != question:
        return {"stale": True}
    return {"score": float(_dataset(dataset, config).score_answer(answer, entry))}


def _info(dataset: str, config: str, index: int) -> dict[str, Any]:
    """What the exact comparisons of ours need of the entry."""
    metadata = _entry(dataset, config, index)["metadata"]
    return {key: metadata[key] for key in ("numbers", "target", "valid_answers") if key in metadata}


def _gold(entry: dict[str, Any]) -> str:
    if entry["answer"] is not None:
        return str(entry["answer"])
    example = next(
        (entry["metadata"][key] for key in _EXAMPLES if key in entry["metadata"]), NO_GOLD
    )
    return example if isinstance(example, str) else json.dumps(example)


@functools.lru_cache(maxsize=32)
def _dataset(dataset: str, config: str) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        raise LookupError(" ".join(sorted(DATASETS)))
    return reasoning_gym.create_dataset(dataset, **json.loads(config))


@functools.lru_cache(maxsize=4096)
def _entry(dataset: str, config: str, index: int) -> dict[str, Any]:
    return _dataset(dataset, config)[index]


if __name__ == "__main__":
    serve(_answer, memory=MEMORY)
