"""Read the problems of a recipe and bind what judges and rewards them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlvr import registry
from rlvr.build.binding import bind_plugin
from rlvr.config.schema import EvalSetConfig, Recipe, SourceConfig
from rlvr.data.gate import RejectedGold, check_golds
from rlvr.data.prompts import STOPS, Renderer
from rlvr.data.sources import AdaptiveSampling, Sources
from rlvr.errors import UserError
from rlvr.evaluation.ask import Benchmark
from rlvr.rewards.adapters import checked_reward
from rlvr.rewards.rewarder import Rewarder
from rlvr.rollouts.verify import Verifier
from rlvr.tasks.judge import Judge, judge_by_task
from rlvr.types import Problem, RewardedGroup, Sampling, Status


def read_sources(
    recipe: Recipe, given: Sequence[Problem] | None, seed: int
) -> tuple[Sources, tuple[RejectedGold, ...]]:
    rows = [read_problems(source, f"train.{i}") for i, source in enumerate(recipe.train)]
    if given is not None:
        rows[0] = tuple(given)
    passed = [check_golds(row, recipe.verify.gate) for row in rows]
    empty = next((i for i, (row, _) in enumerate(passed) if not row), None)
    if empty is not None:
        why = (
            "row has a gold"
            if not any(p.answer.strip() for p in rows[empty])
            else "gold can be compared"
        )
        raise UserError(
            f"train.{empty}: no problem is left, since no {why}; mend the data, or try verify.gate=mark"
        )
    chosen = [
        tuple(bind_plugin("select", s.select)(row))
        for s, (row, _) in zip(recipe.train, passed, strict=True)
    ]
    weights, given_order = (
        tuple(s.weight for s in recipe.train),
        tuple(s.order == "given" for s in recipe.train),
    )
    resting = tuple(
        AdaptiveSampling(**s.adaptive.model_dump()) if s.adaptive else None for s in recipe.train
    )
    sources = Sources(tuple(chosen), weights, seed, given_order, resting)
    return sources, tuple(r for _, refused in passed for r in refused)


def read_problems(row: SourceConfig | EvalSetConfig, where: str) -> tuple[Problem, ...]:
    """The problems of a source or held-out set, each with an answer and the task that its row
    names.
    """
    assert row.data is not None
    try:
        problems = bind_plugin("data", row.data)()
    except UserError as error:
        raise UserError(f"{where}.data: {error}") from None
    if not problems:
        raise UserError(f"{where}.data: '{row.data.name}' gave no problem")
    # the gate does so and says so; a held-out set has to be whole
    leaves_out = isinstance(row, SourceConfig)
    check_problems([p for p in problems if p.answer.strip() or not leaves_out], f"{where}.data")
    if isinstance(row, EvalSetConfig):
        problems = problems[: row.limit]
    for task in {p.task for p in problems} if row.task is None else ():
        registry.find("task", task, f"{where}.data")
    return tuple(replace(p, task=row.task.name) if row.task else p for p in problems)


def benchmark_of(
    row: EvalSetConfig, problems: Sequence[Problem], tokenizer: Any, limit: int, asked: Sampling
) -> Benchmark:
    """A held-out set ready to be asked."""
    judge = bind_plugin("task", row.task) if row.task else judge_by_task
    problems, _ = check_golds(problems, "mark")
    render = Renderer([bind_plugin("prompt", row.prompt)], tokenizer, limit)
    return Benchmark(row.name, tuple(problems), judge, render, sampling_of(row, asked))


def sampling_of(row: EvalSetConfig, asked: Sampling) -> Sampling:
    """How a held-out set is sampled: as its row says, else as `asked`; its prompt may end answers
    too.
    """
    own = {
        k: v
        for k in ("samples", "temperature", "top_p", "max_tokens")
        if (v := getattr(row, k)) is not None
    }
    return replace(
        asked,
        **own,
        stop=tuple(dict.fromkeys((*asked.stop, *row.stop, *STOPS.get(row.prompt.name, ())))),
    )


def bind_verifier(recipe: Recipe) -> Verifier:
    judges: list[Judge] = [bind_plugin("task", s.task) if s.task else judge_by_task for s in recipe.train]
    failures = {Status.ERROR: recipe.verify.error, Status.TIMEOUT: recipe.verify.timeout}
    return Verifier(
        judges,
        frozenset(s for s, how in failures.items() if how == "mask"),
        recipe.verify.stop_above,
    )


def bind_rewarder(recipe: Recipe, given: Callable[..., Any] | None) -> Rewarder:
    if given is not None:
        name = getattr(given, "__name__", "reward")
        return Rewarder([(name, 1.0, checked_reward(name, given))])
    rows = []
    for spec in recipe.reward:
        name, function = spec.name.rpartition(":")[2], bind_plugin("reward", spec.without("weight"))
        rows.append((name, float(spec.params.get("weight", 1.0)), checked_reward(name, function)))
    return Rewarder(rows)


def bind_filters(recipe: Recipe) -> Callable[[Sequence[RewardedGroup]], Sequence[RewardedGroup]]:
    filters = [bind_plugin("filter", spec) for spec in recipe.filter]
    return lambda groups: functools.reduce(lambda kept, keep: keep(kept), filters, groups)


def check_problems(problems: Sequence[Problem], where: str) -> None:
    """Refuse problems without an answer and ids that occur twice."""
    empty = next((p for p in problems if not p.answer.strip()), None)
    if empty is not None:
        raise UserError(f"{where}: problem '{empty.id}' has no answer to verify against")
    twice = next(
        (name for name, count in Counter(p.id for p in problems).items() if count > 1), None
    )
    if twice is not None:
        raise UserError(f"{where}: the id '{twice}' of a problem occurs twice")


def as_problems(rows: Sequence[Problem | Mapping[str, Any] | tuple[str, str]]) -> list[Problem]:
    """Problems from what a script has at hand: Problem, (question, answer), or a mapping with these
    keys.
    """
    if not rows:
        raise UserError("problems: there is no problem in the list")
    problems = [_as_problem(row, i) for i, row in enumerate(rows)]
    check_problems(problems, "problems")
    return problems


def _as_problem(row: Problem | Mapping[str, Any] | tuple[str, str], number: int) -> Problem:
    if isinstance(row, Problem):
        return row
    pair = ("question", "answer")
    if isinstance(row, str) or not (isinstance(row, Mapping) or len(row) == len(pair)):
        raise UserError(
            f"problems, row {number}: a problem is a pair (question, answer) or a mapping with these keys"
        )
    fields: dict[str, Any] = (
        dict(row) if isinstance(row, Mapping) else dict(zip(pair, row, strict=True))
    )
    if not {"question", "answer"} <= set(fields):
        raise UserError(f"problems, row {number}: needs the keys 'question' and 'answer'")
    known = {k: fields[k] for k in ("meta", "solution") if k in fields}
    name, task = str(fields.get("id", f"given/{number}")), str(fields.get("task", "math"))
    return Problem(name, task, str(fields["question"]), str(fields["answer"]), **known)
