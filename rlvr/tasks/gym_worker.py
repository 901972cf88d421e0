"""The helper process of the task "gym": makes and scores entries with reasoning-gym.

It is run by path and answers one JSON line for each JSON line (`rlvr/grading/worker.py`). The
library stays in it, so that no text of a model can run or hang in the training process.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from rlvr.grading.worker import serve

# Address space in bytes: a number of a billion digits must not fill the machine.
MEMORY = 4 << 30

MAX_MESSAGE = 4000

# The gold of a data set that accepts many answers and gives no example of one.
NO_GOLD = "(whatever its scorer accepts)"

_EXAMPLES = ("example_answer", "example_correct_answer", "possible_answer")
_INFO = (
    "numbers",
    "target",
    "valid_answers",
    "formatted_candidates",
    "angle_ABC_degrees",
    "ortho",
)


def make_entries(dataset: str, config: str, start: int, stop: int) -> dict[str, Any]:
    """Return the questions and golds of a range of entries, by index, and what the library said at
    those that it could not make.
    """
    _get_dataset(dataset, config)  # a fault of the configuration is one of all entries
    entries = {}
    faults = []
    for index in range(start, stop):
        try:
            entry = _get_entry(dataset, config, index)
        # One seed on which the library gives up says nothing of the others.
        except Exception as error:
            faults.append(_describe(error))
            continue
        entries[index] = {"question": entry["question"], "answer": _read_gold(entry)}
    return {"entries": entries, "faults": faults}


def score_answer(
    dataset: str, config: str, index: int, question: str, answer: str
) -> dict[str, Any]:
    """Return the score of an answer, or that this version of the library asks another question."""
    entry = _get_entry(dataset, config, index)
    if entry["question"] != question:
        return {"stale": True}
    score = _get_dataset(dataset, config).score_answer(answer, entry)
    return {"score": float(score)}


def get_info(dataset: str, config: str, index: int) -> dict[str, Any]:
    """Return what the exact comparisons of ours need of the entry."""
    metadata = _get_entry(dataset, config, index)["metadata"]
    return {key: metadata[key] for key in _INFO if key in metadata}


def _read_gold(entry: dict[str, Any]) -> str:
    if entry["answer"] is not None:
        return str(entry["answer"])
    for key in _EXAMPLES:
        if key in entry["metadata"]:
            example = entry["metadata"][key]
            return example if isinstance(example, str) else json.dumps(example)
    return NO_GOLD


@functools.lru_cache(maxsize=32)
def _get_dataset(dataset: str, config: str) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        raise LookupError(" ".join(sorted(DATASETS)))
    return reasoning_gym.create_dataset(dataset, **json.loads(config))


@functools.lru_cache(maxsize=4096)
def _get_entry(dataset: str, config: str, index: int) -> dict[str, Any]:
    return _get_dataset(dataset, config)[index]


_ACTIONS = {"make": make_entries, "score": score_answer, "info": get_info}


def answer_request(request: Any) -> Any:
    """Return the answer to one request, with the key `error` where the library failed."""
    import reasoning_gym  # noqa: F401 - paid for by the start, not by the first question

    if request == "ready?":
        return "ready"
    try:
        action = _ACTIONS[request.pop("do")]
        return action(**request)
    # The library may raise anything; the caller judges what it means.
    except Exception as error:
        return {"error": _describe(error)}


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:MAX_MESSAGE]}"


if __name__ == "__main__":
    serve(answer_request, memory=MEMORY)
