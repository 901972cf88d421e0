"""The boundary to code that judges: verifiers and rewards may be anybody's, and are handed model output.

A verifier that raises gives the verdict `error`, which is counted and never scored as a wrong answer in silence; a
reward that raises or is not a finite number ends the run, because there is no honest value to put in its place.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from rlvr import registry
from rlvr.errors import RunError, UserError, suggest
from rlvr.metrics import timed
from rlvr.types import (
    Context,
    Finish,
    Group,
    Member,
    Problem,
    Response,
    Reward,
    Rollout,
    Sample,
    SampleGroup,
    Status,
    Verdict,
)

# A verifier answers at once, or gives the future of its verdict where helper processes work on it.
Pending = Verdict | Future[Verdict]
Judge = Callable[[Problem, Response], Pending]


@dataclass(frozen=True, slots=True)
class Verifier:
    """Judges each response by the task of its source, or where the source names none by that of its problem."""

    judges: Sequence[Judge]  # by source
    masked: frozenset[Status]
    stop_above: float

    @timed("verify")
    def groups(self, rollouts: Sequence[Rollout], samples: int) -> list[Group]:
        """Verdicts for all, in groups of `samples`; what `masked` names leaves its group.   [P*G] -> [P]"""
        verdicts = settle([self._judge(rollout) for rollout in rollouts])
        failed = [v for v in verdicts if v.status in (Status.ERROR, Status.TIMEOUT)]
        if len(failed) > self.stop_above * len(verdicts):
            raise RunError(
                f"verification failed on {len(failed)} of {len(verdicts)} responses (the last: {failed[-1].rule}), more"
                f" than verify.stop_above {self.stop_above} allows; mend the task or raise the limit"
            )
        members = [Member(rollout, verdict) for rollout, verdict in zip(rollouts, verdicts, strict=True)]
        groups = [members[i : i + samples] for i in range(0, len(members), samples)]
        return [self._group(group) for group in groups]

    def _group(self, members: Sequence[Member]) -> Group:
        failed = tuple(m for m in members if m.verdict.status in self.masked)
        kept = tuple(m for m in members if m.verdict.status not in self.masked)
        return Group(members[0].rollout.prompt.problem, kept, failed)

    def _judge(self, rollout: Rollout) -> Pending:
        problem = rollout.prompt.problem
        judge = self.judges[rollout.prompt.draw.source]
        response = Response(rollout.text, rollout.finish is Finish.LENGTH, rollout.prompt.prefill)
        return judge_safely(judge, problem, response)


def by_task(problem: Problem, response: Response) -> Pending:
    """The verdict by the task that the problem itself names."""
    return registry.find("task", problem.task, problem.id).function(problem, response)


def judge_safely(judge: Judge, problem: Problem, response: Response) -> Pending:
    """The verdict with its time, or the future of one; an exception of the verifier becomes the status `error`."""
    start = time.perf_counter()
    try:
        verdict = judge(problem, response)
    except Exception as error:  # a verifier may be anybody's code; it is counted, and stops the run when frequent
        verdict = _failed(error)
    return verdict if isinstance(verdict, Future) else replace(verdict, ms=1000 * (time.perf_counter() - start))


def settle(pending: Sequence[Pending]) -> list[Verdict]:
    """The verdicts, waiting for those that are still worked on; all of them were begun before the first is awaited."""
    return [_result(verdict) if isinstance(verdict, Future) else verdict for verdict in pending]


def _result(future: Future[Verdict]) -> Verdict:
    try:
        return future.result()
    except Exception as error:  # as in judge_safely
        return _failed(error)


def _failed(error: Exception) -> Verdict:
    return Verdict(Status.ERROR, rule=f"{type(error).__name__}: {error}"[:200])


@dataclass(frozen=True, slots=True)
class Rewarder:
    """The weighted sum of the recipe's rewards, each part logged under the name of its reward."""

    rewards: Sequence[tuple[str, float, Callable[[Group, Context], Sequence[Reward]]]]

    def __call__(self, group: Group, context: Context) -> SampleGroup:
        """Values for the members of one group.   [G] -> [G]"""
        if not group.members:
            return SampleGroup(group.problem, (), trained=False, failed=group.failed)
        columns = [[self._scaled(name, weight, r) for r in call(group, context)] for name, weight, call in self.rewards]
        rows = list(zip(*columns, strict=True))
        rewards = [Reward(sum(r.value for r in row), {k: v for r in row for k, v in r.parts.items()}) for row in rows]
        samples = [Sample(m.rollout, m.verdict, r) for m, r in zip(group.members, rewards, strict=True)]
        return SampleGroup(group.problem, tuple(samples), failed=group.failed)

    @staticmethod
    def _scaled(name: str, weight: float, reward: Reward) -> Reward:
        parts = {k if k.startswith(name) else f"{name}.{k}": weight * v for k, v in reward.parts.items()}
        return Reward(weight * reward.value, parts or {name: weight * reward.value})


