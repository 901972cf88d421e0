"""Call reward functions of any supported signature on whole groups.

To support another library, add the names that its functions ask for to the tables below and, where
it returns something of its own, a reader to `rlvr/rewards/returned.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rlvr.errors import RunError, UserError, suggest
from rlvr.foreign import ContainedCode, describe_error, is_foreign, name_place
from rlvr.rewards.returned import (
    check_count,
    check_finite,
    count_rewards,
    read_columns,
    read_reward,
    read_score,
)
from rlvr.types import Context, Problem, Reward, VerifiedGroup, VerifiedSample

GroupReward = Callable[[VerifiedGroup, Context], Sequence[Reward]]

# What a reward may ask for by name, of one response.
RESPONSE_NAMES = (
    "response",
    "completion",
    "text",
    "solution_str",
    "ground_truth",
    "answer",
    "gold",
    "data_source",
    "extra_info",
    "problem",
    "verdict",
    "rollout",
    "context",
)

# What it may ask for as lists, of all samples of a problem (OpenRLHF).
LIST_NAMES = ("queries", "prompts", "labels")

# What verl adds to `extra_info` (0.9.1, NaiveRewardManager): a question and its answer are two turns.
VERL_EXTRAS: Mapping[str, Any] = {"num_turns": 2, "rollout_reward_scores": {}}

# Who asks for one of these may return a mapping with `score`.
VERL_NAMES = frozenset({"solution_str", "data_source"})


def checked_reward(
    name: str, function: Callable[..., Any], seconds: float | None = None
) -> Callable[[VerifiedGroup, Context], list[Reward]]:
    """Return a reward of any supported signature as one of whole groups.

    Its failures are a RunError that names the reward and the problem, and so is one of a user's
    file that has not answered for `seconds`.
    """
    adapted = adapt_signature(function, name)
    limit = seconds if is_foreign(function) else None

    def call(group: VerifiedGroup, context: Context) -> list[Reward]:
        try:
            with ContainedCode(limit):
                rewards = list(map(read_reward, adapted(group, context)))
            check_count(rewards, len(group.members), name)
            check_finite(rewards, group.problem, name)
        except RunError:
            raise
        # A reward may be anybody's code; the run ends with its name and the problem's.
        except Exception as error:
            reason = f"{describe_error(error)}{name_place(error)}"
            raise RunError(
                f"reward '{name}' raised {reason} (problem '{group.problem.id}')"
            ) from error
        return rewards

    return call


def adapt_signature(function: Callable[..., Any], name: str = "reward") -> GroupReward:
    """Return a reward that sees whole groups.

    It is made from one that sees a group, lists of its samples, or one response:

    A function whose first parameter is `group` is taken as it is. One that asks for `queries`,
    `prompts` or `labels` (OpenRLHF) is called once a problem and returns a number for each sample,
    or a mapping with `rewards`. Any other is called once a response with whatever it asks for by
    name (see RESPONSE_NAMES) and returns a number, a mapping of named parts or a Reward. One with
    the names of verl returns a number or a mapping with `score`. A parameter of another name keeps
    its default.
    """
    parameters = _read_parameters(function, name)
    names = [parameter.name for parameter in parameters]
    if names[:1] == ["group"]:
        return _adapt_group(function, names)
    if not set(names).isdisjoint(LIST_NAMES):
        return _adapt_lists(function, parameters, name)
    return _adapt_single(function, parameters, name)


def _read_parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """Return the parameters that may be filled by position; keyword-only ones are the recipe's."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise UserError(
            f"reward '{name}': its parameters cannot be read; call it from a function such as mine(response, gold)"
        ) from None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in parameters if parameter.kind in positional]


def _adapt_group(function: Callable[..., Any], names: Sequence[str]) -> GroupReward:
    if len(names) > 1:
        return function
    return lambda group, _: function(group)


def _adapt_lists(
    function: Callable[..., Any], parameters: Sequence[inspect.Parameter], name: str
) -> GroupReward:
    """Adapt a function of OpenRLHF, which sees all samples of a problem at once.

    One that answers with a single reward is written for a single sample, with which OpenRLHF calls
    it in its version 0.11.2 (`SingleTurnAgentExecutor.execute`), and is asked once for each.
    """
    ask = _bind_by_name(function, parameters, LIST_NAMES, name)

    def call(group: VerifiedGroup, _: Context) -> list[Reward]:
        offered = _offer_lists(group)
        returned = ask(offered)
        count = len(group.members)
        if count == 1 or count_rewards(returned) != 1:
            return read_columns(returned, count, name)
        rewards: list[Reward] = []
        for index in range(count):
            alone = {key: values[index : index + 1] for key, values in offered.items()}
            rewards += read_columns(ask(alone), 1, name)
        return rewards

    return call


