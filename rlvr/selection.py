"""Selection rules: which problems of a source are trained on, and how often each is repeated."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.errors import UserError, suggest
from rlvr.registry import register
from rlvr.seeds import permutation
from rlvr.types import Problem


@register("select", "all")
def everything(problems: Sequence[Problem]) -> list[Problem]:
    """Every problem, once."""
    return list(problems)


@register("select", "ids")
def by_id(problems: Sequence[Problem], *, ids: tuple[str, ...], repeat: int = 1) -> list[Problem]:
    """The named problems, each `repeat` times; repeats drawn in one step are groups of their own (One-Shot-RLVR)."""
    known = {problem.id: problem for problem in problems}
    missing = next((name for name in ids if name not in known), None)
    if missing is not None:
        raise UserError(f"select.ids: no problem '{missing}'{suggest(missing, list(known)[:50])}")
    return [known[name] for name in ids for _ in range(repeat)]


@register("select", "random")
def at_random(problems: Sequence[Problem], *, take: int, seed: int = 0, repeat: int = 1) -> list[Problem]:
    """`take` problems at random, each `repeat` times."""
    if take > len(problems):
        raise UserError(f"select.take: {take} problems asked for, the source has {len(problems)}")
    return [problems[i] for i in permutation(len(problems), seed, "select")[:take] for _ in range(repeat)]