def guarded(name: str, function: Callable[..., Any]) -> Callable[[Group, Context], list[Reward]]:
    """A reward of any supported signature as one of whole groups, whose failures name the reward and the problem."""
    lifted = lift(function, name)

    def call(group: Group, context: Context) -> list[Reward]:
        try:
            rewards = [_as_reward(reward) for reward in lifted(group, context)]
        except Exception as error:  # a reward may be anybody's code; the run ends with its name and the problem's
            raise RunError(
                f"reward '{name}' raised {type(error).__name__}: {error} (problem '{group.problem.id}')"
            ) from error
        if len(rewards) != len(group.members):
            raise RunError(f"reward '{name}' returned {len(rewards)} values for {len(group.members)} responses")
        bad = next((r for r in rewards if not math.isfinite(r.value)), None)
        if bad is not None:
            raise RunError(
                f"reward '{name}' returned {bad.value} (problem '{group.problem.id}'); it must be a finite number"
            )
        return rewards

    return call


def lift(function: Callable[..., Any], name: str = "reward") -> Callable[[Group, Context], Sequence[Reward]]:
    """A reward that sees whole groups, from one that sees a group or one response.

    A function whose first parameter is `group` is taken as it is. Any other is called once a response with whatever it
    asks for by name: response (the text), ground_truth or answer (the gold), problem, verdict, rollout, context. It may
    return a number, a mapping of named parts, or a Reward.
    """
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    unknown = next((name for name in names if name not in OFFERED), None)
    if names[:1] == ["group"]:
        return function if len(names) > 1 else lambda group, _: function(group)

    if unknown is not None:
        raise UserError(f"reward '{name}': it asks for '{unknown}', which no response has{suggest(unknown, OFFERED)}")

    def each(group: Group, context: Context) -> list[Reward]:
        return [_as_reward(function(*[_offer(member, context)[name] for name in names])) for member in group.members]

    return each


OFFERED = (
    "response",
    "completion",
    "text",
    "ground_truth",
    "answer",
    "gold",
    "problem",
    "verdict",
    "rollout",
    "context",
)


def _offer(member: Member, context: Context) -> Mapping[str, Any]:
    rollout, problem = member.rollout, member.rollout.prompt.problem
    return {
        **{"response": rollout.text, "completion": rollout.text, "text": rollout.text},
        **{"ground_truth": problem.answer, "answer": problem.answer, "gold": problem.answer},
        **{"problem": problem, "verdict": member.verdict, "rollout": rollout, "context": context},
    }


def _as_reward(value: Any) -> Reward:
    if isinstance(value, Reward):
        return replace(value, value=float(value.value))
    if isinstance(value, Mapping):
        parts = {str(name): float(part) for name, part in value.items()}
        return Reward(sum(parts.values()), parts)
    return Reward(float(value), {})
