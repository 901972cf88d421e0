"""Which problems are trained on: rankings of problems by what a run made of them, and the selection
rules of a recipe.

A ranking takes the accuracy of each problem at each of its visits and gives the problems with their
scores, first the one to train on; `rlvr select` prints it, and the selection rule of the same name
takes a range of its ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, Literal  # noqa: F401 - as Share

from pydantic import Field

from rlvr.data.rankings import Ranking, historical_variance, lim, pass_rate, uncertainty
from rlvr.data.run_history import Repeat, ranked, read_or_refuse, repeated
from rlvr.errors import UserError, suggest
from rlvr.registry import Count, Share, register  # noqa: F401 - Share stands in the signatures of rankings
from rlvr.seeds import permutation
from rlvr.types import Problem


@register("select", "all")
def everything(problems: Sequence[Problem]) -> list[Problem]:
    """Every problem, once."""
    return list(problems)


@register("select", "ids")
def by_id(
    problems: Sequence[Problem],
    *,
    ids: Annotated[tuple[str, ...], Field(min_length=1)],
    repeat: Repeat = (1,),
    answer: str | None = None,
) -> list[Problem]:
    """The named problems, each `repeat` times; repeats drawn in one step are groups of their own
    (One-Shot-RLVR). `answer` takes the place of their golds: the control with a wrong label.
    """
    known = {problem.id: problem for problem in problems}
    missing = next((name for name in ids if name not in known), None)
    if missing is not None:
        raise UserError(f"select.ids: no problem '{missing}'{suggest(missing, list(known)[:50])}")
    chosen = [known[name] for name in ids]
    return repeated(
        [replace(p, answer=answer) for p in chosen] if answer is not None else chosen, repeat
    )


@register("select", "random")
def at_random(
    problems: Sequence[Problem], *, take: Count, seed: int = 0, repeat: Repeat = (1,)
) -> list[Problem]:
    """`take` problems at random, each `repeat` times."""
    if take > len(problems):
        raise UserError(f"select.take: {take} problems asked for, the source has {len(problems)}")
    return repeated(
        [problems[i] for i in permutation(len(problems), seed, "select")[:take]], repeat
    )


def _ruled(name: str, rule: Callable[..., Ranking], key: str = "history") -> None:
    """Register the selection rule of a ranking: the problems in a range of its ranks, each `repeat`
    times. Its options are those of the ranking, and `key` says which run is ranked.
    """

    def chosen(
        problems: Sequence[Problem],
        *,
        top: Count | None = None,
        start: Count = 1,
        repeat: Repeat = (1,),
        **own: Any,
    ) -> list[Problem]:
        source = own.pop(key)
        return repeated(
            read_or_refuse(problems, ranked(source, name, own, start, top), key, source), repeat
        )

    offered = [
        p
        for f in (chosen, rule)
        for p in signature(f).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    ]
    place = Parameter(key, Parameter.KEYWORD_ONLY, annotation=str)
    chosen.__signature__ = Signature([place, *offered])  # type: ignore[attr-defined]
    register("select", name)(chosen)


_ruled("historical_variance", historical_variance)


_ruled("lim", lim)


_ruled("pass_rate", pass_rate)


_ruled("uncertainty", uncertainty, "samples")