def _adapt_single(
    function: Callable[..., Any], parameters: Sequence[inspect.Parameter], name: str
) -> GroupReward:
    """Adapt a function of one response, such as those of verl."""
    ask = _bind_by_name(function, parameters, RESPONSE_NAMES, name)
    read: Callable[[Any], Reward] = read_reward
    if any(parameter.name in VERL_NAMES for parameter in parameters):
        read = partial(read_score, name=name)

    def call(group: VerifiedGroup, context: Context) -> list[Reward]:
        rewards: list[Reward] = []
        for member in group.members:
            value = ask(_offer_response(member, context))
            rewards.append(read(value))
        return rewards

    return call


def _bind_by_name(
    function: Callable[..., Any],
    parameters: Sequence[inspect.Parameter],
    offered: Sequence[str],
    name: str,
) -> Callable[[Mapping[str, Any]], Any]:
    """Return the function as one of a mapping, from which it takes what it asks for."""
    asked = [parameter for parameter in parameters if parameter.name in offered]
    for parameter in parameters:
        if parameter.name not in offered:
            _check_has_default(parameter, asked, offered, name)
    everything = (*RESPONSE_NAMES, *LIST_NAMES)
    if not asked:
        raise UserError(f"reward '{name}': it asks for nothing by name{suggest('', everything)}")

    def call(offer: Mapping[str, Any]) -> Any:
        arguments: list[Any] = []
        keywords: dict[str, Any] = {}
        for parameter in asked:
            value = offer[parameter.name]
            if parameter.kind is parameter.POSITIONAL_ONLY:
                arguments.append(value)
            else:
                keywords[parameter.name] = value
        return function(*arguments, **keywords)

    return call


def _check_has_default(
    parameter: inspect.Parameter,
    asked: Sequence[inspect.Parameter],
    offered: Sequence[str],
    name: str,
) -> None:
    """Refuse a parameter that nobody fills; raises UserError."""
    may_stay = parameter.default is not parameter.empty
    if may_stay and parameter.kind is not parameter.POSITIONAL_ONLY:
        return
    why = "which no response has"
    if offered is not RESPONSE_NAMES:
        why = f"which does not go with '{asked[0].name}'"
    known = offered if asked else (*RESPONSE_NAMES, *LIST_NAMES)
    raise UserError(
        f"reward '{name}': it asks for '{parameter.name}', {why}{suggest(parameter.name, known)}"
    )


def _offer_response(member: VerifiedSample, context: Context) -> Mapping[str, Any]:
    """Return what a function of one response may ask for, by name."""
    rollout = member.rollout
    problem = rollout.prompt.problem
    extra_info = problem.meta.get("extra_info", problem.meta)
    if isinstance(extra_info, Mapping):
        extra_info = {**extra_info, **VERL_EXTRAS}
    return {
        "response": rollout.text,
        "completion": rollout.text,
        "text": rollout.text,
        "solution_str": rollout.text,
        "ground_truth": _get_raw_gold(problem),
        "answer": problem.answer,
        "gold": problem.answer,
        "data_source": problem.meta.get("data_source", problem.task),
        "extra_info": extra_info,
        "problem": problem,
        "verdict": member.verdict,
        "rollout": rollout,
        "context": context,
    }


def _offer_lists(group: VerifiedGroup) -> Mapping[str, list[Any]]:
    """Return what a function of lists may ask for: one entry for each sample of the problem."""
    queries: list[str] = []
    prompts: list[str] = []
    for member in group.members:
        prompt = member.rollout.prompt.text
        # With the token that ends the turn, as OpenRLHF decodes what it gives.
        queries.append(prompt + member.rollout.text + member.rollout.end)
        prompts.append(prompt)
    labels = [_get_raw_gold(group.problem)] * len(prompts)
    return {"queries": queries, "prompts": prompts, "labels": labels}


def _get_raw_gold(problem: Problem) -> Any:
    """Return the gold as its row holds it, which may be a mapping."""
    return problem.meta.get("ground_truth", problem.answer)
