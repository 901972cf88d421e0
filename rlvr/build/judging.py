"""Bind what turns rollouts into rewarded groups: verifier, rewards, filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rlvr.build.binding import bind_plugin
from rlvr.config.plugins import read_weight
from rlvr.config.schema import Recipe, Spec
from rlvr.rewards.adapters import checked_reward
from rlvr.rewards.rewarder import Rewarder
from rlvr.rollouts.verify import Verifier
from rlvr.tasks.judge import Judge, judge_by_task, judge_in_time
from rlvr.types import RewardedGroup, Status

Filter = Callable[[Sequence[RewardedGroup]], Sequence[RewardedGroup]]


def bind_verifier(recipe: Recipe) -> Verifier:
    """Return the verifier with a judge for each source."""
    judges = [bind_judge(source.task, recipe.verify.time_limit) for source in recipe.train]
    masked: set[Status] = set()
    if recipe.verify.error == "mask":
        masked.add(Status.ERROR)
    if recipe.verify.timeout == "mask":
        masked.add(Status.TIMEOUT)
    return Verifier(judges, frozenset(masked), recipe.verify.stop_above)


def bind_judge(task: Spec | None, seconds: float | None) -> Judge:
    """Return the judge of a task; without one each problem is judged by its own.

    One of a user's file may take so many seconds for a response.
    """
    if task is None:
        return partial(judge_by_task, seconds=seconds)
    return partial(judge_in_time, bind_plugin("task", task), seconds)


def bind_rewarder(recipe: Recipe, given: Callable[..., Any] | None) -> Rewarder:
    """Return the sum of the recipe's rewards; `given` takes their place."""
    if given is not None:
        name = getattr(given, "__name__", "reward")
        return Rewarder([(name, 1.0, checked_reward(name, given, recipe.reward_timeout))])
    rewards = []
    for spec in recipe.reward:
        name = spec.name.rpartition(":")[2]
        function = bind_plugin("reward", spec.without("weight"))
        checked = checked_reward(name, function, recipe.reward_timeout)
        rewards.append((name, read_weight(spec), checked))
    return Rewarder(rewards)


def bind_filters(recipe: Recipe) -> Filter:
    """Return the recipe's filters as one, each of which sees what the ones before it kept."""
    filters: list[Filter] = [bind_plugin("filter", spec) for spec in recipe.filter]

    def apply_filters(groups: Sequence[RewardedGroup]) -> Sequence[RewardedGroup]:
        for keep in filters:
            groups = keep(groups)
        return groups

    return apply_filters
