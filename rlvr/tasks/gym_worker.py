"""The process in which reasoning-gym runs: it makes problems and scores answers, see `rlvr.grading.killable`.

It runs with a fixed PYTHONHASHSEED, because the order of sets decides some of the library's problems, and a problem is
made again from its seed and index to score an answer, because the scorers need more than JSON can carry.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from rlvr.grading.killable import serve

MEMORY = 4 << 30  # address space in bytes: an answer such as 1e999999999 must not fill the machine
NO_GOLD = "(whatever its scorer accepts)"
_EXAMPLES = ("example_answer", "example_correct_answer", "possible_answer")


def _answer(request: Any) -> Any:
    import reasoning_gym  # noqa: F401 - paid for by the start, not by the first question

    if request == "ready?":
        return "ready"
    operations = {"make": _make, "score": _score, "info": _info}
    try:
        return operations[request.pop("do")](**request)
    except Exception as error:  # the library may raise anything; the caller judges what it means
        return {"error": f"{type(error).__name__}: {str(error).strip()[:4000]}"}


def _make(dataset: str, config: str, start: int, stop: int) -> dict[str, Any]:
    entries = [_entry(dataset, config, index) for index in range(start, stop)]
    return {"entries": [{"question": entry["question"], "answer": _gold(entry)} for entry in entries]}


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
    example = next((entry["metadata"][key] for key in _EXAMPLES if key in entry["metadata"]), NO_GOLD)
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
