"""Read rewards from what a reward function returns."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from rlvr.errors import RunError
from rlvr.types import Problem, Reward


def read_reward(value: Any) -> Reward:
    """Return the reward from a Reward, a number, or a mapping of named parts, which are added up.

    >>> read_reward({"answer": 1, "steps": 0.5}).value
    1.5
    """
    if isinstance(value, Reward):
        return replace(value, value=float(value.value))
    if isinstance(value, Mapping):
        parts: dict[str, float] = {}
        for name, part in value.items():
            parts[str(name)] = _read_one(part, f" as '{name}'")
        return Reward(sum(parts.values()), parts)
    return Reward(_read_one(value))


def _read_one(value: Any, of: str = "") -> float:
    """Return a number that a function has given; raises TypeError that says what else it gave."""
    try:
        return float(value)
    except (TypeError, ValueError):
        what = type(value).__name__
        if inspect.iscoroutine(value):
            value.close()
            what = "a coroutine (call it without async)"
        elif value is None and not of:
            what = "None (does it end without return?)"
        raise TypeError(f"it returned {what}{of} where a number is wanted") from None


def read_score(value: Any, name: str) -> Reward:
    """Return the reward from a number, or from a mapping with `score` (verl).

    The other numbers of the mapping are logged.
    """
    if not isinstance(value, Mapping):
        return read_reward(value)
    _check_has(value, "score", name)
    score = _read_one(value["score"], " as 'score'")
    parts: dict[str, float] = {}
    for key, part in value.items():
        if isinstance(part, Real):
            parts[str(key)] = float(part)
    return Reward(score, parts | {"score": score})


def read_columns(value: Any, count: int, name: str) -> list[Reward]:
    """Return the rewards of `count` samples from numbers, or from a mapping (OpenRLHF).

    `rewards`, `scores` and `extra_logs` of the mapping are logged.
    """
    if not isinstance(value, Mapping):
        return list(map(Reward, _read_numbers(value)))
    _check_has(value, "rewards", name)
    rewards = _read_numbers(value["rewards"])
    check_count(rewards, count, name)
    columns = {"rewards": rewards}
    logged = {"scores": value.get("scores"), **(value.get("extra_logs") or {})}
    for key, logged_value in logged.items():
        if logged_value is not None:
            columns[str(key)] = _read_logged(logged_value, count, str(key), name)

    read: list[Reward] = []
    for index, reward in enumerate(rewards):
        parts = {key: column[index] for key, column in columns.items()}
        read.append(Reward(reward, parts))
    return read


def count_rewards(value: Any) -> int | None:
    """Return how many rewards a function of lists has given; None where that cannot be seen."""
    rewards = value.get("rewards") if isinstance(value, Mapping) else value
    try:
        return len(_read_numbers(rewards))
    except (TypeError, ValueError):
        return None


def _read_logged(values: Any, count: int, key: str, name: str) -> list[float]:
    """Return one number for each sample; one alone is that of all samples."""
    column = _read_numbers(values)
    if len(column) == 1:
        column = column * count
    check_count(column, count, name, f" of '{key}'")
    return column


def _read_numbers(values: Any) -> list[float]:
    """Return the numbers of a list, an array or a tensor; a number alone is a list of one."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, str | Mapping):
        raise TypeError(f"{type(values).__name__} is no list of numbers")
    rows = [values] if isinstance(values, Real) else values
    return list(map(_read_number, rows))


def _read_number(row: Any) -> float:
    match row:
        case [number]:  # a column of a table of one column
            return float(number)
        case _:
            return float(row)


def _check_has(given: Mapping[Any, Any], key: str, name: str) -> None:
    if key not in given:
        known = ", ".join(map(str, given)) or "none"
        raise RunError(f"reward '{name}' returned a mapping without '{key}' (known: {known})")


def check_count(values: Sequence[Any], wanted: int, name: str, of: str = "") -> None:
    """Refuse another number of values than of responses; raises RunError."""
    if len(values) != wanted:
        raise RunError(f"reward '{name}' returned {len(values)} values{of} for {wanted} responses")


def check_finite(rewards: Sequence[Reward], problem: Problem, name: str) -> None:
    """Refuse NaN and infinities, in the values or in the parts; raises RunError."""
    for reward in rewards:
        _check_is_finite(reward.value, f"{reward.value}", problem, name)
    for reward in rewards:
        for part, value in reward.parts.items():
            _check_is_finite(value, f"{value} as '{part}'", problem, name)


def _check_is_finite(value: float, what: str, problem: Problem, name: str) -> None:
    if not math.isfinite(value):
        raise RunError(
            f"reward '{name}' returned {what} (problem '{problem.id}'); it must be a finite number"
        )
