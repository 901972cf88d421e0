"""Rewards of any supported signature as rewards of whole groups."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any

from rlvr.errors import RunError, UserError, suggest
from rlvr.types import Context, Problem, Reward, VerifiedGroup, VerifiedSample


def checked_reward(
    name: str, function: Callable[..., Any]
) -> Callable[[VerifiedGroup, Context], list[Reward]]:
    """A reward of any supported signature as one of whole groups, whose failures name the reward
    and the problem.
    """
    lifted = adapt_signature(function, name)

    def call(group: VerifiedGroup, context: Context) -> list[Reward]:
        try:
            rewards = [_as_reward(reward) for reward in lifted(group, context)]
            _check_count(rewards, len(group.members), name)
            _check_finite(rewards, group.problem, name)
        except RunError:
            raise
        # a reward may be anybody's code; the run ends with its name and the problem's
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise RunError(
                f"reward '{name}' raised {reason} (problem '{group.problem.id}')"
            ) from error
        return rewards

    return call


# What a reward may ask for by name: of one response, or, as lists, of all samples of a problem.
ONE = (
    "response", "completion", "text", "solution_str", "ground_truth", "answer", "gold", "data_source", "extra_info",
    "problem", "verdict", "rollout", "context",
)  # fmt: skip


ALL = ("queries", "prompts", "labels")


VERL = frozenset({"solution_str", "data_source"})


def adapt_signature(
    function: Callable[..., Any], name: str = "reward"
) -> Callable[[VerifiedGroup, Context], Sequence[Reward]]:
    """A reward that sees whole groups, from one that sees a group, lists of its samples, or one
    response.

    A function whose first parameter is `group` is taken as it is. One that asks for `queries`,
    `prompts` or `labels` (OpenRLHF) is called once a problem and returns a number for each sample,
    or a mapping with `rewards`. Any other is called once a response with whatever it asks for by
    name (see ONE) and returns a number, a mapping of named parts or a Reward; one with the names of
    verl returns a number or a mapping with `score`. A parameter of another name keeps its default.
    """
    parameters = _parameters(function, name)
    names = [parameter.name for parameter in parameters]
    if names[:1] == ["group"]:
        return function if len(names) > 1 else lambda group, _: function(group)
    offered = ALL if set(names) & set(ALL) else ONE
    call = _by_name(function, parameters, offered, name)
    if offered is ALL:
        return lambda group, _: _of_lists(call(_lists(group)), len(group.members), name)
    read = partial(_by_score, name=name) if VERL & set(names) else _as_reward
    return lambda group, context: [read(call(_offer(member, context))) for member in group.members]


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """The parameters that may be filled by position; keyword-only ones are the recipe's."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise UserError(
            f"reward '{name}': its parameters cannot be read; call it from a function such as mine(response, gold)"
        ) from None
    return [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _by_name(
    function: Callable[..., Any],
    parameters: Sequence[inspect.Parameter],
    offered: Sequence[str],
    name: str,
) -> Callable[[Mapping[str, Any]], Any]:
    """The function as one of a mapping, from which it takes what it asks for."""
    asked = [p for p in parameters if p.name in offered]
    for other in (p for p in parameters if p.name not in offered):
        if other.default is other.empty or other.kind is other.POSITIONAL_ONLY:
            why = (
                "which no response has"
                if offered is ONE
                else f"which does not go with '{asked[0].name}'"
            )
            known = offered if asked else (*ONE, *ALL)
            raise UserError(
                f"reward '{name}': it asks for '{other.name}', {why}{suggest(other.name, known)}"
            )
    if not asked:
        raise UserError(f"reward '{name}': it asks for nothing by name{suggest('', (*ONE, *ALL))}")
    placed = [p.name for p in asked if p.kind is p.POSITIONAL_ONLY]
    named = [p.name for p in asked if p.kind is not p.POSITIONAL_ONLY]
    return lambda offer: function(
        *(offer[key] for key in placed), **{key: offer[key] for key in named}
    )


def _offer(member: VerifiedSample, context: Context) -> Mapping[str, Any]:
    rollout, problem = member.rollout, member.rollout.prompt.problem
    extra = problem.meta.get("extra_info", problem.meta)
    return {
        **dict.fromkeys(("response", "completion", "text", "solution_str"), rollout.text),
        **{"ground_truth": _gold(problem), "answer": problem.answer, "gold": problem.answer},
        **{"data_source": problem.meta.get("data_source", problem.task)},
        **{"extra_info": dict(extra) if isinstance(extra, Mapping) else extra},
        **{"problem": problem, "verdict": member.verdict, "rollout": rollout, "context": context},
    }


def _lists(group: VerifiedGroup) -> Mapping[str, list[Any]]:
    prompts = [member.rollout.prompt.text for member in group.members]
    return {
        "queries": [
            prompt + member.rollout.text
            for prompt, member in zip(prompts, group.members, strict=True)
        ],
        "prompts": prompts,
        "labels": [_gold(group.problem)] * len(prompts),
    }


def _gold(problem: Problem) -> Any:
    """The gold as its row holds it, which may be a mapping."""
    return problem.meta.get("ground_truth", problem.answer)


def _of_lists(given: Any, count: int, name: str) -> list[Reward]:
    """Rewards from numbers, or from a mapping of `rewards`, `scores` and `extra_logs`, all of which
    are logged.
    """
    if not isinstance(given, Mapping):
        return [Reward(value) for value in _numbers(given)]
    _check_has(given, "rewards", name)
    rewards = _numbers(given["rewards"])
    _check_count(rewards, count, name)
    columns = {"rewards": rewards}
    for key, values in {"scores": given.get("scores"), **(given.get("extra_logs") or {})}.items():
        if values is not None:
            column = _numbers(values)
            # one number is that of all samples
            columns[str(key)] = column * count if len(column) == 1 else column
            _check_count(columns[str(key)], count, name, f" of '{key}'")
    return [
        Reward(value, {key: column[i] for key, column in columns.items()})
        for i, value in enumerate(rewards)
    ]


def _numbers(values: Any) -> list[float]:
    """The numbers of a list, an array or a tensor; a number alone is a list of one."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str | Mapping):
        raise TypeError(f"{type(values).__name__} is no list of numbers")
    rows = [values] if isinstance(values, Real) else values
    return [_number(row) for row in rows]


def _number(row: Any) -> float:
    match row:
        case [number]:  # a column of a table of one column
            return float(number)
        case _:
            return float(row)


def _by_score(value: Any, name: str) -> Reward:
    """The reward from a number, or from a mapping with `score` whose other numbers are logged."""
    if not isinstance(value, Mapping):
        return _as_reward(value)
    _check_has(value, "score", name)
    score = float(value["score"])
    return Reward(
        score,
        {str(k): float(v) for k, v in value.items() if isinstance(v, Real)} | {"score": score},
    )


def _check_has(given: Mapping[Any, Any], key: str, name: str) -> None:
    if key not in given:
        known = ", ".join(map(str, given)) or "none"
        raise RunError(f"reward '{name}' returned a mapping without '{key}' (known: {known})")


def _check_count(found: Sequence[Any], wanted: int, name: str, of: str = "") -> None:
    if len(found) != wanted:
        raise RunError(f"reward '{name}' returned {len(found)} values{of} for {wanted} responses")


def _check_finite(rewards: Sequence[Reward], problem: Problem, name: str) -> None:
    values = [("", reward.value) for reward in rewards]
    for part, value in values + [item for reward in rewards for item in reward.parts.items()]:
        if not math.isfinite(value):
            what = f"{value} as '{part}'" if part else f"{value}"
            raise RunError(
                f"reward '{name}' returned {what} (problem '{problem.id}'); it must be a finite number"
            )


def _as_reward(value: Any) -> Reward:
    if isinstance(value, Reward):
        return replace(value, value=float(value.value))
    if isinstance(value, Mapping):
        parts = {str(name): float(part) for name, part in value.items()}
        return Reward(sum(parts.values()), parts)
    return Reward(float(value))
